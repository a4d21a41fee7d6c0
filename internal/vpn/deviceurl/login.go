package deviceurl

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
)

const (
	stateLife = 600       // seconds
	visitLife = 12 * 3600 // seconds; the api role ends it before, with the session that it was made with
	maxBack   = 2000      // bytes of where somebody comes back to
)

// logIn sends a browser to the dashboard, which sends it back with a code; see [Service.own]. Whoever is no browser on its way to a page is
// told that there is something to do.
func (s *Service) logIn(w http.ResponseWriter, r *http.Request, uuid api.DeviceUUID) {
	if r.Method != http.MethodGet || !strings.Contains(r.Header.Get("Accept"), "text/html") {
		page(w, r, http.StatusUnauthorized, "Log in first", "This address asks for a login: open it in a browser.")
		return
	}
	state := cookie(r, stateCookie)
	if state == "" || len(state) > 64 {
		state = rand.Text()
		setCookie(w, stateCookie, state, stateLife)
	}
	back := r.URL.RequestURI()
	if len(back) > maxBack {
		back = "/"
	}
	leave(w, s.cfg.Site.URL("dashboard")+"/device-url/"+string(uuid)+"?"+url.Values{"state": {stateOf(state)}, "to": {back}}.Encode())
}

// stateOf is what others learn of the state that a browser has.
func stateOf(state string) string {
	sum := sha256.Sum256([]byte(state))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// own answers what is under our own path: a browser that comes back from the dashboard. Its code is exchanged for a visit, if it is this
// browser that was sent there.
func (s *Service) own(w http.ResponseWriter, r *http.Request, uuid api.DeviceUUID) {
	if r.URL.Path != own+"visit" || r.Method != http.MethodGet {
		page(w, r, http.StatusNotFound, "There is nothing here", "No page has this address.")
		return
	}
	q := r.URL.Query()
	state := cookie(r, stateCookie)
	var got api.ReachVisit
	err := error(api.ErrUnauthorized)
	if state != "" {
		err = permit.Call(r.Context(), s.cfg.API, "/internal/reach/visit", api.ReachVisit{UUID: uuid, Code: q.Get("code"), State: stateOf(state)}, &got)
	}
	switch {
	case errors.Is(err, api.ErrUnavailable):
		page(w, r, http.StatusServiceUnavailable, "In a moment", "The server is starting. Try again.")
		return
	case err != nil:
		page(w, r, http.StatusForbidden, "That took too long", "Open the address again.")
		return
	}
	setCookie(w, stateCookie, "", -1)
	setCookie(w, visitCookie, got.Visit, visitLife)
	leave(w, local(q.Get("to")))
}

// local is a path on this address and nothing else, whatever was given.
func local(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" || !strings.HasPrefix(to, "/") ||
		strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") || strings.HasPrefix(u.Path, own) || strings.HasPrefix(u.Path, "//") {
		return "/"
	}
	return (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).String()
}

func setCookie(w http.ResponseWriter, name, value string, seconds int) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: seconds, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// leave sends a browser on.
func leave(w http.ResponseWriter, to string) {
	h := w.Header()
	h.Set("Location", to)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusSeeOther)
}
