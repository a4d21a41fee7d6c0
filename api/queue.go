package api

// The builder's own road for sources and for those who follow a build, beside POST /v3/build, which is balena's. It is at
// https://builder.<domain>/build/v1/….

// SourceEntry is one line of a manifest: POST /build/v1/builds takes one JSON object a line, compressed with gzip.
type SourceEntry struct {
	Path string `json:"path"`           // with slashes, inside the project
	Type string `json:"type,omitempty"` // "" is a file; "dir", "link"
	Mode uint32 `json:"mode,omitempty"` // permissions
	Time int64  `json:"time,omitempty"` // of its last change, in seconds since 1970
	Link string `json:"link,omitempty"` // where a link leads
	// A file's content is named by size and SHA-256 (64 hex), and sent if the builder lacks it.
	Size   int64  `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	// Data is the content of a file that is not to be kept beyond the build: what is below .balena/ and .roadstead/build.json.
	Data []byte `json:"data,omitempty"`
}

// Types of a [SourceEntry].
const (
	SourceFile = ""
	SourceDir  = "dir"
	SourceLink = "link"
)

// BuildOpened is the answer to a manifest, and to POST …/{id}/blobs and GET …/{id}/missing: what the builder lacks. A build begins
// by itself once nothing is missing.
type BuildOpened struct {
	ID      int64    `json:"id"` // of the release
	Commit  string   `json:"commit"`
	Missing []string `json:"missing"` // SHA-256 of contents, 64 hex
}

// BuildLine is one line of GET /build/v1/builds/{id}/events, in the order of its number. Empty lines between them mean nothing.
type BuildLine struct {
	Seq int64 `json:"seq"`
	BuildEvent
	Lost   int64  `json:"lost,omitempty"`   // so many lines up to this number are not kept any more
	Status string `json:"status,omitempty"` // how the build ended; the last line
}

// ResourceStep is the resource of a [BuildEvent] about the steps of a service; its value is a [BuildStep]. It is in no stream of
// POST /v3/build.
const ResourceStep = "step"

// BuildStep says at which step a service is.
type BuildStep struct {
	Service  string `json:"service"`
	Platform string `json:"platform,omitempty"` // for which of several; linux/arm64
	Step     int    `json:"step"`
	Of       int    `json:"of"`
	Name     string `json:"name"`
	Done     bool   `json:"done,omitempty"` // the image is built
}

// Phases of a running build.
const (
	PhaseUpload  = "upload"  // its source arrives
	PhaseWaiting = "waiting" // for its turn
	PhaseBuild   = "build"
)

// BuildBeat is the body of POST /internal/v1/builds/{id}/heartbeat.
type BuildBeat struct {
	Followers []BuildFollower `json:"followers,omitempty"` // answered with those who may not follow any more
}

// BuildFollower is somebody who follows a build: what was shown at the beginning must still hold.
type BuildFollower struct {
	ID    int64  `json:"id"` // the builder's own number for it
	User  int64  `json:"user"`
	Key   int64  `json:"key,omitempty"`
	Login string `json:"login,omitempty"`
}

// BuildWatch is the answer to POST /internal/v1/builds/{id}/watch, which the builder asks with the credentials of who wants to
// follow a build: that they may, and who they are.
type BuildWatch struct {
	Build    Build         `json:"build"`
	Follower BuildFollower `json:"follower"`
	MaySend  bool          `json:"may_send"` // it is their build, and they may still make releases
}

// BuildState is the answer to GET /build/v1/builds/{id}.
type BuildState struct {
	ID    int64  `json:"id"`
	Phase string `json:"phase"`
	Place int    `json:"place,omitempty"` // of a waiting build: 1 comes next
	Of    int    `json:"of,omitempty"`    // that wait
	Wait  int64  `json:"wait,omitempty"`  // seconds until its turn, as the last builds went; 0: nobody knows
}
