package api

import "time"

// BaseImage is a base image that the server has: what a Dockerfile names with FROM base/NAME.
type BaseImage struct {
	Name  string `json:"name"` // "base/debian"
	About string `json:"about,omitempty"`
	// Images are by platform, "linux/amd64".
	Images map[string]BaseBuild `json:"images"`
	// CheckedAt is when it was last compared with what it is made of; zero for one that was imported.
	CheckedAt time.Time `json:"checked_at,omitzero"`
	// Error says why the last attempt to make it anew failed; what was there stays.
	Error string `json:"error,omitempty"`
}

// BaseBuild is a base image for one platform.
type BaseBuild struct {
	Digest string    `json:"digest"` // of the manifest
	MadeAt time.Time `json:"made_at"`
	// Packages are as many as it was made of; 0 when nothing is known of it.
	Packages int `json:"packages,omitempty"`
	// Lock and SBOM are the SHA-256 of its lock file and of the list of its parts.
	Lock string `json:"lock,omitempty"`
	SBOM string `json:"sbom,omitempty"`
	// Former are the images that it replaced, newest first. Builds may still name them by digest.
	Former []FormerBase `json:"former,omitempty"`
}

// FormerBase is an image that a newer one took the place of.
type FormerBase struct {
	Digest     string    `json:"digest"`
	ReplacedAt time.Time `json:"replaced_at"`
}
