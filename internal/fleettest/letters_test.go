package fleettest_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/mail/mailtest"
)

// office is a server with a mail server behind it, and a browser.
type office struct {
	*harbour
	mail *mailtest.Server
}

func newOffice(t *testing.T) *office {
	t.Helper()
	m, dir := mailtest.Start(t, mailtest.Options{STARTTLS: true}), t.TempDir()
	password, ca := filepath.Join(dir, "password"), filepath.Join(dir, "ca.pem")
	for file, text := range map[string]string{password: mailtest.Password + "\n", ca: m.RootCA} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := fleettest.NewServerWith(t, fleettest.Options{Args: []string{
		"--smtp", m.URL, "--smtp-password-file", password, "--smtp-ca-file", ca, "--mail-from", "Roadstead <no-reply@roadstead.test>",
	}})
	return &office{&harbour{T: t, Server: s, b: fleettest.NewBrowser(t), pages: strings.Replace(s.URL, "https://api.", "https://dashboard.", 1)}, m}
}

// person makes a user and gives the password.
func (o *office) person(name string) (email, password string) {
	o.Helper()
	email = name + "@example.com"
	said := o.RunAdmin("user", "add", email)
	_, password, _ = strings.Cut(said, "password:")
	if password = strings.TrimSpace(password); password == "" {
		o.Fatalf("no password: %s", said)
	}
	return email, password
}

// signIn opens a session as a command line does.
func (o *office) signIn(email, password string) (token string, err error) {
	return o.ClientAs("").Login(o.Context(), email, password)
}

func (o *office) must(err error) {
	o.Helper()
	if err != nil {
		o.Fatal(err)
	}
}

// link is what a letter leads to: a page of the dashboard's, and the secret behind the # of its address.
func (o *office) link(l mailtest.Letter, page string) (address, secret string) {
	o.Helper()
	found := regexp.MustCompile(regexp.QuoteMeta(o.pages+page) + `#(\w+)\n`).FindStringSubmatch(l.Body)
	if found == nil {
		o.Fatalf("no link to %s%s in %q", o.pages, page, l.Body)
	}
	return strings.TrimSpace(found[0]), found[1]
}

// follow opens a letter's link in a browser that nobody has used, and makes sure that the address shows its secret no more.
func (o *office) follow(address, page, text string) {
	o.Helper()
	o.b.Do("fresh")
	o.b.Open(address)
	p := o.b.Shows(page, text)
	if strings.Contains(p.URL, "#") {
		o.Errorf("the address still shows the secret: %s", p.URL)
	}
}

// choose fills in the page where a new password is chosen.
func (o *office) choose(password string) {
	o.Helper()
	o.b.Fill("input[name=password]", password)
	o.b.Fill("input[name=again]", password)
	o.b.Click("text=Set the password")
}

// as logs in with a password, on the page that is shown.
func (o *office) as(email, password string) {
	o.Helper()
	o.b.Fill("input[name=username]", email)
	o.b.Fill("input[name=password]", password)
	o.b.Click("form.card button")
}

// unseen makes sure that no secret of a link went where it could be read.
func (o *office) unseen(secrets ...string) {
	o.Helper()
	for _, secret := range secrets {
		if strings.Contains(o.Log(), secret) {
			o.Errorf("the log holds the secret %.8s… of a link", secret)
		}
	}
	for _, w := range o.b.Do("state").Wrong {
		if !strings.HasPrefix(w, "Failed to load resource") { // which is what it says of every refusal
			o.Errorf("the browser complains: %s", w)
		}
	}
}

// A forgotten password, from the page that asks for the letter to the page that its link opens, in a real browser.
func TestALetterSetsAnotherPassword(t *testing.T) {
	o := newOffice(t)
	const chosen = "a new harbour crane"
	email, forgotten := o.person("ann")
	before, err := o.signIn(email, forgotten)
	o.must(err)
	o.b.Open(o.pages + "/login")
	o.b.Click("text=Forgotten password?")
	o.b.Shows("/forgot", "E-mail address")
	o.b.Fill("input[name=email]", "Ann@Example.com")
	o.b.Click("form.card button")
	o.b.Shows("/forgot", "a letter is on its way")
	address, secret := o.link(o.mail.Wait(t, email, 1), "/reset")
	if _, err := o.ClientAs(before).Whoami(t.Context()); err != nil {
		t.Errorf("asking alone has ended a session: %v", err)
	}

	o.follow(address, "/reset", "New password")
	o.choose("password1234")
	o.b.Shows("/reset", "most common ones") // a bad one spends nothing
	o.choose(chosen)
	o.b.Shows("/reset", "The password is set")
	if _, err := o.ClientAs(before).Whoami(t.Context()); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a session of before: got %v, want unauthorized", err)
	}
	if _, err := o.signIn(email, forgotten); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("the password of before: got %v, want unauthorized", err)
	}
	o.as(email, chosen)
	o.b.Shows(o.pages+"/", "Fleets")
	if l := o.mail.Wait(t, email, 2); !strings.HasPrefix(l.Header.Get("Subject"), "The password of ann on ") {
		t.Errorf("the second letter: got %v", l.Header)
	}

	// The second time it opens nothing.
	o.follow(address, "/reset", "New password")
	o.choose("an even newer crane")
	o.b.Shows("/reset", "ask for another")
	_, err = o.signIn(email, chosen)
	o.must(err)
	o.unseen(secret)
}

// Invitations by mail: opened by who is not signed in, by another account, and by whom they are for.
func TestALetterInvites(t *testing.T) {
	o := newOffice(t)
	bob, password := o.person("bob")
	eve, hers := o.person("eve")
	session, err := o.signIn(o.Admin.Email, o.Admin.Password)
	o.must(err)
	admin := o.ClientAs(session)
	row := func(method, path string, body any) int64 {
		t.Helper()
		var one struct {
			ID int64
			D  []struct{ ID int64 }
		}
		o.must(admin.Do(t.Context(), method, "/v7/"+path, body, &one))
		if len(one.D) > 0 {
			return one.D[0].ID
		}
		return one.ID
	}
	org := row(http.MethodGet, "organization?$select=id", nil)
	fleet := row(http.MethodPost, "application", map[string]any{
		"app_name": "hello", "organization": org, "is_for__device_type": row(http.MethodGet, "device_type(slug='generic-amd64')?$select=id", nil),
	})
	for n, tt := range []struct {
		page, says, resource, to string
		id                       int64
		gives                    string
	}{
		{"/invite/user", "a fleet", "application_invite", "is_invited_to__application", fleet, "user_application_membership"},
		{"/invite/org", "an organization", "organization_invite", "is_invited_to__organization", org, "organization_membership"},
	} {
		row(http.MethodPost, tt.resource, map[string]any{"invitee": bob, tt.to: tt.id})
		address, secret := o.link(o.mail.Wait(t, bob, n+1), tt.page)
		memberships := func() int {
			t.Helper()
			var rows struct{ D []struct{ ID int64 } }
			o.must(admin.Do(t.Context(), http.MethodGet, "/v7/"+tt.gives+"?$select=id&$filter=user/username%20eq%20'bob'", nil, &rows))
			return len(rows.D)
		}
		before := memberships()
		accept := func() { o.Helper(); o.b.Click("form.card button") }

		o.follow(address, tt.page, "You are invited into "+tt.says) // it went astray, to another account
		accept()
		o.b.Shows("/login", "Log in")
		o.as(eve, hers)
		o.b.Shows(tt.page, "You are invited into "+tt.says)
		accept()
		o.b.Shows(tt.page, "for another e-mail address")

		o.follow(address, tt.page, "You are invited into "+tt.says)
		accept()
		o.b.Shows("/login", "Log in")
		o.as(bob, password)
		if p := o.b.Shows(tt.page, "You are invited into "+tt.says); strings.Contains(p.URL, secret) {
			t.Errorf("the address holds the secret: %s", p.URL)
		}
		if got := memberships(); got != before {
			t.Errorf("%s: %d memberships before bob said yes, want %d", tt.page, got, before)
		}
		accept()
		o.b.Shows(o.pages+"/", "admin/hello")
		if got := memberships(); got != before+1 {
			t.Errorf("%s: %d memberships after bob said yes, want %d", tt.page, got, before+1)
		}

		o.b.Open(address) // and once more, in the same browser
		o.b.Shows(tt.page, "You are invited into "+tt.says)
		accept()
		o.b.Shows(tt.page, "no such invitation")
		o.unseen(secret)
	}
}
