// Package fromurl takes a project from an address instead of a request's body: an archive that somebody names by URL is fetched, by the
// rules of package egress, and goes the way of a push that does not wait for its build. Nothing is asked of the address before the
// builder knows that whoever names it may push to the fleet.
package fromurl

import (
	"archive/tar"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/source"
	"github.com/roadstead-io/roadstead/internal/egress"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Config says how far out it goes. Its zero value reaches public addresses over TLS.
type Config struct {
	// Allow names what may be reached although it is not public: prefixes, addresses, host names.
	Allow []string `json:"allow,omitempty"`
	// CA are the authorities (PEM) that are trusted besides the system's.
	CA string `json:"ca,omitempty"`
}

const (
	redirects = 5                // forges send one on to where their archives are
	patience  = 30 * time.Minute // for all of an archive; a build has a limit of its own
)

// Handler answers POST /v3/buildFromUrl with what build, which answers POST /v3/build, makes of the archive at the address. The fleet is in
// the query, as owner and app, or as slug.
func Handler(build web.HandlerFunc) web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		body, err := read(r)
		if err != nil {
			e := api.AsError(err)
			return web.WriteText(w, e.Code.Status(), e.Text+"\n")
		}
		defer func() { _ = body.Close() }() // it has nothing to say
		q := r.URL.Query()
		if q.Get("slug") == "" {
			q.Set("slug", q.Get("owner")+"/"+q.Get("app"))
		}
		q.Set("headless", "true") // what comes of it is in the release: nobody waits here
		in := r.Clone(r.Context())
		in.URL.RawQuery, in.Body, in.ContentLength = q.Encode(), body, -1
		return build(w, in)
	}
}

func read(r *http.Request) (*Body, error) {
	var asked struct {
		URL           string `json:"url"`
		ShouldFlatten *bool  `json:"shouldFlatten"`
	}
	if err := web.Decode(r, &asked); err != nil {
		return nil, err
	}
	u, err := url.Parse(asked.URL)
	switch {
	case asked.URL == "":
		return nil, api.Errorf(api.Invalid, "url: the address of an archive is missing")
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, api.Errorf(api.Invalid, "url: %q is not an address of the form https://host/archive.tar.gz", clip(asked.URL))
	case u.User != nil:
		return nil, api.Errorf(api.Invalid, "url: an address with a name or password in it is not fetched: it would stand in logs")
	}
	return &Body{url: u, flatten: asked.ShouldFlatten == nil || *asked.ShouldFlatten}, nil
}

func clip(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// Body is the archive as a request's body. It is empty until Fetch.
type Body struct {
	url     *url.URL
	flatten bool
	err     error // why there is nothing to read
	from    io.Reader
	close   []func()
}

// Fetch asks for the archive, of at most so many bytes. What goes wrong is what the first read says.
func (b *Body) Fetch(ctx context.Context, cfg Config, most int64) {
	b.err = b.fetch(ctx, cfg, most)
}

func (b *Body) fetch(ctx context.Context, cfg Config, most int64) error {
	roots, err := cfg.roots()
	if err != nil {
		return err
	}
	out, err := egress.New(egress.Config{Allow: cfg.Allow, Roots: roots, Redirects: redirects, Timeout: patience, MaxBody: most, Concurrent: 1})
	if err != nil {
		return fmt.Errorf("sources: allow: %w", err)
	}
	b.close = append(b.close, out.Close)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url.String(), http.NoBody)
	if err != nil {
		return fmt.Errorf("fetch a source: %w", err)
	}
	res, err := out.HTTP().Do(req) //nolint:bodyclose // Close does it
	if err != nil {
		return b.word(err, most)
	}
	b.close = append(b.close, func() { _ = res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		return api.Errorf(api.Invalid, "%s answered %s for the archive", b.url.Host, res.Status)
	}
	b.from = &words{res.Body, func(err error) error { return b.word(err, most) }}
	if b.flatten {
		b.from = b.flattened(b.from)
	}
	return nil
}

func (c Config) roots() (*x509.CertPool, error) {
	if c.CA == "" {
		return nil, nil //nolint:nilnil // the system's
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("sources: ca: %w", err)
	}
	if !pool.AppendCertsFromPEM([]byte(c.CA)) {
		return nil, errors.New("sources: ca: there is no certificate in it")
	}
	return pool, nil
}

// word says for people why the archive could not be had.
func (b *Body) word(err error, most int64) error {
	var unknown *net.DNSError
	var where *url.Error
	switch {
	case errors.Is(err, egress.ErrAddress), errors.Is(err, egress.ErrScheme):
		return api.Errorf(api.Invalid, "%s is not fetched from: only public addresses over https are. The operator of this server can allow others with --source-allow.", b.url.Host)
	case errors.Is(err, egress.ErrTooLarge):
		return api.Errorf(api.TooLarge, "the archive is larger than %d bytes", most)
	case errors.As(err, &unknown) && unknown.IsNotFound:
		return api.Errorf(api.Invalid, "there is no host %s", b.url.Hostname())
	case errors.As(err, &where):
		err = where.Err
	}
	return api.Errorf(api.Unavailable, "the archive could not be fetched from %s: %v", b.url.Host, err)
}

// words puts the errors of a reader into words.
type words struct {
	io.Reader
	word func(error) error
}

func (w *words) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = w.word(err)
	}
	return n, err
}

// flattened is the archive without the one directory that all of it is in. It is rewritten while it is read, until it is closed.
func (b *Body) flattened(from io.Reader) io.Reader {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(flatten(from, w)) // nil is the end
	}()
	b.close = append(b.close, func() {
		_ = r.Close() // then a write fails, and the other side ends
		<-done
	})
	return r
}

func flatten(from io.Reader, to io.Writer) error {
	plain, err := source.Decompress(from)
	if err != nil {
		return err
	}
	in, out := tar.NewReader(plain), tar.NewWriter(to)
	root := ""
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return damaged(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		top, rest, inside := strings.Cut(strings.TrimPrefix(h.Name, "./"), "/")
		switch {
		case !inside && h.Typeflag != tar.TypeDir || top == "" && rest != "":
			return api.Errorf(api.Invalid, `the archive has %q at its top, beside no directory that all of it is in; say "shouldFlatten": false`, clip(h.Name))
		case root == "":
			root = top
		case top != root:
			return api.Errorf(api.Invalid, `the archive has more than one directory at its top, %q and %q; say "shouldFlatten": false`, clip(root), clip(top))
		}
		if rest == "" {
			continue
		}
		h.Name = rest
		if h.Typeflag == tar.TypeLink { // named from the top, as files are
			h.Linkname = strings.TrimPrefix(strings.TrimPrefix(h.Linkname, "./"), root+"/")
		}
		if err := out.WriteHeader(h); err != nil {
			return damaged(err)
		}
		if _, err := io.Copy(out, in); err != nil {
			return damaged(err)
		}
	}
}

// damaged passes what has words already.
func damaged(err error) error {
	if errors.As(err, new(*api.Error)) {
		return err
	}
	return api.Errorf(api.Invalid, "the archive is damaged or ended early: %v", err)
}

// Read implements io.Reader.
func (b *Body) Read(p []byte) (int, error) {
	switch {
	case b.err != nil:
		return 0, b.err
	case b.from == nil:
		return 0, io.EOF
	}
	return b.from.Read(p)
}

// Close implements io.Closer: it waits until nothing of the request is left.
func (b *Body) Close() error {
	for i := len(b.close) - 1; i >= 0; i-- {
		b.close[i]()
	}
	b.close, b.from = nil, nil
	return nil
}
