package release_test

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

// attested is the end of a build with its statement, as the signer would sign it with the world's key.
func attested(t *testing.T, b api.Build, images []api.BuildImage, change func(*api.StatementRequest)) api.BuildResult {
	t.Helper()
	result := releasetest.Result(images)
	var err error
	if result.Statement, err = releasetest.Statement(b, images, result, change); err != nil {
		t.Fatal(err)
	}
	return result
}

func TestAReleaseKeepsItsStatement(t *testing.T) {
	w := releasetest.New(t)
	w.Fleet(w.Alice, "harbour", "intel-nuc")
	b, images := w.Open(w.Alice, "alice/harbour", false, "web", "db")
	result := attested(t, b, images, func(ask *api.StatementRequest) {
		ask.Images[1].SBOM = &api.ImageSBOM{Missing: "it is too large"}
		ask.Images[1].Bases = append(ask.Images[1].Bases, api.ImageBase{Name: "https://example.com/x", Digest: "sha256:" + strings.Repeat("d", 64)})
	})
	for range 2 { // the builder did not hear the answer
		if done, err := w.Finish(b.ID, result); err != nil || done.Status != api.StatusSuccess {
			t.Fatalf("%+v %v", done, err)
		}
	}
	one := fmt.Sprintf("release_statement(release=%d)?$select=key_id,envelope", b.ID)
	w.Want(w.Alice, "GET", one, nil, 200, provenance.Key(releasetest.StatementKey.Public().(ed25519.PublicKey)).ID)
	w.Want(w.Alice, "GET", "image_sbom?$select=digest,packages,missing&$orderby=id%20asc", nil, 200,
		`{"digest":"sha256:`+strings.Repeat("5", 64)+`","packages":4,"missing":null},{"digest":null,"packages":null,"missing":"it is too large"}`)
	w.Want(w.Alice, "GET", "image_base?$select=name,digest&$filter=name%20eq%20'base/busybox'", nil, 200,
		strings.Repeat(`{"name":"base/busybox","digest":"sha256:`+strings.Repeat("b", 64)+`"},`, 2)[:2*99-1])
	w.Want(w.Alice, "GET", "image_base?$select=name&$filter=name%20eq%20'https://example.com/x'", nil, 200, `[{"name":"https://example.com/x"}]`)
	// Nobody changes them, and nobody of another organization sees them.
	for _, path := range []string{"release_statement", "image_sbom", "image_base"} {
		w.Want(w.Bob, "GET", path, nil, 200, `{"d":[]}`)
		w.Want(w.Alice, "DELETE", path, nil, 403, "made by builds")
		w.Want(w.Alice, "PATCH", path+"(1)", map[string]any{"created_at": "2020-01-01T00:00:00.000Z"}, 403, "made by builds")
	}
	// They go with the release, once the fleet has a newer one.
	next, nextImages := w.Open(w.Alice, "alice/harbour", false, "web")
	if _, err := w.Finish(next.ID, releasetest.Result(nextImages)); err != nil {
		t.Fatal(err)
	}
	w.Want(w.Alice, "DELETE", fmt.Sprintf("release(%d)", b.ID), nil, 200, "")
	w.Read(func(tx *db.Tx) error {
		for _, table := range []string{"release_statement", "image_sbom", "image_base"} {
			var n int
			if err := tx.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&n); err != nil || n != 1 { // that of the newer release
				t.Errorf("%s: %d rows are left, %v", table, n, err)
			}
		}
		return nil
	})
}

// A build cannot end with a statement of something else, however well it is signed.
func TestAStatementOfAnotherReleaseIsNotTaken(t *testing.T) {
	w := releasetest.New(t)
	w.Fleet(w.Alice, "harbour", "intel-nuc")
	w.Fleet(w.Bob, "quay", "intel-nuc")
	b, images := w.Open(w.Alice, "alice/harbour", false, "web")
	theirs, theirImages := w.Open(w.Bob, "bob/quay", false, "web")
	good := attested(t, b, images, nil)
	with := func(statement json.RawMessage) api.BuildResult {
		r := releasetest.Result(images)
		r.Statement = statement
		return r
	}
	forged := func() json.RawMessage {
		var e api.Envelope
		if err := json.Unmarshal(good.Statement, &e); err != nil {
			t.Fatal(err)
		}
		e.Signatures[0].Sig = "AAAA" + e.Signatures[0].Sig[4:]
		data, _ := json.Marshal(e)
		return data
	}
	for name, r := range map[string]api.BuildResult{
		"another fleet's": with(attested(t, theirs, theirImages, nil).Statement),
		"one of an image with another digest": with(attested(t, b, images, func(ask *api.StatementRequest) {
			ask.Images[0].Digest = "sha256:" + strings.Repeat("e", 64)
		}).Statement),
		"one of another service":     with(attested(t, b, images, func(ask *api.StatementRequest) { ask.Images[0].Service = "db" }).Statement),
		"one with a wrong signature": with(forged()),
		"one that is none":           with(json.RawMessage(`{"payloadType":"application/vnd.in-toto+json"}`)),
		"none at all":                with(json.RawMessage{}), // nil would be signed by the world
	} {
		if _, err := w.Finish(b.ID, r); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "statement") {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.Want(w.Alice, "GET", "release_statement", nil, 200, `{"d":[]}`)
	if done, err := w.Finish(b.ID, good); err != nil || done.Status != api.StatusSuccess {
		t.Fatalf("%+v %v", done, err)
	}
	// A build that failed has no statement to keep.
	failed := attested(t, theirs, theirImages, nil)
	failed.Status, failed.Error = api.StatusFailed, "no"
	failed.Images[0].Status = api.StatusFailed
	if _, err := w.Finish(theirs.ID, failed); err != nil {
		t.Fatal(err)
	}
	w.Want(w.Bob, "GET", "release_statement", nil, 200, `{"d":[]}`)
}
