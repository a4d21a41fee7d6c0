package builder

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/transit"
	"github.com/roadstead-io/roadstead/internal/builder/vet"
	"github.com/roadstead-io/roadstead/internal/compose"
)

// What a client pushed by itself lies in quarantine. When it says that this is all, the builder looks at it as at a project whose
// images were built elsewhere, and pushes what is good into the repositories of the release; that is a promotion. It needs no build
// service. A promotion that is interrupted is begun again, by this builder or another one: what was pushed is found there.

// chores are what there is to do about quarantine.
func (s *Server) chores() transit.Chores {
	return transit.Chores{Next: s.nextChore, Promote: s.promote, Empty: s.emptyQuarantine, Log: s.log}
}

func (s *Server) nextChore(ctx context.Context) (chore api.QuarantineChore, err error) {
	err = s.api.call(ctx, "/internal/v1/quarantine/next", behalf{}, struct{}{}, &chore)
	return chore, err
}

// emptyQuarantine throws away what was pushed for a release that has ended.
func (s *Server) emptyQuarantine(ctx context.Context, b api.Build) error {
	for _, repository := range b.Quarantine {
		if err := s.quarantineWay(b.ID, repository).Delete(ctx, repository, transit.Empty); err != nil {
			return fmt.Errorf("empty %s of build %d: %w", repository, b.ID, err)
		}
	}
	return s.api.call(ctx, fmt.Sprintf("/internal/v1/builds/%d/emptied", b.ID), behalf{}, struct{}{}, nil)
}

// quarantineWay is the way to one repository in quarantine.
func (s *Server) quarantineWay(build int64, repository string) *transit.Way {
	return &transit.Way{
		Next: s.registry.HTTP.Transport, Addr: strings.TrimPrefix(s.registry.URL, "https://"), Host: s.cfg.Site.Host("registry2"),
		Fetch: func(ctx context.Context) (t api.SignedToken, err error) {
			err = s.signer.call(ctx, "/v1/push-token", behalf{}, api.PushTokenRequest{Build: build, Repository: repository, Quarantine: true}, &t)
			return t, err
		},
	}
}

// promote is the whole promotion of a release, as a build that comes from nobody's connection.
func (s *Server) promote(p *api.Promotion) {
	b, err := s.newBuild("", options{slug: p.Build.Fleet.Slug}, p.Build, nil, 0)
	if err != nil {
		s.log.Error("no room for a promotion", "build", p.Build.ID, "error", err)
		return // its lease ends, and it is tried again
	}
	b.promotion = p
	b.run()
}

// abandoned reports whether a promotion ends without a result, because the role does: it is done again.
func (b *build) abandoned() bool {
	return b.promotion != nil && errors.Is(context.Cause(b.ctx), errStopped)
}

// promoteAll is the work of a promotion.
func (b *build) promoteAll() error {
	limit := time.Duration(b.s.cfg.Limits.Minutes) * time.Minute
	late := time.AfterFunc(limit, func() { b.cancel(fmt.Errorf("the promotion took longer than %s", limit)) })
	defer late.Stop()
	b.proof.began = time.Now() // there is no source
	b.say("Checking the images that were pushed for release %s of %s for %s", b.info.Commit, b.info.Fleet.Slug, b.machines())
	project, err := b.pushedProject()
	if err != nil {
		return err
	}
	for _, w := range project.Warnings {
		b.say("Note: %s", w)
	}
	pushed := map[string]api.PromotionImage{}
	for _, image := range b.promotion.Images {
		pushed[image.Service] = image
	}
	for _, svc := range project.Services {
		if pushed[svc.Name].Digest == "" {
			return api.Errorf(api.Invalid, "service %s: no image was pushed for it", svc.Name)
		}
	}
	if len(pushed) != len(project.Services) {
		return api.Errorf(api.Invalid, "there are images of %d services, and the composition has %d", len(pushed), len(project.Services))
	}
	images, err := b.images(project, b.promotion.Contract)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(b.ctx)
	group.SetLimit(b.s.cfg.Limits.Services)
	for _, svc := range project.Services {
		group.Go(func() error {
			from := pushed[svc.Name]
			p := &product{build: b, svc: svc, image: images[svc.Name]}
			for _, t := range b.targets {
				p.parts = append(p.parts, &making{build: b, svc: svc, kind: from.ProjectType, target: t, several: len(b.targets) > 1})
			}
			result := api.BuildImageResult{ProjectType: from.ProjectType, Dockerfile: from.Dockerfile}
			err := p.take(ctx, from, &result)
			return b.note(ctx, p, result, err)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return b.attest()
}

// take checks what was pushed into quarantine for a service, and pushes it into the service's repository of the release.
func (p *product) take(ctx context.Context, from api.PromotionImage, result *api.BuildImageResult) error {
	s := p.build.s
	way := s.quarantineWay(p.build.info.ID, from.Quarantine)
	// From here on nothing changes under us; what is there has its digest anyway.
	if err := way.Delete(ctx, from.Quarantine, transit.Close); err != nil {
		return fmt.Errorf("service %s: close the quarantine: %w", p.svc.Name, err)
	}
	ref, err := name.NewDigest(way.Host + "/" + from.Quarantine + "@" + from.Digest)
	if err != nil {
		return api.Errorf(api.Invalid, "service %s: %q is no digest", p.svc.Name, from.Digest)
	}
	desc, err := remote.Get(ref, remote.WithTransport(way), remote.WithContext(ctx))
	if te := new(transport.Error); errors.As(err, &te) && te.StatusCode == http.StatusNotFound {
		return api.Errorf(api.Invalid, "service %s: the client says that it pushed %s, and it did not", p.svc.Name, from.Digest)
	}
	if err != nil {
		return fmt.Errorf("service %s: read what was pushed: %w", p.svc.Name, err)
	}
	for _, m := range p.parts {
		if m.made, err = vet.Choose(desc, m.target.Platform); err == nil {
			err = vet.Image(m.made, m.target.Platform)
		}
		if e := api.AsError(err); err != nil && e.Code != api.Internal {
			return api.Errorf(e.Code, "service %s: %s", p.svc.Name, e.Text)
		}
		if err != nil {
			return fmt.Errorf("service %s: %w", p.svc.Name, err)
		}
	}
	return p.push(ctx, result)
}

// pushedProject reads the composition as if it were the compose file of a project whose images were built elsewhere.
func (b *build) pushedProject() (*compose.Project, error) {
	text, err := vet.Composition(b.promotion.Composition)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(b.source(), 0o700); err != nil {
		return nil, fmt.Errorf("lay out the composition: %w", err)
	}
	file := compose.FileNames[0]
	if err := os.WriteFile(filepath.Join(b.source(), file), text, 0o600); err != nil {
		return nil, fmt.Errorf("lay out the composition: %w", err)
	}
	root, err := os.OpenRoot(b.source())
	if err != nil {
		return nil, fmt.Errorf("lay out the composition: %w", err)
	}
	defer func() { _ = root.Close() }()
	return compose.Load(b.ctx, root, file)
}
