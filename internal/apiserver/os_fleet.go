package apiserver

import (
	"encoding/json"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
)

// maxImport is how many releases of operating systems are taken at once.
const maxImport = 2000

// importOS brings in releases of operating systems and supervisors.
func (s *Server) importOS(w http.ResponseWriter, r *http.Request) error {
	body, err := web.ReadBody(r, maxResult)
	if err != nil {
		return err
	}
	var list []api.OSRelease
	if err := json.Unmarshal(body, &list); err != nil {
		return api.Errorf(api.Invalid, "the body is not a list of releases: %v", err)
	}
	if len(list) > maxImport {
		return api.Errorf(api.TooLarge, "there are %d releases; at most %d are taken at once", len(list), maxImport)
	}
	var results []api.OSReleaseResult
	return route.Write(r.Context(), s.db, func(tx *db.Tx) (err error) {
		if results, err = s.releases.ImportOS(r.Context(), tx, list); err != nil {
			return err
		}
		return audit.Record(r.Context(), tx, access.From(r.Context()), audit.Entry{Act: "os.import", Kind: "server", Name: s.cfg.Site.Domain,
			Detail: map[string]any{"releases": len(list)}})
	}, func() error { return web.WriteJSON(w, http.StatusOK, results) })
}
