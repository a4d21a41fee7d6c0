package builder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
)

// domain names the walls that the build runs behind: those of the organization.
func (b *build) domain() string { return fmt.Sprintf("org-%d", b.info.Fleet.Organization) }

// whyNoService is what the build service itself says of why it does not let the build in.
func (b *build) whyNoService() error {
	ctx, cancel := context.WithTimeout(b.ctx, time.Second)
	defer cancel()
	conn, err := worker.Dial(ctx, b.s.cfg.BuildKit, b.domain())
	if err != nil {
		return err
	}
	return conn.Close()
}

// beyondLimit adds to BuildKit's error what the build service says of it, when that has ended a step since the build began.
// BuildKit itself knows only that the step was killed.
func (m *making) beyondLimit(ctx context.Context, since time.Time, err error) error {
	if !strings.Contains(err.Error(), "exit code: 137") && status.Code(err) != codes.Unavailable {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	kills, askErr := worker.Killed(ctx, m.build.s.cfg.BuildKit, m.build.domain(), since)
	if askErr != nil || len(kills) == 0 {
		return err
	}
	return errors.Join(api.Errorf(api.Invalid, "a step was ended: %s", kills[len(kills)-1].Words), err)
}
