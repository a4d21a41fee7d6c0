package trust

import (
	"context"
	"fmt"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
)

// Says is what a device says of its checks, for `device show`.
type Says struct {
	Approval  string              `json:"approval"`
	HeldBy    string              `json:"held_by"` // who holds the root that it believes
	Commit    string              `json:"commit"`  // of the release that it runs
	SHA256    string              `json:"sha256"`  // of the document that it runs by
	Rejection *api.TrustRejection `json:"rejection"`
	SeenAt    string              `json:"seen_at"`
	state     string
}

// SaysOf is nil for a device that checks nothing.
func SaysOf(d client.Device) *Says {
	if len(d.Trust) == 0 {
		return nil
	}
	t := d.Trust[0]
	s := &Says{Approval: t.Approval, HeldBy: t.HeldBy, Commit: t.Commit, SHA256: t.SHA256, SeenAt: t.SeenAt, state: t.State}
	if t.What != "" {
		s.Rejection = &api.TrustRejection{What: t.What, Reason: t.Reason, Key: t.Key, Expected: t.Expected, Got: t.Got}
	}
	return s
}

// String says it to people. The weaker state is said wherever it is so.
func (s *Says) String() string {
	if s == nil {
		return "unverified: it checks nothing of what it runs (a balena supervisor, or an agent that was given no root)"
	}
	text := s.state
	switch {
	case s.Rejection != nil && s.state == api.TrustRejected:
		text = "REJECTED: " + Refusal(*s.Rejection) + "; it goes on with what ran"
	case s.Rejection != nil:
		text += ": " + Refusal(*s.Rejection)
	}
	if s.Approval != "" {
		text += ", by " + s.Approval
	}
	switch s.HeldBy {
	case api.HeldByServer:
		text += ", root held by the server (weaker)"
	case api.HeldByOwner:
		text += ", root held by the owner"
	}
	return text
}

// Fleet is what `fleet show` says of a fleet's trust.
type Fleet struct {
	HeldBy   string           `json:"held_by"`
	Approval api.Approval     `json:"approval"`
	Shell    string           `json:"shell"`
	Waiting  int              `json:"waiting"`  // files that wait for signatures
	Unsigned int              `json:"unsigned"` // releases that wait for the owner
	Devices  map[string]int64 `json:"devices"`  // how many, by state
	Unknown  string           `json:"unknown,omitempty"`
}

// FleetOf asks for it. What cannot be known just now is no reason to show nothing of the fleet.
func FleetOf(ctx context.Context, c *client.Client, uuid string) *Fleet {
	var s api.TrustStatus
	if err := c.Do(ctx, http.MethodGet, fleetPath(uuid), nil, &s); err != nil {
		return &Fleet{Unknown: err.Error()}
	}
	return &Fleet{s.HeldBy, s.Approval, s.Shell, len(s.Pending), len(s.Unsigned), s.Devices, ""}
}

// String says it to people.
func (f *Fleet) String() string {
	if f.Unknown != "" {
		return "not known: " + f.Unknown
	}
	text := fmt.Sprintf("root held by the %s, approval %s, devices: %s", heldBy(f.HeldBy), f.Approval, counts(f.Devices))
	if f.Unsigned > 0 {
		text += fmt.Sprintf("; %d releases wait for the owner", f.Unsigned)
	}
	if f.Waiting > 0 {
		text += fmt.Sprintf("; %d files wait for signatures", f.Waiting)
	}
	return text
}
