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
	t      *testing.T
	dir    string
	now    time.Time // of the device
	fleets map[string]*trusttest.Fleet
	asked  int
	*trust.Trust
}

func newSite(t *testing.T, fleet *trusttest.Fleet) *site {
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

func refused(t *testing.T, err error, reason string, words ...string) {
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
