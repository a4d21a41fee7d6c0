package builder

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/imagestore"
	"github.com/roadstead-io/roadstead/internal/builder/transit"
)

// push puts the image into the registry, by digest, and notes what a release records of it.
func (m *making) push(ctx context.Context, img v1.Image, result *api.BuildImageResult) error {
	digest, err := img.Digest()
	if err != nil {
		return fmt.Errorf("push service %s: %w", m.svc.Name, err)
	}
	size, err := imagestore.Size(img)
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
	way := &transit.Way{
		Next: s.registry.HTTP.Transport, Addr: strings.TrimPrefix(s.registry.URL, "https://"), Host: host,
		Fetch: func(ctx context.Context) (api.SignedToken, error) {
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
