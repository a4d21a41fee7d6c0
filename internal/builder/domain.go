package builder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/pool"
	"github.com/roadstead-io/roadstead/internal/builder/target"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
	"github.com/roadstead-io/roadstead/internal/web"
)

// domain names the walls that the build runs behind: those of the organization.
func (b *build) domain() string { return fmt.Sprintf("org-%d", b.info.Fleet.Organization) }

// daemon is the organization's BuildKit on the worker that was chosen for an image.
type daemon struct {
	*client.Client
	lease *pool.Lease
}

func (d *daemon) leave() {
	_ = d.Close()
	d.lease.Leave()
}

// reach gives a worker that builds for the image's platform. It waits for one that may be on its way back from a crash.
func (m *making) reach(ctx context.Context) (*daemon, error) {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	wish := pool.Wish{Domain: m.build.domain(), Fleet: m.tenant() + "/" + m.svc.Name, Platform: m.target.String(), Foreign: m.build.opt.foreign}
	var err error
	for {
		var d *daemon
		if d, err = m.reachOnce(ctx, wish); err == nil {
			return d, nil
		}
		if !errors.Is(err, api.ErrUnavailable) && ctx.Err() == nil {
			return nil, fmt.Errorf("service %s: %w", m.svc.Name, err)
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(m.build.ctx); cause != nil {
				return nil, cause
			}
			return nil, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (m *making) reachOnce(ctx context.Context, wish pool.Wish) (*daemon, error) {
	lease, err := m.build.s.pool.Choose(ctx, wish)
	if err != nil {
		return nil, err
	}
	c, err := client.New(ctx, "", client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lease.Connect(ctx) }))
	if err != nil {
		lease.Leave()
		return nil, fmt.Errorf("reach the build service: %w", err)
	}
	d := &daemon{c, lease}
	workers, err := c.ListWorkers(ctx)
	if err == nil && len(workers) > 0 {
		return d, nil
	}
	defer d.leave()
	lease.Doubt()
	// What the worker itself says of why it does not let the build in is lost in between.
	conn, why := lease.Connect(ctx)
	if why == nil {
		_ = conn.Close()
	}
	if errors.Is(why, api.ErrUnavailable) {
		return nil, errors.Join(why, err)
	}
	return nil, errors.Join(api.Errorf(api.Unavailable,
		"the build service is not running; the operator finds out why with `roadsteadd status`"), err)
}

// sayWhere tells what is not as usual about where the image is made.
func (m *making) sayWhere(d *daemon) {
	name := strings.TrimPrefix(m.target.String(), "linux/")
	switch {
	case !d.lease.Runs:
		m.say("Note: this builder does not run %s programs; RUN steps will fail, other steps work", name)
	case !d.lease.Native:
		m.say("Note: %s programs run in an emulator here, which is slow", name)
	}
	if d.lease.Name != pool.Local {
		m.say("building on worker %s", d.lease.Name)
	}
}

// beyondLimit adds to BuildKit's error what the build service says of it, when that has ended a step since the build began.
// BuildKit itself knows only that the step was killed.
func beyondLimit(ctx context.Context, d *daemon, since time.Time, err error) error {
	if !strings.Contains(err.Error(), "exit code: 137") && status.Code(err) != codes.Unavailable {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	kills, askErr := d.lease.Killed(ctx, since)
	if askErr != nil || len(kills) == 0 {
		return err
	}
	return errors.Join(api.Errorf(api.Invalid, "a step was ended: %s", kills[len(kills)-1].Words), err)
}

// canBuild refuses, before its source is sent, a build for a platform that no worker builds for. One that may be on its way back is
// waited for a little.
func (s *Server) canBuild(ctx context.Context, b api.Build, opt options) error {
	if opt.foreign {
		return nil
	}
	late, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	for {
		err := s.pool.Check(late, target.Names(target.Of(b.Fleet))...)
		if !errors.Is(err, api.ErrUnavailable) {
			return err
		}
		select {
		case <-late.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// checkPlatforms tells the git role, before a push comes in, when nobody builds for the fleet.
func (s *Server) checkPlatforms(w http.ResponseWriter, r *http.Request) error {
	var fleet api.BuildFleet
	if err := web.Decode(r, &fleet); err != nil {
		return err
	}
	if err := s.pool.Check(r.Context(), target.Names(target.Of(&fleet))...); err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, struct{}{})
}

// platforms answers people what can be built for, and by which workers.
func (s *Server) platforms(w http.ResponseWriter, r *http.Request) error {
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		return s.refuse(w, r, api.Errorf(api.Unauthorized, "log in first: the request carries no token"))
	}
	by := behalf{authorization, r.Header.Get("X-Forwarded-For")}
	if err := s.api.call(r.Context(), "/internal/v1/builders/ask", by, struct{}{}, nil); err != nil {
		return s.refuse(w, r, err)
	}
	out := api.BuildPlatforms{Workers: []api.PlatformWorker{}}
	for _, m := range s.pool.Members(r.Context()) {
		one := api.PlatformWorker{Name: m.Name, Version: m.Status.Version, Building: m.Builds}
		if m.Err != nil {
			one.Error = pool.Words(m.Err)
		}
		for _, p := range m.Status.Platforms {
			one.Platforms = append(one.Platforms, api.WorkerPlatform{Platform: p.Platform, Native: p.Native})
		}
		for _, p := range m.Status.Missing {
			if !slices.ContainsFunc(m.Status.Platforms, func(q worker.Platform) bool { return q.Platform == p.Platform }) {
				one.Missing = append(one.Missing, api.MissingPlatform{Platform: p.Platform, Why: p.Why})
			}
		}
		out.Workers = append(out.Workers, one)
	}
	return web.WriteJSON(w, http.StatusOK, out)
}
