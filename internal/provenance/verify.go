package provenance

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/roadstead-io/roadstead/api"
)

// Image is one image that a release is made of, as the release says.
type Image struct {
	Service  string
	Location string // <registry host>/v2/<32 hex>
	Digest   string // sha256:<64 hex>
}

// About checks that a statement is about a release of a server, and about exactly its images: a statement of another release, of
// another fleet, or of an image that was replaced is refused, however well it is signed.
func (s *Statement) About(site api.Site, release int64, commit string, images []Image) error {
	if got, want := s.Predicate.RunDetails.Metadata.InvocationID, Invocation(site, release); got != want {
		return fmt.Errorf("statement: it is about %s, not about %s", got, want)
	}
	if got := s.Predicate.BuildDefinition.ExternalParameters.Commit; got != commit {
		return fmt.Errorf("statement: it is about commit %s, not %s", got, commit)
	}
	// Images of an index are subjects too. The release does not name them: the index does, by their digests.
	whole := slices.DeleteFunc(slices.Clone(s.Subject), func(r Resource) bool { return r.Annotations[platformNote] != "" })
	if len(whole) != len(images) {
		return fmt.Errorf("statement: it is about %d images; the release has %d", len(whole), len(images))
	}
	for _, i := range images {
		n := slices.IndexFunc(whole, func(r Resource) bool { return r.Name == i.Location })
		if n < 0 {
			return fmt.Errorf("statement: it does not name the image of service %s", i.Service)
		}
		subject := whole[n]
		if !maps.Equal(subject.Digest, digestSet(i.Digest)) || i.Digest == "" {
			return fmt.Errorf("statement: the image of service %s is %s, but %s was built", i.Service, i.Digest, "sha256:"+subject.Digest["sha256"])
		}
		if subject.Annotations["service"] != i.Service {
			return fmt.Errorf("statement: the image of service %s was built for service %q", i.Service, subject.Annotations["service"])
		}
	}
	return nil
}

// PlatformSBOM is the bill of materials of one image.
type PlatformSBOM struct {
	Platform string // of an index: linux/arm64; "" for a service that is one image
	Image    string // its digest
	api.ImageSBOM
}

// SBOMs is what the statement says of the bills of materials of a service's images: the digest of each, or why there is none. There is
// always one; the first of an index is that of the fleet's own architecture.
func (s *Statement) SBOMs(location string) []PlatformSBOM {
	var list []PlatformSBOM
	for _, b := range s.Predicate.RunDetails.Byproducts {
		if b.Name != "sbom" || b.URI != location {
			continue
		}
		one := PlatformSBOM{Platform: b.Annotations[platformNote], Image: b.Annotations["image"], ImageSBOM: api.ImageSBOM{Missing: b.Annotations["missing"]}}
		if hex := b.Digest["sha256"]; hex != "" {
			packages, _ := strconv.ParseInt(b.Annotations["packages"], 10, 64)
			one.ImageSBOM = api.ImageSBOM{Digest: "sha256:" + hex, Packages: packages}
		}
		list = append(list, one)
	}
	if len(list) == 0 {
		list = []PlatformSBOM{{ImageSBOM: api.ImageSBOM{Missing: "the statement does not speak of it"}}}
	}
	return list
}

// SBOM is the first of them.
func (s *Statement) SBOM(location string) api.ImageSBOM { return s.SBOMs(location)[0].ImageSBOM }

// Bases are what the image of a service was built from.
func (s *Statement) Bases() []Resource {
	var list []Resource
	for _, d := range s.Predicate.BuildDefinition.ResolvedDependencies {
		if d.Name != "source" && d.Name != "git" {
			list = append(list, d)
		}
	}
	return list
}
