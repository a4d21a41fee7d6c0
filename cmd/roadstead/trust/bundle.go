package trust

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const (
	bundleFormat = 1
	maxBundle    = 256 << 20 // of a file that is read
	maxRoots     = 1024      // of a fleet
)

// bundle is what is known of a fleet's trust: as the server says it, or as a file from it does. Nothing in it is believed before it is verified.
type bundle struct {
	Format   int                  `json:"roadstead_trust"`
	Fleet    string               `json:"fleet"` // uuid
	Slug     string               `json:"slug"`
	Server   string               `json:"server"`
	At       time.Time            `json:"at"`
	Status   *api.TrustStatus     `json:"status,omitempty"`
	Keys     *api.TrustServerKeys `json:"keys,omitempty"`
	Roots    [][]byte             `json:"roots,omitempty"` // all of them
	Files    []api.TrustFile      `json:"files,omitempty"` // in the order in which they are to be read
	Releases map[string]*evidence `json:"releases,omitempty"`
	Signed   []api.TrustFile      `json:"signed,omitempty"` // by the owner, not yet sent
}

// evidence is what there is about one release.
type evidence struct {
	Document      []byte             `json:"document"`
	Proof         *api.TrustLogging  `json:"proof,omitempty"`
	Statement     []byte             `json:"statement,omitempty"`
	StatementKeys []api.StatementKey `json:"statement_keys,omitempty"`
	SBOMs         map[string][]byte  `json:"sboms,omitempty"` // by digest
}

// want is what of a fleet is read.
type want struct {
	keys    bool     // the server's public keys
	owned   bool     // all bins of the owner's
	commits []string // with documents, and the bins of builder and owner
	pending bool     // the releases that wait for the owner
	proofs  bool     // that the releases stand in the log
}

// file gives a file of metadata, or nil.
func (b *bundle) file(role string) []byte {
	for _, f := range b.Files {
		if f.Role == role {
			return f.Data
		}
	}
	return nil
}

// readBundle reads a file.
func readBundle(path string) (*bundle, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err != nil {
		return nil, err
	}
	b, err := parseBundle(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

func parseBundle(data []byte) (*bundle, error) {
	if len(data) > maxBundle {
		return nil, fmt.Errorf("it is larger than %d bytes", maxBundle)
	}
	b := &bundle{}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(b); err != nil || b.Format == 0 {
		return nil, errors.New("it is no file of `roadstead trust export` or `roadstead release verify --save`")
	}
	if b.Format != bundleFormat {
		return nil, fmt.Errorf("it has format %d, and this program knows format %d: use a newer one", b.Format, bundleFormat)
	}
	if b.Fleet == "" || len(b.Roots) > maxRoots {
		return nil, errors.New("it is damaged: there is no fleet, or there are too many roots")
	}
	b.Slug, b.Server = terminal.Printable(b.Slug), terminal.Printable(b.Server)
	if b.Status == nil {
		b.Status = &api.TrustStatus{}
	}
	for _, e := range b.Releases {
		if e == nil {
			return nil, errors.New("it is damaged: a release without anything about it")
		}
	}
	return b, nil
}

func (b *bundle) write(path string) error {
	data, err := json.MarshalIndent(b, "", " ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(data, '\n'), 0o600)
}

// gather reads what a server says of a fleet.
func gather(ctx context.Context, c *client.Client, fleet string, w want) (*bundle, error) {
	b := &bundle{Format: bundleFormat, Fleet: fleet, Server: c.URL(), At: now(), Status: &api.TrustStatus{}, Releases: map[string]*evidence{}}
	if err := c.Do(ctx, http.MethodGet, FleetPath(fleet), nil, b.Status); err != nil {
		return nil, fmt.Errorf("ask for the trust of the fleet: %w", err)
	}
	b.Slug = terminal.Printable(b.Status.Slug)
	if w.keys {
		b.Keys = &api.TrustServerKeys{}
		if err := c.Do(ctx, http.MethodGet, FleetPath(fleet)+"/keys", nil, b.Keys); err != nil {
			return nil, fmt.Errorf("ask for the server's public keys: %w", err)
		}
	}
	newest := int64(1)
	for _, r := range b.Status.Roles {
		if r.Name == api.TrustRoot {
			newest = r.Version
		}
	}
	for v := int64(1); v <= min(newest, maxRoots); v++ {
		data, err := MetadataFile(ctx, c, fleet, fmt.Sprintf("%d.root", v))
		if err != nil {
			return nil, err
		}
		b.Roots = append(b.Roots, data)
	}
	if err := b.files(ctx, c, w); err != nil {
		return nil, err
	}
	commits := slices.Clone(w.commits)
	if w.pending {
		for _, u := range b.Status.Unsigned {
			commits = append(commits, u.Commit)
		}
	}
	for _, commit := range commits {
		if err := b.release(ctx, c, commit, w.proofs); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// MetadataFile asks for a file of a fleet's metadata.
func MetadataFile(ctx context.Context, c *client.Client, fleet, name string) ([]byte, error) {
	var data json.RawMessage
	if err := c.Do(ctx, http.MethodGet, FleetPath(fleet)+"/metadata/"+url.PathEscape(name)+".json", nil, &data); err != nil {
		return nil, fmt.Errorf("ask for %s.json: %w", name, err)
	}
	return data, nil
}

// files reads metadata below the root: those that the snapshot names and that are wanted.
func (b *bundle) files(ctx context.Context, c *client.Client, w want) error {
	bins := map[string]bool{}
	commits := w.commits
	if w.pending {
		for _, u := range b.Status.Unsigned {
			commits = append(slices.Clone(commits), u.Commit)
		}
	}
	for _, commit := range commits {
		path, err := tuf.ReleasePath(commit)
		if err != nil {
			return err
		}
		bins[tuf.BinRole(api.TrustBuilder, path)], bins[tuf.BinRole(api.TrustOwner, path)] = true, true
	}
	add := func(role string) error {
		data, err := MetadataFile(ctx, c, b.Fleet, role)
		if err == nil {
			b.Files = append(b.Files, api.TrustFile{Role: role, Data: data})
		}
		return err
	}
	if err := errors.Join(add(api.TrustTimestamp), add(api.TrustSnapshot), add(api.TrustTargets)); err != nil {
		return err
	}
	snapshot, err := tuf.ReadSnapshot(b.file(api.TrustSnapshot))
	if err != nil {
		return err
	}
	var below []string
	for role := range snapshot.Files {
		if bins[role] || w.owned && strings.HasPrefix(role, api.TrustOwner+"-") {
			below = append(below, role)
		}
	}
	slices.Sort(below)
	for _, role := range append([]string{api.TrustBuilder, api.TrustOwner}, below...) {
		if _, there := snapshot.Files[role]; !there {
			continue
		}
		if err := add(role); err != nil {
			return err
		}
	}
	return nil
}

// release reads what there is about one release.
func (b *bundle) release(ctx context.Context, c *client.Client, commit string, proof bool) error {
	if b.Releases[commit] != nil {
		return nil
	}
	e := &evidence{}
	var document json.RawMessage
	if err := c.Do(ctx, http.MethodGet, FleetPath(b.Fleet)+"/targets/releases/"+url.PathEscape(commit)+".json", nil, &document); err != nil {
		return fmt.Errorf("ask for the document of release %s: %w", commit, err)
	}
	e.Document = document
	if proof {
		e.Proof = &api.TrustLogging{}
		err := c.Do(ctx, http.MethodGet, FleetPath(b.Fleet)+"/proofs/"+url.PathEscape(commit)+"?by="+Whose(b.Status.Approval), nil, e.Proof)
		if errors.Is(err, api.ErrNotFound) {
			e.Proof, err = nil, nil
		}
		if err != nil {
			return fmt.Errorf("ask for the proof from the log: %w", err)
		}
	}
	b.Releases[commit] = e
	return nil
}

// Whose listing of a release is proved to stand in the log.
func Whose(approval api.Approval) string {
	if approval == api.ApprovalBuilder {
		return api.TrustBuilder
	}
	return api.TrustOwner
}
