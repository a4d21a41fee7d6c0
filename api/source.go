package api

import "time"

// The forms of webhooks that are understood: what a forge sends, and how it signs it.
const (
	FormGitHub = "github"
	FormGitLab = "gitlab"
	FormGitea  = "gitea" // and Forgejo
)

// BuildSource is a repository elsewhere that a fleet is built from: when its webhook says that something was pushed, or when somebody asks
// (GET /build-source/v1?fleet=…, for those who may make releases of the fleet).
type BuildSource struct {
	ID         int64     `json:"id"`
	CreatedAt  time.Time `json:"created_at"`
	Fleet      string    `json:"fleet"` // <organization>/<fleet>
	URL        string    `json:"url"`
	Form       string    `json:"form"`             // github, gitlab or gitea
	Branch     string    `json:"branch,omitempty"` // what builds: this branch,
	Tags       string    `json:"tags,omitempty"`   // or tags of this pattern
	Draft      bool      `json:"draft"`
	Username   string    `json:"username,omitempty"`   // that goes with the password of an https source
	Password   bool      `json:"has_password"`         // there is one; nobody is shown it
	PublicKey  string    `json:"public_key,omitempty"` // the deploy key of an ssh source
	HostKey    string    `json:"host_key,omitempty"`   // what the host of an ssh source must prove to have
	Webhook    string    `json:"webhook"`              // where the forge sends its deliveries
	OnBehalfOf string    `json:"on_behalf_of"`         // whose right to make releases it builds with; "": of somebody who is gone
	Stopped    string    `json:"stopped,omitempty"`    // why it does not build
	// Refused counts what came to the webhook without a signature that holds, since RefusedAt was last empty.
	Refused   int64      `json:"refused,omitempty"`
	RefusedAt *time.Time `json:"refused_at,omitempty"`
}

// NewBuildSource makes one (POST /build-source/v1).
type NewBuildSource struct {
	Fleet    string `json:"fleet"` // <organization>/<fleet>, or its name alone
	URL      string `json:"url"`   // https://… or ssh://…
	Form     string `json:"form"`
	Branch   string `json:"branch,omitempty"` // neither this nor tags: main
	Tags     string `json:"tags,omitempty"`   // v*, release-*
	Draft    bool   `json:"draft,omitempty"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"` // or a token
	HostKey  string `json:"host_key,omitempty"` // for ssh: as known_hosts has it, ssh-ed25519 AAAA…
}

// BuildSourceSecret is a source with the secret of its webhook, which is shown this once: when the source is made, and when its secret is
// changed (POST /build-source/v1/{id}/rotate).
type BuildSourceSecret struct {
	BuildSource
	Secret string `json:"secret"`
}

// SourceBuild asks for a build of what a source has now (POST /build-source/v1/{id}/build).
type SourceBuild struct {
	Tag string `json:"tag,omitempty"` // of a source of tags: which one
}

// The states of a delivery.
const (
	DeliveryWaiting    = "waiting"
	DeliveryRunning    = "running"
	DeliveryBuilt      = "built"
	DeliveryFailed     = "failed"
	DeliverySkipped    = "skipped"    // there was nothing to build
	DeliverySuperseded = "superseded" // a newer one came before it was begun
	DeliveryRefused    = "refused"    // whoever the source builds for has no right to it any more
)

// Delivery is one thing that came to a webhook, or that somebody asked a source for, and what became of it
// (GET /build-source/v1/{id}/deliveries, the newest first).
type Delivery struct {
	ID        int64      `json:"id"`
	CreatedAt time.Time  `json:"created_at"`
	Event     string     `json:"event"`            // push, ping, …; "asked" when a person did
	Foreign   string     `json:"guid,omitempty"`   // what the forge calls it
	Ref       string     `json:"ref,omitempty"`    // refs/heads/main
	Commit    string     `json:"commit,omitempty"` // of the repository
	State     string     `json:"state"`
	Reason    string     `json:"reason,omitempty"`  // why it is not built
	Release   int64      `json:"release,omitempty"` // the release that was made, or begun; also the number of its build
	EndedAt   *time.Time `json:"ended_at,omitempty"`
}

// SourceJob is what the git role is to do next (POST /internal/v1/sources/next): fetch a commit and have it built. The zero value: nothing.
type SourceJob struct {
	Delivery int64   `json:"delivery"`
	Claim    string  `json:"claim"` // proves to the api role that it was this role which it was given to
	Open     GitOpen `json:"open"`
	URL      string  `json:"url"`
	Ref      string  `json:"ref"`
	Commit   string  `json:"commit,omitempty"` // "": what the ref is now
	Draft    bool    `json:"draft,omitempty"`
	Username string  `json:"username,omitempty"`
	Password string  `json:"password,omitempty"`
	Key      string  `json:"key,omitempty"`      // the private half of the deploy key, PEM
	HostKey  string  `json:"host_key,omitempty"` // in the form of authorized_keys
}

// SourceClaims are those that are at work (POST /internal/v1/sources/renew); the answer lists those that still hold.
type SourceClaims struct {
	Claims []string `json:"claims"`
}

// SourceResult says how a job ended (POST /internal/v1/sources/finish).
type SourceResult struct {
	Claim  string `json:"claim"`
	Commit string `json:"commit,omitempty"` // that was built, or would have been
	Error  string `json:"error,omitempty"`  // "": there is a release
	Again  bool   `json:"again,omitempty"`  // it was not the source's fault: try once more
}
