package fleettest_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// forge is a git server over TLS, with one project.
type forge struct {
	t    *testing.T
	url  string
	dir  string // the project
	ca   string // file
	auth string // the token that it asks for
}

func newForge(t *testing.T) *forge {
	t.Helper()
	home := t.TempDir()
	f := &forge{t: t, dir: filepath.Join(home, "project"), ca: filepath.Join(home, "ca.pem"), auth: "a-token-to-read"}
	backend := &cgi.Handler{Path: "/usr/lib/git-core/git-http-backend", Env: []string{"GIT_PROJECT_ROOT=" + home, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != f.auth {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	f.url = srv.URL + "/project/.git"
	if err := os.WriteFile(f.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(f.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f.git("init", "-q", "-b", "main")
	return f
}

func (f *forge) git(args ...string) string {
	f.t.Helper()
	cmd := exec.CommandContext(f.t.Context(), "git", args...)
	cmd.Dir = f.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + f.dir, "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit commits a Dockerfile, and gives the commit.
func (f *forge) commit(dockerfile string) string {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.git("add", "Dockerfile")
	f.git("commit", "-q", "-m", "x")
	return f.git("rev-parse", "HEAD")
}

// command runs our command line as the administrator.
func command(t *testing.T, srv *fleettest.Server, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), fleettest.Program(t, "roadstead"), args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "ROADSTEAD_TOKEN="+srv.Admin.APIKey, "XDG_CONFIG_HOME=")
	for k, v := range srv.Env() {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Stdin = strings.NewReader(stdin)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("roadstead %s: %v: %s%s", strings.Join(args, " "), err, out, said.String())
	}
	return string(out)
}

// From a push elsewhere to a release here: with the real programs, through the public door, and through the server's death.
func TestAWebhookBuilds(t *testing.T) {
	f := newForge(t)
	srv := fleettest.NewServerWith(t, fleettest.Options{Builds: true, Args: []string{"--source-allow", "127.0.0.1", "--source-ca", f.ca}})
	c := srv.Client()
	slug, fleet := newFleet(t, c, "hooked")
	cli := func(stdin string, args ...string) string {
		t.Helper()
		return command(t, srv, stdin, args...)
	}
	pool := x509.NewCertPool()
	if text, err := os.ReadFile(srv.CA); err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatalf("the server's authority: %v", err)
	}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	t.Cleanup(web.CloseIdleConnections)
	var made api.BuildSourceSecret
	if err := json.Unmarshal([]byte(cli(f.auth+"\n", "fleet", "source", "add", slug, f.url, "--form", "gitea", "--password-file", "-", "-o", "json")), &made); err != nil {
		t.Fatal(err)
	}
	hook := func(guid, commit string) int64 {
		t.Helper()
		body := fmt.Sprintf(`{"ref":"refs/heads/main","after":%q,"head_commit":{"id":%q}}`, commit, commit)
		m := hmac.New(sha256.New, []byte(made.Secret))
		m.Write([]byte(body))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, made.Webhook, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Gitea-Event", "push")
		req.Header.Set("X-Gitea-Delivery", guid)
		req.Header.Set("X-Gitea-Signature", hex.EncodeToString(m.Sum(nil)))
		res, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		text, err := io.ReadAll(res.Body)
		var told struct{ Delivery int64 }
		if err != nil || res.StatusCode != http.StatusAccepted || json.Unmarshal(text, &told) != nil || told.Delivery == 0 {
			t.Fatalf("the webhook answered %d: %s", res.StatusCode, text)
		}
		return told.Delivery
	}
	ended := func(id int64) (found api.Delivery) {
		t.Helper()
		fleettest.Eventually(t, 2*time.Minute, func() error {
			var list []api.Delivery
			if err := c.Do(t.Context(), "GET", fmt.Sprintf("/build-source/v1/%d/deliveries", made.ID), nil, &list); err != nil {
				return err
			}
			for _, d := range list {
				if d.ID == id && d.EndedAt != nil {
					found = d
					return nil
				}
			}
			return fmt.Errorf("deliveries: %+v", list)
		})
		return found
	}

	first := f.commit("FROM base/busybox\nRUN echo the first\n")
	f.commit("FROM base/busybox\nRUN false\n") // what is pushed by the time that it is fetched is not what is built
	d := ended(hook("one", first))
	if d.State != api.DeliveryBuilt || d.Commit != first || d.Release == 0 {
		t.Fatalf("the first delivery: %+v", d)
	}
	proof := cli("", "release", "show", fmt.Sprint(d.Release), "--provenance")
	if !strings.Contains(proof, "git+"+f.url+"@refs/heads/main "+first) {
		t.Errorf("where the release comes from: %s", proof)
	}

	// The server dies between its answer and the build.
	second := f.commit("FROM base/busybox\nRUN echo the second\n")
	st, err := supervise.Ask(t.Context(), supervise.Layout(srv.Dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range st.Roles {
		if r.Role == api.RoleGit {
			if err := syscall.Kill(r.PID, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
	}
	id := hook("two", second)
	srv.Kill()
	srv.Start()
	if d := ended(id); d.State != api.DeliveryBuilt || d.Commit != second {
		t.Errorf("the delivery before the server died: %+v", d)
	}
	if again := hook("two", second); again != id {
		t.Errorf("the same delivery again is %d, not %d", again, id)
	}
	if got := releases(t, c, fleet); len(got) != 2 || got[0] != api.StatusSuccess || got[1] != api.StatusSuccess {
		t.Errorf("releases: %v, want two", got)
	}

	// By hand, and a build that fails.
	third := f.commit("FROM base/busybox\nRUN echo the third\n")
	var asked api.Delivery
	if err := json.Unmarshal([]byte(cli("", "fleet", "source", "build", fmt.Sprint(made.ID), "--wait", "-o", "json")), &asked); err != nil || asked.State != api.DeliveryBuilt || asked.Commit != third {
		t.Errorf("by hand: %+v, %v", asked, err)
	}
	if d := ended(hook("three", f.commit("FROM base/busybox\nRUN echo on purpose; false\n"))); d.State != api.DeliveryFailed || !strings.Contains(d.Reason, "exit code: 1") {
		t.Errorf("a build that fails: %+v", d)
	}
	if list := cli("", "fleet", "source", "deliveries", fmt.Sprint(made.ID)); !strings.Contains(list, "asked") || !strings.Contains(list, "exit code: 1") {
		t.Errorf("the list: %s", list)
	}
	if log := srv.Log(); strings.Contains(log, f.auth) || strings.Contains(log, made.Secret) {
		t.Error("a secret is in the log")
	}
}
