package base

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Image is one base image for one platform.
type Image struct {
	Path string // of its layout
	Hash v1.Hash
}

// chosen finds lines of a Dockerfile whose image is known only when its variables are.
var chosen = pattern.New(`(?im)(^\s*FROM\s|--from=|[,\s]from=).*\$`)

// Named gives the images that a Dockerfile may start from or copy from, by the names that it has for them: today's, and former ones by
// digest. What it does not name is left out, for each is copied to the build; where a variable decides, all of today's may be meant.
func Named(bases []Base, platform v1.Platform, dockerfile string) map[string]Image {
	named := map[string]Image{}
	whichever := chosen.MatchString(dockerfile)
	for _, b := range bases {
		hash, ok := b.Images[platform.String()]
		if ok && (whichever || strings.Contains(dockerfile, b.Name)) {
			named[b.Name] = Image{b.Path, hash}
		}
		all := b.Former[platform.String()]
		if ok {
			all = append([]v1.Hash{hash}, all...)
		}
		for _, h := range all {
			if name := b.Name + "@" + h.String(); strings.Contains(dockerfile, name) {
				named[name] = Image{b.Path, h}
			}
		}
	}
	return named
}

// Lacking says which images a Dockerfile names that are there for other platforms alone. The build service would look for them elsewhere.
func Lacking(bases []Base, platform v1.Platform, dockerfile string) (notes []string) {
	for _, b := range bases {
		_, ok := b.Images[platform.String()]
		if !ok && regexp.MustCompile(`(?im)(^\s*FROM\s.*|--from=)`+regexp.QuoteMeta(b.Name)+`\b`).MatchString(dockerfile) {
			notes = append(notes, fmt.Sprintf("%s is there for %s, and not for %s: an operator rebuilds or imports it", b.Name,
				strings.Join(slices.Sorted(maps.Keys(b.Images)), ", "), platform.String()))
		}
	}
	return notes
}
