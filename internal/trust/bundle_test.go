package trust_test

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// A device of a fleet that the server holds gets all that it needs, checks it, and gets only what is new afterwards.
func TestADeviceChecksWhatItIsTold(t *testing.T) {
	w := newWorld(t)
	first := w.release(w.hers, 1)
	w.target(w.hers, first)
	d := w.device(w.hers, 1)
	d.equip()
	bundle, err := d.check(w.trust, commitOf(1))
	w.Must(err)
	var doc api.ReleaseDocument
	w.Must(json.Unmarshal(bundle.Document, &doc))
	web := doc.Services["web"]
	if doc.Fleet != d.uuidOfFleet || len(web.Images) != 1 || web.Images[0].Size != 501 || web.Labels["io.balena.features.dbus"] != "1" ||
		!strings.Contains(string(web.Composition), "serve") || strings.Contains(string(web.Composition), "build") || string(doc.Volumes["data"]) != "{}" || doc.Provenance == "" {
		t.Errorf("the document is %s", bundle.Document)
	}
	if bundle, err = d.check(w.trust, commitOf(1)); err != nil || len(bundle.Files)+len(bundle.Roots) != 0 || bundle.Document != nil {
		t.Errorf("nothing has changed: %v, %d files, %d roots, a document of %d bytes", err, len(bundle.Files), len(bundle.Roots), len(bundle.Document))
	}
	w.target(w.hers, w.release(w.hers, 2))
	if _, err := d.check(w.trust, commitOf(2)); err != nil {
		t.Errorf("the next release: %v", err)
	}
	w.target(w.hers, first)
	before := d.counter
	if _, err := d.check(w.trust, commitOf(1)); err != nil || d.counter <= before {
		t.Errorf("back to the release before: %v, counter %d after %d", err, d.counter, before)
	}
}

// Several processes that are asked at the same time publish once, and everybody gets what verifies.
func TestManyAskAtOnce(t *testing.T) {
	w := newWorld(t)
	w.target(w.hers, w.release(w.hers, 1))
	other := w.process()
	const many = 20
	boards := make([]*board, many)
	for i := range boards {
		boards[i] = w.device(w.hers, i)
		boards[i].equip()
	}
	var wait sync.WaitGroup
	errs := make(chan error, many)
	for i, b := range boards {
		process := w.trust
		if i%2 == 1 {
			process = other
		}
		wait.Go(func() {
			_, err := b.check(process, commitOf(1))
			errs <- err
		})
	}
	wait.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if n := w.Number(`SELECT count(*) FROM trust_leaf WHERE name = ?`, commitOf(1)); n != 1 {
		t.Errorf("the release stands in the log %d times", n)
	}
}

// A release that a fleet should run is published before any device asks.
func TestATargetIsPublishedAhead(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	d.equip()
	release := w.release(w.hers, 1)
	w.target(w.hers, release)
	w.Must(w.trust.PublishOnce(t.Context()))
	w.Must(w.trust.PublishOnce(t.Context()))
	if n := w.Number(`SELECT count(*) FROM trust_document WHERE "release" = ?`, release); n != 1 {
		t.Errorf("%d documents", n)
	}
	if _, err := d.check(w.trust, commitOf(1)); err != nil {
		t.Error(err)
	}
}

// What nobody says was built here, no device runs by the builder's word; and a device without the right key learns nothing.
func TestWhatIsNotProvedIsNotListed(t *testing.T) {
	w := newWorld(t)
	w.target(w.hers, w.release(w.hers, 1, true))
	d := w.device(w.hers, 1)
	d.equip()
	_, err := d.check(w.trust, commitOf(1))
	if r, ok := tuf.Rejection(err); !ok || r.Reason != tuf.ReasonUnlisted && r.Reason != tuf.ReasonMissing {
		t.Errorf("a release of unknown origin: %v", err)
	}
	stranger := w.device(w.his, 2)
	if _, err := w.trust.Bundle(t.Context(), stranger.by, d.uuid, d.have("")); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("another device's key: %v", err)
	}
	for field, change := range map[string]func(h *api.TrustHave){
		"nonce": func(h *api.TrustHave) { h.Nonce = "short" }, "commit": func(h *api.TrustHave) { h.Commit = "../x" }, "root": func(h *api.TrustHave) { h.Root = "x" },
		"versions": func(h *api.TrustHave) { h.Versions = map[string]int64{"../root": 1} }, "counter": func(h *api.TrustHave) { h.Counter = -1 },
	} {
		have := d.have("")
		change(&have)
		if _, err := w.trust.Bundle(t.Context(), d.by, d.uuid, have); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	// A lie about what it has must not hurt the others.
	have := d.have("")
	have.Counter, have.Versions = 1<<39, map[string]int64{"timestamp": 1 << 39}
	if _, err := w.trust.Bundle(t.Context(), d.by, d.uuid, have); err != nil {
		t.Errorf("a lie: %v", err)
	}
	w.target(w.hers, w.release(w.hers, 2))
	if _, err := d.check(w.trust, commitOf(2)); err != nil {
		t.Errorf("after a lie: %v", err)
	}
}

// Who writes into the database, or is the api role, has the builder list nothing that runs in another way than it was built: same images are
// not enough.
func TestAThiefOfTheDatabaseChangesNoComposition(t *testing.T) {
	for name, evil := range map[string]string{
		"command":    `UPDATE "release" SET composition = replace(composition, 'serve', 'sh')`,
		"privileged": `UPDATE "release" SET composition = replace(composition, '"command"', '"privileged":true,"command"')`,
		"feature":    `UPDATE image_label SET label_name = 'io.balena.features.balena-socket'`,
		"volume":     `UPDATE "release" SET composition = replace(composition, '"data":null', '"data":null,"more":null')`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.target(w.hers, w.release(w.hers, 1))
			d := w.device(w.hers, 1)
			d.equip()
			if _, err := d.check(w.trust, commitOf(1)); err != nil {
				t.Fatalf("before: %v", err)
			}
			w.release(w.hers, 2)
			w.Exec(evil)
			w.Exec(`DELETE FROM trust_document`)
			w.target(w.hers, w.Number(`SELECT id FROM "release" WHERE "commit" = ?`, commitOf(2)))
			if _, err := d.check(w.process(), commitOf(2)); err == nil {
				t.Error("a release that was never listed")
			}
			w.target(w.hers, w.Number(`SELECT id FROM "release" WHERE "commit" = ?`, commitOf(1)))
			if _, err := d.check(w.process(), commitOf(1)); err == nil {
				t.Error("a release that was listed before, with another document")
			}
		})
	}
}

// A rejection is an event, once; and so is its end.
func TestARejectionIsAnEvent(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers, 1)
	no := api.TrustReport{State: api.TrustRejected, Rejection: &api.TrustRejection{What: "image of service web", Reason: "digest", Expected: "a", Got: "b\x1b[31m" + strings.Repeat("x", 1000)}}
	w.Must(w.trust.Report(t.Context(), d.by, d.uuid, no))
	w.Must(w.trust.Report(t.Context(), d.by, d.uuid, no))
	d.equip()
	if s := w.status(); s.Devices["rejected"] != 1 || len(s.Rejecting) != 1 || s.Rejecting[0].Rejection.Reason != "digest" || len(s.Rejecting[0].Rejection.Got) > 300 || strings.Contains(s.Rejecting[0].Rejection.Got, "\x1b") {
		t.Errorf("the status is %+v", s)
	}
	long := "x\n\n" + strings.Repeat("y", 5000) + "\u009b\u202e"
	w.Must(w.trust.Report(t.Context(), d.by, d.uuid, api.TrustReport{State: api.TrustRejected, Rejection: &api.TrustRejection{What: "image of service web", Reason: "digest", Got: long, Key: long}}))
	if no := w.status().Rejecting[0].Rejection; len(no.Got) > 300 || len(no.Key) > 300 || strings.ContainsAny(no.Got, "\n\u009b\u202e") {
		t.Errorf("what a device says is kept as %d and %d bytes: %.20q", len(no.Got), len(no.Key), no.Got)
	}
	w.Must(w.trust.Report(t.Context(), d.by, d.uuid, api.TrustReport{State: api.TrustVerified}))
	for act, want := range map[string]int64{"device.trust.reject": 1, "device.trust.accept": 1} {
		if n := w.Number(`SELECT count(*) FROM audit_entry WHERE act = ?`, act); n != want {
			t.Errorf("%s: %d events, want %d", act, n, want)
		}
	}
	for field, r := range map[string]api.TrustReport{
		"state": {State: "fine"}, "rejection": {State: api.TrustRejected}, "held_by": {State: api.TrustVerified, HeldBy: "me"}, "approval": {State: api.TrustVerified, Approval: "x"},
		"sha256": {State: api.TrustVerified, SHA256: "x"}, "commit": {State: api.TrustVerified, Commit: "x"},
	} {
		if err := w.trust.Report(t.Context(), d.by, d.uuid, r); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
