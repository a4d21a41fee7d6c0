package trust_test

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// A device of a fleet that the server holds gets all that it needs, checks it, and gets only what is new afterwards.
func TestADeviceChecksWhatItIsTold(t *testing.T) {
	w := newWorld(t)
	first := w.release(w.hers, 1)
	w.target(w.hers, first)
	d := w.device(w.hers, 1)
	d.equip()
	bundle, err := d.check(w.trust, commitOf(1))
	w.must(err)
	var doc api.ReleaseDocument
	w.must(json.Unmarshal(bundle.Document, &doc))
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
	if n := w.number(`SELECT count(*) FROM trust_leaf WHERE name = ?`, commitOf(1)); n != 1 {
		t.Errorf("the release stands in the log %d times", n)
	}
}
