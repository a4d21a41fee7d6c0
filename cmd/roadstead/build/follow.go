package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// askEvery is how often the release of a build is read that the builder knows no more.
const askEvery = time.Second

// Follow prints what a build has said and, if it is stayed for, what it says until its end; then it gives how it ended. With lines,
// each is printed as a JSON object.
func Follow(ctx context.Context, a *cmdline.App, c *client.Client, id int64, stay, lines bool) (status string, err error) {
	s := newScreen(a, lines)
	defer func() { err = errors.Join(err, s.end()) }()
	lost := func(err error) {
		a.Say("The connection to the builder was lost (%v); the build goes on, connecting again.", err)
	}
	status, err = c.FollowBuild(ctx, id, client.FollowOptions{Stay: stay, Lost: lost}, s.show)
	if !errors.Is(err, client.ErrNotUnderWay) {
		return status, err
	}
	return settle(ctx, c, id, stay, s)
}

// settle reads from the release how a build ended that the builder knows no more, and what it said if nothing of it was seen.
func settle(ctx context.Context, c *client.Client, id int64, stay bool, s *screen) (string, error) {
	for {
		r, err := client.One[client.Release](ctx, c, client.ID("release", id), client.Query{Select: "id,status,build_log"})
		if err != nil {
			return "", err
		}
		if r.Status == api.StatusRunning && stay {
			select {
			case <-ctx.Done():
				return "", ctx.Err()
			case <-time.After(askEvery):
			}
			continue
		}
		if s.lines == 0 {
			for line := range strings.Lines(r.BuildLog) {
				if err := s.show(api.BuildLine{BuildEvent: api.BuildEvent{Message: strings.TrimRight(line, "\n")}}); err != nil {
					return "", err
				}
			}
		}
		if r.Status == api.StatusRunning {
			return "", nil
		}
		return r.Status, s.show(api.BuildLine{Status: r.Status})
	}
}

// screen shows the lines of a build, and on a terminal, below them, at which step each service is.
type screen struct {
	a     *cmdline.App
	con   *terminal.Console
	asked bool // as JSON, a line each
	lines int  // shown
	steps map[string]api.BuildStep
}

func newScreen(a *cmdline.App, lines bool) *screen {
	return &screen{a: a, con: a.Console(a.Output == "json"), asked: lines, steps: map[string]api.BuildStep{}}
}

func (s *screen) show(l api.BuildLine) error {
	s.lines++
	switch {
	case s.asked:
		return s.a.Line(l)
	case l.Lost > 0:
		return s.con.Show(api.BuildEvent{Message: fmt.Sprintf("[… %d lines are not kept any more …]", l.Lost)})
	case l.Status != "":
		return s.con.Status("")
	case l.Type == "metadata" && l.Resource == api.ResourceStep:
		return s.step(l.Value)
	case l.Type == "metadata":
		return nil
	}
	return s.con.Show(l.BuildEvent)
}

func (s *screen) step(value any) error {
	var step api.BuildStep
	text, err := json.Marshal(value)
	if err != nil || json.Unmarshal(text, &step) != nil || step.Of <= 0 {
		return nil // a later server's, perhaps
	}
	name := strings.TrimSpace(step.Service + " " + step.Platform)
	if s.steps[name] = step; step.Done {
		delete(s.steps, name)
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s.steps)) {
		st := s.steps[name]
		parts = append(parts, fmt.Sprintf("%s %d/%d %s", name, st.Step, st.Of, st.Name))
	}
	return s.con.Status(strings.Join(parts, " · "))
}

func (s *screen) end() error { return errors.Join(s.con.Status(""), s.con.End()) }

// releaseNumber is the number of the release being built, known as soon as the builder says so; read from another goroutine when
// the build is cancelled.
type releaseNumber struct{ id atomic.Int64 }

func (r *releaseNumber) get() int64 { return r.id.Load() }

func (r *releaseNumber) set(v any) {
	switch v := v.(type) {
	case float64:
		r.id.Store(int64(v))
	case string:
		if id, err := strconv.ParseInt(v, 10, 64); err == nil {
			r.id.Store(id)
		}
	}
}
