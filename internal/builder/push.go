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
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/referrer"
	"github.com/roadstead-io/roadstead/internal/builder/target"
	"github.com/roadstead-io/roadstead/internal/builder/transit"
	"github.com/roadstead-io/roadstead/internal/compose"
)

// product is one service of a build: what is made of it for each machine of the fleet, and what that becomes.
type product struct {
	build *build
	svc   compose.Service
	image api.BuildImage
	parts []*making
}

// do makes every image of the service and pushes what they become.
func (p *product) do(ctx context.Context) (api.BuildImageResult, error) {
	group, each := errgroup.WithContext(ctx)
	for _, m := range p.parts {
		group.Go(func() (err error) {
			m.made, err = m.make(each)
			m.step(api.BuildStep{Step: 1, Of: 1, Done: true})
			return err
		})
	}
	err := group.Wait()
	first := p.parts[0]
	result := api.BuildImageResult{ProjectType: first.kind, Dockerfile: p.build.log.clean(first.dockerfile)}
	if len(result.Dockerfile) > maxRecordedDockerfile {
		result.Dockerfile = result.Dockerfile[:maxRecordedDockerfile]
	}
	if err != nil {
		return result, err
	}
	return result, p.push(ctx, &result)
}

// push puts the image, or the index and its images, into the registry by digest, and notes what a release records of it.
func (p *product) push(ctx context.Context, result *api.BuildImageResult) error {
	var parts []target.Part
	for _, m := range p.parts {
		parts = append(parts, target.Part{Target: m.target, Image: m.made})
	}
	whole, err := target.Assemble(parts)
	if err != nil {
		return fmt.Errorf("push service %s: %w", p.svc.Name, err)
	}
	cfg, err := parts[0].Image.ConfigFile()
	if err != nil {
		return fmt.Errorf("push service %s: %w", p.svc.Name, err)
	}
	sum := whole.Descriptor.Digest.String()
	of := ""
	if len(parts) > 1 {
		of = fmt.Sprintf(" with images for %d platforms", len(parts))
	}
	p.say("pushing %s%s (%.1f MB)", sum, of, float64(whole.Size)/1e6)
	began := time.Now()
	s := p.build.s
	host := s.cfg.Site.Host("registry2")
	ref, err := name.NewDigest(fmt.Sprintf("%s/%s@%s", host, p.image.Repository, sum))
	if err != nil {
		return fmt.Errorf("push service %s: %w", p.svc.Name, err)
	}
	way := &transit.Way{
		Next: s.registry.HTTP.Transport, Addr: strings.TrimPrefix(s.registry.URL, "https://"), Host: host,
		Fetch: func(ctx context.Context) (api.SignedToken, error) {
			return s.pushToken(ctx, p.build.info.ID, p.image.Repository)
		},
	}
	bills := make([]*materials, len(parts)) // read from the images while they are pushed
	var reading sync.WaitGroup
	for i, part := range parts {
		reading.Go(func() { bills[i] = s.bill(ctx, part.Image, p.svc.Name, whole.Parts[i].Digest.String()) })
	}
	err = whole.Write(ref, remote.WithTransport(way), remote.WithContext(ctx), remote.WithJobs(4))
	reading.Wait()
	if err == nil {
		err = p.prove(ctx, whole, &referrer.Artifacts{Way: way, Host: host, Repository: p.image.Repository}, bills, cfg.Config.Labels)
	}
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return p.pushError(err)
	}
	p.say("pushed in %s", time.Since(began).Round(10*time.Millisecond))
	result.Digest, result.Size, result.Labels = sum, whole.Size, cfg.Config.Labels
	return nil
}

func (p *product) say(format string, args ...any) {
	p.build.say("[%s] %s", p.svc.Name, fmt.Sprintf(format, args...))
}

// pushError says what the registry did not like.
func (p *product) pushError(err error) error {
	var coded *api.Error
	if errors.As(err, &coded) {
		return errors.Join(api.Errorf(coded.Code, "service %s could not be pushed: %s", p.svc.Name, coded.Error()), err)
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
		return errors.Join(api.Errorf(api.Unavailable, "service %s could not be pushed: the registry answered %d: %s", p.svc.Name,
			te.StatusCode, why), err)
	}
	return errors.Join(api.Errorf(api.Unavailable, "service %s could not be pushed: the registry does not answer; push again", p.svc.Name), err)
}
