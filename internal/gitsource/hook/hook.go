// Package hook reads what GitHub, GitLab, Gitea and Forgejo send when something was pushed, once it has proved that it comes from whoever
// knows the secret of the webhook.
package hook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// late is how old, or how far ahead, what is signed with its time may be.
const late = 5 * time.Minute

// signingToken begins a secret with which GitLab signs, as Standard Webhooks has it. The key is the rest, in base64.
const signingToken = "whsec_"

// Verify reports whether a request comes from whoever knows the secret: over its body as it came, before anything of it is read, and in a
// time that tells nothing.
func Verify(form, secret string, h http.Header, body []byte, now time.Time) bool {
	switch form {
	case api.FormGitHub:
		return signed(secret, body, strings.TrimPrefix(h.Get("X-Hub-Signature-256"), "sha256="))
	case api.FormGitea:
		given := h.Get("X-Gitea-Signature")
		if given == "" {
			given = h.Get("X-Forgejo-Signature")
		}
		if given == "" {
			given = strings.TrimPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
		}
		return signed(secret, body, given)
	case api.FormGitLab:
		if h.Get("Webhook-Signature") != "" { // with one, the token counts for nothing
			return signedGitLab(secret, h, body, now)
		}
		want, given := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(h.Get("X-Gitlab-Token")))
		return subtle.ConstantTimeCompare(want[:], given[:]) == 1
	}
	return false
}

func signed(secret string, body []byte, given string) bool {
	sum, err := hex.DecodeString(given)
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(body)
	return hmac.Equal(m.Sum(nil), sum) && err == nil
}

// signedGitLab checks GitLab's newer signature: over an id, a time and the body, with the key that the secret holds.
func signedGitLab(secret string, h http.Header, body []byte, now time.Time) bool {
	id, at := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if id == "" || err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > late {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, signingToken))
	if err != nil {
		return false
	}
	m := hmac.New(sha256.New, key)
	m.Write([]byte(id + "." + at + "."))
	m.Write(body)
	want := m.Sum(nil)
	good := false
	for one := range strings.FieldsSeq(h.Get("Webhook-Signature")) { // several, while a secret is being changed
		text, ok := strings.CutPrefix(one, "v1,")
		sum, err := base64.StdEncoding.DecodeString(text)
		good = hmac.Equal(want, sum) && ok && err == nil || good
	}
	return good
}

// Event is what a request says, as far as it matters here.
type Event struct {
	Name   string // push, ping, …
	GUID   string // what the forge calls the delivery; the same when it is sent again
	Ref    string // refs/heads/main, of a push
	Commit string // what the ref is since; of a tag perhaps the tag's own object
	Gone   bool   // the ref is no more
	// Marks tell the delivery from every other one, whatever its header says.
	Marks []string
}

// Push is the name of the event that builds, and Ping the one with which a forge tries whether somebody is there.
const (
	Push = "push"
	Ping = "ping"
)

const maxName = 100 // of an event and of an id of a delivery

var object = pattern.New(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// payload are the fields that are read; the three forms agree on them as far as they have them.
type payload struct {
	Ref      string  `json:"ref"`
	After    string  `json:"after"`
	Deleted  bool    `json:"deleted"`      // GitHub
	Checkout *string `json:"checkout_sha"` // GitLab: the commit of a tag
	Head     *struct {
		ID string `json:"id"`
	} `json:"head_commit"` // GitHub and Gitea: the same
}

// Read reads a request that [Verify] found good.
func Read(form string, h http.Header, body []byte) (Event, error) {
	e := Event{Name: name(form, h), GUID: plain(guid(form, h))}
	if e.GUID != "" {
		e.Marks = append(e.Marks, "id:"+e.GUID)
	}
	if form != api.FormGitLab { // there the id of a delivery is not signed: who has seen one request could send it again under another id
		sum := sha256.Sum256(body)
		e.Marks = append(e.Marks, "body:"+hex.EncodeToString(sum[:]))
	}
	if e.Name == "" {
		return e, api.Errorf(api.Invalid, "the request names no event; its form must be %s", form)
	}
	if e.Name != Push {
		return e, nil
	}
	text, err := content(h, body)
	if err != nil {
		return e, err
	}
	var p payload
	if err := json.Unmarshal(text, &p); err != nil {
		return e, api.Errorf(api.Invalid, "the body of the push cannot be read: %v", err)
	}
	e.Ref, e.Commit = p.Ref, p.After
	e.Gone = p.Deleted || p.After != "" && strings.Trim(p.After, "0") == ""
	if e.Gone {
		e.Commit = ""
		return e, checkRef(e.Ref)
	}
	if strings.HasPrefix(p.Ref, "refs/tags/") { // an annotated tag is an object of its own
		if p.Checkout != nil && *p.Checkout != "" {
			e.Commit = *p.Checkout
		} else if p.Head != nil && p.Head.ID != "" {
			e.Commit = p.Head.ID
		}
	}
	if !object.MatchString(e.Commit) {
		return e, api.Errorf(api.Invalid, "the push names no commit")
	}
	return e, checkRef(e.Ref)
}

func checkRef(ref string) error {
	if !strings.HasPrefix(ref, "refs/") || len(ref) > 300 || strings.ContainsFunc(ref, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return api.Errorf(api.Invalid, "ref: the push names neither a branch nor a tag")
	}
	return nil
}

// content is the JSON of a body: all of it, or GitHub's other content type, a form with it in one field.
func content(h http.Header, body []byte) ([]byte, error) {
	if t, _, err := mime.ParseMediaType(h.Get("Content-Type")); err != nil || t != "application/x-www-form-urlencoded" {
		return bytes.TrimSpace(body), nil //nolint:nilerr // whatever it calls itself, it is JSON or is refused
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, api.Errorf(api.Invalid, "the form of the push cannot be read: %v", err)
	}
	return []byte(form.Get("payload")), nil
}

// name is what kind of event a request is about, in our words for the two that matter.
func name(form string, h http.Header) string {
	switch form {
	case api.FormGitHub:
		return plain(h.Get("X-GitHub-Event"))
	case api.FormGitea:
		if n := h.Get("X-Gitea-Event"); n != "" {
			return plain(n)
		}
		return plain(h.Get("X-GitHub-Event"))
	}
	switch n := h.Get("X-Gitlab-Event"); n {
	case "Push Hook", "Tag Push Hook":
		return Push
	default:
		return plain(n)
	}
}

func guid(form string, h http.Header) string {
	names := []string{"X-GitHub-Delivery"}
	switch form {
	case api.FormGitea:
		names = []string{"X-Gitea-Delivery", "X-Forgejo-Delivery", "X-GitHub-Delivery"}
	case api.FormGitLab:
		names = []string{"Idempotency-Key", "X-Gitlab-Event-UUID"}
		if h.Get("Webhook-Signature") != "" {
			names = []string{"Webhook-Id"} // the one that is signed
		}
	}
	for _, n := range names {
		if v := h.Get(n); v != "" {
			return v
		}
	}
	return ""
}

// plain is a text of a header that people get to see.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), maxName)]
}
