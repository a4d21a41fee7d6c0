package api

// BuildPlatforms is the answer of GET /build/v1/platforms: what can be built for, and by which workers.
type BuildPlatforms struct {
	Workers []PlatformWorker `json:"workers"`
}

// PlatformWorker is a machine that builds.
type PlatformWorker struct {
	Name      string            `json:"name"` // "local" is the builder's own
	Platforms []WorkerPlatform  `json:"platforms"`
	Missing   []MissingPlatform `json:"missing,omitempty"`
	Version   string            `json:"version,omitempty"` // of BuildKit
	Building  int               `json:"building"`          // images in the making
	Error     string            `json:"error,omitempty"`   // why it does not answer; then the rest is what it said before
}

// MissingPlatform is what a worker does not build for.
type MissingPlatform struct {
	Platform string `json:"platform"`
	Why      string `json:"why"`
}
