package trust_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
	"github.com/roadstead-io/roadstead/internal/agent/trust/trusttest"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const (
	deviceUUID = "dddddddddddddddddddddddddddddddd"
	hereUUID   = "11111111111111111111111111111111"
	thereUUID  = "22222222222222222222222222222222"
	otherUUID  = "33333333333333333333333333333333"
	commitA    = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB    = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// site is a device without an agent: its files, its clock and a server of metadata.
type site struct {
	t      testing.TB
	dir    string
	now    time.Time // of the device
	fleets map[string]*trusttest.Fleet
	asked  int
	*trust.Trust
}

func newSite(t testing.TB, fleet *trusttest.Fleet) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), now: time.Now(), fleets: map[string]*trusttest.Fleet{fleet.UUID: fleet}}
	s.identity(`{"uuid":"` + deviceUUID + `","device_api_key":"k","device_id":1}`)
	s.start(fleet.Given())
	return s
}

func (s *site) identity(text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "identity.json"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// start opens the files as a new start of the agent does.
func (s *site) start(given *api.ConfigTrust) {
	s.t.Helper()
	who, err := identity.Read(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.Trust, err = trust.Open(trust.Config{
		StateDir: s.dir, UUID: deviceUUID, Mark: who.Trust, Given: given, Now: func() time.Time { return s.now },
		Bundle: func(_ context.Context, have api.TrustHave) (api.TrustBundle, error) {
			s.asked++
			fleet := s.fleets[have.Fleet]
			if fleet == nil {
				return api.TrustBundle{}, api.Errorf(api.NotFound, "no such fleet")
			}
			return fleet.Answer(deviceUUID, have), nil
		},
	}); err != nil {
		s.t.Fatal(err)
	}
}

// newFleet has a root and no release yet.
func newFleet(uuid string) *trusttest.Fleet {
	f := trusttest.New(uuid)
	f.Rotate()
	f.Publish()
	return f
}

// wants is one fleet's part of a target state.
func wants(commit string, image int) *api.AppTarget {
	return &api.AppTarget{ID: 1, Class: "fleet", Releases: map[string]*api.ReleaseTarget{commit: {Services: map[string]*api.ServiceTarget{
		"web": {Image: fmt.Sprintf("registry.example.com/v2/x@sha256:%064x", image), Composition: json.RawMessage(`{}`)},
	}}}}
}

func told(apps map[string]*api.AppTarget) *api.DeviceTarget { return &api.DeviceTarget{Apps: apps} }

func only(fleet, commit string, image int) *api.DeviceTarget {
	return told(map[string]*api.AppTarget{fleet: wants(commit, image)})
}

// releases lists a release as the builder does.
func releases(f *trusttest.Fleet, commit string, image int) *api.DeviceTarget {
	f.Build(commit, wants(commit, image).Releases[commit])
	f.Publish()
	return only(f.UUID, commit, image)
}

func (s *site) accepts(target *api.DeviceTarget) {
	s.t.Helper()
	if err := s.Check(context.Background(), target); err != nil {
		s.t.Fatalf("refused: %v", err)
	}
}

func (s *site) refuses(target *api.DeviceTarget, reason string, words ...string) {
	s.t.Helper()
	refused(s.t, s.Check(context.Background(), target), reason, words...)
}

func refused(t testing.TB, err error, reason string, words ...string) {
	t.Helper()
	r, ok := tuf.Rejection(err)
	if !ok || r.Reason != reason {
		t.Fatalf("got %v, want a refusal for the reason %s", err, reason)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not say %q", err, word)
		}
	}
}

// A thief of the server waits until an owner lets a device go to another fleet, and puts a fleet of his own beside that one.
func TestNothingRidesAlongWithATransfer(t *testing.T) {
	here, there := newFleet(hereUUID), newFleet(thereUUID)
	s := newSite(t, here)
	s.accepts(releases(here, commitA, 1))
	s.fleets[thereUUID] = there
	goes := releases(there, commitB, 2)
	here.Transfers = []api.TrustLeave{{Device: deviceUUID, To: thereUUID, Root: tuf.Digest(there.Root(1))}}
	here.Publish()
	for _, evil := range []string{"00000000000000000000000000000000", otherUUID} { // before and after the fleet in order
		s.refuses(told(map[string]*api.AppTarget{thereUUID: goes.Apps[thereUUID], evil: wants(commitB, 666)}), tuf.ReasonFleet, hereUUID, evil)
	}
	if s.Fleet() != hereUUID {
		t.Errorf("it went to %s", s.Fleet())
	}
	s.accepts(goes)
	if s.Fleet() != thereUUID {
		t.Errorf("it stays in %s", s.Fleet())
	}
}

// Who has the director's key for a while says something for ever. The owner signs other keys: the device asks for them soon, and does not obey the old word until then.
func TestAStatementForEver(t *testing.T) {
	here := newFleet(hereUUID)
	here.Channel = &api.TrustChannel{Wanted: true}
	s := newSite(t, here)
	here.Change = func(_ api.TrustHave, b *api.TrustBundle) {
		said, err := tuf.ReadDirector(b.Director)
		if err != nil {
			t.Fatal(err)
		}
		said.Expires = s.now.Add(50 * 365 * 24 * time.Hour)
		if b.Director, err = said.Make(here.Key("director")); err != nil {
			t.Fatal(err)
		}
	}
	target := releases(here, commitA, 1)
	s.accepts(target)
	if ok, why := s.Channel(); !ok {
		t.Fatalf("the channel is shut: %s", why)
	}
	before := s.asked
	s.now = s.now.Add(8 * 24 * time.Hour)
	_ = s.Renew(context.Background(), target) // the fleet's own metadata have expired by now
	if s.asked == before {
		t.Error("it does not ask again within eight days")
	}
	s.now = s.now.Add(7 * 24 * time.Hour)
	if ok, _ := s.Channel(); ok {
		t.Error("the channel is open after a fortnight")
	}
}

// The owner names another director and forbids the shell; whoever has the server holds the new director's statements back.
func TestAnotherDirectorIsRememberedWithoutItsStatement(t *testing.T) {
	for _, how := range []string{"targets", "root", "root alone"} {
		t.Run(how, func(t *testing.T) {
			here := newFleet(hereUUID)
			here.Channel = &api.TrustChannel{Wanted: true}
			s := newSite(t, here)
			s.accepts(releases(here, commitA, 1))
			if ok, why := s.Channel(); !ok || !s.Shell() {
				t.Fatalf("channel %v (%s), shell %v", ok, why, s.Shell())
			}
			here.DirectorKey, here.Shell = "another director", "forbidden"
			if how != "targets" {
				here.Rotate("another owner")
			}
			target := releases(here, commitB, 2)
			reason, of := tuf.ReasonMissing, "director"
			here.Change = func(_ api.TrustHave, b *api.TrustBundle) {
				if b.Director = nil; how == "root alone" && len(b.Roots) == 0 {
					b.Files, reason, of = b.Files[1:], tuf.ReasonVersion, "snapshot" // no timestamp, so that nothing fits
				}
			}
			err := s.Check(context.Background(), target)
			refused(t, err, reason, of)
			for _, when := range []string{"now", "after a start"} {
				if s.Shell() {
					t.Errorf("%s the shell is allowed", when)
				}
				if ok, _ := s.Channel(); ok {
					t.Errorf("%s the old director's word opens the channel", when)
				}
				s.start(nil)
			}
			here.Change = nil
			s.accepts(target)
			if ok, why := s.Channel(); !ok {
				t.Errorf("the new director does not open the channel: %s", why)
			}
		})
	}
}

// The largest release that there may be is accepted after another of that size.
func TestTwoLargestReleases(t *testing.T) {
	here := newFleet(hereUUID)
	s := newSite(t, here)
	for n, commit := range []string{commitA, commitB} {
		target := only(hereUUID, commit, n)
		target.Apps[hereUUID].Releases[commit].Services["web"].Composition = json.RawMessage(`{"environment":{"A":"` + strings.Repeat("x", tuf.MaxDocument-1000) + `"}}`)
		here.Build(commit, target.Apps[hereUUID].Releases[commit])
		here.Publish()
		s.accepts(target)
	}
	s.start(nil)
	if err := s.Remembered(only(hereUUID, commitA, 0)); err == nil || !strings.Contains(err.Error(), "environment of composition of service web") {
		t.Errorf("Remembered = %v", err)
	}
}

// A counter far ahead of the time would be the last one that the device ever takes.
func TestCountersAheadOfTheTime(t *testing.T) {
	here := newFleet(hereUUID)
	s := newSite(t, here)
	s.accepts(releases(here, commitA, 1))
	target := only(hereUUID, commitB, 2)
	document := here.Document(commitB, target.Apps[hereUUID].Releases[commitB])
	for _, ahead := range []time.Duration{9 * 24 * time.Hour, 20 * 365 * 24 * time.Hour} {
		here.List(commitB, document, s.now.Add(ahead).Unix())
		here.Publish()
		s.refuses(target, tuf.ReasonCounter, "counter of release "+commitB, "at most")
	}
	here.List(commitB, document, s.now.Add(7*24*time.Hour).Unix()) // as the owner may
	here.Publish()
	s.accepts(target)
}

// A thief of the server signs for another year, with a counter of that year. The owner's new root ends both, the year and the counter.
func TestANewRootEndsTheYearAndItsCounters(t *testing.T) {
	here := trusttest.New(hereUUID)
	here.Lives = 200 * 24 * time.Hour
	here.Rotate()
	here.Publish()
	s := newSite(t, here)
	s.accepts(releases(here, commitA, 1))
	year := time.Now().Add(100 * 24 * time.Hour)
	here.Change = func(_ api.TrustHave, b *api.TrustBundle) {
		said, err := tuf.ReadDirector(b.Director)
		if err != nil {
			t.Fatal(err)
		}
		said.Mark.SignedAt = year
		if b.Director, err = said.Make(here.Key("director")); err != nil {
			t.Fatal(err)
		}
	}
	evil := only(hereUUID, commitB, 2)
	here.List(commitB, here.Document(commitB, evil.Apps[hereUUID].Releases[commitB]), year.Unix())
	here.Publish()
	s.accepts(evil)
	here.Change = nil
	target := only(hereUUID, commitA, 1)
	document := here.Document(commitA, target.Apps[hereUUID].Releases[commitA])
	list := func() {
		here.List(commitA, document, time.Now().Unix())
		here.Publish()
	}
	list()
	s.refuses(target, tuf.ReasonRollback, "counter of release "+commitA)
	here.Names, here.DirectorKey = "other keys", "of other names"
	here.Rotate("owner")
	list()
	s.accepts(target)
	s.start(nil)
	if err := s.Remembered(target); err != nil {
		t.Error(err)
	}
	// From here on counters grow again.
	here.List(commitB, here.Document(commitB, only(hereUUID, commitB, 2).Apps[hereUUID].Releases[commitB]), time.Now().Add(-time.Hour).Unix())
	here.Publish()
	s.refuses(only(hereUUID, commitB, 2), tuf.ReasonRollback, "counter of release "+commitB)
}

// What a device runs is verified also after identity.json was lost, with the mark in it, and made anew from config.json.
func TestIdentityLost(t *testing.T) {
	const anew = `{"uuid":"` + deviceUUID + `","device_api_key":"k","device_id":1}`
	here, there := newFleet(hereUUID), newFleet(thereUUID)
	s := newSite(t, here)
	old := releases(here, commitA, 1)
	s.accepts(old)
	s.fleets[thereUUID] = there
	here.Transfers = []api.TrustLeave{{Device: deviceUUID, To: thereUUID, Root: tuf.Digest(there.Root(1))}}
	here.Publish()
	goes := releases(there, commitB, 2)
	s.accepts(goes)
	for name, given := range map[string]*api.ConfigTrust{"without a root in config.json": nil, "with that of the fleet before": here.Given()} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.identity(anew)
			s.start(given)
			if s.Trust == nil {
				t.Fatal("the device verifies nothing any more")
			}
			if s.Fleet() != thereUUID {
				t.Errorf("it believes the fleet %s", s.Fleet())
			}
			if err := s.Remembered(goes); err != nil {
				t.Errorf("it does not know what it ran: %v", err)
			}
			s.identity(anew)
			if peeked, err := trust.Peek(s.dir); err != nil || peeked.Fleet() != thereUUID {
				t.Errorf("trust status: %v", err)
			}
			if err := os.WriteFile(filepath.Join(s.dir, "lock"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, err := trust.Import(s.dir, here.Root(1))
			refused(t, err, tuf.ReasonFleet, thereUUID)
			s.identity(anew)
			s.refuses(old, tuf.ReasonFleet)
		})
	}
	t.Run("because the device was given away", func(t *testing.T) {
		other := newFleet(otherUUID)
		s.identity(anew)
		anew, err := trust.Open(trust.Config{StateDir: s.dir, UUID: deviceUUID, Given: other.Given(), Anew: true})
		if err != nil || anew == nil || anew.Fleet() != otherUUID {
			t.Errorf("what was believed before counts: %v, %v", anew, err)
		}
		if err := os.RemoveAll(trust.Dir(s.dir, otherUUID)); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("and the files corrupt", func(t *testing.T) {
		s.t = t
		s.identity(anew)
		for _, name := range []string{"state-a.json", "state-b.json"} {
			if err := os.WriteFile(filepath.Join(trust.Dir(s.dir, thereUUID), name), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s.start(here.Given())
		if s.Trust == nil {
			t.Fatal("the device verifies nothing any more")
		}
		if err := s.Check(context.Background(), goes); err == nil || !strings.Contains(err.Error(), "cannot be used") {
			t.Errorf("Check = %v", err)
		}
	})
	t.Run("of a device that was never given a root", func(t *testing.T) {
		s := &site{t: t, dir: t.TempDir()}
		s.identity(anew)
		if s.start(nil); s.Trust != nil {
			t.Error("it verifies")
		}
	})
}

// The next release may be accepted, and not taken yet, as when the disk is full: what is wanted still is downloaded still.
func TestImagesOfTheReleaseBefore(t *testing.T) {
	here := newFleet(hereUUID)
	s := newSite(t, here)
	ref := func(n int) string { return wants(commitA, n).Releases[commitA].Services["web"].Image }
	s.accepts(releases(here, commitA, 1))
	s.accepts(releases(here, commitB, 2))
	for n := 1; n <= 2; n++ {
		images, err := s.Images("web", ref(n))
		if err != nil || len(images) != 1 || !strings.HasSuffix(ref(n), images[0].Digest) {
			t.Errorf("images of release %d: %v, %v", n, images, err)
		}
	}
	if images, err := s.Images("web", ref(3)); err != nil || len(images) != 1 || strings.HasSuffix(ref(3), images[0].Digest) {
		t.Errorf("images of no release: %v, %v", images, err)
	}
}

// A clock that stands before everything that was signed goes on all the same: the director's word ends, and the server is asked again.
func TestAClockInThePastGoesOn(t *testing.T) {
	here := newFleet(hereUUID)
	here.Channel = &api.TrustChannel{Wanted: true}
	s := newSite(t, here)
	renew := func() (asked bool) {
		before := s.asked
		_ = s.Renew(context.Background(), only(hereUUID, commitA, 1)) // whether it succeeds is not what this is about
		return s.asked > before
	}
	s.now = time.Unix(0, 0)
	s.start(nil)
	s.accepts(releases(here, commitA, 1))
	if renew() {
		t.Error("it asks again at once")
	}
	s.now = s.now.Add(4 * 24 * time.Hour)
	if !renew() {
		t.Error("it does not ask when half of the life is over")
	}
	if ok, why := s.Channel(); !ok {
		t.Errorf("the channel is shut: %s", why)
	}
	s.now = s.now.Add(8 * 24 * time.Hour)
	if ok, _ := s.Channel(); ok {
		t.Error("the channel is open after twelve days")
	}
	s.now = time.Unix(0, 0)
	s.start(nil)
	if !renew() {
		t.Error("it does not ask after a start, of which nobody knows how late it is")
	}
	if renew() {
		t.Error("it asks again and again")
	}
	s.now = time.Now()
	s.start(nil)
	if renew() {
		t.Error("it asks after a start with a right clock")
	}
}

func TestLitterOfWritesIsRemoved(t *testing.T) {
	s := newSite(t, newFleet(hereUUID))
	path := filepath.Join(trust.Dir(s.dir, hereUUID), ".state-b.json.1234.tmp")
	if err := os.WriteFile(path, []byte("half of"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(nil)
	if _, err := os.Stat(path); err == nil {
		t.Error("it is still there")
	}
}

// Who moves a device to and fro has it neither do a command twice nor believe another history of the log.
func TestATransferForgetsNeitherCommandsNorTheLog(t *testing.T) {
	here, there := newFleet(hereUUID), newFleet(thereUUID)
	s := newSite(t, here)
	first := releases(here, commitA, 1)
	s.accepts(first)
	what := api.TrustCommand{Verb: api.ActPurge}
	command := here.Command(api.TrustCommand{Device: deviceUUID, Verb: api.ActPurge, Nonce: "0123456789abcdef"})
	if err := s.Command(what, command); err != nil {
		t.Fatal(err)
	}
	log := here.Log
	log.Add([]byte(`{"kind":"root"}`))
	s.fleets[thereUUID], there.Log = there, log
	goes := releases(there, commitB, 2)
	here.Transfers = []api.TrustLeave{{Device: deviceUUID, To: thereUUID, Root: tuf.Digest(there.Root(1))}}
	here.Publish()
	there.Change = func(have api.TrustHave, b *api.TrustBundle) {
		if b.Proof == nil {
			return
		}
		var entry api.TrustEntry
		if err := json.Unmarshal(b.Proof.Entry, &entry); err != nil {
			t.Fatal(err)
		}
		other := trusttest.NewLog(log.Origin)
		other.Add([]byte(`{"kind":"another history"}`))
		other.Add(b.Proof.Entry)
		b.Proof = other.Prove(have.Log, entry)
	}
	s.refuses(goes, "log", "checkpoint")
	there.Change = nil
	s.accepts(goes)
	there.Transfers = []api.TrustLeave{{Device: deviceUUID, To: hereUUID, Root: tuf.Digest(here.Root(1))}}
	there.Publish()
	s.accepts(first)
	if s.Fleet() != hereUUID {
		t.Fatalf("it is in %s", s.Fleet())
	}
	refused(t, s.Command(what, command), "replayed")
}

// The power fails between the two copies, or before the mark: the next start makes all three the same, so that the loss of one is not the loss of what was believed last.
func TestPowerFailsBetweenTheCopies(t *testing.T) {
	for _, stale := range [][]string{{"state-b.json", "identity.json"}, {"identity.json"}, {"state-b.json"}} {
		here := newFleet(hereUUID)
		s := newSite(t, here)
		path := func(name string) string {
			if name == "identity.json" {
				return filepath.Join(s.dir, name)
			}
			return filepath.Join(trust.Dir(s.dir, hereUUID), name)
		}
		read := func(name string) string {
			text, err := os.ReadFile(path(name))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		s.accepts(releases(here, commitA, 1))
		before := map[string]string{}
		for _, name := range stale {
			before[name] = read(name)
		}
		target := releases(here, commitB, 2)
		s.accepts(target)
		whole := read("identity.json")
		for name, text := range before {
			if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s.start(nil)
		if read("state-a.json") != read("state-b.json") {
			t.Errorf("%v: the copies differ", stale)
		}
		if before["state-b.json"] == "" && read("identity.json") != whole {
			t.Errorf("%v: the mark stays\n%s\nwant\n%s", stale, read("identity.json"), whole)
		}
		if err := os.Remove(path("state-a.json")); err != nil {
			t.Fatal(err)
		}
		s.start(nil)
		if err := s.Remembered(target); err != nil {
			t.Errorf("%v: %v", stale, err)
		}
	}
}
