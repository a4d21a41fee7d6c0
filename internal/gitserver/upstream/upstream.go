// Package upstream is the way to a repository elsewhere for a git that has no network: git speaks its own protocol over a socket that it
// was born with, and what is at the other end goes where it was told, over HTTPS or SSH, by the rules of package egress. git itself can
// neither connect nor follow a redirect, and holds no credentials.
package upstream

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/egress"
)

// Config says how far out it goes.
type Config struct {
	Allow    []string       // see [egress.Config]
	Roots    *x509.CertPool // nil: the system's
	Resolver *net.Resolver  // nil: the system's
	MaxBytes int64          // of what one fetch may bring
	// Patience is how long a host may send nothing when it is its turn. 0 means a minute. Over SSH it cannot be told whose turn it is,
	// and git may be at work: there it is five times as long.
	Patience time.Duration
}

// concurrent bounds requests; how many fetches there are is bounded elsewhere.
const concurrent = 64

// Ways leads to repositories.
type Ways struct {
	cfg    Config
	egress *egress.Client
	http   *http.Client
}

// New makes it. An entry of Allow that is neither prefix, address nor host name is an error.
func New(cfg Config) (*Ways, error) {
	if cfg.Patience == 0 {
		cfg.Patience = time.Minute
	}
	c, err := egress.New(egress.Config{
		Allow: cfg.Allow, Roots: cfg.Roots, Resolver: cfg.Resolver, Timeout: cfg.Patience, MaxBody: cfg.MaxBytes, Concurrent: concurrent,
	})
	if err != nil {
		return nil, err
	}
	w := &Ways{cfg: cfg, egress: c}
	// The client is the guarded one but for its time limit, which the context of a fetch gives, and redirects, which we judge ourselves.
	h := *c.HTTP()
	h.Timeout = 0
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	w.http = &h
	return w, nil
}

// Close lets kept connections go.
func (w *Ways) Close() { w.egress.Close() }

// Remote is a repository.
type Remote struct {
	URL      string // https://… or ssh://…
	Username string
	Password string
	Key      string // of ssh: the private half of the deploy key, PEM
	HostKey  string // of ssh: in the form of authorized_keys
}

// Serve connects the git at the other end of a socket to a repository, until one of both is done. An error says in words for people why it
// did not get there, or what was wrong there; it is api.Unavailable where it may be different in a moment.
func (w *Ways) Serve(ctx context.Context, r Remote, git net.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = git.Close() })
	defer stop()
	u, err := url.Parse(r.URL)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	switch u.Scheme {
	case "https":
		err = w.https(ctx, u, r, git)
	case "ssh":
		err = w.ssh(ctx, u, r, git)
	default:
		err = api.Errorf(api.Invalid, "A repository is fetched from https://… or ssh://…, and from nothing else.")
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// reached words why a host was not reached.
func reached(host string, err error) error {
	var unknown *net.DNSError
	var untrusted x509.UnknownAuthorityError
	var wrong x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.Is(err, egress.ErrAddress):
		return api.Errorf(api.Invalid, "%s is not at a public address. The operator of this server can allow it with --source-allow.", host)
	case errors.Is(err, egress.ErrTooLarge):
		return errLarge
	case errors.As(err, &unknown) && unknown.IsNotFound:
		return api.Errorf(api.Invalid, "There is no host %s.", host)
	case errors.As(err, &untrusted), errors.As(err, &wrong), errors.As(err, &invalid):
		return api.Errorf(api.Invalid, "The certificate of %s is not accepted: %v. The operator of this server can name an authority with --source-ca.", host, err)
	}
	var where *url.Error
	if errors.As(err, &where) {
		err = where.Err
	}
	return api.Errorf(api.Unavailable, "%s could not be reached: %v", host, err)
}

var errLarge = api.Errorf(api.TooLarge, "The repository sends more than is taken in one fetch.")

// watched gives a context that ends when nobody has called alive for so long.
func watched(ctx context.Context, host string, patience time.Duration) (inner context.Context, alive, stop func()) {
	inner, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(patience, func() {
		cancel(api.Errorf(api.Unavailable, "%s has sent nothing for %s.", host, patience))
	})
	return inner, func() { timer.Reset(patience) }, func() { timer.Stop(); cancel(nil) }
}

// counted passes on what a host sends, as far as it may.
type counted struct {
	w    io.Writer
	left int64
	over bool
	stop func() error // of a sender that goes on otherwise; may be nil

	alive func() // it sent something; may be nil
}

func (c *counted) Write(p []byte) (int, error) {
	if c.alive != nil {
		c.alive()
	}
	if c.left -= int64(len(p)); c.left < 0 {
		c.over = true
		if c.stop != nil {
			_ = c.stop()
		}
		return 0, errLarge
	}
	return c.w.Write(p)
}

// words is what a host or its git said, for people to read: the beginning of it, on one line.
func words(text []byte) string {
	text = bytes.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return ' '
		}
		return r
	}, text[:min(len(text), 500)])
	return string(bytes.TrimSpace(text))
}
