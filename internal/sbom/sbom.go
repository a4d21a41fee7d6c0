// Package sbom is what is known of the packages in an image: their names and versions, as package inventory finds them and as they
// stand in a bill of materials (CycloneDX 1.6, JSON).
package sbom

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxDocument bounds a bill of materials, in bytes.
const MaxDocument = 16 << 20

const maxName = 256

// Kinds of packages, as package URLs name them.
const (
	Debian = "deb"
	Alpine = "apk"
	Go     = "golang"
	Python = "pypi"
	Node   = "npm"
)

// Package is one package in an image.
type Package struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch,omitempty"`
}

// Good reports whether a package's words can stand in a document and on a screen. Whoever made the image wrote them.
func (p Package) Good() bool {
	return p.Name != "" && good(p.Name) && good(p.Version) && good(p.Arch)
}

func good(s string) bool {
	return len(s) <= maxName && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) })
}

// URL is the package's package URL. The distribution, "debian-12", is known to the image alone; "" for none.
func (p Package) URL(distribution string) string {
	u := "pkg:" + p.Kind + "/"
	family, _, _ := strings.Cut(distribution, "-")
	switch p.Kind {
	case Debian, Alpine:
		if family == "" {
			family = map[string]string{Debian: "debian", Alpine: "alpine"}[p.Kind]
		}
		u += escape(family) + "/" + escape(p.Name)
	case Go, Node:
		parts := strings.Split(p.Name, "/")
		for i := range parts {
			parts[i] = escape(parts[i])
		}
		u += strings.Join(parts, "/")
	default:
		u += escape(p.Name)
	}
	if p.Version != "" {
		u += "@" + escape(p.Version)
	}
	var more []string
	if p.Arch != "" {
		more = append(more, "arch="+escape(p.Arch))
	}
	if distribution != "" && (p.Kind == Debian || p.Kind == Alpine) {
		more = append(more, "distro="+escape(distribution))
	}
	if len(more) > 0 {
		u += "?" + strings.Join(more, "&")
	}
	return u
}

// escape writes a part of a package URL.
func escape(s string) string {
	s = url.QueryEscape(s)
	return strings.NewReplacer("+", "%20", "%3A", ":").Replace(s)
}

// Read gives the packages that stand in a bill of materials, and what it says is missing from it.
func Read(document []byte) (packages []Package, notes []string, err error) {
	if len(document) > MaxDocument {
		return nil, nil, fmt.Errorf("bill of materials: larger than %d bytes", MaxDocument)
	}
	var doc struct {
		Format   string `json:"bomFormat"`
		Metadata struct {
			Properties []property
		}
		Components []struct {
			Type, Name, Version string
			PURL                string `json:"purl"`
			Properties          []property
		}
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, nil, fmt.Errorf("bill of materials: %w", err)
	}
	if doc.Format != "CycloneDX" {
		return nil, nil, fmt.Errorf("bill of materials: it is %q, not CycloneDX", doc.Format)
	}
	for _, c := range doc.Components {
		kind, _, ok := strings.Cut(strings.TrimPrefix(c.PURL, "pkg:"), "/")
		if c.Type != "library" || !ok {
			continue
		}
		p := Package{Kind: kind, Name: c.Name, Version: c.Version}
		for _, prop := range c.Properties {
			if prop.Name == PropertyArch {
				p.Arch = prop.Value
			}
		}
		if !p.Good() {
			return nil, nil, fmt.Errorf("bill of materials: %q is no package", c.PURL)
		}
		packages = append(packages, p)
	}
	for _, prop := range doc.Metadata.Properties {
		if prop.Name == PropertyIncomplete {
			notes = append(notes, prop.Value)
		}
	}
	return packages, notes, nil
}

type property struct{ Name, Value string }

// Properties that our documents use.
const (
	PropertyIncomplete = "roadstead:incomplete" // of the document: what is not in it, and why
	PropertyPath       = "roadstead:path"       // of a component: the file that tells of it
	PropertyArch       = "roadstead:arch"       // of a component
)
