package inventory

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"github.com/roadstead-io/roadstead/internal/sbom"
)

// Document writes the bill of materials of an image. The same image gives the same bytes.
func (r Result) Document(service, digest string) ([]byte, error) {
	id := sha256.Sum256([]byte(digest))
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // an id of version 8: made of what it is for
	bom := cdx.NewBOM()
	bom.SerialNumber = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
	bom.Metadata = &cdx.Metadata{
		Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "roadstead"}}},
		Component: &cdx.Component{
			Type: cdx.ComponentTypeContainer, BOMRef: digest, Name: service, Version: digest,
		},
	}
	components := []cdx.Component{}
	if r.System != "" {
		name, version, _ := strings.Cut(r.System, "-")
		components = append(components, cdx.Component{Type: cdx.ComponentTypeOS, BOMRef: "os:" + r.System, Name: name, Version: version})
	}
	for _, p := range r.Packages {
		properties := []cdx.Property{{Name: sbom.PropertyPath, Value: printable(p.Path)}}
		if p.Arch != "" {
			properties = append(properties, cdx.Property{Name: sbom.PropertyArch, Value: p.Arch})
		}
		components = append(components, cdx.Component{
			Type: cdx.ComponentTypeLibrary, BOMRef: p.URL, Name: p.Name, Version: p.Version, PackageURL: p.URL, Properties: &properties,
		})
	}
	bom.Components = &components
	if len(r.Notes) > 0 {
		notes := []cdx.Property{}
		for _, n := range r.Notes {
			notes = append(notes, cdx.Property{Name: sbom.PropertyIncomplete, Value: n})
		}
		bom.Metadata.Properties = &notes
		bom.Compositions = &[]cdx.Composition{{Aggregate: cdx.CompositionAggregateIncomplete, Assemblies: &[]cdx.BOMReference{cdx.BOMReference(digest)}}}
	}
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, fmt.Errorf("write the bill of materials: %w", err)
	}
	if out.Len() > sbom.MaxDocument {
		return nil, fmt.Errorf("the bill of materials is larger than %d MB", sbom.MaxDocument>>20)
	}
	return out.Bytes(), nil
}

// printable makes a path that anybody may have chosen one that can be shown.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > 512 {
		s = strings.ToValidUTF8(s[:512], "") + "…"
	}
	return s
}
