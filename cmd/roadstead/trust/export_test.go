package trust

// Bundle is what files of `trust export` hold.
type Bundle = bundle

// Evidence is what a bundle has of a release.
type Evidence = evidence

// ParseBundle reads one.
var ParseBundle = parseBundle

// BundleFormat is the format that is written.
const BundleFormat = bundleFormat
