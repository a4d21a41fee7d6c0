package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/web"
)

// roleSuffix makes a host name of a role's name, so that the standard library's own name check is the one that tells one
// role from another. The name exists in no DNS.
const roleSuffix = ".role.roadstead.internal"

func roleName(role string) string { return role + roleSuffix }

// Identity is what a role proves itself with, and what it knows others by.
type Identity struct {
	pool *x509.CertPool
	leaf *KeyPair
}

// CheckConfig refuses the configuration of a role that does not say where the role's files are, what the server is called, or where the other
// roles are that it needs.
func CheckConfig(dir string, site api.Site, peers map[string]string, needs ...string) error {
	switch {
	case dir == "":
		return errors.New("dir: is empty")
	case site.Domain == "":
		return errors.New("site.domain: is empty")
	}
	for _, role := range needs {
		if peers[role] == "" {
			return fmt.Errorf("peers.%s: is empty", role)
		}
	}
	return nil
}

// LoadIdentity reads cert.pem, key.pem and ca.pem from a role's directory. The parent renews them in place; connections made
// after that use the new ones.
func LoadIdentity(dir string) (*Identity, error) {
	roots, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(roots) {
		return nil, fmt.Errorf("identity: %s holds no certificate", filepath.Join(dir, "ca.pem"))
	}
	leaf, err := LoadKeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return &Identity{pool: pool, leaf: leaf}, nil
}

// ServerTLS is how a role listens: TLS 1.3, and only for callers that this server's internal authority knows. Which caller may
// do what, the handlers decide by [PeerRole].
func (id *Identity) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs:  id.pool,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return id.leaf.Get(), nil
		},
	}
}

// Client makes the way to one role. It accepts only a server that proves to be that role, whoever else listens at the address.
// HTTP/1.1 on purpose: on loopback it costs less than HTTP/2, and one stalled body never holds up another.
func (id *Identity) Client(role, addr string) *Peer {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	tr := &http.Transport{
		DialContext: dialer.DialContext,
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS13,
			RootCAs:            id.pool,
			ServerName:         roleName(role),
			NextProtos:         []string{"http/1.1"},
			ClientSessionCache: tls.NewLRUClientSessionCache(8),
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return id.leaf.Get(), nil
			},
		},
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // bodies pass through as they are
		ReadBufferSize:        16 << 10,
		WriteBufferSize:       16 << 10,
	}
	return &Peer{URL: "https://" + addr, HTTP: &http.Client{
		Transport:     web.Propagate{Next: tr},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Peer is another role as this one reaches it. It has no timeout of its own: the request's context bounds a call.
type Peer struct {
	URL  string // "https://ADDR", without a slash at the end
	HTTP *http.Client
}

// PeerRole is the role that the caller proved with its certificate, "" when it proved none.
func PeerRole(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return ""
	}
	for _, name := range r.TLS.VerifiedChains[0][0].DNSNames {
		if role, ok := strings.CutSuffix(name, roleSuffix); ok {
			return role
		}
	}
	return ""
}

// KeyPair is a certificate in two files that somebody else renews. The files are looked at again at most once a minute, and
// only when a handshake asks.
type KeyPair struct {
	certFile, keyFile string

	mu      sync.Mutex // covers what follows
	cert    *tls.Certificate
	changed time.Time // of the certificate file, when it was read
	checked time.Time
}

// LoadKeyPair reads both files.
func LoadKeyPair(certFile, keyFile string) (*KeyPair, error) {
	k := &KeyPair{certFile: certFile, keyFile: keyFile}
	if err := k.load(time.Now()); err != nil {
		return nil, err
	}
	return k, nil
}

// Get is the pair as it is now. A renewal that cannot be read leaves the old one in use.
func (k *KeyPair) Get() *tls.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := time.Now(); now.Sub(k.checked) > time.Minute {
		_ = k.load(now) // keep the old pair: it is still good for a third of its life
	}
	return k.cert
}

func (k *KeyPair) load(now time.Time) error {
	k.checked = now
	info, err := os.Stat(k.certFile)
	if err != nil {
		return err
	}
	if k.cert != nil && info.ModTime().Equal(k.changed) {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(k.certFile, k.keyFile)
	if err != nil {
		return fmt.Errorf("%s: %w", k.certFile, err)
	}
	k.cert, k.changed = &pair, info.ModTime()
	return nil
}

// SaveIdentity writes a role's files: the key before the certificate, so that a crash in between is seen as "not good" and
// repaired by the next start.
func SaveIdentity(dir string, leaf Leaf, ca []byte) error {
	for _, f := range []struct {
		name string
		data []byte
	}{{"ca.pem", ca}, {"key.pem", leaf.Key}, {"cert.pem", leaf.Cert}} {
		if err := durable.WriteFile(filepath.Join(dir, f.name), f.data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// NewTestIdentities makes DIR/<role>/{cert,key,ca}.pem of one throw-away authority, for tests that need real roles.
func NewTestIdentities(dir string, roles ...string) error {
	ca, err := NewAuthority("Roadstead test authority")
	if err != nil {
		return err
	}
	for _, role := range roles {
		leaf, err := ca.IssueRole(role)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, role), 0o700); err != nil {
			return err
		}
		if err := SaveIdentity(filepath.Join(dir, role), leaf, ca.PEM()); err != nil {
			return err
		}
	}
	return nil
}
