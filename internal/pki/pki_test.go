package pki_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/roadstead-io/roadstead/internal/pki"
)

func serve(t *testing.T, id *pki.Identity) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, pki.PeerRole(r))
		}),
		ErrorLog: log.New(io.Discard, "", 0),
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(tls.NewListener(ln, id.ServerTLS())) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return ln.Addr().String()
}

func identity(t *testing.T, dir string) *pki.Identity {
	t.Helper()
	id, err := pki.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func get(p *pki.Peer) (string, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, p.URL+"/healthz", nil)
	if err != nil {
		return "", err
	}
	res, err := p.HTTP.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

func TestOnlyTheNamedRoleOfTheSameServerTalks(t *testing.T) {
	home, strange := t.TempDir(), t.TempDir()
	if err := pki.NewTestIdentities(home, "api", "edge", "builder"); err != nil {
		t.Fatal(err)
	}
	if err := pki.NewTestIdentities(strange, "api", "edge"); err != nil {
		t.Fatal(err)
	}
	addr := serve(t, identity(t, filepath.Join(home, "api")))
	edge := identity(t, filepath.Join(home, "edge"))

	if got, err := get(edge.Client("api", addr)); err != nil || got != "edge" {
		t.Errorf("edge → api: %q, %v; want the server to know its caller as edge", got, err)
	}
	if got, err := get(edge.Client("signer", addr)); err == nil {
		t.Errorf("a client that wants the signer talked to the api role: %q", got)
	}
	if got, err := get(identity(t, filepath.Join(strange, "edge")).Client("api", addr)); err == nil {
		t.Errorf("a role of another server was let in: %q", got)
	}
	insecure := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the attacker does not care
	for name, cfg := range map[string]*tls.Config{
		"no certificate": insecure,
		"TLS 1.2":        {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}, //nolint:gosec // as above
	} {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
		if res, err := c.Get("https://" + addr + "/"); err == nil {
			_ = res.Body.Close()
			t.Errorf("%s: answered %s", name, res.Status)
		}
	}
	res, err := http.Get("http://" + addr + "/")
	if err == nil {
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP: %s", res.Status)
		}
	}
}

func TestAClientIdentityCannotServe(t *testing.T) {
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	leaf, err := ca.IssueClient("api")
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.SaveIdentity(dir, leaf, ca.PEM()); err != nil {
		t.Fatal(err)
	}
	id := identity(t, dir)
	if got, err := get(id.Client("api", serve(t, id))); err == nil {
		t.Errorf("a client-only certificate served: %q", got)
	}
}

func TestAuthoritySurvivesTheDiskAndIsHeldToItsDomain(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	made, err := pki.NewAuthority("test", "roadstead.test")
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Save(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v; want 0600", info, err)
	}
	ca, err := pki.LoadAuthority(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM())
	for _, c := range []struct {
		name string
		good bool
	}{{"api.roadstead.test", true}, {"example.com", false}} {
		leaf, err := ca.IssueServer(c.name)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(leaf.Cert, leaf.Key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: c.name})
		if (err == nil) != c.good {
			t.Errorf("Verify(%s): %v, want good %v", c.name, err, c.good)
		}
		file := filepath.Join(dir, fmt.Sprintf("%s.pem", c.name))
		if err := os.WriteFile(file, leaf.Cert, 0o600); err != nil {
			t.Fatal(err)
		}
		if !ca.Good(file, c.name) || ca.Good(file, "other.roadstead.test") || ca.Good(file+".none", c.name) {
			t.Errorf("Good(%s) does not tell a good certificate from another", c.name)
		}
	}
	other, err := pki.NewAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Save(filepath.Join(dir, "o.pem"), filepath.Join(dir, "o.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.LoadAuthority(certFile, filepath.Join(dir, "o.key")); err == nil {
		t.Error("LoadAuthority took a key of another certificate")
	}
}

func TestLoadIdentityNamesWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	if _, err := pki.LoadIdentity(dir); err == nil {
		t.Error("LoadIdentity of an empty directory: no error")
	}
	if err := pki.NewTestIdentities(dir, "api"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.pem", "key.pem", "cert.pem"} {
		if err := os.WriteFile(filepath.Join(dir, "api", name), []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.LoadIdentity(filepath.Join(dir, "api")); err == nil {
			t.Errorf("LoadIdentity with a broken %s: no error", name)
		}
	}
}
