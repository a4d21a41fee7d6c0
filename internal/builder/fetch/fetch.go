// Package fetch is the one way in which something from elsewhere gets into a base image. What it gives was checked: against a
// SHA-256 that is known beforehand, or against an OpenPGP signature by a key that is named by its whole fingerprint. Nothing that
// could not be checked is left on the disk, and there is no way to switch the check off.
package fetch

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/egress"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

const (
	// MaxSize bounds any one resource.
	MaxSize    = 1 << 30
	clockSkew  = 24 * time.Hour // by which another's clock may be ahead
	redirects  = 5
	concurrent = 4
	// defaultTimeout bounds one download, so that a server that sends a byte a minute does not hold a build for ever.
	defaultTimeout = 20 * time.Minute
)

// Config says where to keep what was fetched and whom to reach.
type Config struct {
	// Cache is a directory that keeps what was fetched, by its digest; what lies there is checked again when it is used.
	Cache string
	// Allow names hosts that may be reached although their address is not public, as package egress understands it.
	Allow []string
	// Roots are the authorities to trust for TLS; nil means the system's.
	Roots *x509.CertPool
	// Timeout bounds one download; 0 means 20 minutes.
	Timeout time.Duration
	// Now is the time by which keys and files are judged; nil means the clock's.
	Now func() time.Time
}

// Fetcher fetches and checks.
type Fetcher struct {
	cfg Config
	out *egress.Client
}

// New makes a fetcher.
func New(cfg Config) (*Fetcher, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.MkdirAll(cfg.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	out, err := egress.New(egress.Config{Allow: cfg.Allow, Redirects: redirects, Timeout: cfg.Timeout, MaxBody: MaxSize + 1,
		Concurrent: concurrent, Roots: cfg.Roots})
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	return &Fetcher{cfg: cfg, out: out}, nil
}

// Close lets kept connections go.
func (f *Fetcher) Close() { f.out.Close() }

// Now is the time by which the fetcher judges.
func (f *Fetcher) Now() time.Time { return f.cfg.Now() }

// Locked is a resource whose digest is known.
type Locked struct {
	Name   string   // for people
	URLs   []string // where it may be; tried in order
	SHA256 string
	Size   int64
}

var digestForm = pattern.New(`^[0-9a-f]{64}$`)

// CheckSHA256 refuses what is no SHA-256.
func CheckSHA256(s string) error {
	switch {
	case digestForm.MatchString(s):
		return nil
	case s == "":
		return api.Errorf(api.Invalid, "the SHA-256 is missing")
	case len(s) == 32 || len(s) == 40:
		return api.Errorf(api.Invalid, "%q is no SHA-256 (MD5 and SHA-1 prove nothing)", s)
	}
	return api.Errorf(api.Invalid, "%q is no SHA-256: 64 lower-case hexadecimal digits", s)
}

// Validate names what is wrong with a resource.
func (l Locked) Validate() error {
	if err := CheckSHA256(l.SHA256); err != nil {
		return fmt.Errorf("%s: %w", l.Name, err)
	}
	if l.Size <= 0 || l.Size > MaxSize {
		return api.Errorf(api.Invalid, "%s: size: must be from 1 to %d bytes, not %d", l.Name, MaxSize, l.Size)
	}
	return nil
}

// File gives a file with the resource.
func (f *Fetcher) File(ctx context.Context, l Locked) (string, error) {
	if err := l.Validate(); err != nil {
		return "", err
	}
	file := filepath.Join(f.cfg.Cache, l.SHA256)
	if holds(file, l) {
		return file, nil
	}
	var all error
	for _, address := range l.URLs {
		err := f.download(ctx, l.Name, address, file, l.Size, func(sum string, size int64) error {
			if size != l.Size {
				return api.Errorf(api.Invalid, "%s has %d bytes, but the lock file says %d", l.Name, size, l.Size)
			}
			if sum != l.SHA256 {
				return api.Errorf(api.Invalid, "%s has SHA-256 %s, but the lock file says %s", l.Name, sum, l.SHA256)
			}
			return nil
		})
		if err == nil {
			return file, nil
		}
		all = errors.Join(all, fmt.Errorf("fetch %s from %s: %w", l.Name, address, err))
		if ctx.Err() != nil {
			break
		}
	}
	if all == nil {
		all = api.Errorf(api.Invalid, "%s: nothing says where it is", l.Name)
	}
	return "", all
}

// holds reports whether the cache has a resource, whole and unchanged. Anything else there is removed.
func holds(file string, l Locked) bool {
	r, err := os.Open(file)
	if err != nil {
		return false
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(r, l.Size+1))
	if err == nil && n == l.Size && hex.EncodeToString(h.Sum(nil)) == l.SHA256 {
		return true
	}
	_ = os.Remove(file)
	return false
}

// Text fetches a file that is not checked yet, into memory. It is for this package and for what checks it next: see [Keyring].
func (f *Fetcher) Text(ctx context.Context, name, address string, limit int64) ([]byte, error) {
	body, err := f.get(ctx, name, address)
	if err != nil {
		return nil, fmt.Errorf("fetch %s from %s: %w", name, address, err)
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("fetch %s from %s: %w", name, address, cut(name, err))
	}
	if int64(len(text)) > limit {
		return nil, api.Errorf(api.TooLarge, "fetch %s from %s: it is larger than %d bytes", name, address, limit)
	}
	return text, nil
}

// Signed is a resource that is known by who signed it.
type Signed struct {
	Name      string
	URL       string
	Signature string   // where the detached signature is
	By        []string // fingerprints; one of them must have signed
}

// Signed fetches a resource with a detached signature and gives what the next fetch needs to know of it.
func (f *Fetcher) Signed(ctx context.Context, ring *Keyring, s Signed) (l Locked, signer string, err error) {
	signature, err := f.Text(ctx, s.Name+" (signature)", s.Signature, maxSignature)
	if err != nil {
		return l, "", err
	}
	// Under a name of its own until it is known to be good.
	tmp, err := os.CreateTemp(f.cfg.Cache, ".signed-")
	if err != nil {
		return l, "", fmt.Errorf("fetch %s: %w", s.Name, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	if err := tmp.Close(); err != nil {
		return l, "", fmt.Errorf("fetch %s: %w", s.Name, err)
	}
	l = Locked{Name: s.Name, URLs: []string{s.URL}}
	err = f.download(ctx, s.Name, s.URL, tmp.Name(), MaxSize, func(sum string, size int64) error {
		l.SHA256, l.Size = sum, size
		return nil
	})
	if err != nil {
		return Locked{}, "", fmt.Errorf("fetch %s from %s: %w", s.Name, s.URL, err)
	}
	r, err := os.Open(tmp.Name())
	if err != nil {
		return Locked{}, "", fmt.Errorf("fetch %s: %w", s.Name, err)
	}
	defer r.Close()
	if signer, err = ring.Verify(s.Name, r, signature, s.By, f.Now()); err != nil {
		return Locked{}, "", err
	}
	return l, signer, os.Rename(tmp.Name(), filepath.Join(f.cfg.Cache, l.SHA256))
}

// download writes an answer to a file that appears there only when good says so of its digest and size.
func (f *Fetcher) download(ctx context.Context, name, address, file string, limit int64, good func(sum string, size int64) error) error {
	body, err := f.get(ctx, name, address)
	if err != nil {
		return err
	}
	defer body.Close()
	tmp, err := os.CreateTemp(f.cfg.Cache, ".part-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, h), io.LimitReader(body, limit+1))
	if err := errors.Join(cut(name, err), tmp.Close()); err != nil {
		return err
	}
	if n > limit {
		return api.Errorf(api.TooLarge, "%s is larger than %d bytes", name, limit)
	}
	if err := good(hex.EncodeToString(h.Sum(nil)), n); err != nil {
		return err
	}
	if err := os.Chmod(tmp.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

func cut(name string, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return api.Errorf(api.Unavailable, "%s was cut off", name)
	}
	return err
}

func (f *Fetcher) get(ctx context.Context, name, address string) (io.ReadCloser, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, api.Errorf(api.Invalid, "%q is no address", address)
	}
	if u.Scheme != "https" {
		return nil, api.Errorf(api.Invalid, "only https is used, not %q", u.Scheme)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity") // the digest is of what lies there
	res, err := f.out.HTTP().Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		_ = res.Body.Close()
		code := api.Unavailable
		if res.StatusCode == http.StatusNotFound {
			code = api.NotFound
		}
		return nil, api.Errorf(code, "%s: the server answered %s", name, strings.ToLower(res.Status))
	}
	return res.Body, nil
}

// Tidy removes from the cache what was fetched longer ago than age.
func (f *Fetcher) Tidy(age time.Duration) error {
	entries, err := os.ReadDir(f.cfg.Cache)
	if err != nil {
		return fmt.Errorf("tidy what was fetched: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || f.Now().Sub(info.ModTime()) < age {
			continue
		}
		if err := os.Remove(filepath.Join(f.cfg.Cache, e.Name())); err != nil {
			return fmt.Errorf("tidy what was fetched: %w", err)
		}
	}
	return nil
}
