package api

import "encoding/json"

// BuildEvent is one element of the JSON array that POST /v3/build streams. Source of the shape: balena-cli 25's remote build.
type BuildEvent struct {
	Message  string `json:"message,omitempty"`
	Replace  bool   `json:"replace,omitempty"` // overwrite the current line
	IsError  bool   `json:"isError,omitempty"` // the build failed
	Type     string `json:"type,omitempty"`    // "metadata" for the two below
	Resource string `json:"resource,omitempty"`
	Value    any    `json:"value,omitempty"` // resource "buildLogId": the id of the release
}

// Statuses of a release and of an image.
const (
	StatusRunning     = "running"
	StatusSuccess     = "success"
	StatusFailed      = "failed"
	StatusCancelled   = "cancelled"
	StatusInterrupted = "interrupted" // the builder died under it
)

// BuildRequest asks the api role (POST /internal/v1/builds, from the builder role, with the pusher's own Authorization header)
// to open a build.
type BuildRequest struct {
	Slug  string `json:"slug"` // <organization>/<fleet>, as the pusher wrote it
	Draft bool   `json:"draft,omitempty"`
}

// Build is an open build. It is also the answer of GET and heartbeat; then only ID, Status and Repositories are sure.
type Build struct {
	ID           int64       `json:"id"` // of the release
	Commit       string      `json:"commit,omitempty"`
	Status       string      `json:"status"`
	Fleet        *BuildFleet `json:"fleet,omitempty"`
	Repositories []string    `json:"repositories,omitempty"` // "v2/<32 hex>", one an image
	Gone         []int64     `json:"gone,omitempty"`         // in the answer to a heartbeat: who may follow it no more
	// Quarantine are the repositories where a client pushed what becomes the release's images, until they are emptied.
	Quarantine []string `json:"quarantine,omitempty"`
}

// BuildFleet is what a builder needs to know of the fleet it builds for.
type BuildFleet struct {
	ID         int64  `json:"id"`
	UUID       string `json:"uuid"`
	Slug       string `json:"slug"`
	DeviceType string `json:"device_type"`
	Arch       string `json:"arch"` // amd64, aarch64, armv7hf, rpi, i386
	// Also are further architectures that the fleet is built for: each of its images is then an index.
	Also []BuildArch `json:"also,omitempty"`
	// Organization owns the fleet: builds of one share nothing with those of another.
	Organization int64 `json:"organization"`
}

// BuildArch is an architecture that a fleet is built for beside that of its device type.
type BuildArch struct {
	Arch       string `json:"arch"`
	DeviceType string `json:"device_type"` // that stands for it: generic-aarch64
}

// BuildImagesRequest (POST /internal/v1/builds/{id}/images) names the services of the release, once the builder has read the
// composition.
type BuildImagesRequest struct {
	Composition json.RawMessage `json:"composition"` // normalised, see docs/composition.md
	Services    []string        `json:"services"`
	// Contract is the project's balena.yml. Its version becomes the release's.
	Contract json.RawMessage `json:"contract,omitempty"`
}

// BuildImage is one image that the api role made a row for; the answer to the above is a list of them.
type BuildImage struct {
	ID         int64  `json:"id"`
	Service    string `json:"service"`
	Location   string `json:"location"`   // <registry host>/v2/<32 hex>
	Repository string `json:"repository"` // v2/<32 hex>
}

// BuildResult (POST /internal/v1/builds/{id}/finish) ends a build. Success is refused unless every image has a digest.
type BuildResult struct {
	Status string             `json:"status"` // success, failed or cancelled
	Log    string             `json:"log"`
	Error  string             `json:"error,omitempty"`
	Images []BuildImageResult `json:"images,omitempty"`
	// Statement is the signed envelope that says where the images come from; it must be about exactly these images.
	Statement json.RawMessage `json:"statement,omitempty"`
}

// BuildImageResult is what became of one image.
type BuildImageResult struct {
	ID          int64             `json:"id"`
	Status      string            `json:"status"`
	Digest      string            `json:"digest,omitempty"` // sha256:<64 hex> of the pushed manifest
	Size        int64             `json:"size,omitempty"`   // bytes, compressed
	Dockerfile  string            `json:"dockerfile,omitempty"`
	ProjectType string            `json:"project_type,omitempty"`
	Error       string            `json:"error,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
}
