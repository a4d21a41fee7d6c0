package api

// A build worker is a machine that builds for the server, and is not the server's own. An operator adds it by name, which gives a
// token; with that it joins once and is known by its key from then on.

// States of a build worker.
const (
	WorkerInvited   = "invited"   // its token waits to be used
	WorkerExpired   = "expired"   // nobody used it in time
	WorkerConnected = "connected" // it can build, unless Why says why not
	WorkerAway      = "away"
)

// WorkerPlatform is what a build worker builds for.
type WorkerPlatform struct {
	Platform string `json:"platform"` // "linux/arm64"
	Native   bool   `json:"native"`   // false: its programs run in an emulator
}

// Worker is a build worker, for the operator.
type Worker struct {
	Name      string           `json:"name"`
	State     string           `json:"state"`
	Why       string           `json:"why,omitempty"`        // it is connected and cannot build
	Address   string           `json:"address,omitempty"`    // from where it connected last
	Version   string           `json:"version,omitempty"`    // of its program
	BuildKit  string           `json:"buildkit,omitempty"`   // and of its BuildKit
	Platforms []WorkerPlatform `json:"platforms"`            // what it said last that it builds for
	Key       string           `json:"key,omitempty"`        // SHA-256 of its public key, in hexadecimal digits
	CreatedAt string           `json:"created_at"`           // when the operator added it
	ExpiresAt string           `json:"expires_at,omitempty"` // of a token that waits to be used
	JoinedAt  string           `json:"joined_at,omitempty"`
	SeenAt    string           `json:"seen_at,omitempty"` // to within half a minute, while it is connected
}

// NewWorker adds a build worker (POST /internal/v1/workers/add, from the operator).
type NewWorker struct {
	Name    string `json:"name"`
	Seconds int64  `json:"seconds"` // how long its token holds
}

// WorkerInvitation is the answer: the secret of its token, which is shown nowhere again.
type WorkerInvitation struct {
	Name      string `json:"name"`
	Secret    string `json:"secret"`
	ExpiresAt string `json:"expires_at"`
}

// WorkerName names a build worker (POST /internal/v1/workers/remove, from the operator).
type WorkerName struct {
	Name string `json:"name"`
}

// WorkerJoin is what the builder says (POST /internal/v1/workers/join) of a machine that came with a secret, and (POST
// /internal/v1/workers/open, without one) of a machine that proved to have a key.
type WorkerJoin struct {
	Secret  string `json:"secret,omitempty"`
	Key     string `json:"key"`
	Address string `json:"address"`
}

// WorkerAdmitted is the answer to both.
type WorkerAdmitted struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// WorkersLive are all workers that are connected to the builder (POST /internal/v1/workers/live). The answer lists the ids of those
// that may stay.
type WorkersLive struct {
	Workers []WorkerLive `json:"workers"`
}

// WorkerLive is one of them.
type WorkerLive struct {
	ID        int64            `json:"id"`
	Key       string           `json:"key"`
	Address   string           `json:"address"`
	Version   string           `json:"version"`
	BuildKit  string           `json:"buildkit"`
	Platforms []WorkerPlatform `json:"platforms"`
	Why       string           `json:"why,omitempty"`
}

// WorkersStay is the answer.
type WorkersStay struct {
	IDs []int64 `json:"ids"`
}
