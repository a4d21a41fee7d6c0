package rebuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/builder/recipe"
)

// made is an image for one platform, ready to be published.
type made struct {
	arch     string // Debian's name
	platform v1.Platform
	image    v1.Image
	digest   v1.Hash
	same     bool // as what is there
	tmp      string
}

type madeList []*made

func (l madeList) remove() {
	for _, m := range l {
		_ = os.RemoveAll(m.tmp)
	}
}

// make makes the image for every platform. All are made before the first is published.
func (r *Rebuilder) make(ctx context.Context, rec *recipe.Recipe, lock *recipe.Lock) (madeList, error) {
	var list madeList
	for _, arch := range rec.Platforms {
		m := &made{arch: arch}
		var err error
		if m.platform, err = base.PlatformOf(recipe.Arch(arch)); err != nil {
			return list, err
		}
		if m.tmp, err = os.MkdirTemp(r.Dir, ".make-"); err != nil {
			return list, err
		}
		list = append(list, m)
		file := filepath.Join(m.tmp, "root.tar")
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return list, err
		}
		if err := errors.Join(r.Book.Make(ctx, r.Fetcher, rec, lock, arch, m.tmp, f), f.Close()); err != nil {
			return list, err
		}
		m.image, err = base.FromRoot(file, m.platform, base.Config{Env: rec.Env, Cmd: rec.Cmd,
			Labels: map[string]string{"org.opencontainers.image.title": "base/" + rec.Name, "org.opencontainers.image.description": rec.About}})
		if err != nil {
			return list, err
		}
		if m.digest, err = m.image.Digest(); err != nil {
			return list, err
		}
	}
	return list, nil
}

// listOfParts is an SPDX document of what an image was made of. It depends on the lock file alone.
func listOfParts(rec *recipe.Recipe, lock *recipe.Lock, m *made) ([]byte, error) {
	type checksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	type ref struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	type pkg struct {
		ID       string     `json:"SPDXID"`
		Name     string     `json:"name"`
		Version  string     `json:"versionInfo,omitempty"`
		Location string     `json:"downloadLocation"`
		Analyzed bool       `json:"filesAnalyzed"`
		Sums     []checksum `json:"checksums,omitempty"`
		Refs     []ref      `json:"externalRefs,omitempty"`
	}
	type relation struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
	const image = "SPDXRef-image"
	packages := []pkg{{ID: image, Name: "base/" + rec.Name, Version: m.digest.String(), Location: "NOASSERTION"}}
	relations := []relation{{"SPDXRef-DOCUMENT", "DESCRIBES", image}}
	add := func(p pkg, hash string) {
		p.ID, p.Sums = fmt.Sprintf("SPDXRef-%d", len(packages)), []checksum{{"SHA256", hash}}
		packages = append(packages, p)
		relations = append(relations, relation{image, "CONTAINS", p.ID})
	}
	for _, p := range lock.Images[m.arch] {
		add(pkg{Name: p.Name, Version: p.Version, Location: "NOASSERTION", Refs: []ref{{"PACKAGE-MANAGER", "purl", purl(p)}}}, p.SHA256)
	}
	for _, f := range lock.Resources {
		add(pkg{Name: f.Name, Location: f.URL}, f.SHA256)
	}
	return json.MarshalIndent(map[string]any{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "base/" + rec.Name,
		"documentNamespace": "urn:roadstead:base:" + rec.Name + ":" + m.digest.Hex,
		"creationInfo":      map[string]any{"created": lock.Made.UTC().Format(time.RFC3339), "creators": []string{"Tool: roadsteadd"}},
		"packages":          packages, "relationships": relations,
	}, "", " ")
}

func purl(p recipe.LockedPackage) string {
	return fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", url.PathEscape(p.Name), url.QueryEscape(p.Version), p.Arch)
}

// statement says where an image comes from, in the form of SLSA provenance: what it was made of, and which signed files vouched for it.
func statement(rec *recipe.Recipe, lock *recipe.Lock, m *made, lockSum string) ([]byte, error) {
	type part struct {
		URI    string            `json:"uri"`
		Digest map[string]string `json:"digest"`
		Notes  map[string]string `json:"annotations,omitempty"`
	}
	var parts []part
	for _, s := range lock.Suites {
		parts = append(parts, part{"urn:debian:dists/" + s.Suite + "/InRelease", map[string]string{"sha256": s.SHA256}, map[string]string{"signed_by": s.SignedBy}})
	}
	for _, p := range lock.Images[m.arch] {
		parts = append(parts, part{URI: purl(p), Digest: map[string]string{"sha256": p.SHA256}})
	}
	for _, f := range lock.Resources {
		notes := map[string]string{}
		if f.SignedBy != "" {
			notes["signed_by"] = f.SignedBy
		}
		parts = append(parts, part{f.URL, map[string]string{"sha256": f.SHA256}, notes})
	}
	return json.MarshalIndent(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"name": "base/" + rec.Name, "digest": map[string]string{"sha256": m.digest.Hex}}},
		"predicateType": "https://slsa.dev/provenance/v1",
		"predicate": map[string]any{
			"buildDefinition": map[string]any{
				"buildType":            "https://roadstead.io/base-image/v1",
				"externalParameters":   map[string]any{"recipe": rec.Name, "platform": m.arch, "lock": map[string]string{"sha256": lockSum}},
				"resolvedDependencies": parts,
			},
			"runDetails": map[string]any{"builder": map[string]string{"id": "https://roadstead.io/roadsteadd/base"}},
		},
	}, "", " ")
}
