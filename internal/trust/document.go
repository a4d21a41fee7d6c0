package trust

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// document is a release as it is signed.
type document struct {
	release int64
	commit  string
	counter int64 // of its newest listing; 0: it is not stored yet
	sha256  string
	data    []byte
	proof   string // the signed statement of where it comes from; "" when there is none
}

func (d *document) listed() tuf.Listed {
	return tuf.Listed{Length: int64(len(d.data)), SHA256: d.sha256, Counter: d.counter}
}

func (d *document) entry(fleet, by string, counter int64) api.TrustEntry {
	return api.TrustEntry{Kind: "release", Fleet: fleet, Name: d.commit, Version: counter, SHA256: d.sha256, By: by}
}

const selectDocument = `SELECT d."release", d."commit", d.counter, d.sha256, d.data, coalesce(s.envelope, '') FROM trust_document d
		LEFT JOIN release_statement s ON s."release" = d."release" WHERE `

// readDocument gives the document of a release that has one; nil: it has none.
func readDocument(ctx context.Context, tx *db.Tx, where string, args ...any) (*document, error) {
	var d document
	var data string
	err := tx.QueryRowContext(ctx, selectDocument+where, args...).Scan(&d.release, &d.commit, &d.counter, &d.sha256, &data, &d.proof)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if err != nil {
		return nil, fmt.Errorf("document: %w", err)
	}
	d.data = []byte(data)
	return &d, nil
}

// findDocument gives the document of a release, which is made of its rows when there is none yet.
func findDocument(ctx context.Context, tx *db.Tx, fleet fleetRow, release int64) (*document, error) {
	d, err := readDocument(ctx, tx, `d."release" = ?`, release)
	if d != nil || err != nil {
		return d, err
	}
	commit, target, err := device.ReleaseTarget(ctx, tx, fleet.id, release)
	if err != nil {
		return nil, err
	}
	d = &document{release: release, commit: commit}
	err = tx.QueryRowContext(ctx, `SELECT envelope FROM release_statement WHERE "release" = ?`, release).Scan(&d.proof)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("document of release %d: %w", release, err)
	}
	doc, err := makeDocument(ctx, tx, fleet.uuid, commit, target, d.proof)
	if err != nil {
		return nil, fmt.Errorf("document of release %d: %w", release, err)
	}
	if d.data, err = json.Marshal(doc); err != nil {
		return nil, fmt.Errorf("document of release %d: %w", release, err)
	}
	d.sha256 = tuf.Digest(d.data)
	return d, nil
}

// makeDocument says of a release what a device may be told to run of it.
func makeDocument(ctx context.Context, tx *db.Tx, fleet, commit string, target *api.ReleaseTarget, proof string) (*api.ReleaseDocument, error) {
	doc := &api.ReleaseDocument{Fleet: fleet, Commit: commit, Services: map[string]api.ReleaseService{}, Networks: target.Networks, Volumes: target.Volumes}
	parts, err := partsOf(proof)
	if err != nil {
		return nil, err
	}
	if proof != "" {
		doc.Provenance = tuf.Digest([]byte(proof))
	}
	for name, s := range target.Services {
		location, digest, ok := strings.Cut(s.Image, "@")
		if !ok || digest == "" {
			return nil, api.Errorf(api.Conflict, "service %s: its image has no digest", name)
		}
		images := []api.ReleaseImage{{Digest: digest}}
		for _, r := range parts[name] {
			if strings.EqualFold(r.Name, location) && r.Sum() != digest {
				images = append(images, api.ReleaseImage{Platform: r.Annotations["platform"], Digest: r.Sum()})
			}
		}
		slices.SortFunc(images[1:], func(a, b api.ReleaseImage) int { return strings.Compare(a.Platform, b.Platform) })
		for i := range images {
			err := tx.QueryRowContext(ctx, `SELECT size FROM registry_blob WHERE digest = ?`, images[i].Digest).Scan(&images[i].Size)
			if errors.Is(err, sql.ErrNoRows) {
				return nil, api.Errorf(api.Conflict, "service %s: the registry does not have %s", name, images[i].Digest)
			}
			if err != nil {
				return nil, fmt.Errorf("service %s: %w", name, err)
			}
		}
		doc.Services[name] = api.ReleaseService{Images: images, Composition: s.Composition, Labels: s.Labels, Contract: s.Contract}
	}
	return doc, nil
}

// partsOf reads from the statement of where a release comes from which images its indexes lead to, by service. It is verified where it
// counts: by the signer.
func partsOf(proof string) (map[string][]provenance.Resource, error) {
	parts := map[string][]provenance.Resource{}
	if proof == "" {
		return parts, nil
	}
	var envelope api.Envelope
	var s provenance.Statement
	if err := json.Unmarshal([]byte(proof), &envelope); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	payload, err := base64.StdEncoding.DecodeString(envelope.Payload)
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	if err := json.Unmarshal(payload, &s); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	for _, r := range s.Subject {
		if r.Annotations["platform"] != "" {
			parts[r.Annotations["service"]] = append(parts[r.Annotations["service"]], r)
		}
	}
	return parts, nil
}
