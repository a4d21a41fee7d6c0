package apiserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/factor"
	"github.com/roadstead-io/roadstead/internal/mail/mailtest"
)

// told waits for the n-th letter to somebody and checks its subject and what it says.
func told(t *testing.T, m *mailtest.Server, to string, n int, subject string, says ...string) {
	t.Helper()
	l := m.Wait(t, to, n)
	if got := l.Header.Get("Subject"); got != subject {
		t.Errorf("letter %d to %s: got %q, want %q", n, to, got, subject)
	}
	for _, text := range says {
		if !strings.Contains(l.Body, text) {
			t.Errorf("letter %d to %s does not say %q: %q", n, to, text, l.Body)
		}
	}
}

// What is done to an account is told to its user, through a mail server, as the text of the letter says it.
func TestWarningsByMail(t *testing.T) {
	s, m := newMailServer(t)
	session := s.user("alice")
	const alice = "alice@example.com"
	s.do(session, "POST", "/api-key/user/full", api.NewKey{Name: "ci"}).want(http.StatusOK)
	told(t, m, alice, 1, "A new key of alice on roadstead.test", `named "ci"`)
	var seed string
	s.do(session, "GET", "/auth/totp/setup", nil).want(http.StatusOK).into(&seed)
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(seed)
	s.must(err)
	var out api.Enrolled
	s.do(session, "POST", "/auth/totp/enable", api.FactorCode{Code: factor.Code(raw, factor.Step(time.Now()))}).want(http.StatusOK).into(&out)
	told(t, m, alice, 2, "A second factor was added to alice on roadstead.test", "(one-time codes)", "from 192.0.2.1")
	s.do(out.Token, "POST", "/auth/totp/disable", api.FactorCode{Code: out.RecoveryCodes[0]}).want(http.StatusOK)
	told(t, m, alice, 3, "A second factor was removed from alice on roadstead.test", "(one-time codes)")
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/change", api.UserChange{User: "alice", Act: api.UserResetFactor}).want(http.StatusOK)
	told(t, m, alice, 4, "A second factor was removed from alice on roadstead.test", "whoever runs the server")

	// A sign-in through the edge, from a network that was not seen before.
	s.session("alice") // with a password that the operator sets, which is told of
	told(t, m, alice, 5, "The password of alice on roadstead.test was changed", "All sessions have ended")
	var u api.NewUser
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/password", api.NewUser{Email: "alice"}).want(http.StatusOK).into(&u)
	told(t, m, alice, 6, "The password of alice on roadstead.test was changed")
	if got := len(m.Letters()); got != 6 {
		t.Errorf("after a sign-in from where alice was before: %d letters", got)
	}
	s.role(api.RoleEdge, "POST", "/login_", api.Login{Username: "alice", Password: u.Password}, "X-Forwarded-For: 198.51.100.7", "User-Agent: Mozilla/5.0").
		want(http.StatusOK)
	told(t, m, alice, 7, "A sign-in to alice on roadstead.test from a new place", "from 198.51.100.7", `"browser"`)
}

// Passkeys that come and go are told of, and so is the end of the account, by its user or by the operator: to an address that the server
// does not know any more when the letter leaves.
func TestPasskeysAndTheEndOfAnAccountAreToldOf(t *testing.T) {
	s, m := newMailServer(t)
	s.user("pam")
	const pam = "pam@example.com"
	session := s.session("pam")
	told(t, m, pam, 1, "The password of pam on roadstead.test was changed")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	b := &browser{key: key, id: []byte("0123456789abcdef"), origin: "https://dashboard.roadstead.test"}
	var out api.Enrolled
	s.do(session, "POST", "/auth/webauthn/register", map[string]any{
		"name": "key ring", "credential": b.answer(s, "webauthn.create", s.do(session, "POST", "/auth/webauthn/register/start", nil)),
	}).want(http.StatusOK).into(&out)
	told(t, m, pam, 2, "A second factor was added to pam on roadstead.test", "(the passkey key ring)", "from 192.0.2.1")
	direct := s.do("", "POST", "/auth/webauthn/login", b.answer(s, "webauthn.get", s.do("", "POST", "/auth/webauthn/login/start", nil))).want(http.StatusOK)
	left := s.do(direct.body, "DELETE", "/auth/webauthn/"+itoa(out.ID), nil).want(http.StatusOK)
	told(t, m, pam, 3, "A second factor was removed from pam on roadstead.test", "(the passkey key ring)", "from 192.0.2.1")
	s.do(left.body, "POST", "/user/v1/delete", api.DeleteAccount{Username: "pam"}).want(http.StatusOK)
	told(t, m, pam, 4, "The account pam on roadstead.test was deleted", "your account pam was deleted", "from 192.0.2.1", "sessions and keys have ended")

	s.user("quinn")
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/delete", api.UserChange{User: "quinn"}).want(http.StatusOK)
	told(t, m, "quinn@example.com", 1, "The account quinn on roadstead.test was deleted", "your account quinn was deleted at ")
	if got := len(m.Letters()); got != 5 {
		t.Errorf("%d letters went out, want 5", got)
	}
}

// Whoever administers an organization hears that something of it is open to support, and so does whoever opened it.
func TestSupportGrantsAreToldOf(t *testing.T) {
	s, m := newMailServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	fleet := s.fleet(alice, "harbour")
	s.device(alice, fleet, hexUUID(1))
	s.exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role)
		SELECT '2026-01-01T00:00:00.000Z', id, CAST(? AS BIGINT), 3 FROM "user" WHERE username = 'bob'`, fleet)
	open := func(session, what string, until time.Time) {
		t.Helper()
		s.do(session, "PATCH", "/v7/"+what, map[string]any{"is_accessible_by_support_until__date": until.UTC().Format(time.RFC3339)}).want(http.StatusOK)
	}
	device := fmt.Sprintf("device(uuid='%s')", hexUUID(1))
	open(bob, device, time.Now().Add(time.Hour))
	subject := "device " + string(hexUUID(1)) + " is open to support on roadstead.test"
	told(t, m, "alice@example.com", 1, subject, "bob opened device", "until ")
	told(t, m, "bob@example.com", 1, subject, "bob opened device")
	open(bob, device, time.Now().Add(-time.Hour)) // closed
	open(alice, fmt.Sprintf("application(%d)", fleet), time.Now().Add(time.Hour))
	told(t, m, "alice@example.com", 2, "application alice/harbour is open to support on roadstead.test", "alice opened application")
	if got := len(m.Letters()); got != 3 {
		t.Errorf("%d letters went out, want 3", got)
	}
}
