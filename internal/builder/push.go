package builder

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/roadstead-io/roadstead/api"
)

// tokenRest is how long a push token must still live to be used.
const tokenRest = time.Minute

// push puts the image into the registry, by digest, and notes what a release records of it.
func (m *making) push(ctx context.Context, img v1.Image, result *api.BuildImageResult) error {
	digest, err := img.Digest()
	if err != nil {
		return fmt.Errorf("push service %s: %w", m.svc.Name, err)
	}
	size, err := sizeOf(img)
	if err != nil {
		return fmt.Errorf("push service %s: %w", m.svc.Name, err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return fmt.Errorf("push service %s: %w", m.svc.Name, err)
	}
	m.say("pushing %s (%.1f MB)", digest, float64(size)/1e6)
	began := time.Now()
	s := m.build.s
	host := s.cfg.Site.Host("registry2")
	ref, err := name.NewDigest(fmt.Sprintf("%s/%s@%s", host, m.image.Repository, digest))
	if err != nil {
		return fmt.Errorf("push service %s: %w", m.svc.Name, err)
	}
	way := &pushTransport{
		next: s.registry.HTTP.Transport, addr: strings.TrimPrefix(s.registry.URL, "https://"), host: host,
		fetch: func(ctx context.Context) (api.SignedToken, error) {
			return s.pushToken(ctx, m.build.info.ID, m.image.Repository)
		},
	}
	bill := make(chan *materials, 1) // read from the image while it is pushed
	go func() { bill <- s.bill(ctx, img, m.svc.Name, digest.String()) }()
	err = remote.Write(ref, img, remote.WithTransport(way), remote.WithContext(ctx), remote.WithJobs(4))
	found := <-bill
	if err == nil {
		err = m.prove(ctx, img, digest.String(), &artifacts{way: way, host: host, repository: m.image.Repository}, found)
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return m.pushError(err)
	}
	m.say("pushed in %s", time.Since(began).Round(10*time.Millisecond))
	result.Digest, result.Size, result.Labels = digest.String(), size, cfg.Config.Labels
	return nil
}

// sizeOf is what a device downloads for the image: manifest, configuration and compressed layers.
func sizeOf(img v1.Image) (int64, error) {
	m, err := img.Manifest()
	if err != nil {
		return 0, err
	}
	size, err := img.Size()
	if err != nil {
		return 0, err
	}
	size += m.Config.Size
	for _, l := range m.Layers {
		size += l.Size
	}
	return size, nil
}

// pushError says what the registry did not like.
func (m *making) pushError(err error) error {
	var coded *api.Error
	if errors.As(err, &coded) {
		return errors.Join(api.Errorf(coded.Code, "service %s could not be pushed: %s", m.svc.Name, coded.Error()), err)
	}
	var te *transport.Error
	if errors.As(err, &te) {
		why := http.StatusText(te.StatusCode)
		for _, d := range te.Errors {
			why = d.Message
			if detail, ok := d.Detail.(string); ok && detail != "" {
				why += ": " + detail
			}
		}
		return errors.Join(api.Errorf(api.Unavailable, "service %s could not be pushed: the registry answered %d: %s", m.svc.Name,
			te.StatusCode, why), err)
	}
	return errors.Join(api.Errorf(api.Unavailable, "service %s could not be pushed: the registry does not answer; push again", m.svc.Name), err)
}

// pushTransport is the way to the registry role: whatever host a request names, it goes there, over our mutually authenticated
// connection, with a push token that is fresh. The public name stays in the Host header, for the registry makes links of it.
type pushTransport struct {
	next  http.RoundTripper
	addr  string // of the registry role
	host  string // the public name
	fetch func(context.Context) (api.SignedToken, error)

	mu    sync.Mutex // covers token; held while a new one is fetched, so that only one is
	token api.SignedToken
}

// RoundTrip implements http.RoundTripper.
func (t *pushTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := t.fresh(r.Context())
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host = "https", t.addr, t.host
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusUnauthorized {
		_ = res.Body.Close()
		// Passed on, the challenge would send the library to the token endpoint, which knows no builder.
		return nil, api.Errorf(api.Forbidden, "the registry does not accept the push token")
	}
	return res, nil
}

func (t *pushTransport) fresh(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token.Token != "" && time.Until(t.token.ExpiresAt) > tokenRest {
		return t.token.Token, nil
	}
	token, err := t.fetch(ctx)
	if err != nil {
		return "", err
	}
	t.token = token
	return token.Token, nil
}
