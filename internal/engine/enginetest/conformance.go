package enginetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/roadstead-io/roadstead/internal/engine"
)

// Subject is what both engines have and the agent needs.
type Subject interface {
	Containers
	Things
	Shared
}

// Containers of the engine.
type Containers interface {
	Containers(ctx context.Context) ([]engine.Container, error)
	Create(ctx context.Context, spec engine.Spec) (id string, err error)
	Start(ctx context.Context, id string) error
	Stop(ctx context.Context, id string) error
	Remove(ctx context.Context, id string) error
	Rename(ctx context.Context, id, name string) error
}

// Things are networks and volumes.
type Things interface {
	Networks(ctx context.Context) ([]engine.Network, error)
	CreateNetwork(ctx context.Context, n engine.Network) error
	RemoveNetwork(ctx context.Context, name string) error
	Volumes(ctx context.Context) ([]engine.Volume, error)
	CreateVolume(ctx context.Context, v engine.Volume) error
	RemoveVolume(ctx context.Context, name string) error
}

// Shared is what is the same for everybody on the engine.
type Shared interface {
	Ping(ctx context.Context) error
	Images(ctx context.Context) ([]string, error)
	Pull(ctx context.Context, ref string, auth engine.Auth, progress func(percent int)) error
	RemoveImage(ctx context.Context, ref string) error
	Events(ctx context.Context, f func(engine.Event)) error
}

// conformance is one run of the checks.
type conformance struct {
	t      *testing.T
	e      Subject
	image  string
	labels map[string]string
	events chan string
}

func (c *conformance) ok(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *conformance) fails(what string, err error) {
	c.t.Helper()
	if err == nil {
		c.t.Errorf("%s: no error", what)
	}
}

// sees checks the list of our containers.
func (c *conformance) sees(what string, want ...string) {
	c.t.Helper()
	all, err := c.e.Containers(c.t.Context())
	c.ok(err)
	var got []string
	for _, box := range all {
		got = append(got, box.Name+" "+box.State)
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// Conform checks that an engine, empty at the start, behaves as the agent expects. The image must be pullable, and run until
// it is stopped when started with the given command; missing is a reference that is not there.
func Conform(t *testing.T, e Subject, image, missing string, auth engine.Auth, command []string) {
	c := &conformance{
		t: t, e: e, image: image, labels: map[string]string{engine.LabelSupervised: "true"}, events: make(chan string, 100),
	}
	ctx := t.Context()
	c.ok(e.Ping(ctx))
	eventCtx, endEvents := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = e.Events(eventCtx, func(ev engine.Event) { // ends with the context
			select {
			case c.events <- ev.Action:
			default:
			}
		})
	}()
	defer func() { endEvents(); <-ended }()

	c.things()
	c.pull(missing, auth)
	c.containers(command)
	for _, name := range []string{"conform-net", "conform-net", "conform-net2", "conform-foreign"} {
		c.ok(e.RemoveNetwork(ctx, name))
	}
	c.ok(e.RemoveVolume(ctx, "conform-vol"))
	c.ok(e.RemoveVolume(ctx, "conform-vol"))
	c.ok(e.RemoveImage(ctx, image))
	c.ok(e.RemoveImage(ctx, image))
	images, err := e.Images(ctx)
	c.ok(err)
	if slices.Contains(images, image) {
		t.Errorf("images after removal: %q", images)
	}
}

func (c *conformance) things() {
	ctx, e := c.t.Context(), c.e
	c.ok(e.CreateNetwork(ctx, engine.Network{Name: "conform-net", Labels: c.labels}))
	c.ok(e.CreateNetwork(ctx, engine.Network{Name: "conform-net2", Labels: c.labels}))
	c.ok(e.CreateNetwork(ctx, engine.Network{Name: "conform-foreign"}))
	c.ok(e.CreateVolume(ctx, engine.Volume{Name: "conform-vol", Labels: c.labels}))
	c.ok(e.CreateVolume(ctx, engine.Volume{Name: "conform-vol", Labels: c.labels}))
	nets, err := e.Networks(ctx)
	c.ok(err)
	if len(nets) != 2 || nets[0].Name != "conform-net" || nets[0].Labels[engine.LabelSupervised] != "true" {
		c.t.Errorf("networks: %+v", nets)
	}
	vols, err := e.Volumes(ctx)
	c.ok(err)
	if len(vols) != 1 || vols[0].Name != "conform-vol" {
		c.t.Errorf("volumes: %+v", vols)
	}
}

func (c *conformance) pull(missing string, auth engine.Auth) {
	ctx, e := c.t.Context(), c.e
	c.fails("pull of a missing image", e.Pull(ctx, missing, auth, nil))
	last := -1
	c.ok(e.Pull(ctx, c.image, auth, func(p int) {
		if p < last || p > 100 {
			c.t.Errorf("progress went from %d to %d", last, p)
		}
		last = p
	}))
	images, err := e.Images(ctx)
	c.ok(err)
	if !slices.Contains(images, c.image) {
		c.t.Errorf("images: %q, without %q", images, c.image)
	}
}

func (c *conformance) spec(name string, labels map[string]string, command []string) engine.Spec {
	grace := 0
	return engine.Spec{
		Name: name, Config: container.Config{Image: c.image, Cmd: command, Labels: labels, StopTimeout: &grace},
		Host: container.HostConfig{Binds: []string{"conform-vol:/data"}, RestartPolicy: container.RestartPolicy{Name: "always"}},
		Networks: map[string]*network.EndpointSettings{
			"conform-net": {Aliases: []string{"one"}}, "conform-net2": {Aliases: []string{"two"}},
		},
	}
}

func (c *conformance) containers(command []string) {
	ctx, e := c.t.Context(), c.e
	for heard := false; !heard; { // until the events have begun to come
		probe, err := e.Create(ctx, c.spec("conform-probe", c.labels, command))
		c.ok(err)
		c.ok(e.Remove(ctx, probe))
		heard = hears(c.events, "destroy", 100*time.Millisecond)
		c.ok(ctx.Err())
	}
	id, err := e.Create(ctx, c.spec("conform", c.labels, command))
	c.ok(err)
	other, err := e.Create(ctx, c.spec("conform-foreign", nil, command))
	c.ok(err)
	c.sees("after create", "conform created")
	_, err = e.Create(ctx, c.spec("conform", c.labels, command))
	c.fails("a name that is taken", err)
	c.ok(e.Start(ctx, "conform"))
	c.ok(e.Start(ctx, id))
	c.sees("after start", "conform running")
	await(c.t, c.events, "start")
	c.fails("remove an image in use", e.RemoveImage(ctx, c.image))
	c.fails("remove a network in use", e.RemoveNetwork(ctx, "conform-net"))
	if err := e.RemoveVolume(ctx, "conform-vol"); !errors.Is(err, engine.ErrInUse) {
		c.t.Errorf("remove a volume in use: %v", err)
	}
	c.ok(e.Rename(ctx, id, "conform-new"))
	c.sees("after rename", "conform-new running")
	await(c.t, c.events, "rename")
	c.ok(e.Stop(ctx, id))
	c.ok(e.Stop(ctx, id))
	c.sees("after stop", "conform-new exited")
	await(c.t, c.events, "die")
	c.ok(e.Start(ctx, id))
	c.sees("after another start", "conform-new running")
	c.ok(e.Remove(ctx, id))
	c.ok(e.Remove(ctx, id))
	c.sees("after remove")
	await(c.t, c.events, "destroy")
	c.fails("start what is not there", e.Start(ctx, id))
	c.ok(e.Stop(ctx, id))
	c.ok(e.Remove(ctx, other))
}

func await(t *testing.T, events <-chan string, want string) {
	t.Helper()
	if !hears(events, want, time.Minute) {
		t.Fatalf("no event %q", want)
	}
}

// hears skips events until the wanted one.
func hears(events <-chan string, want string, within time.Duration) bool {
	deadline := time.After(within)
	for {
		select {
		case got := <-events:
			if got == want {
				return true
			}
		case <-deadline:
			return false
		}
	}
}
