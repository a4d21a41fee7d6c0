package trust

import "github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"

// Bundle is what files of `trust export` hold.
type Bundle = bundle

// Evidence is what a bundle has of a release.
type Evidence = evidence

// ParseBundle reads one.
var ParseBundle = parseBundle

// BundleFormat is the format that is written.
const BundleFormat = bundleFormat

// Follow believes a root, in the directory of a fleet.
func Follow(dir, fleet string, root []byte) error {
	s, err := kept.Open(dir, fleet)
	if err != nil {
		return err
	}
	return s.Follow(fleet, root)
}
