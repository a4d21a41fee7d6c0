package pki

import (
	"log/slog"
	"net/http"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Only admits the named roles to what a role does, or any role when none is named. who is the role, as in a sentence: "the builder".
func Only(log *slog.Logger, who string, h web.HandlerFunc, roles ...string) http.Handler {
	return web.Handle(log, func(w http.ResponseWriter, r *http.Request) error {
		peer := PeerRole(r)
		if peer == "" || (len(roles) > 0 && !slices.Contains(roles, peer)) {
			return api.Errorf(api.Forbidden, "%s does not do this for %q", who, peer)
		}
		return h(w, r)
	})
}
