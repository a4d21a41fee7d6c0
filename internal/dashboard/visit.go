package dashboard

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/dashboard/devices"
	"github.com/roadstead-io/roadstead/internal/dashboard/fleets"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Cookies. The prefix keeps a browser from taking them from another host or without TLS.
const (
	sessionCookie = "__Host-roadstead"
	formCookie    = "__Host-roadstead-form"
	signInCookie  = "__Host-roadstead-signin" // a sign-in through a provider that is under way
	inviteCookie  = "__Host-roadstead-invite" // an invitation that waits for its owner to sign in
)

const (
	sessionLife = 7 * 24 * time.Hour // as long as the api role's sessions hold at most
	signInLife  = 10 * time.Minute
)

// page is one handler. An error is shown on a page of its own.
type page func(*visit) error

// visit is one request of a browser.
type visit struct {
	s     *Server
	w     http.ResponseWriter
	r     *http.Request
	token string // of the session that the browser has; "" when it has none
	half  bool   // which wants its second factor first
	csrf  string // the token of this browser's forms
	user  *api.User
}

// serve makes a handler of a page: what changes something must come from a form of ours.
func (s *Server) serve(p page) http.Handler {
	return strict(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := &visit{s: s, w: w, r: r}
		v.token = v.open(sessionCookie)
		v.half = isHalf(v.token)
		err := v.prepare()
		if err == nil {
			err = p(v)
		}
		if err != nil {
			v.failed(err)
		}
	}))
}

// prepare checks a form before anything is done for it.
func (v *visit) prepare() error {
	secret := v.open(formCookie)
	if secret == "" {
		b := make([]byte, 16)
		_, _ = rand.Read(b) // never fails, see crypto/rand
		secret = base64.RawURLEncoding.EncodeToString(b)
		v.set(formCookie, secret, sessionLife)
	}
	v.csrf = base64.RawURLEncoding.EncodeToString(derive(v.s.forms, secret))
	if v.r.Method != http.MethodPost {
		return nil
	}
	stale := api.Errorf(api.Forbidden, "This form is out of date, or came from another site. Go back, reload the page and try again.")
	if v.s.cross.Check(v.r) != nil {
		return stale
	}
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if err := v.r.ParseForm(); err != nil {
		return api.Errorf(api.Invalid, "The form cannot be read.")
	}
	if !hmac.Equal([]byte(v.r.PostForm.Get("csrf")), []byte(v.csrf)) {
		return stale
	}
	return nil
}

// form is a field of the form that came.
func (v *visit) form(name string) string { return v.r.PostForm.Get(name) }

// member is a page for people who are signed in, all the way.
func member(p page) page {
	return func(v *visit) error {
		if v.token == "" {
			return v.signInFirst()
		}
		if v.half {
			return v.to("/login/factor?next=" + url.QueryEscape(v.here()))
		}
		v.user = &api.User{}
		err := v.call(http.MethodGet, "/user/v1/whoami", nil, v.user)
		if errors.Is(err, api.ErrUnauthorized) {
			v.drop(sessionCookie)
			return v.signInFirst()
		}
		if err != nil {
			return err
		}
		err = p(v)
		if errors.Is(err, api.ErrUnauthorized) && strings.HasPrefix(api.AsError(err).Text, "Fresh authentication") {
			return v.to("/confirm?next=" + url.QueryEscape(v.here()))
		}
		return err
	}
}

// enrolling is a page for members, and for those whose organization asks for a second factor that they do not have yet.
func enrolling(p page) page {
	return func(v *visit) error {
		if v.token != "" && v.half {
			return p(v)
		}
		return member(p)(v)
	}
}

func (v *visit) signInFirst() error { return v.to("/login?next=" + url.QueryEscape(v.here())) }

// here is where a browser comes back to: the page itself, or the page whose form it sent.
func (v *visit) here() string {
	if v.r.Method == http.MethodGet {
		return v.r.URL.RequestURI()
	}
	if back := v.r.PostForm.Get("back"); back != "" {
		return local(back)
	}
	return "/account"
}

// local is an address within the pages; everything else becomes the first page.
func local(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") ||
		strings.ContainsAny(next, "\\\r\n\t") {
		return "/"
	}
	return next
}

// to sends the browser to a page.
func (v *visit) to(where string) error {
	http.Redirect(v.w, v.r, where, http.StatusSeeOther)
	return nil
}

// failed shows an error. What went wrong inside is in the log.
func (v *visit) failed(err error) {
	e := api.AsError(err)
	text := e.Text
	switch {
	case e.Code == api.Internal || text == "" && e.Code != api.Unauthorized:
		text = "Something went wrong. Try again; if it stays, the server's operator finds it in the log under " + web.RequestID(v.r.Context()) + "."
		v.s.log.ErrorContext(v.r.Context(), "page failed", "path", v.r.URL.Path, "request", web.RequestID(v.r.Context()), "error", err)
	case text == "":
		text = "You are not signed in, or not any more."
	}
	_ = v.show(e.Code.Status(), "message", view{Title: "That did not work", Error: text})
}

// view is what templates are given.
type view struct {
	Title  string
	Error  string
	Notice string
	Next   string // where to go after the form
	Data   any

	// Set by show.
	CSRF, Here, API string
	User            *api.User
}

// show writes a page.
func (v *visit) show(status int, name string, data view) error {
	data.CSRF, data.User, data.API = v.csrf, v.user, v.s.cfg.Site.URL("api")
	if v.r.Method == http.MethodGet {
		data.Here = v.r.URL.RequestURI()
	} else {
		data.Here = v.here()
	}
	var buf bytes.Buffer
	if err := v.s.pages[name].ExecuteTemplate(&buf, "layout", data); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	_, _ = buf.WriteTo(v.w) // a browser that did not wait is its own business
	return nil
}

// toDevices is the visit as the pages about devices have it.
func (v *visit) toDevices() *devices.Visit {
	return &devices.Visit{W: v.w, R: v.r, Call: v.call, Tunnel: v.tunnel, User: v.user.ID, Show: func(status int, name string, p devices.Page) error {
		return v.show(status, name, view{Title: p.Title, Error: p.Error, Notice: p.Notice, Data: p.Data})
	}}
}

// again shows a form once more with what was wrong about it. Errors of ours are not for the form.
func (v *visit) again(err error, name string, data view) error {
	e := api.AsError(err)
	if e.Code == api.Internal || e.Text == "" {
		return err
	}
	data.Error = e.Text
	return v.show(e.Code.Status(), name, data)
}

// parsePages reads the templates, each with the frame around it.
func parsePages() (map[string]*template.Template, error) {
	funcs := template.FuncMap{
		"when": func(at any) string {
			switch t := at.(type) {
			case time.Time:
				return t.UTC().Format("2006-01-02 15:04") + " UTC"
			case *time.Time:
				if t != nil {
					return t.UTC().Format("2006-01-02 15:04") + " UTC"
				}
			}
			return "never"
		},
	}
	layout, err := template.New("layout").Funcs(funcs).Funcs(devices.Funcs()).Funcs(fleets.Funcs()).ParseFS(pageFiles, "pages/layout.html")
	if err != nil {
		return nil, err
	}
	pages := map[string]*template.Template{}
	for _, from := range []embed.FS{pageFiles, devices.Pages, fleets.Pages} {
		files, err := from.ReadDir("pages")
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			name, _ := strings.CutSuffix(f.Name(), ".html")
			if name == "layout" {
				continue
			}
			if pages[name], err = template.Must(layout.Clone()).ParseFS(from, "pages/"+f.Name()); err != nil {
				return nil, err
			}
		}
	}
	return pages, nil
}

// derive makes a key, or a token, of a key.
func derive(key []byte, what string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("dashboard\x00" + what))
	return m.Sum(nil)
}

// set gives the browser a sealed cookie.
func (v *visit) set(name, value string, life time.Duration) {
	sealed := v.s.seal.Seal([]byte(value), name)
	http.SetCookie(v.w, &http.Cookie{
		Name: name, Value: base64.RawURLEncoding.EncodeToString(sealed), Path: "/", MaxAge: int(life / time.Second),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// drop takes a cookie away.
func (v *visit) drop(name string) {
	http.SetCookie(v.w, &http.Cookie{Name: name, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// open reads a sealed cookie; "" when there is none that is ours.
func (v *visit) open(name string) string {
	c, err := v.r.Cookie(name)
	if err != nil {
		return ""
	}
	raw, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return ""
	}
	plain, err := v.s.seal.Open(raw, name)
	if err != nil {
		return ""
	}
	return string(plain)
}

// endFormer ends the session that the browser has had so far: another takes its place, and nobody would find it again.
func (v *visit) endFormer() {
	if v.token == "" {
		return
	}
	if err := v.call(http.MethodPost, "/user/v1/logout", nil, nil); err != nil && !errors.Is(err, api.ErrUnauthorized) {
		v.s.log.WarnContext(v.r.Context(), "a session that was replaced could not be ended", "request", web.RequestID(v.r.Context()), "error", err)
	}
}

// signedIn keeps a new session's token and goes on to where somebody wanted to.
func (v *visit) signedIn(token, next string) error {
	v.set(sessionCookie, token, sessionLife)
	if isHalf(token) {
		return v.to("/login/factor?next=" + url.QueryEscape(local(next)))
	}
	return v.to(local(next))
}

// isHalf reads from a session token whether its second factor is due. The api role does not rely on that; it only says which page
// comes next.
func isHalf(token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	plain, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var claims struct {
		TwoFactorRequired bool `json:"twoFactorRequired"`
	}
	return json.Unmarshal(plain, &claims) == nil && claims.TwoFactorRequired
}
