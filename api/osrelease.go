package api

import "encoding/json"

// Kinds of [OSRelease].
const (
	KindOS         = "os"
	KindSupervisor = "supervisor"
)

// OSRelease is one release of an operating system or of a supervisor, as the operator of a server brings it in. Devices can then be
// told to run it, and clients list it.
type OSRelease struct {
	Kind       string `json:"kind"`                  // "os", or "supervisor"
	DeviceType string `json:"device_type,omitempty"` // os: the slug of the boards it is for
	Arch       string `json:"arch,omitempty"`        // supervisor: the architecture it is for
	Version    string `json:"version"`               // such as "6.0.24", "2.113.18+rev2"
	Variant    string `json:"variant,omitempty"`     // "dev", "prod" or nothing
	Line       string `json:"line,omitempty"`        // os: "esr" for the line with long support
	Draft      bool   `json:"draft,omitempty"`

	// Image is where devices pull it from, with its digest: "registry.example.com/os/pi@sha256:…". Without one the release can be
	// listed and pointed to, and gives a device nothing to pull.
	Image  string            `json:"image,omitempty"`
	Labels map[string]string `json:"labels,omitempty"` // of its one container
	Size   int64             `json:"size,omitempty"`   // bytes of the image

	// What follows is brought up to date when the release is there already.
	Phase              string            `json:"phase,omitempty"` // next, current, sunset or end-of-life
	Note               string            `json:"note,omitempty"`
	KnownIssues        string            `json:"known_issues,omitempty"`
	Invalidated        bool              `json:"invalidated,omitempty"`
	InvalidationReason string            `json:"invalidation_reason,omitempty"`
	Contract           json.RawMessage   `json:"contract,omitempty"`
	Tags               map[string]string `json:"tags,omitempty"`
}

// OSReleaseResult says what became of an [OSRelease].
type OSReleaseResult struct {
	ID      int64  `json:"id"`
	Fleet   string `json:"fleet"` // the slug
	Version string `json:"version"`
	Created bool   `json:"created"`
}
