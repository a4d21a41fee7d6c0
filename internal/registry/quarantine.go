package registry

import (
	"net/http"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/registry/quarantine"
	"github.com/roadstead-io/roadstead/internal/web"
)

// QuarantineDir is where in the role's directory lies what people push themselves. It is never on the storage of what is released.
const QuarantineDir = "quarantine"

// quarantined tells what a token allows in quarantine, if it is about quarantine at all. Such a grant opens no repository of the
// registry, whatever its name, and a grant for one of those nothing in quarantine: the signer alone says which of the two it is.
func quarantined(grants []api.Grant, repository string) (q quarantine.Request, is bool) {
	for _, g := range grants {
		if g.Quarantine && g.Type == "repository" && g.Name == repository {
			is = true
			q.Push = q.Push || slices.Contains(g.Actions, "push")
			q.Delete = q.Delete || slices.Contains(g.Actions, "delete")
		}
	}
	return q, is
}

// serveQuarantine is the one place where somebody else than the builder writes.
func (s *Server) serveQuarantine(w http.ResponseWriter, r *http.Request, asked request, q quarantine.Request) {
	q.Repository, q.Kind, q.Reference = asked.repository, asked.kind, asked.reference
	q.Builder = pki.PeerRole(r) == api.RoleBuilder
	if err := s.quarantine.Serve(w, r, q); err != nil {
		s.log.ErrorContext(r.Context(), "quarantine", "error", err, "repository", asked.repository, "request", web.RequestID(r.Context()))
		refuse(w, http.StatusInternalServerError, "UNKNOWN", "quarantine failed; the log says why")
	}
}
