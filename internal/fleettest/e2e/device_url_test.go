package e2e_test

import (
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// witness is a page that writes down, and shows, every header that reaches it, and that sets two cookies: one of its own, and one for all of
// the domain.
const witness = `mkdir -p /www/cgi-bin && : > /seen && cat > /www/cgi-bin/seen <<'END' && chmod 755 /www/cgi-bin/seen && exec httpd -f -p 80 -h /www
#!/bin/sh
{ echo visited; env | grep ^HTTP_; } >> /seen
printf 'Content-Type: text/plain\r\nSet-Cookie: own=kept; Path=/\r\nSet-Cookie: wide=narrowed; Path=/; Domain=DOMAIN\r\n\r\n'
echo ahoy from behind the login
env | grep ^HTTP_
END`

// behindALogin is people with a real browser at the public address of a device that asks who comes: somebody who may see the device gets there by
// the dashboard's sign-in, somebody else does not, and of the two places neither learns or opens anything with what the browser keeps for the other.
func behindALogin(t *testing.T, d *device) {
	b := fleettest.NewBrowser(t)
	script := strings.ReplaceAll(witness, "DOMAIN", p.domain)
	if out, err := d.exec(t, "docker", "run", "-d", "--name", "witness", "-p", "8081:80", "page", "sh", "-c", script); err != nil {
		t.Fatalf("the page: %v: %s", err, out)
	}
	name := d.uuid + ".devices." + p.domain
	line := p.address + " " + name + " " + fleettest.HostsMark + strconv.Itoa(os.Getpid())
	hosts := func(change func([]string) []string) {
		t.Helper()
		if err := fleettest.ChangeHosts(change); err != nil {
			t.Fatal(err)
		}
	}
	hosts(func(lines []string) []string { return append(lines, line) })
	defer hosts(func(lines []string) []string {
		return slices.DeleteFunc(lines, func(l string) bool { return l == line })
	})
	page, dashboard := "https://"+name+"/cgi-bin/seen?tide=high", "https://dashboard."+p.domain
	visits := func() (n int, all string) {
		t.Helper()
		out, err := d.exec(t, "docker", "exec", "witness", "cat", "/seen")
		if err != nil {
			t.Fatalf("what the device saw: %v: %s", err, out)
		}
		return strings.Count(out, "visited\n"), out
	}
	login := func(name, password string) {
		t.Helper()
		b.Open(page)
		b.Shows(dashboard+"/login", "Log in")
		b.Fill("input[name=username]", name)
		b.Fill("input[name=password]", password)
		b.Click("form.card button")
	}
	p.roadstead(t, "device", "url", "on", d.name, "--port", "8081", "--login")

	const password = "bollast-quay-9-plover"
	add := p.command("roadsteadd", "admin", "user", "add", "stowaway@example.com", "--username", "stowaway", "--password-stdin", "--data", p.data)
	add.Stdin = strings.NewReader(password)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("add a user: %v: %s", err, out)
	}
	login("stowaway", password)
	b.Shows(dashboard+"/device-url/"+d.uuid, "There is no such device, or its address is closed.")
	b.Open(page) // signed in, and still not let in
	b.Shows(dashboard+"/device-url/"+d.uuid, "There is no such device, or its address is closed.")
	if n, all := visits(); n != 0 {
		t.Fatalf("somebody else's browser came to the device:\n%s", all)
	}

	b.Do("fresh")
	login(p.admin.Username, p.admin.Password)
	b.Shows(page, "ahoy from behind the login")
	b.Open(page)
	again := b.Shows(page, "HTTP_COOKIE=") // without a login, and with the device's own cookies
	for _, own := range []string{"own=kept", "wide=narrowed", "HTTP_X_FORWARDED_HOST=" + name} {
		if !strings.Contains(again.Text, own) {
			t.Errorf("the page was not asked for with %s:\n%s", own, again.Text)
		}
	}
	kept := map[string]string{} // by the place and the name
	_, seen := visits()
	for _, c := range again.Cookies {
		kept[c.Domain+" "+c.Name] = c.Value
		if c.Domain != name && c.Domain != "dashboard."+p.domain {
			t.Errorf("the browser has a cookie for %s: %s", c.Domain, c.Name)
		}
		if !strings.HasPrefix(c.Name, "__Host-roadstead") {
			continue
		}
		if !c.HTTPOnly || !c.Secure || c.SameSite != "Lax" {
			t.Errorf("cookie %+v", c)
		}
		if strings.Contains(seen, c.Name) || strings.Contains(seen, c.Value) {
			t.Errorf("the device saw the cookie %s of %s:\n%s", c.Name, c.Domain, seen)
		}
	}
	visit, session := kept[name+" __Host-roadstead-visit"], kept["dashboard."+p.domain+" __Host-roadstead"]
	if visit == "" || session == "" || kept[name+" wide"] == "" {
		t.Fatalf("the browser keeps %v", kept)
	}
	p.secrets = append(p.secrets, visit)
	neitherOpensTheOther(t, d, visit, session)

	p.roadstead(t, "device", "url", "off", d.name)
	eventually(t, time.Minute, "the page is gone", func() bool { return strings.Contains(b.Open(page).Text, "There is nothing here") })
}

// neitherOpensTheOther tries what a browser keeps for a device at the dashboard and the API, under the names that these look for, and what it
// keeps for the dashboard at the device. Each opens its own place, or the test would prove nothing.
func neitherOpensTheOther(t *testing.T, d *device, visit, session string) {
	t.Helper()
	device := d.uuid + ".devices"
	for _, tt := range []struct{ service, path, cookie, leads string }{
		{"dashboard", "/devices", "__Host-roadstead=" + session, ""},
		{device, "/cgi-bin/seen", "__Host-roadstead-visit=" + visit, ""},
		{"dashboard", "/devices", "__Host-roadstead=" + visit, "/login"},
		{"dashboard", "/devices", "__Host-roadstead-visit=" + visit, "/login"},
		{device, "/cgi-bin/seen", "__Host-roadstead=" + session, "https://dashboard."},
		{device, "/cgi-bin/seen", "__Host-roadstead-visit=" + session, "https://dashboard."},
	} {
		got := p.knock(t, tt.service, tt.path, tt.cookie)
		to := got.header.Get("Location")
		if tt.leads == "" && got.status != http.StatusOK || tt.leads != "" && (got.status != http.StatusSeeOther || !strings.HasPrefix(to, tt.leads)) {
			name, _, _ := strings.Cut(tt.cookie, "=")
			t.Errorf("%s%s with the cookie %s: %d to %q, want to be led to %q", tt.service, tt.path, name, got.status, to, tt.leads)
		}
	}
	if got := p.call(t, "GET", "api", "/v7/device?$select=id", visit, nil); got.status != http.StatusUnauthorized {
		t.Errorf("the API with what opens the device's page: %d %s", got.status, got.body)
	}
}
