package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// siege is a device whose way to the server leads through a liar. It runs the release "second" of a fleet whose owner signs releases too; "first" is older, "third" is as
// good, and not accepted as yet.
type siege struct {
	*device
	t                    *testing.T
	fleet                string // its name
	fleetUUID            string
	id                   int64
	liar                 *liar
	owner                *owner
	forger               *forger
	first, second, third string           // commits
	ids                  map[string]int64 // of releases
	box                  string           // the container that runs
	images               string           // of the engine
	oldTold, now         *api.TargetState // what the server told while the device ran the first, and the second
	old                  *api.TrustBundle // what it answered while the device ran the first
	neighbour, stranger  string           // keys of devices of this fleet, and of another one
	strangers            string           // uuid of that
}

const (
	neighbourUUID = "0e16b0e1000000000000000000000001"
	strangerUUID  = "0e16b0e1000000000000000000000002"
)

// twofold is a project whose image is an index: for amd64 it says a word, for another architecture it does nothing.
func twofold(t *testing.T, fleet, word string) string {
	t.Helper()
	project := t.TempDir()
	if err := os.Mkdir(filepath.Join(project, "web"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(project, "docker-compose.yml"), "services: {web: {build: ./web}}\n")
	writeFile(t, filepath.Join(project, "web/word"), word+"\n")
	writeFile(t, filepath.Join(project, "web/Dockerfile.amd64"), "FROM base/busybox\nCOPY word /word\nCMD [\"sh\", \"-c\", \"cat /word; sleep 100000\"]\nSTOPSIGNAL KILL\n")
	writeFile(t, filepath.Join(project, "web/Dockerfile.aarch64"), "FROM scratch\nCOPY word /word\nCMD [\"/there-is-none\"]\n")
	var made struct {
		Commit string `json:"commit"`
	}
	if err := json.Unmarshal([]byte(p.roadstead(t, "push", fleet, project, "--foreign", "-o", "json")), &made); err != nil || made.Commit == "" {
		t.Fatalf("push says no commit: %v", err)
	}
	return made.Commit
}

func besieged(t *testing.T, name string) *siege {
	t.Helper()
	s := &siege{t: t, fleet: name, liar: newLiar(t), owner: newOwner(t), ids: map[string]int64{}}
	p.roadstead(t, "fleet", "create", name, "--type", "generic-amd64")
	p.roadstead(t, "fleet", "set", name, "--also-for", "aarch64")
	p.roadstead(t, "env", "set", "RESIN_SUPERVISOR_POLL_INTERVAL", "1000", "--fleet", name)
	p.roadstead(t, "fleet", "create", name+"-others", "--type", "generic-amd64")
	s.first = twofold(t, name, "first")
	s.owner.run("", "trust", "init", name, "--approval", "builder+owner", "--shell", "forbidden", "--yes")
	s.owner.run("", "release", "sign", s.first, "--yes")
	s.device = newDisk(t, name, "e2e-"+name)
	s.hosts = []string{s.liar.names, strings.Replace(p.hostsLine, " api."+p.domain, "", 1)}
	s.hosts[1] = strings.Replace(s.hosts[1], " registry2."+p.domain, "", 1)
	state := filepath.Join(s.dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	must(t, "mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "e2e-state", state) // small: tests fill it
	t.Cleanup(func() { must(t, "umount", "-l", state) })
	s.up(t)
	t.Cleanup(func() { s.down(t) }) // before the state goes
	s.registered(t)
	s.says(t, "first")
	s.oldTold, s.old = s.liar.truth()
	s.fleetUUID = s.old.Fleet
	s.second = twofold(t, name, "second")
	s.owner.run("", "release", "sign", s.second, "--yes")
	s.says(t, "second")

	var rows struct {
		D []struct{ ID int64 }
	}
	s.get(t, "/v7/device?$select=id&$filter=uuid%20eq%20'"+s.uuid+"'", &rows)
	s.id = rows.D[0].ID
	for _, commit := range []string{s.first, s.second} {
		s.find(t, commit)
	}
	s.pin(t, s.second)
	s.now, _ = s.liar.truth()
	s.third = twofold(t, name, "third")
	s.owner.run("", "release", "sign", s.third, "--yes")
	s.find(t, s.third)
	_, s.neighbour, _ = registeredByHand(t, name, neighbourUUID)
	pushed(t, name+"-others", "alien")
	_, s.stranger, _ = registeredByHand(t, name+"-others", strangerUUID)
	s.strangers = s.bundleOf(strangerUUID, s.stranger, api.TrustHave{Nonce: strings.Repeat("n", 20)}).Fleet
	s.forger = newForger(t, s.owner, s.fleetUUID, api.DeviceUUID(s.uuid))
	s.box, s.images = s.runs(t)
	return s
}

func (s *siege) get(t *testing.T, path string, into any) {
	t.Helper()
	a := p.call(t, "GET", "api", path, p.admin.APIKey, nil)
	if err := json.Unmarshal([]byte(a.body), into); err != nil || a.status != http.StatusOK {
		t.Fatalf("%s: %d %s", path, a.status, a.body)
	}
}

func (s *siege) find(t *testing.T, commit string) {
	t.Helper()
	var rows struct {
		D []struct{ ID int64 }
	}
	if s.get(t, "/v7/release?$select=id&$filter=commit%20eq%20'"+commit+"'", &rows); len(rows.D) != 1 {
		t.Fatalf("release %s: %d rows", commit, len(rows.D))
	}
	s.ids[commit] = rows.D[0].ID
}

// pin has the server tell the device to run a release.
func (s *siege) pin(t *testing.T, commit string) {
	t.Helper()
	a := p.call(t, "PATCH", "api", fmt.Sprintf("/v7/device(%d)", s.id), p.admin.APIKey, map[string]any{"is_pinned_on__release": s.ids[commit]})
	if a.status != http.StatusOK {
		t.Fatalf("pin to %s: %d %s", commit, a.status, a.body)
	}
}

// bundleOf is what the server answers another device.
func (s *siege) bundleOf(uuid, key string, have api.TrustHave) (b api.TrustBundle) {
	a, err := p.ask(s.t.Context(), "POST", "api", "/trust/v1/device/"+uuid+"/bundle", key, have)
	if err == nil {
		err = json.Unmarshal([]byte(a.body), &b)
	}
	if err != nil || a.status != http.StatusOK {
		s.t.Errorf("metadata of device %s: %d %v", uuid, a.status, err)
	}
	return b
}

// runs is the only container, and the images that the engine has.
func (s *siege) runs(t *testing.T) (box, images string) {
	t.Helper()
	var out string
	eventually(t, time.Minute, "the engine answers", func() (ok bool) { // that it does at once is nobody's claim
		var err error
		out, err = s.exec(t, "sh", "-c", "docker ps -a --no-trunc --format '{{.ID}} {{.State}}' && echo -- && docker images -a --digests --no-trunc --format '{{.ID}} {{.Digest}} {{.Repository}}' | sort")
		return err == nil
	})
	box, images, _ = strings.Cut(out, "--\n")
	if id, state, _ := strings.Cut(strings.TrimSpace(box), " "); len(id) != 64 || state != "running" {
		t.Fatalf("the engine has the containers %q, want one that runs", box)
	}
	return box, images
}

// unharmed looks that what ran runs, in the same container, and that the engine has nothing that it did not have.
func (s *siege) unharmed(t *testing.T) {
	t.Helper()
	if box, images := s.runs(t); box != s.box || images != s.images {
		t.Errorf("the engine runs\n%swith\n%sand not\n%swith\n%s", box, images, s.box, s.images)
	}
}

// rejects waits until the device has reported why it refuses, and its log and `device show` say so, too.
func (s *siege) rejects(t *testing.T, after, at int, reason string, words ...string) {
	t.Helper()
	var r api.TrustReport
	defer func() {
		if t.Failed() {
			t.Logf("the last report is %+v, rejection %+v\n%s", r, r.Rejection, tail(filepath.Join(s.dir, "log/agent.log"), 8))
		}
	}()
	eventually(t, time.Minute, "a refusal for the reason "+reason, func() (ok bool) {
		r, ok = s.liar.said(after)
		return ok && r.Rejection != nil && r.Rejection.Reason == reason
	})
	said := []string{r.Rejection.What, r.Rejection.Reason, r.Rejection.Expected, r.Rejection.Got}
	for _, word := range words {
		if !slices.ContainsFunc(said, func(text string) bool { return strings.Contains(text, word) }) {
			t.Errorf("the refusal %q does not name %q", said, word)
		}
	}
	if r.State != api.TrustRejected && (reason != tuf.ReasonUnlisted && reason != tuf.ReasonMissing && reason != "unavailable") {
		t.Errorf("the device says that it is %s", r.State)
	}
	eventually(t, time.Minute, "the device's log says so", func() bool { return strings.Contains(s.log(t)[at:], quoted(r.Rejection)) })
	var shown struct {
		TrustSays struct {
			Rejection *api.TrustRejection `json:"rejection"`
		} `json:"trust_says"`
	}
	eventually(t, time.Minute, "device show says so", func() bool {
		out := p.roadstead(t, "device", "show", s.uuid, "-o", "json")
		if err := json.Unmarshal([]byte(out), &shown); err != nil {
			t.Fatalf("device show: %v: %s", err, out)
		}
		return shown.TrustSays.Rejection != nil && shown.TrustSays.Rejection.Reason == reason
	})
	s.unharmed(t)
}

// quoted is how the log names a reason.
func quoted(r *api.TrustRejection) string {
	if r.Reason == "unavailable" {
		return "the target state is rejected"
	}
	return "reason=" + r.Reason
}

// calm has the truth told again, and waits until the device has verified it.
func (s *siege) calm(t *testing.T) {
	t.Helper()
	s.pin(t, s.second)
	after, _ := s.liar.tell(lie{})
	eventually(t, time.Minute, "the device verifies what is true", func() bool {
		r, ok := s.liar.said(after)
		return ok && r.State == api.TrustVerified && r.Commit == s.second && r.Rejection == nil
	})
	s.unharmed(t)
}

// suffers has something told to the device, and looks that it refuses it.
func (s *siege) suffers(t *testing.T, a siegeAttack) {
	t.Helper()
	at, told := len(s.log(t)), s.third
	if a.tell != nil {
		told = a.tell(s)
	}
	lie := a.lie(s)
	lie.about = told
	after, _ := s.liar.tell(lie)
	s.pin(t, told)
	s.rejects(t, after, at, a.reason, a.words...)
}

// hide keeps news from the device.
func (s *siege) hide() {
	s.liar.tell(lie{state: func(mine *api.DeviceTarget) { *mine = *clone((*s.now)[api.DeviceUUID(s.uuid)]) }})
}

// would says what a device with the same files of trust makes of an answer, in a copy of them.
func (s *siege) would(t *testing.T, change func(have api.TrustHave, b *api.TrustBundle)) error {
	t.Helper()
	dir := t.TempDir()
	must(t, "cp", "-a", filepath.Join(s.dir, "state")+"/.", dir)
	who, err := identity.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	told, _ := s.liar.truth()
	check, err := trust.Open(trust.Config{
		StateDir: dir, UUID: api.DeviceUUID(s.uuid), Mark: who.Trust, Log: slog.New(slog.DiscardHandler),
		Bundle: func(_ context.Context, have api.TrustHave) (api.TrustBundle, error) {
			all := have
			all.Versions, all.Counter = map[string]int64{api.TrustRoot: have.Versions[api.TrustRoot]}, 0
			b := s.bundleOf(s.uuid, s.key, all)
			change(have, &b)
			return b, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return check.Check(t.Context(), (*told)[api.DeviceUUID(s.uuid)])
}

// siegeAttack is one thing that is wrong about what the device is told, and how it calls that.
type siegeAttack struct {
	name   string
	reason string
	words  []string
	tell   func(s *siege) string // which release the server tells the device to run; nil: the third, which is good
	lie    func(s *siege) lie
}

// answers changes what the server answers to the question for metadata.
func answers(f func(s *siege, have api.TrustHave, b *api.TrustBundle)) func(*siege) lie {
	return func(s *siege) lie {
		return lie{answer: func(_ api.DeviceUUID, have api.TrustHave, b *api.TrustBundle) { f(s, have, b) }}
	}
}

// tells changes what the server tells the device to run.
func tells(f func(s *siege, mine *api.DeviceTarget, web *api.ServiceTarget)) func(*siege) lie {
	return func(s *siege) lie {
		return lie{state: func(mine *api.DeviceTarget) {
			if rel := mine.Apps[s.fleetUUID].Releases[s.third]; rel != nil {
				f(s, mine, rel.Services["web"])
			}
		}}
	}
}

// root sends another root than there is: the next one, changed.
func root(change func(s *siege, signed map[string]any), by ...string) func(*siege) lie {
	return answers(func(s *siege, _ api.TrustHave, b *api.TrustBundle) {
		var signers []tuf.Signer
		for _, name := range by {
			signers = append(signers, s.named(name))
		}
		b.Roots = s.forger.nextRoot(func(signed map[string]any) { change(s, signed) }, signers...)
	})
}

// named is a key: the owner's, or one that nobody knows.
func (s *siege) named(name string) tuf.Signer {
	if name == "owner" {
		return s.forger.owner
	}
	return another(name)
}

// addKey lets one more key sign for a role of a root.
func addKey(signed map[string]any, role, id string, key any) {
	var plain any
	if err := json.Unmarshal(made(json.Marshal(key)), &plain); err != nil {
		panic(err)
	}
	member(signed, "keys")[id] = plain
	of := member(signed, "roles", role)
	of["keyids"] = append(of["keyids"].([]any), id)
}
