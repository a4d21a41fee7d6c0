package route

import (
	"context"
	"errors"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/throttle"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// FormBody reads a form-urlencoded body, which old scripts send instead of JSON; ok is false when the body is something else.
func FormBody(r *http.Request) (form url.Values, ok bool, err error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		return nil, false, nil //nolint:nilerr // not a form: the JSON reader judges the content type
	}
	body, err := web.ReadBody(r, web.MaxBody)
	if err != nil {
		return nil, true, err
	}
	form, err = url.ParseQuery(string(body))
	if err != nil {
		return nil, true, api.Errorf(api.Invalid, "the form is not valid: %v", err)
	}
	return form, true, nil
}

// RetryAfter tells a throttled client when to come back.
func RetryAfter(w http.ResponseWriter, err error) error {
	var later *throttle.TryLaterError
	if errors.As(err, &later) {
		w.Header().Set("Retry-After", strconv.FormatInt(later.Seconds(), 10))
	}
	return err
}

// WriteSecret answers with a token as plain text, and keeps caches from keeping it.
func WriteSecret(w http.ResponseWriter, token string) error {
	w.Header().Set("Cache-Control", "no-store")
	return web.WriteText(w, http.StatusOK, token)
}

// PathID reads {id} of a path; text says what is wrong when it is none.
func PathID(r *http.Request, text string) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		return 0, api.Errorf(api.Invalid, "%s", text)
	}
	return id, nil
}

// Forwards reports whether a role sends requests on for the public, and says from where they came.
func Forwards(role string) bool { return role == api.RoleEdge || role == api.RoleDashboard }

// From is where a request comes from, as the edge, or the dashboard, says it.
func From(r *http.Request) account.From {
	f := account.From{UserAgent: r.UserAgent()}
	if client := r.Header.Get("X-Balena-Client"); client != "" { // their clients say there who they are
		f.UserAgent = client + " " + f.UserAgent
	}
	if role := pki.PeerRole(r); Forwards(role) || role == api.RoleBuilder || role == api.RoleGit { // they hand on what the edge told them
		parts := strings.Split(r.Header.Get("X-Forwarded-For"), ",")
		f.Address = strings.TrimSpace(parts[len(parts)-1])
	}
	if f.Address == "" {
		f.Address, _, _ = net.SplitHostPort(r.RemoteAddr)
	}
	return f
}

// Read answers with what a data function finds for the caller.
func Read[T any](w http.ResponseWriter, r *http.Request, d *db.DB, find func(ctx context.Context, tx *db.Tx, by access.Caller) (T, error)) error {
	var found T
	err := d.Read(r.Context(), func(tx *db.Tx) (err error) {
		found, err = find(r.Context(), tx, access.From(r.Context()))
		return err
	})
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, found)
}

// ByID has a data function do something to what {id} of the path names, for the caller; text says what is wrong when it is no id.
func ByID(w http.ResponseWriter, r *http.Request, d *db.DB, text string, do func(ctx context.Context, tx *db.Tx, by access.Caller, id int64) error) error {
	id, err := PathID(r, text)
	if err != nil {
		return err
	}
	return Write(r.Context(), d, func(tx *db.Tx) error { return do(r.Context(), tx, access.From(r.Context()), id) }, Done(w))
}

// Done answers that something was done, about which there is nothing to say.
func Done(w http.ResponseWriter) func() error {
	return func() error {
		w.WriteHeader(http.StatusOK)
		return nil
	}
}

// Write runs a transaction and answers when it is durable.
func Write(ctx context.Context, d *db.DB, f func(tx *db.Tx) error, answer func() error) error {
	if err := d.Write(ctx, f); err != nil {
		return err
	}
	return answer()
}
