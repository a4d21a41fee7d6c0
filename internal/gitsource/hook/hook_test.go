package hook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/gitsource/hook"
)

const (
	secret = "It's a Secret to Everybody"
	one    = "1111111111111111111111111111111111111111"
	two    = "2222222222222222222222222222222222222222"
	none   = "0000000000000000000000000000000000000000"
)

var now = time.Date(2026, 11, 29, 2, 0, 0, 0, time.UTC)

func mac(key, text string) []byte {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(text))
	return m.Sum(nil)
}

func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

// The example of GitHub's documentation on validating deliveries.
func TestGitHubsOwnExample(t *testing.T) {
	h := headers("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")
	if !hook.Verify(api.FormGitHub, secret, h, []byte("Hello, World!"), now) {
		t.Error("the documented signature is not taken")
	}
	if hook.Verify(api.FormGitHub, secret, h, []byte("Hello, World?"), now) {
		t.Error("another body is taken")
	}
}

func TestVerify(t *testing.T) {
	body := `{"ref":"refs/heads/main"}`
	sum := hex.EncodeToString(mac(secret, body))
	key := "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	signed := func(id string, at time.Time, text string) http.Header {
		stamp := fmt.Sprint(at.Unix())
		return headers("webhook-id", id, "webhook-timestamp", stamp,
			"webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac("0123456789abcdef0123456789abcdef", id+"."+stamp+"."+text)))
	}
	with := func(h http.Header, name, value string) http.Header {
		h = h.Clone()
		h.Set(name, value)
		return h
	}
	good := signed("m1", now, body)
	for what, tt := range map[string]struct {
		form, secret string
		h            http.Header
		want         bool
	}{
		"github":                       {api.FormGitHub, secret, headers("X-Hub-Signature-256", "sha256="+sum), true},
		"github, another secret":       {api.FormGitHub, "other", headers("X-Hub-Signature-256", "sha256="+sum), false},
		"github, no signature":         {api.FormGitHub, secret, headers(), false},
		"github, empty":                {api.FormGitHub, secret, headers("X-Hub-Signature-256", "sha256="), false},
		"github, half a signature":     {api.FormGitHub, secret, headers("X-Hub-Signature-256", "sha256="+sum[:32]), false},
		"github, no hexadecimal":       {api.FormGitHub, secret, headers("X-Hub-Signature-256", "sha256="+strings.Repeat("x", 64)), false},
		"github, the old SHA-1 alone":  {api.FormGitHub, secret, headers("X-Hub-Signature", "sha1="+sum[:40]), false},
		"github, GitLab's token":       {api.FormGitHub, secret, headers("X-Gitlab-Token", secret), false},
		"gitea":                        {api.FormGitea, secret, headers("X-Gitea-Signature", sum), true},
		"gitea, as GitHub":             {api.FormGitea, secret, headers("X-Hub-Signature-256", "sha256="+sum), true},
		"forgejo":                      {api.FormGitea, secret, headers("X-Forgejo-Signature", sum), true},
		"gitea, wrong beside good":     {api.FormGitea, secret, headers("X-Gitea-Signature", sum[2:]+"00", "X-Hub-Signature-256", "sha256="+sum), false},
		"gitlab, token":                {api.FormGitLab, secret, headers("X-Gitlab-Token", secret), true},
		"gitlab, another token":        {api.FormGitLab, secret, headers("X-Gitlab-Token", secret+"x"), false},
		"gitlab, nothing":              {api.FormGitLab, secret, headers(), false},
		"gitlab, signed":               {api.FormGitLab, key, good, true},
		"gitlab, an old one":           {api.FormGitLab, key, signed("m1", now.Add(-6*time.Minute), body), false},
		"gitlab, one of the future":    {api.FormGitLab, key, signed("m1", now.Add(6*time.Minute), body), false},
		"gitlab, another body":         {api.FormGitLab, key, signed("m1", now, body+" "), false},
		"gitlab, another id":           {api.FormGitLab, key, with(good, "webhook-id", "m2"), false},
		"gitlab, another time":         {api.FormGitLab, key, with(good, "webhook-timestamp", fmt.Sprint(now.Unix()+1)), false},
		"gitlab, no id":                {api.FormGitLab, key, signed("", now, body), false},
		"gitlab, two signatures":       {api.FormGitLab, key, with(good, "webhook-signature", "v1,AAAA "+good.Get("webhook-signature")), true},
		"gitlab, another version":      {api.FormGitLab, key, with(good, "webhook-signature", strings.Replace(good.Get("webhook-signature"), "v1", "v2", 1)), false},
		"gitlab, bad beside the token": {api.FormGitLab, key, with(with(good, "webhook-signature", "v1,AAAA"), "X-Gitlab-Token", key), false},
		"no such form":                 {"bitbucket", secret, headers("X-Hub-Signature-256", "sha256="+sum), false},
	} {
		if got := hook.Verify(tt.form, tt.secret, tt.h, []byte(body), now); got != tt.want {
			t.Errorf("%s: got %v", what, got)
		}
	}
}

func TestRead(t *testing.T) {
	github := func(event string) http.Header { return headers("X-GitHub-Event", event, "X-GitHub-Delivery", "guid") }
	gitlab := func(event string) http.Header {
		return headers("X-Gitlab-Event", event, "Idempotency-Key", "guid", "X-Gitlab-Event-UUID", "other")
	}
	for what, tt := range map[string]struct {
		form string
		h    http.Header
		body string
		want hook.Event // without its marks
		err  string
	}{
		"github, a push": {api.FormGitHub, github("push"), `{"ref":"refs/heads/main","before":"` + two + `","after":"` + one + `","deleted":false,"repository":{"id":1},"commits":[]}`,
			hook.Event{Name: "push", GUID: "guid", Ref: "refs/heads/main", Commit: one}, ""},
		"github, a form": {api.FormGitHub, func() http.Header {
			h := github("push")
			h.Set("Content-Type", "application/x-www-form-urlencoded")
			return h
		}(),
			url.Values{"payload": {`{"ref":"refs/heads/main","after":"` + one + `"}`}}.Encode(), hook.Event{Name: "push", GUID: "guid", Ref: "refs/heads/main", Commit: one}, ""},
		"github, a tag": {api.FormGitHub, github("push"), `{"ref":"refs/tags/v1","after":"` + two + `","head_commit":{"id":"` + one + `"}}`,
			hook.Event{Name: "push", GUID: "guid", Ref: "refs/tags/v1", Commit: one}, ""},
		"github, deleted": {api.FormGitHub, github("push"), `{"ref":"refs/heads/old","after":"` + none + `","deleted":true,"head_commit":null}`,
			hook.Event{Name: "push", GUID: "guid", Ref: "refs/heads/old", Gone: true}, ""},
		"github, a ping":        {api.FormGitHub, github("ping"), `{"zen":"Keep it logically awesome."}`, hook.Event{Name: "ping", GUID: "guid"}, ""},
		"github, an issue":      {api.FormGitHub, github("issues"), `not even JSON`, hook.Event{Name: "issues", GUID: "guid"}, ""},
		"github, no event":      {api.FormGitHub, headers(), `{}`, hook.Event{}, "names no event"},
		"github, no JSON":       {api.FormGitHub, github("push"), `{`, hook.Event{}, "cannot be read"},
		"github, a list":        {api.FormGitHub, github("push"), `[]`, hook.Event{}, "cannot be read"},
		"github, no commit":     {api.FormGitHub, github("push"), `{"ref":"refs/heads/main"}`, hook.Event{}, "no commit"},
		"github, an option":     {api.FormGitHub, github("push"), `{"ref":"refs/heads/main","after":"--upload-pack=touch /tmp/x"}`, hook.Event{}, "no commit"},
		"github, no ref":        {api.FormGitHub, github("push"), `{"ref":"--force","after":"` + one + `"}`, hook.Event{}, "neither a branch nor a tag"},
		"github, a ref of lies": {api.FormGitHub, github("push"), `{"ref":"refs/heads/main\nx","after":"` + one + `"}`, hook.Event{}, "neither a branch nor a tag"},
		"gitea, a push": {api.FormGitea, headers("X-Gitea-Event", "push", "X-Gitea-Delivery", "guid", "X-GitHub-Event", "push", "X-GitHub-Delivery", "other"),
			`{"ref":"refs/heads/main","after":"` + one + `","head_commit":{"id":"` + two + `"}}`, hook.Event{Name: "push", GUID: "guid", Ref: "refs/heads/main", Commit: one}, ""},
		"gitlab, a push": {api.FormGitLab, gitlab("Push Hook"), `{"object_kind":"push","ref":"refs/heads/main","after":"` + one + `","checkout_sha":"` + one + `"}`,
			hook.Event{Name: "push", GUID: "guid", Ref: "refs/heads/main", Commit: one}, ""},
		"gitlab, a tag": {api.FormGitLab, gitlab("Tag Push Hook"), `{"object_kind":"tag_push","ref":"refs/tags/v1","after":"` + two + `","checkout_sha":"` + one + `"}`,
			hook.Event{Name: "push", GUID: "guid", Ref: "refs/tags/v1", Commit: one}, ""},
		"gitlab, deleted": {api.FormGitLab, gitlab("Push Hook"), `{"ref":"refs/heads/old","after":"` + none + `","checkout_sha":null}`,
			hook.Event{Name: "push", GUID: "guid", Ref: "refs/heads/old", Gone: true}, ""},
		"gitlab, a signed id": {api.FormGitLab, headers("X-Gitlab-Event", "Note Hook", "Webhook-Signature", "v1,x", "Webhook-Id", "signed", "Idempotency-Key", "free"), `{}`,
			hook.Event{Name: "Note Hook", GUID: "signed"}, ""},
		"a name to be looked at": {api.FormGitHub, headers("X-GitHub-Event", "a\x1b[31m\tb"+strings.Repeat("x", 200)), `{}`,
			hook.Event{Name: "a[31mb" + strings.Repeat("x", 94)}, ""},
	} {
		got, err := hook.Read(tt.form, tt.h, []byte(tt.body))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want %q", what, err, tt.err)
			}
			continue
		}
		got.Marks = nil
		if d := cmp.Diff(tt.want, got); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", what, err, d)
		}
	}
}

// What is known of a delivery when it comes again: its id, and where that is not signed, its bytes.
func TestMarks(t *testing.T) {
	body := []byte(`{"ref":"refs/heads/main","after":"` + one + `"}`)
	read := func(form string, h http.Header, body []byte) []string {
		e, err := hook.Read(form, h, body)
		if err != nil {
			t.Fatal(err)
		}
		return e.Marks
	}
	a := read(api.FormGitHub, headers("X-GitHub-Event", "push", "X-GitHub-Delivery", "a"), body)
	b := read(api.FormGitHub, headers("X-GitHub-Event", "push", "X-GitHub-Delivery", "b"), body)
	c := read(api.FormGitHub, headers("X-GitHub-Event", "push", "X-GitHub-Delivery", "b"), append(body, ' '))
	if len(a) != 2 || len(b) != 2 || a[0] == b[0] || a[1] != b[1] || b[1] == c[1] || b[0] != c[0] {
		t.Errorf("got %v, %v, %v", a, b, c)
	}
	if d := cmp.Diff([]string{"id:a"}, read(api.FormGitLab, headers("X-Gitlab-Event", "Push Hook", "Idempotency-Key", "a"), body)); d != "" {
		t.Error(d)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("github", "push", "application/json", []byte(`{"ref":"refs/heads/main","after":"`+one+`"}`))
	f.Add("gitlab", "Tag Push Hook", "application/json", []byte(`{"ref":"refs/tags/v1","checkout_sha":null}`))
	f.Add("github", "push", "application/x-www-form-urlencoded", []byte(`payload=%7B%7D`))
	f.Fuzz(func(t *testing.T, form, event, contentType string, body []byte) {
		h := headers("X-GitHub-Event", event, "X-Gitlab-Event", event, "X-Gitea-Event", event, "Content-Type", contentType)
		e, err := hook.Read(form, h, body)
		if err != nil || e.Name != hook.Push {
			return
		}
		if !strings.HasPrefix(e.Ref, "refs/") || strings.ContainsAny(e.Ref, " \n\x00") {
			t.Errorf("the ref %q", e.Ref)
		}
		if !e.Gone && len(e.Commit) != 40 && len(e.Commit) != 64 || strings.Trim(e.Commit, "0123456789abcdef") != "" {
			t.Errorf("the commit %q", e.Commit)
		}
	})
}
