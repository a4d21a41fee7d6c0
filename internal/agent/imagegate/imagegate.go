// Package imagegate lets the container engine pull through the agent, which checks what passes: only manifests that the caller names, and what those
// name, each of the right size and digest. A body that is wrong is cut off before its end, so that the engine never completes it.
//
// The gate listens on a loopback address while something is pulled, asks for a password that is good for that image while it is pulled, and fetches with the device's
// key over the agent's own TLS. The engine knows the images by names at that address; package engine translates them.
package imagegate

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/clock"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Config is what a gate needs to know.
type Config struct {
	Address  string                                // where it listens; empty means engine.GateAddress. Where something else listens there: at another port of that host
	Endpoint string                                // of the API: beside the registry itself only it is shown the device's key
	RootCA   []byte                                // PEM; what the registry and the API are trusted by. Empty: what the system trusts
	Proxy    func(*http.Request) (*url.URL, error) // nil: what the environment says
	Dir      string                                // where layers are kept until their image is whole, so that a cut costs little; empty: nowhere
	Clock    *clock.Clock                          // what certificates are judged by; nil: the machine's own
	Log      *slog.Logger
	// Taken hears that something else listens at Address, and where the gate is instead. Nil: the log alone hears it.
	Taken func(address, instead string)
}

// Puller is the engine.
type Puller interface {
	Pull(ctx context.Context, ref string, auth engine.Auth, progress func(percent int)) error
}

// Pull is one image to pull.
type Pull struct {
	Ref     string             // host/name@sha256:…
	Service string             // for messages
	Images  []api.ReleaseImage // the manifests that may pass: Ref's own, and those that it leads to
	Auth    engine.Auth        // of the device
}

// Gate is the way of the engine to registries.
type Gate struct {
	cfg     Config
	own     *http.Client // for the registry and the API
	foreign *http.Client // for where they send on to
	spool   spool
	secret  []byte // what passwords are made of

	mu    sync.Mutex // covers what follows, and that only one listens
	pulls map[string]*pull
	at    string // where srv listens, or did last
	taken bool   // something else listened at its address
	srv   *http.Server
	done  chan struct{} // closed when srv's Serve has ended
}

// New makes a gate. Nothing listens yet.
func New(cfg Config) (*Gate, error) {
	if cfg.Address == "" {
		cfg.Address = engine.GateAddress
	}
	if host, _, err := net.SplitHostPort(cfg.Address); err != nil || !net.ParseIP(host).IsLoopback() {
		return nil, fmt.Errorf("the gate's address %q is not a loopback one", cfg.Address)
	}
	if cfg.Proxy == nil {
		cfg.Proxy = http.ProxyFromEnvironment
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gate{cfg: cfg, pulls: map[string]*pull{}, secret: []byte(rand.Text()), spool: spool{dir: cfg.Dir, log: cfg.Log}}
	strict := x509.NewCertPool()
	wide, err := x509.SystemCertPool()
	if err != nil {
		wide = x509.NewCertPool()
	}
	if len(cfg.RootCA) == 0 {
		strict = nil
	} else if !strict.AppendCertsFromPEM(cfg.RootCA) || !wide.AppendCertsFromPEM(cfg.RootCA) {
		return nil, errors.New("the root certificate is not PEM")
	}
	g.own, g.foreign = g.client(strict), g.client(wide)
	return g, nil
}

func (g *Gate) client(roots *x509.CertPool) *http.Client {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 60 * time.Second}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	var through http.RoundTripper = &http.Transport{
		Proxy: g.cfg.Proxy, DialContext: dialer.DialContext, TLSClientConfig: conf,
		TLSHandshakeTimeout: 30 * time.Second, ResponseHeaderTimeout: time.Minute, MaxIdleConns: 4, IdleConnTimeout: 30 * time.Second,
		DisableCompression: true, // sizes and digests are of what is sent
	}
	if g.cfg.Clock != nil {
		conf.Time = g.cfg.Clock.Time
		through = g.cfg.Clock.Watch(through, roots)
	}
	return &http.Client{
		Transport:     through,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Pull lets the engine pull one image. When something is wrong with the image, the error is a *tuf.Refused that names it.
func (g *Gate) Pull(ctx context.Context, e Puller, want Pull, progress func(percent int)) error {
	p, err := g.newPull(want)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.ctx, p.cancel = ctx, cancel
	if err := g.open(ctx, p); err != nil {
		return fmt.Errorf("pull %s: %w", want.Ref, err)
	}
	defer g.close(p)
	err = e.Pull(ctx, p.local, engine.Auth{Username: p.user, Password: p.password}, progress)
	if refused := p.refused(); refused != nil {
		return refused
	}
	if err == nil {
		p.mu.Lock()
		layers := slices.Collect(maps.Keys(p.blobs))
		p.mu.Unlock()
		if len(layers) > 0 {
			g.spool.forget(layers...)
		}
	}
	return err
}

// Forget removes what was kept of layers. It is to be called when nothing is left to pull.
func (g *Gate) Forget() { g.spool.forget() }

// pull is one that goes on.
type pull struct {
	Pull
	host, repo     string // where the image really is
	local          string // what the engine calls it
	path           string // of its repository here, as /v2/…/
	user, password string
	ctx            context.Context // ends with the pull
	cancel         context.CancelCauseFunc
	closed         chan struct{} // closed after it was shut out

	reading sync.Mutex      // held while a manifest is fetched that the engine did not ask for
	learned map[string]bool // of which manifests; covered by reading

	mu      sync.Mutex // covers what follows
	why     *tuf.Refused
	blobs   map[string]int64 // size by digest, of what manifests name that have passed
	token   string           // the registry's; "" before one was asked for
	working sync.WaitGroup   // requests of the engine; added to under mu, never after ended
	ended   bool
}

func (g *Gate) newPull(want Pull) (*pull, error) {
	local, err := engine.LocalRef(g.cfg.Address, want.Ref)
	if err != nil {
		return nil, err
	}
	name, digest, _ := strings.Cut(want.Ref, "@")
	host, repo, _ := strings.Cut(name, "/")
	p := &pull{Pull: want, host: host, repo: repo, local: local, closed: make(chan struct{}), blobs: map[string]int64{}, learned: map[string]bool{}}
	// The same for the same image: after a pull that ended early the engine may still be at it, and goes on with what it was given.
	p.user, p.password = "pull-"+g.word("user", want.Ref), g.word("password", want.Ref)
	_, at, _ := strings.Cut(strings.TrimSuffix(local, "@"+digest), "/")
	p.path = "/v2/" + at + "/"
	for _, image := range want.Images {
		if image.Size < 1 || image.Size > maxManifest {
			return nil, tuf.Refuse("image "+image.Digest+" of service "+want.Service, tuf.ReasonSize, "", fmt.Sprintf("1 to %d bytes", maxManifest), fmt.Sprint(image.Size))
		}
		if !engine.IsDigest(image.Digest) {
			return nil, tuf.Refuse("image of service "+want.Service, tuf.ReasonDigest, "", "sha256:…", image.Digest)
		}
	}
	if _, ok := p.manifest(digest); !ok {
		return nil, tuf.Refuse("image of service "+want.Service, tuf.ReasonDigest, "", "a digest that the release names", digest)
	}
	return p, nil
}

// word makes a word that only this gate can make.
func (g *Gate) word(kind, ref string) string {
	mac := hmac.New(sha256.New, g.secret)
	mac.Write([]byte(kind + " " + ref))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// manifest gives the size of a manifest that may pass.
func (p *pull) manifest(digest string) (int64, bool) {
	for _, image := range p.Images {
		if image.Digest == digest {
			return image.Size, true
		}
	}
	return 0, false
}

// refuse keeps the first reason and ends the pull.
func (p *pull) refuse(r *tuf.Refused) {
	p.mu.Lock()
	if p.why == nil {
		p.why = r
	}
	p.mu.Unlock()
	p.cancel(r)
}

func (p *pull) refused() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why == nil {
		return nil
	}
	return p.why
}

// begin counts a request of the engine in. It fails after the pull has ended.
func (p *pull) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.why != nil {
		return false
	}
	p.working.Add(1)
	return true
}

// open lets a pull in, and begins to listen for the first one. Of one image only one pull goes on at a time.
func (g *Gate) open(ctx context.Context, p *pull) error {
	g.mu.Lock()
	for g.pulls[p.user] != nil {
		other := g.pulls[p.user].closed
		g.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return ctx.Err()
		}
		g.mu.Lock()
	}
	defer g.mu.Unlock()
	if g.srv == nil {
		ln, err := g.listen()
		if err != nil {
			return fmt.Errorf("listen for the engine: %w", err)
		}
		g.srv = &http.Server{Handler: g, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(g.cfg.Log.Handler(), slog.LevelDebug)}
		g.done = make(chan struct{})
		go func(srv *http.Server, done chan struct{}) {
			defer close(done)
			if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				g.cfg.Log.Error("the engine's way to images ended", "error", err)
			}
		}(g.srv, g.done)
	}
	_, name, _ := strings.Cut(p.local, "/")
	p.local = g.at + "/" + name
	g.pulls[p.user] = p
	return nil
}

// listen begins to listen at the gate's address, or at another port of that host: a service of the host's network that takes the port must not keep the device from
// updates. The caller holds mu.
func (g *Gate) listen() (net.Listener, error) {
	ln, err := net.Listen("tcp", g.cfg.Address)
	taken := errors.Is(err, syscall.EADDRINUSE)
	if taken && g.taken { // where it was then, so that images have few names
		ln, err = net.Listen("tcp", g.at)
	}
	if taken && err != nil {
		host, _, _ := net.SplitHostPort(g.cfg.Address) // New has looked at it
		ln, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return nil, err
	}
	g.at = ln.Addr().String()
	if taken && !g.taken {
		g.cfg.Log.Warn("something else listens where the engine pulls through the agent; it pulls at another port", "address", g.cfg.Address, "instead", g.at)
		if g.cfg.Taken != nil {
			g.cfg.Taken(g.cfg.Address, g.at)
		}
	}
	g.taken = taken
	return ln, nil
}

// close shuts a pull out, waits for what the engine asked for it, and stops listening after the last one.
func (g *Gate) close(p *pull) {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.cancel(nil)
	p.working.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.pulls, p.user)
	close(p.closed)
	if len(g.pulls) > 0 {
		return
	}
	_ = g.srv.Close()
	<-g.done
	g.srv = nil
	g.own.CloseIdleConnections()
	g.foreign.CloseIdleConnections()
}

// pullOf finds the pull whose password a request shows.
func (g *Gate) pullOf(r *http.Request) *pull {
	user, password, ok := r.BasicAuth()
	if !ok {
		return nil
	}
	g.mu.Lock()
	p := g.pulls[user]
	g.mu.Unlock()
	if p == nil || subtle.ConstantTimeCompare([]byte(p.password), []byte(password)) != 1 {
		return nil
	}
	return p
}
