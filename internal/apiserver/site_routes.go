package apiserver

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"

	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/web"
	"github.com/roadstead-io/roadstead/internal/web/securitytxt"
)

func ping(w http.ResponseWriter, _ *http.Request) error { return web.WriteText(w, http.StatusOK, "OK") }

// connectivityCheck answers devices that ask whether they have a way to the server; the Date header also tells them the time.
func connectivityCheck(w http.ResponseWriter, _ *http.Request) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// siteConfig is GET /config: what clients want to know of a server before they log in.
func (s *Server) siteConfig(w http.ResponseWriter, _ *http.Request) error {
	return web.WriteJSON(w, http.StatusOK, map[string]any{
		"deployment":               nil,
		"deviceUrlsBase":           "devices." + s.cfg.Site.Domain,
		"adminUrl":                 s.cfg.Site.URL("dashboard"),
		"gitServerUrl":             s.gitServer(),
		"git":                      s.cfg.Git, // ours: where, and by which host key it is known
		"mixpanelToken":            "",
		"DEVICE_ONLINE_ICON":       "",
		"DEVICE_OFFLINE_ICON":      "",
		"signupCodeRequired":       false,
		"supportedSocialProviders": []string{},
		"sendsMail":                s.cfg.Mail.On(), // ours: invitations and forgotten passwords go by mail
	})
}

// healthz says whether the role can do its work: it can when the database answers.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) error {
	err := s.db.Read(r.Context(), func(tx *db.Tx) error {
		var one int
		return tx.QueryRowContext(r.Context(), `SELECT 1`).Scan(&one)
	})
	if err != nil {
		return web.WriteJSON(w, http.StatusServiceUnavailable, fmt.Sprintf("the database does not answer: %v", err))
	}
	return web.WriteJSON(w, http.StatusOK, "ok")
}

// securityText says whom to tell of a vulnerability. The edge says the same at the server's other names.
func (s *Server) securityText(w http.ResponseWriter, r *http.Request) error {
	securitytxt.Handler(s.cfg.Site, s.cfg.SecurityContact, []string{"api"}).ServeHTTP(w, r)
	return nil
}

// gitServer is the address of git over SSH as people write it: a name, and the port where it is not the usual one.
func (s *Server) gitServer() string {
	return strings.TrimSuffix(cmp.Or(s.cfg.Git.SSH, "git."+s.cfg.Site.Domain), ":22")
}
