package fleettest_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// harbour is a server with a certified provider beside it, and a browser.
type harbour struct {
	*testing.T
	*fleettest.Server
	b      *fleettest.Browser
	pages  string // address of the dashboard
	issuer string
}

func newHarbour(t *testing.T) *harbour {
	t.Helper()
	provider := os.Getenv("ROADSTEAD_OIDC_PROVIDER")
	if provider == "" {
		t.Skip("ROADSTEAD_OIDC_PROVIDER names no provider; make test builds it")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "providers.yaml")
	s := fleettest.NewServerWith(t, fleettest.Options{NotStarted: true, Args: []string{"--sign-in-providers", file}})
	h := &harbour{T: t, Server: s, pages: strings.Replace(s.URL, "https://api.", "https://dashboard.", 1)}

	const secret = "a secret between two"
	cmd := exec.Command(provider, "--secret", secret, "--redirect", h.pages+"/login/callback/corp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	h.issuer = strings.TrimSpace(strings.TrimPrefix(line, "ready "))
	if err != nil || h.issuer == "" {
		t.Fatalf("the provider said %q, %v", line, err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("secret", secret+"\n")
	write("providers.yaml", fmt.Sprintf(`providers:
- name: corp
  label: Corp
  kind: oidc
  issuer: %s
  client_id: roadstead
  client_secret_file: secret
  allow_private: [127.0.0.1]
- name: inner
  kind: oidc
  issuer: https://127.0.0.1:%s
  client_id: roadstead
`, h.issuer, h.issuer[strings.LastIndexByte(h.issuer, ':')+1:]))
	s.Start()
	h.b = fleettest.NewBrowser(t)
	return h
}

// login logs in with the password.
func (h *harbour) login(next string) {
	h.Helper()
	h.b.Open(h.pages + "/login?next=" + next)
	h.password()
}

// password fills in the form for it.
func (h *harbour) password() {
	h.Helper()
	h.b.Fill("input[name=username]", h.Admin.Email)
	h.b.Fill("input[name=password]", h.Admin.Password)
	h.b.Click("form.card button")
}

// agree logs in at the provider, which sends the browser back.
func (h *harbour) agree() {
	h.Helper()
	h.b.Shows(h.issuer+"/login/username", "Username")
	h.b.Fill("#username", "test-user@127.0.0.1")
	h.b.Fill("#password", "verysecure")
	h.b.Click("button")
}

// A real browser, a certified provider, the real server: sign in, link, unlink, and what is refused.
func TestSignInWithAProvider(t *testing.T) {
	h := newHarbour(t)
	h.b.Open(h.pages + "/")
	h.b.Shows("/login", "Log in with Corp")
	h.b.Click("text=Log in with Corp")
	h.agree()
	h.b.Shows("/login/callback/corp", "nobody here is known as")

	// The provider that the server may not reach: no way in, and no word about why.
	h.b.Open(h.pages + "/login")
	h.b.Click("text=Log in with inner")
	h.b.Shows("/login/with/inner", "does not answer")

	h.login("/account")
	h.b.Shows("/account", "None is linked.")
	h.b.Click("text=Link Corp")
	h.agree()
	p := h.b.Shows("/account", "The provider is linked.")
	if !strings.Contains(p.Text, "test-user@zitadel.ch") {
		t.Errorf("the account's page does not name the identity:\n%s", p.Text)
	}
	for _, w := range p.Wrong {
		if !strings.HasPrefix(w, "Failed to load resource") { // which is what it says of every refusal above
			t.Errorf("the browser complains: %s", w)
		}
	}
	for _, c := range p.Cookies {
		if strings.HasPrefix(c.Name, "__Host-") && (!c.HTTPOnly || !c.Secure || c.SameSite != "Lax" || strings.Count(c.Value, ".") == 2) {
			t.Errorf("cookie %+v", c)
		}
	}

	// Another browser, without a password.
	h.b.Do("fresh")
	h.b.Open(h.pages + "/account")
	h.b.Click("text=Log in with Corp")
	h.agree()
	h.b.Shows("/account", "test-user@zitadel.ch")
	if p := h.b.Do("state"); !strings.Contains(p.Text, h.Admin.Username) {
		t.Errorf("signed in as somebody else:\n%s", p.Text)
	}

	// Asked to prove it once more, the provider does; the session that this opens takes the place of the former.
	h.b.Open(h.pages + "/confirm?next=/account")
	h.b.Shows("/confirm", "prove once more")
	h.b.Click("text=Confirm with Corp")
	h.agree()
	if p := h.b.Shows("/account", "test-user@zitadel.ch"); strings.Count(p.Text, "this one") != 1 || strings.Count(p.Text, "End\n") > 1 {
		t.Errorf("the sessions:\n%s", p.Text)
	}
	h.b.Click("text=Link Corp") // which needs a fresh login
	h.agree()
	h.b.Shows("/account", "The provider is linked.")

	// Login CSRF: a browser that did not begin the sign-in cannot be made to finish it, with a good code and state.
	h.b.Do("fresh")
	h.b.Open(h.pages + "/login")
	h.b.Click("text=Log in with Corp")
	h.b.Shows(h.issuer, "Username")
	stolen := h.codeOf(h.b.Do("state").URL)
	h.b.Do("fresh")
	h.b.Open(stolen)
	h.b.Shows("/login/callback/corp", "not begun in this browser")
	h.b.Open(h.pages + "/account")
	h.b.Shows("/login", "Log in with Corp")

	h.login("/account")
	h.b.Click("button.unlink")
	h.b.Shows("/account", "The provider is unlinked.")
	h.b.Do("fresh")
	h.b.Open(h.pages + "/login")
	h.b.Click("text=Log in with Corp")
	h.agree()
	h.b.Shows("/login/callback/corp", "nobody here is known as")
	if log := h.Log(); strings.Contains(log, "a secret between two") || strings.Contains(log, h.Admin.Password) || strings.Contains(log, "eyJ") {
		t.Error("a secret is in the server's log")
	}
}

// codeOf logs in at the provider as an attacker would with a browser that does not follow the last step, and gives that step's
// address.
func (h *harbour) codeOf(login string) string {
	h.Helper()
	_, id, _ := strings.Cut(login, "authRequestID=")
	jar := filepath.Join(h.TempDir(), "jar")
	curl := func(args ...string) string {
		out, err := exec.Command("curl", append([]string{"-s", "-o", "/dev/null", "-w", "%{redirect_url}", "-b", jar, "-c", jar}, args...)...).Output()
		if err != nil {
			h.Fatal(err)
		}
		return string(out)
	}
	next := curl("-d", "id="+id, "-d", "username=test-user@127.0.0.1", "-d", "password=verysecure", h.issuer+"/login/username")
	next = curl(next)
	if !strings.Contains(next, "/login/callback/corp?") || !strings.Contains(next, "code=") {
		h.Fatalf("the provider leads to %q", next)
	}
	return next
}

// command runs a command line whose browser is ours, and gives the address that it opens.
func (h *harbour) command(home, program string, args ...string) (opened string, output func() (string, error)) {
	h.Helper()
	stub := filepath.Join(home, "bin")
	if err := os.MkdirAll(stub, 0o755); err != nil {
		h.Fatal(err)
	}
	file := filepath.Join(home, "opened")
	script := "#!/bin/sh\nprintf '%s' \"$1\" >" + file + ".new && mv " + file + ".new " + file + "\n"
	if err := os.WriteFile(filepath.Join(stub, "xdg-open"), []byte(script), 0o755); err != nil {
		h.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(h.Context(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, "config"), "PATH="+stub+":"+os.Getenv("PATH"),
		"BROWSER="+filepath.Join(stub, "xdg-open"), "BALENARC_DATA_DIRECTORY="+filepath.Join(home, "balena"),
		"BALENARC_NO_ANALYTICS=1", "BALENARC_NO_SENTRY=1", "BALENARC_UNSUPPORTED=1", "ROADSTEAD_TOKEN=")
	for k, v := range h.Env() {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	said := &shared{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		h.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	h.Cleanup(cancel)
	wait := sync.OnceValues(func() (string, error) { err := <-ended; return said.String(), err })
	if strings.Contains(strings.Join(args, " "), "--web") {
		fleettest.Eventually(h.T, 60*time.Second, func() error {
			data, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("no browser was opened: %w\n%s", err, said)
			}
			opened = string(data)
			return nil
		})
	} else {
		fleettest.Eventually(h.T, 60*time.Second, func() error {
			if opened = regexp.MustCompile(`[B-Z]{4}-[B-Z]{4}`).FindString(said.String()); opened == "" {
				return fmt.Errorf("no code is shown:\n%s", said)
			}
			return nil
		})
	}
	return opened, wait
}

// shared is output that is read while it is written.
type shared struct {
	mu  sync.Mutex // covers buf
	buf bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// Both command lines log in through the browser, and ours with a code.
func TestLoginThroughTheBrowser(t *testing.T) {
	balena := os.Getenv("ROADSTEAD_BALENA_CLI")
	if balena == "" {
		t.Skip("ROADSTEAD_BALENA_CLI names no balena CLI; make test installs it")
	}
	h := newHarbour(t)
	roadstead := fleettest.Program(t, "roadstead")
	for _, tt := range []struct{ name, program, done string }{
		{"balena", balena, "Successfully logged in"}, {"roadstead", roadstead, "Logged in to"},
	} {
		t.Run(tt.name+" login --web", func(t *testing.T) {
			home := t.TempDir()
			address, wait := h.command(home, tt.program, "login", "--web")
			if !strings.HasPrefix(address, h.pages+"/login/cli/http%253A%252F%252F127.0.0.1%253A") {
				t.Fatalf("the browser is sent to %s", address)
			}
			h.b.Do("fresh")
			h.b.Open(address)
			h.password()
			h.b.Shows("/login/cli/", "wants to act as "+h.Admin.Username)
			h.b.Click("#authorize")
			h.b.Shows("http://127.0.0.1:", "")
			out, err := wait()
			if err != nil || !strings.Contains(out, tt.done) {
				t.Fatalf("%v:\n%s", err, out)
			}
			if p := h.b.Do("state"); strings.Contains(p.URL, "eyJ") {
				t.Errorf("the token is in the address: %s", p.URL)
			}
		})
	}
	t.Run("roadstead login --device", func(t *testing.T) {
		code, wait := h.command(t.TempDir(), roadstead, "login", "--device")
		h.b.Do("fresh")
		h.login("/device")
		h.b.Shows("/device", "The code that the program shows")
		h.b.Fill("input[name=code]", strings.ToLower(strings.ReplaceAll(code, "-", "")))
		h.b.Click("text=Go on")
		h.b.Shows("/device", "127.0.0.1")
		h.b.Click("button[value=approve]")
		h.b.Shows("/device", "signed in as you")
		if out, err := wait(); err != nil || !strings.Contains(out, "Logged in to") {
			t.Fatalf("%v:\n%s", err, out)
		}
	})
	t.Run("denied", func(t *testing.T) {
		code, wait := h.command(t.TempDir(), roadstead, "login", "--device")
		h.b.Open(h.pages + "/device?code=" + code)
		h.b.Click("button[value=deny]")
		h.b.Shows("/device", "not let in")
		if out, err := wait(); err == nil || !strings.Contains(out, "not approved") {
			t.Fatalf("%v:\n%s", err, out)
		}
	})
}
