package pullcache

// Children reads a manifest.
var Children = children
