package apiserver_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/mail"
	"github.com/roadstead-io/roadstead/internal/mail/mailtest"
)

// newMailServer starts the api role with a mail server behind it.
func newMailServer(t *testing.T) (*server, *mailtest.Server) {
	t.Helper()
	s, m := newServer(t), mailtest.Start(t, mailtest.Options{})
	s.stop()
	s.mail = mail.Server{URL: m.URL, Password: mailtest.Password, From: "Roadstead <no-reply@roadstead.test>", RootCA: m.RootCA}
	s.start()
	return s, m
}

// secret is what stands behind the # of the link in a letter.
func secret(t *testing.T, l mailtest.Letter, path string) string {
	t.Helper()
	found := regexp.MustCompile(`https://dashboard\.roadstead\.test` + path + `#(\w+)\n`).FindStringSubmatch(l.Body)
	if found == nil {
		t.Fatalf("no link to %s in %q", path, l.Body)
	}
	return found[1]
}

func TestInvitationByMail(t *testing.T) {
	s, m := newMailServer(t)
	alice, bob, eve := s.user("alice"), s.user("bob"), s.user("eve")
	org, fleet := s.id(alice, "organization?$select=id"), s.fleet(alice, "harbour")
	id := s.made(alice, "organization_invite", map[string]any{"invitee": "Bob@example.com", "is_invited_to__organization": org, "message": "BUY THIS"})
	l := m.Wait(t, "bob@example.com", 1)
	token := secret(t, l, "/invite/org")
	if l.Header.Get("Subject") != "alice invites you to alice on roadstead.test" || strings.Contains(l.Raw, "BUY THIS") || !strings.Contains(l.Body, "as member") {
		t.Errorf("the letter: got %v %q", l.Header, l.Body)
	}
	accept := func(session, where, token string) int {
		t.Helper()
		return s.do(session, "POST", "/"+where+"/v1/invitation/"+token, nil).status
	}
	for what, got := range map[string]int{
		"another account":    accept(eve, "org", token),
		"whoever invites":    accept(alice, "org", token),
		"as one to a fleet":  accept(bob, "user", token),
		"a token cut short":  accept(bob, "org", token[:len(token)-1]),
		"nobody":             accept("", "org", token),
		"a key of the admin": accept(s.admin.APIKey, "org", token),
	} {
		if got != http.StatusForbidden && got != http.StatusNotFound && got != http.StatusUnauthorized {
			t.Errorf("%s: got %d", what, got)
		}
	}
	if got := accept(bob, "org", token); got != http.StatusOK {
		t.Errorf("bob, after all the others tried: got %d", got)
	}
	if got := accept(bob, "org", token); got != http.StatusNotFound {
		t.Errorf("once more: got %d", got)
	}
	if rows := s.do(alice, "GET", fmt.Sprintf("/v7/organization_invite(%d)", id), nil).rows(); len(rows) != 0 {
		t.Errorf("the invitation is still there: %v", rows)
	}

	// To a fleet; a link made by hand ends the one in the letter.
	invite := s.made(alice, "application_invite", map[string]any{"invitee": "eve@example.com", "is_invited_to__application": fleet})
	mailed := secret(t, m.Wait(t, "eve@example.com", 1), "/invite/user")
	var link api.Invitation
	s.do(alice, "POST", fmt.Sprintf("/user/v1/invitations/%d/link", invite), nil).want(http.StatusOK).into(&link)
	if got := accept(eve, "user", mailed); got != http.StatusNotFound {
		t.Errorf("the link of the letter: got %d", got)
	}
	if got := accept(eve, "user", link.Token); got != http.StatusOK {
		t.Errorf("the link made by hand: got %d", got)
	}

	// Taken back, too old, and one whose maker may not invite any more.
	s.do(alice, "POST", "/v7/organization_invite", map[string]any{"invitee": "eve@example.com", "is_invited_to__organization": org}).want(http.StatusCreated)
	mailed = secret(t, m.Wait(t, "eve@example.com", 2), "/invite/org")
	s.do(alice, "DELETE", "/v7/organization_invite?$filter="+strings.ReplaceAll("id gt 0", " ", "%20"), nil).want(http.StatusOK)
	if got := accept(eve, "org", mailed); got != http.StatusNotFound {
		t.Errorf("taken back: got %d", got)
	}
	s.do(alice, "POST", "/v7/organization_invite", map[string]any{"invitee": "eve@example.com", "is_invited_to__organization": org}).want(http.StatusCreated)
	mailed = secret(t, m.Wait(t, "eve@example.com", 3), "/invite/org")
	s.exec(`UPDATE organization_invite SET expires_at = ?`, db.FormatTime(time.Now().Add(-time.Second)))
	if got := accept(eve, "org", mailed); got != http.StatusNotFound {
		t.Errorf("too old: got %d", got)
	}
	s.exec(`UPDATE organization_invite SET expires_at = ?`, db.FormatTime(time.Now().Add(time.Hour)))
	s.exec(`UPDATE organization_membership SET organization_membership_role = 2 WHERE is_member_of__organization = ?`, org)
	if got := accept(eve, "org", mailed); got != http.StatusNotFound {
		t.Errorf("of somebody who administers no more: got %d", got)
	}
	s.exec(`UPDATE organization_membership SET organization_membership_role = 1 WHERE is_member_of__organization = ?`, org)
	if got := accept(eve, "org", mailed); got != http.StatusOK {
		t.Errorf("in the end: got %d", got)
	}
}

// A name that is chosen to write a header of its own, or to have people follow it somewhere, gets into no letter to strangers.
func TestHeaderInjectionByNames(t *testing.T) {
	s, m := newMailServer(t)
	alice := s.user("alice")
	org := s.id(alice, "organization?$select=id")
	s.do(alice, "PATCH", fmt.Sprintf("/v7/organization(%d)", org), map[string]any{"name": "Acme\r\nBcc: all@example.com\r\n\r\nClick https://evil.example.com"}).want(http.StatusOK)
	for _, invitee := range []string{"x@example.com\r\nBcc: all@example.com", "x@example.com, y@example.com", "Bob <x@example.com>"} {
		s.do(alice, "POST", "/v7/organization_invite", map[string]any{"invitee": invitee, "is_invited_to__organization": org}).want(http.StatusBadRequest)
	}
	s.made(alice, "organization_invite", map[string]any{"invitee": "bob@example.com", "is_invited_to__organization": org})
	l := m.Wait(t, "bob@example.com", 1)
	if l.Header.Get("Bcc") != "" || l.Header.Get("Subject") != "alice invites you to alice on roadstead.test" || strings.Contains(l.Raw, "evil") {
		t.Errorf("header: got %v", l.Header)
	}
	if got := len(m.Letters()); got != 1 {
		t.Errorf("%d letters went out", got)
	}
	// What people call their own things is in letters to themselves.
	s.do(alice, "POST", "/api-key/user/full", api.NewKey{Name: "ci\r\nBcc: all@example.com"}).want(http.StatusBadRequest)
}

// Whoever invites is told when there were too many letters, and then no invitation is made.
func TestInvitationsAreBounded(t *testing.T) {
	s, _ := newMailServer(t)
	alice := s.user("alice")
	org := s.id(alice, "organization?$select=id")
	var got []int
	for range mail.PerRecipient + 1 {
		a := s.do(alice, "POST", "/v7/organization_invite", map[string]any{"invitee": "bob@example.com", "is_invited_to__organization": org})
		got = append(got, a.status)
		s.do(alice, "DELETE", "/v7/organization_invite?$filter="+strings.ReplaceAll("id gt 0", " ", "%20"), nil).want(http.StatusOK)
	}
	if got[mail.PerRecipient-1] != http.StatusCreated || got[mail.PerRecipient] != http.StatusTooManyRequests {
		t.Errorf("got %v", got)
	}
}

// One invitation, taken up many times at once by the one it is for: there is one membership.
func TestAnInvitationWorksOnceInARace(t *testing.T) {
	s := newServer(t)
	alice, bob := s.user("alice"), s.user("bob")
	org := s.id(alice, "organization?$select=id")
	id := s.made(alice, "organization_invite", map[string]any{"invitee": "bob@example.com", "is_invited_to__organization": org})
	var link api.Invitation
	s.do(alice, "POST", fmt.Sprintf("/org/v1/invitations/%d/link", id), nil).want(http.StatusOK).into(&link)
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := map[int]int{}
	for range 8 {
		wg.Go(func() {
			status := s.do(bob, "POST", "/org/v1/invitation/"+link.Token, nil).status
			mu.Lock()
			defer mu.Unlock()
			count[status]++
		})
	}
	wg.Wait()
	if count[http.StatusOK] != 1 || count[http.StatusOK]+count[http.StatusNotFound] != 8 {
		t.Errorf("got %v", count)
	}
}

// The whole way of a forgotten password, over the API and a mail server.
func TestForgottenPassword(t *testing.T) {
	s, m := newMailServer(t)
	session := s.user("alice")
	s.do("", "POST", "/user/v1/password/forgot", map[string]any{"email": "nobody@example.com"}).want(http.StatusAccepted)
	known := s.do("", "POST", "/user/v1/password/forgot", map[string]any{"email": "alice@example.com"}).want(http.StatusAccepted)
	if known.body != "" {
		t.Errorf("the answer says %q", known.body)
	}
	token := secret(t, m.Wait(t, "alice@example.com", 1), "/reset")
	s.do("", "POST", "/user/v1/password/reset", map[string]any{"token": token, "password": "short"}).want(http.StatusBadRequest)
	s.do("", "POST", "/user/v1/password/reset", map[string]any{"token": token + "x", "password": "a new harbour crane"}).want(http.StatusUnauthorized)
	s.do(session, "GET", "/user/v1/whoami", nil).want(http.StatusOK)
	s.do("", "POST", "/user/v1/password/reset", map[string]any{"token": token, "password": "a new harbour crane"}).want(http.StatusOK)
	s.do("", "POST", "/user/v1/password/reset", map[string]any{"token": token, "password": "a new harbour crane"}).want(http.StatusUnauthorized)
	s.do(session, "GET", "/user/v1/whoami", nil).want(http.StatusUnauthorized)
	s.login("alice", "a new harbour crane")
	if l := m.Wait(t, "alice@example.com", 2); l.Header.Get("Subject") != "The password of alice on roadstead.test was changed" {
		t.Errorf("the second letter: got %v", l.Header)
	}
	var status api.MailStatus
	s.role(api.RoleAdmin, "POST", "/internal/v1/mail", nil).want(http.StatusOK).into(&status)
	if !status.On || status.Failed != 0 {
		t.Errorf("status: got %+v", status)
	}
	s.role(api.RoleAdmin, "POST", "/internal/v1/mail/test", api.TestLetter{To: "ops@example.com"}).want(http.StatusAccepted)
	m.Wait(t, "ops@example.com", 1)
	s.role(api.RoleAdmin, "POST", "/internal/v1/mail/test", api.TestLetter{To: "ops@example.com\r\nX: y"}).want(http.StatusBadRequest)
	for _, l := range m.Letters() {
		if l.To == "nobody@example.com" {
			t.Error("a letter went to nobody")
		}
	}
	s.stop()
	if strings.Contains(s.log.String(), token) {
		t.Error("the log holds the token")
	}
}

// Without a mail server the answers are the same.
func TestForgottenPasswordWithoutMail(t *testing.T) {
	s := newServer(t)
	s.do("", "POST", "/user/v1/password/forgot", map[string]any{"email": "admin@roadstead.test"}).want(http.StatusAccepted)
	s.do("", "POST", "/user/v1/password/forgot", map[string]any{"email": "nobody"}).want(http.StatusBadRequest)
	s.do("", "POST", "/user/v1/password/reset", map[string]any{"token": "x", "password": "a new harbour crane"}).want(http.StatusUnauthorized)
	s.role(api.RoleAdmin, "POST", "/internal/v1/mail/test", api.TestLetter{To: "ops@example.com"}).want(http.StatusBadRequest)
}
