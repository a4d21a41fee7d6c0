package trust

import (
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
