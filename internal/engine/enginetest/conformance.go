package enginetest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/roadstead-io/roadstead/internal/engine"
)

// Subject is what both engines have: the agent's Engine.
type Subject interface {
	Ping(ctx context.Context) error
	Containers(ctx context.Context) ([]engine.Container, error)
	Create(ctx context.Context, spec engine.Spec) (id string, err error)
	Start(ctx context.Context, id string) error
	Stop(ctx context.Context, id string) error
	Remove(ctx context.Context, id string) error
	Rename(ctx context.Context, id, name string) error
	Things
}

// Things are networks, volumes, images and events.
type Things interface {
	Networks(ctx context.Context) ([]engine.Network, error)
	CreateNetwork(ctx context.Context, n engine.Network) error
	RemoveNetwork(ctx context.Context, name string) error
	Volumes(ctx context.Context) ([]engine.Volume, error)
	CreateVolume(ctx context.Context, v engine.Volume) error
	RemoveVolume(ctx context.Context, name string) error
	Shared
}

// Shared is what they share with others on the engine.
type Shared interface {
	Images(ctx context.Context) ([]string, error)
	Pull(ctx context.Context, ref string, auth engine.Auth, progress func(percent int)) error
	RemoveImage(ctx context.Context, ref string) error
	Events(ctx context.Context, f func(engine.Event)) error
}

// Conform checks that an engine, empty at the start, behaves as the agent expects. The image must be pullable, and run until
// it is stopped when started with the given command; missing is a reference that is not there.
func Conform(t *testing.T, e Subject, image, missing string, auth engine.Auth, command []string) {
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fails := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	list := func() (out []string) {
		t.Helper()
		all, err := e.Containers(ctx)
		ok(err)
		for _, c := range all {
			out = append(out, c.Name+" "+c.State)
		}
		return out
	}
	same := func(what string, got, want []string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	ok(e.Ping(ctx))
	events := make(chan string, 100)
	eventCtx, endEvents := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = e.Events(eventCtx, func(ev engine.Event) { // ends with the context
			select {
			case events <- ev.Action:
			default:
			}
		})
	}()
	defer func() { endEvents(); <-ended }()

	labels := map[string]string{engine.LabelSupervised: "true"}
	ok(e.CreateNetwork(ctx, engine.Network{Name: "conform-net", Labels: labels}))
	ok(e.CreateNetwork(ctx, engine.Network{Name: "conform-net2", Labels: labels}))
	ok(e.CreateNetwork(ctx, engine.Network{Name: "conform-foreign"}))
	ok(e.CreateVolume(ctx, engine.Volume{Name: "conform-vol", Labels: labels}))
	ok(e.CreateVolume(ctx, engine.Volume{Name: "conform-vol", Labels: labels}))
	nets, err := e.Networks(ctx)
	ok(err)
	if len(nets) != 2 || nets[0].Name != "conform-net" || nets[0].Labels[engine.LabelSupervised] != "true" {
		t.Errorf("networks: %+v", nets)
	}
	vols, err := e.Volumes(ctx)
	ok(err)
	if len(vols) != 1 || vols[0].Name != "conform-vol" {
		t.Errorf("volumes: %+v", vols)
	}

	fails("pull of a missing image", e.Pull(ctx, missing, auth, nil))
	last := -1
	ok(e.Pull(ctx, image, auth, func(p int) {
		if p < last || p > 100 {
			t.Errorf("progress went from %d to %d", last, p)
		}
		last = p
	}))
	images, err := e.Images(ctx)
	ok(err)
	if !slices.Contains(images, image) {
		t.Errorf("images: %q, without %q", images, image)
	}

	spec := func(name string, labels map[string]string) engine.Spec {
		grace := 0
		return engine.Spec{
			Name: name, Config: container.Config{Image: image, Cmd: command, Labels: labels, StopTimeout: &grace},
			Host: container.HostConfig{Binds: []string{"conform-vol:/data"}, RestartPolicy: container.RestartPolicy{Name: "always"}},
			Networks: map[string]*network.EndpointSettings{
				"conform-net": {Aliases: []string{"one"}}, "conform-net2": {Aliases: []string{"two"}},
			},
		}
	}
	for heard := false; !heard; { // until the events have begun to come
		probe, err := e.Create(ctx, spec("conform-probe", labels))
		ok(err)
		ok(e.Remove(ctx, probe))
		heard = hears(events, "destroy", 100*time.Millisecond)
		ok(ctx.Err())
	}
	id, err := e.Create(ctx, spec("conform", labels))
	ok(err)
	other, err := e.Create(ctx, spec("conform-foreign", nil))
	ok(err)
	same("after create", list(), []string{"conform created"})
	_, err = e.Create(ctx, spec("conform", labels))
	fails("a name that is taken", err)
	ok(e.Start(ctx, "conform"))
	ok(e.Start(ctx, id))
	same("after start", list(), []string{"conform running"})
	await(t, events, "start")
	fails("remove an image in use", e.RemoveImage(ctx, image))
	fails("remove a network in use", e.RemoveNetwork(ctx, "conform-net"))
	ok(e.Rename(ctx, id, "conform-new"))
	same("after rename", list(), []string{"conform-new running"})
	await(t, events, "rename")
	ok(e.Stop(ctx, id))
	ok(e.Stop(ctx, id))
	same("after stop", list(), []string{"conform-new exited"})
	await(t, events, "die")
	ok(e.Start(ctx, id))
	same("after another start", list(), []string{"conform-new running"})
	ok(e.Remove(ctx, id))
	ok(e.Remove(ctx, id))
	same("after remove", list(), nil)
	await(t, events, "destroy")
	fails("start what is not there", e.Start(ctx, id))
	ok(e.Stop(ctx, id))
	ok(e.Remove(ctx, other))
	for _, name := range []string{"conform-net", "conform-net", "conform-net2", "conform-foreign"} {
		ok(e.RemoveNetwork(ctx, name))
	}
	ok(e.RemoveVolume(ctx, "conform-vol"))
	ok(e.RemoveVolume(ctx, "conform-vol"))
	ok(e.RemoveImage(ctx, image))
	ok(e.RemoveImage(ctx, image))
	images, err = e.Images(ctx)
	ok(err)
	if slices.Contains(images, image) {
		t.Errorf("images after removal: %q", images)
	}
}

func await(t *testing.T, events <-chan string, want string) {
	t.Helper()
	if !hears(events, want, 10*time.Second) {
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
