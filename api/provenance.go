package api

// StatementRequest (POST /v1/statement of the signer, from the builder role) asks for the signed statement of where a release
// comes from. The signer adds what only the api role knows: the fleet, the commit, and that the build runs and has these
// repositories and no others. See docs/provenance.md.
type StatementRequest struct {
	Build      int64             `json:"build"`            // the release
	Source     map[string]string `json:"source,omitempty"` // digests of the unpacked source: gitTree, dirHash
	Git        *GitSource        `json:"git,omitempty"`    // for a source that came by git
	Parameters BuildParameters   `json:"parameters"`
	StartedAt  string            `json:"started_at"`
	FinishedAt string            `json:"finished_at"`
	Images     []StatementImage  `json:"images"`

	Composition string `json:"composition,omitempty"` // sha256:<64 hex> of how services run, as devices are told it
}

// GitSource is the commit that was pushed.
type GitSource struct {
	Commit     string `json:"commit"`               // 40 or 64 hexadecimal digits
	Ref        string `json:"ref,omitempty"`        // refs/heads/main
	Repository string `json:"repository,omitempty"` // https://… or ssh://…, for one that it was fetched from; "": it was pushed here
}

// BuildParameters are the wishes of the pusher that change what is built. Values of arguments are left out: they may be secret.
type BuildParameters struct {
	Draft      bool   `json:"draft,omitempty"`
	NoCache    bool   `json:"no_cache,omitempty"`
	Dockerfile string `json:"dockerfile,omitempty"` // the path that was asked for
}

// StatementImage is one image of a release, and what is known of how it came to be.
type StatementImage struct {
	Service    string      `json:"service"`
	Repository string      `json:"repository"` // v2/<32 hex>
	Digest     string      `json:"digest"`     // sha256:<64 hex>
	Origin     string      `json:"origin"`     // as the image's project_type
	Elsewhere  bool        `json:"elsewhere"`  // it was built elsewhere: nothing is known but its digest
	Dockerfile string      `json:"dockerfile,omitempty"`
	DockerSum  string      `json:"dockerfile_digest,omitempty"` // sha256:<64 hex> of the Dockerfile as it was built
	Target     string      `json:"target,omitempty"`
	Arguments  []string    `json:"arguments,omitempty"` // names of the build arguments
	Bases      []ImageBase `json:"bases,omitempty"`
	SBOM       *ImageSBOM  `json:"sbom,omitempty"`
	// Labels are those of the image that say something to devices: sha256:<64 hex> of each value.
	Labels map[string]string `json:"labels,omitempty"`
	// Platforms are the images of an index; then Digest is that of the index, and SBOM is null.
	Platforms []StatementPlatform `json:"platforms,omitempty"`
}

// StatementPlatform is one image of an index.
type StatementPlatform struct {
	Platform   string     `json:"platform"` // linux/arm64
	Digest     string     `json:"digest"`   // sha256:<64 hex>
	Dockerfile string     `json:"dockerfile,omitempty"`
	DockerSum  string     `json:"dockerfile_digest,omitempty"`
	SBOM       *ImageSBOM `json:"sbom,omitempty"`
}

// ImageBase is something that an image was built from, as the build service resolved it: an image, or a download of the
// Dockerfile's (ADD).
type ImageBase struct {
	Name   string `json:"name"`   // docker.io/library/alpine:3.20, https://…
	Digest string `json:"digest"` // sha256:<64 hex>, sha1:<40 hex> for git; "" when the build service recorded none
}

// ImageSBOM is an image's bill of materials: its digest, or why there is none.
type ImageSBOM struct {
	Digest   string `json:"digest,omitempty"` // sha256:<64 hex>, a blob of the image's own repository
	Size     int64  `json:"size,omitempty"`
	Packages int64  `json:"packages,omitempty"`
	Missing  string `json:"missing,omitempty"` // why it could not be made; "" when it was
}

// SBOMType is the media type of a bill of materials: CycloneDX 1.6 as JSON.
const SBOMType = "application/vnd.cyclonedx+json"

// StatementKey is a public key that statements are signed with (GET /provenance/v1/keys, for everybody).
type StatementKey struct {
	ID     string `json:"id"`     // SHA-256 of the key, in hexadecimal
	Public string `json:"public"` // Ed25519, 32 bytes, base64
}

// Envelope is a DSSE envelope (https://github.com/secure-systems-lab/dsse), version 1.
type Envelope struct {
	PayloadType string              `json:"payloadType"`
	Payload     string              `json:"payload"` // base64
	Signatures  []EnvelopeSignature `json:"signatures"`
}

// EnvelopeSignature is one signature over an envelope's type and payload.
type EnvelopeSignature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"` // base64
}
