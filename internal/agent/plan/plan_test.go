package plan_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/agent/plan"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/engine/enginetest"
)

const fleet = "f1"

// svc describes a service of a target in one line: name, image, and its composition.
type svc struct{ name, image, compose string }

// target makes one for a release of one fleet; networks and volumes are those the services use.
func target(t *testing.T, commit string, services ...svc) plan.Target {
	t.Helper()
	return targetWith(t, commit, nil, services...)
}

func targetWith(t *testing.T, commit string, networks map[string]string, services ...svc) plan.Target {
	t.Helper()
	app := composition.App{ID: 1, UUID: fleet, Name: "fleet", ReleaseID: 1, Commit: commit}
	out := plan.Target{Apps: map[string]bool{fleet: true}}
	netsUsed, volsUsed := map[string]bool{}, map[string]bool{}
	for name := range networks {
		netsUsed[name] = true
	}
	for _, s := range services {
		if s.compose == "" {
			s.compose = "{}"
		}
		got, err := composition.ForService(composition.Device{SharedDir: "/run/x"}, app, s.name, &api.ServiceTarget{
			ID: 1, ImageID: 1, Image: s.image, Composition: json.RawMessage(s.compose),
		})
		if err != nil {
			t.Fatal(err)
		}
		out.Services = append(out.Services, plan.Service{App: app, Service: got})
		for _, n := range got.Networks {
			netsUsed[n] = true
		}
		for _, v := range got.Volumes {
			volsUsed[v] = true
		}
	}
	for name := range netsUsed {
		n, _, err := composition.ForNetwork(app, name, json.RawMessage(networks[name]))
		if err != nil {
			t.Fatal(err)
		}
		out.Networks = append(out.Networks, n)
	}
	for name := range volsUsed {
		v, _, err := composition.ForVolume(app, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		out.Volumes = append(out.Volumes, v)
	}
	slices.SortFunc(out.Networks, func(a, b engine.Network) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// reached is what the device looks like when a target is reached.
func reached(want plan.Target) plan.Current {
	cur := plan.Current{Images: map[string]bool{}, Networks: want.Networks, Volumes: want.Volumes, Held: map[string]bool{}}
	for _, s := range want.Services {
		cur.Containers = append(cur.Containers, engine.Container{
			ID: "id-" + s.Spec.Name, Name: s.Spec.Name, Image: s.Image(), Labels: s.Spec.Config.Labels, State: "running",
		})
		if !cur.Images[s.Image()] {
			cur.Pulled = append(cur.Pulled, s.Image())
		}
		cur.Images[s.Image()] = true
	}
	return cur
}

// line writes a step as the tables below have it.
func line(s plan.Step) string {
	switch s.Kind {
	case plan.Pull, plan.RemoveImage:
		return string(s.Kind) + " " + s.Image
	case plan.Create:
		return "create " + s.Spec.Name
	case plan.CreateNetwork:
		return "create network " + s.Network.Name
	case plan.CreateVolume:
		return "create volume " + s.Volume.Name
	case plan.RemoveNetwork, plan.RemoveVolume:
		return string(s.Kind) + " " + s.Name
	case plan.Rename:
		return "rename " + s.Container + " to " + s.Name
	case plan.Settle:
		return "settle"
	}
	text := string(s.Kind) + " " + s.Container
	if len(s.Replaces) > 0 {
		text += " for " + strings.Join(s.Replaces, ",")
	}
	return text
}

func lines(p plan.Plan) []string {
	out := []string{}
	for _, s := range p.Steps {
		out = append(out, line(s))
	}
	return out
}

// edit changes a current state.
func edit(cur plan.Current, f func(*plan.Current)) plan.Current {
	cur.Containers = slices.Clone(cur.Containers)
	f(&cur)
	return cur
}

func state(name, state string) func(*plan.Current) {
	return func(c *plan.Current) {
		for i := range c.Containers {
			if strings.HasPrefix(c.Containers[i].Name, name+"_") {
				c.Containers[i].State = state
			}
		}
	}
}

// row is one case: what there is, what should be, and what is done about it.
type row struct {
	name    string
	cur     plan.Current
	want    plan.Target
	steps   []string
	waiting []string
}

func (r row) check(t *testing.T) {
	got := plan.Make(r.cur, r.want)
	if diff := cmp.Diff(r.steps, lines(got)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(r.waiting, got.Waiting); diff != "" {
		t.Errorf("waiting (-want +got):\n%s", diff)
	}
	again := plan.Make(r.cur, r.want)
	if diff := cmp.Diff(lines(got), lines(again)); diff != "" {
		t.Errorf("not pure:\n%s", diff)
	}
}

func drop(name string) func(*plan.Current) {
	return func(c *plan.Current) {
		c.Containers = slices.DeleteFunc(c.Containers, func(x engine.Container) bool { return strings.HasPrefix(x.Name, name+"_") })
	}
}

func TestFirstRelease(t *testing.T) {
	empty := plan.Current{Images: map[string]bool{}}
	web := svc{"web", "i1", ""}
	one := target(t, "a", web)
	both := target(t, "a", svc{"web", "i1", `{"depends_on":["db"]}`}, svc{"db", "i2", ""})
	none := plan.Target{Apps: map[string]bool{fleet: true}}
	for _, tt := range []row{
		{"nothing to do on an empty device", empty, none, []string{}, nil},
		{"nothing to do when all is there", reached(one), one, []string{}, nil},
		{"first release", empty, one, []string{"pull i1", "create network f1_default", "create web_1_1_a", "start web_1_1_a", "settle"}, nil},
		{"the image is there already", edit(empty, func(c *plan.Current) { c.Images = map[string]bool{"i1": true} }), one,
			[]string{"create network f1_default", "create web_1_1_a", "start web_1_1_a", "settle"}, nil},
		{"who is depended on starts first", empty, both, []string{
			"pull i2", "pull i1", "create network f1_default", "create db_1_1_a", "create web_1_1_a", "start db_1_1_a", "start web_1_1_a", "settle"}, nil},
		{"two services, one image, one pull", empty, target(t, "a", svc{"x", "i1", ""}, svc{"y", "i1", ""}), []string{
			"pull i1", "create network f1_default", "create x_1_1_a", "create y_1_1_a", "start x_1_1_a", "start y_1_1_a", "settle"}, nil},
		{"a circle of dependencies still starts", empty, target(t, "a", svc{"x", "i1", `{"depends_on":["y"]}`}, svc{"y", "i1", `{"depends_on":["x"]}`}),
			[]string{"pull i1", "create network f1_default", "create y_1_1_a", "create x_1_1_a", "start y_1_1_a", "start x_1_1_a", "settle"}, nil},
		{"a dependency that does not exist", empty, target(t, "a", svc{"x", "i1", `{"depends_on":["nobody"]}`}),
			[]string{"pull i1", "create network f1_default", "create x_1_1_a", "start x_1_1_a", "settle"}, nil},
		{"volumes come before containers", empty, target(t, "a", svc{"x", "i1", `{"volumes":["d:/d"]}`}),
			[]string{"pull i1", "create volume 1_d", "create network f1_default", "create x_1_1_a", "start x_1_1_a", "settle"}, nil},
		{"host networking needs no network", empty, target(t, "a", svc{"x", "i1", `{"network_mode":"host"}`}),
			[]string{"pull i1", "create x_1_1_a", "start x_1_1_a", "settle"}, nil},
		{"networks of its own", empty, target(t, "a", svc{"x", "i1", `{"networks":["n","m"]}`}),
			[]string{"pull i1", "create network f1_m", "create network f1_n", "create x_1_1_a", "start x_1_1_a", "settle"}, nil},
	} {
		t.Run(tt.name, tt.check)
	}
}

func TestHealth(t *testing.T) {
	empty := plan.Current{Images: map[string]bool{}}
	healthy := target(t, "a", svc{"web", "i1", `{"depends_on":{"db":{"condition":"service_healthy"}}}`}, svc{"db", "i2", ""})
	health := func(h string) func(*plan.Current) {
		return func(c *plan.Current) {
			for i := range c.Containers {
				if strings.HasPrefix(c.Containers[i].Name, "db_") {
					c.Containers[i].Health = h
				}
			}
		}
	}
	for _, tt := range []row{
		{"first of two waits to be healthy", empty, healthy, []string{"pull i2", "pull i1", "create network f1_default", "create db_1_1_a", "start db_1_1_a", "settle"},
			[]string{"web"}},
		{"still starting", edit(edit(reached(healthy), drop("web")), health("starting")), healthy, []string{}, []string{"web"}},
		{"healthy now", edit(edit(reached(healthy), drop("web")), health("healthy")), healthy, []string{"create web_1_1_a", "start web_1_1_a", "settle"}, nil},
		{"without a health check running is enough", edit(reached(healthy), drop("web")), healthy, []string{"create web_1_1_a", "start web_1_1_a", "settle"}, nil},
		{"while one waits its old version runs and keeps its image", edit(reached(healthy), health("starting")),
			target(t, "b", svc{"web", "i9", `{"depends_on":{"db":{"condition":"service_healthy"}}}`}, svc{"db", "i2", ""}),
			[]string{"pull i9", "rename id-db_1_1_a to db_1_1_b"}, []string{"web"}},
	} {
		t.Run(tt.name, tt.check)
	}
}

func TestUpdatesAndRepairs(t *testing.T) {
	web := svc{"web", "i1", ""}
	one := target(t, "a", web)
	both := target(t, "a", svc{"web", "i1", `{"depends_on":["db"]}`}, svc{"db", "i2", ""})
	none := plan.Target{Apps: map[string]bool{fleet: true}}
	gone := plan.Target{Apps: map[string]bool{}}
	noRestart := target(t, "a", svc{"web", "i1", `{"restart":"no"}`})
	for _, tt := range []row{
		{"a new image: download, then kill", reached(one), target(t, "b", svc{"web", "i9", ""}), []string{
			"pull i9", "create web_1_1_b", "stop id-web_1_1_a", "start web_1_1_b for id-web_1_1_a", "remove id-web_1_1_a", "settle", "remove image i1"}, nil},
		{"a new release with the same content only renames", reached(one), target(t, "b", web), []string{"rename id-web_1_1_a to web_1_1_b"}, nil},
		{"the same content under another name is not downloaded, and the old name is kept", reached(target(t, "a", svc{"web", "old@sha256:1", ""})),
			target(t, "b", svc{"web", "new@sha256:1", ""}), []string{"rename id-web_1_1_a to web_1_1_b"}, nil},
		{"changed settings of the same release", reached(one), target(t, "a", svc{"web", "i1", `{"environment":["X=1"]}`}), []string{
			"rename id-web_1_1_a to old_id-web_1_1_a_web_1_1_a", "create web_1_1_a", "stop id-web_1_1_a", "start web_1_1_a for id-web_1_1_a",
			"remove id-web_1_1_a", "settle"}, nil},
		{"the dependent stops first", reached(both), target(t, "b", svc{"web", "i3", `{"depends_on":["db"]}`}, svc{"db", "i4", ""}), []string{
			"pull i4", "pull i3", "create db_1_1_b", "create web_1_1_b", "stop id-web_1_1_a", "stop id-db_1_1_a",
			"start db_1_1_b for id-db_1_1_a", "start web_1_1_b for id-web_1_1_a", "remove id-db_1_1_a", "remove id-web_1_1_a", "settle",
			"remove image i1", "remove image i2"}, nil},
		{"one of two changes", reached(both), target(t, "b", svc{"web", "i3", `{"depends_on":["db"]}`}, svc{"db", "i2", ""}), []string{
			"pull i3", "create web_1_1_b", "stop id-web_1_1_a", "start web_1_1_b for id-web_1_1_a",
			"rename id-db_1_1_a to db_1_1_b", "remove id-web_1_1_a", "settle", "remove image i1"}, nil},
		{"a service that is not wanted any more", reached(both), target(t, "b", svc{"web", "i1", `{"depends_on":["db"]}`}), []string{
			"stop id-db_1_1_a", "remove id-db_1_1_a", "rename id-web_1_1_a to web_1_1_b", "remove image i2"}, nil},
		{"no release: nothing runs, volumes stay", reached(target(t, "a", svc{"x", "i1", `{"volumes":["d:/d"]}`})), none, []string{
			"stop id-x_1_1_a", "remove id-x_1_1_a", "remove network f1_default", "remove image i1"}, nil},
		{"the fleet leaves: volumes too", reached(target(t, "a", svc{"x", "i1", `{"volumes":["d:/d"]}`})), gone, []string{
			"stop id-x_1_1_a", "remove id-x_1_1_a", "remove network f1_default", "remove volume 1_d", "remove image i1"}, nil},
		{"a volume that a release does not name stays", reached(target(t, "a", svc{"x", "i1", `{"volumes":["d:/d"]}`})),
			target(t, "a", svc{"x", "i1", ""}), []string{"rename id-x_1_1_a to old_id-x_1_1_a_x_1_1_a", "create x_1_1_a", "stop id-x_1_1_a",
				"start x_1_1_a for id-x_1_1_a", "remove id-x_1_1_a", "settle"}, nil},
		{"one that has ended is started", edit(reached(one), state("web", "exited")), one, []string{"start id-web_1_1_a"}, nil},
		{"one that ends again and again is held", edit(reached(one), func(c *plan.Current) {
			state("web", "exited")(c)
			c.Held = map[string]bool{"id-web_1_1_a": true}
		}), one, []string{}, nil},
		{"one that the engine restarts is left to it", edit(reached(one), state("web", "restarting")), one, []string{}, nil},
		{"a paused one is left alone", edit(reached(one), state("web", "paused")), one, []string{}, nil},
		{"one that was never started is", edit(reached(one), state("web", "created")), one, []string{"start id-web_1_1_a", "settle"}, nil},
		{"one that could not be started is not there yet while it is held", edit(reached(one), func(c *plan.Current) {
			state("web", "created")(c)
			c.Held = map[string]bool{"id-web_1_1_a": true}
		}), one, []string{}, []string{"web"}},
		{"a dead one is made anew", edit(reached(one), state("web", "dead")), one, []string{
			"rename id-web_1_1_a to old_id-web_1_1_a_web_1_1_a", "create web_1_1_a", "start web_1_1_a", "remove id-web_1_1_a", "settle"}, nil},
		{"one that did its work stays ended", edit(reached(noRestart), state("web", "exited")), noRestart, []string{}, nil},
		{"one that was removed by hand comes back", edit(reached(one), drop("web")), one, []string{"create web_1_1_a", "start web_1_1_a", "settle"}, nil},
		{"a network removed by hand comes back", edit(reached(one), func(c *plan.Current) { c.Networks = nil }), one,
			[]string{"create network f1_default"}, nil},
		{"cut between stop and start", edit(reached(one), func(c *plan.Current) {
			next := reached(target(t, "b", svc{"web", "i9", ""}))
			state("web", "exited")(c)
			c.Containers = append(c.Containers, next.Containers[0])
			c.Containers[1].State = "created"
			c.Images = map[string]bool{"i1": true, "i9": true}
		}), target(t, "b", svc{"web", "i9", ""}), []string{"start id-web_1_1_b", "remove id-web_1_1_a", "settle", "remove image i1"}, nil},
		{"cut between stop and start, and the next image is missing: the old one runs meanwhile", edit(reached(one), state("web", "exited")),
			target(t, "b", svc{"web", "i9", ""}), []string{"start id-web_1_1_a", "pull i9", "create web_1_1_b", "start web_1_1_b", "remove id-web_1_1_a",
				"settle", "remove image i1"}, nil},
		{"two of the same: one goes", edit(reached(one), func(c *plan.Current) {
			twin := c.Containers[0]
			twin.ID, twin.Name = "twin", "twin_1_1_a"
			c.Containers = append(c.Containers, twin)
		}), one, []string{"stop twin", "remove twin"}, nil},
		{"of two the running one stays", edit(reached(one), func(c *plan.Current) {
			twin := c.Containers[0]
			c.Containers[0].State = "exited"
			twin.ID, twin.Name = "twin", "twin_1_1_a"
			c.Containers = append(c.Containers, twin)
		}), one, []string{"remove id-web_1_1_a", "rename twin to web_1_1_a"}, nil},
		{"a network changes: its containers go first", reached(targetWith(t, "a", map[string]string{"n": `{}`}, svc{"x", "i1", `{"networks":["n"]}`})),
			targetWith(t, "a", map[string]string{"n": `{"internal":true}`}, svc{"x", "i1", `{"networks":["n"]}`}), []string{
				"stop id-x_1_1_a", "remove id-x_1_1_a", "remove network f1_n", "create network f1_n", "create x_1_1_a", "start x_1_1_a", "settle"}, nil},
		{"an image that we did not pull stays", edit(reached(one), func(c *plan.Current) { c.Images = map[string]bool{"i1": true, "foreign": true} }), one,
			[]string{}, nil},
		{"an old image of ours goes", edit(reached(one), func(c *plan.Current) { c.Pulled = []string{"i0", "i1"} }), one, []string{"remove image i0"}, nil},
	} {
		t.Run(tt.name, tt.check)
	}
}

// act does one step on an engine, as the agent would.
func act(ctx context.Context, e *enginetest.Engine, s plan.Step) error {
	switch s.Kind {
	case plan.Pull:
		return e.Pull(ctx, s.Image, engine.Auth{}, nil)
	case plan.CreateVolume:
		return e.CreateVolume(ctx, *s.Volume)
	case plan.CreateNetwork:
		return e.CreateNetwork(ctx, *s.Network)
	case plan.Create:
		_, err := e.Create(ctx, *s.Spec)
		return err
	case plan.Stop:
		return e.Stop(ctx, s.Container)
	case plan.Start:
		return e.Start(ctx, s.Container)
	case plan.Remove:
		return e.Remove(ctx, s.Container)
	case plan.Rename:
		return e.Rename(ctx, s.Container, s.Name)
	case plan.RemoveNetwork:
		return e.RemoveNetwork(ctx, s.Name)
	case plan.RemoveVolume:
		return e.RemoveVolume(ctx, s.Name)
	case plan.RemoveImage:
		return e.RemoveImage(ctx, s.Image)
	}
	return nil
}

func look(t *testing.T, e *enginetest.Engine, pulled []string) plan.Current {
	t.Helper()
	cur := plan.Current{Images: map[string]bool{}, Held: map[string]bool{}}
	var err error
	if cur.Containers, err = e.Containers(t.Context()); err != nil {
		t.Fatal(err)
	}
	cur.Networks, _ = e.Networks(t.Context())
	cur.Volumes, _ = e.Volumes(t.Context())
	images, _ := e.Images(t.Context())
	for _, ref := range images {
		cur.Images[ref] = true
		if slices.Contains(pulled, ref) {
			cur.Pulled = append(cur.Pulled, ref)
		}
	}
	return cur
}

// Whatever is wanted next and whenever the power fails, planning again leads to the target; and from the first release on,
// a service of the target that had an image on the device is never without a container that runs, but for the moment between
// the stop of the old one and the start of the new one.
func TestAnyInterruptionEndsAtTheTarget(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		var pullable []string
		for i := range 12 {
			pullable = append(pullable, fmt.Sprintf("i%d", i))
		}
		e := enginetest.New(pullable...)
		for n := range 6 {
			want := randomTarget(t, rng, fmt.Sprintf("c%d", n))
			settled := false
			for range 60 {
				p := plan.Make(look(t, e, pullable), want)
				if len(p.Steps) == 0 {
					settled = len(p.Waiting) == 0
					break
				}
				stop := len(p.Steps)
				if rng.IntN(3) > 0 {
					stop = rng.IntN(len(p.Steps) + 1) // the power fails here
				}
				for _, s := range p.Steps[:stop] {
					if err := act(t.Context(), e, s); err != nil {
						t.Fatalf("round %d: %s: %v\nplan: %v", round, line(s), err, lines(p))
					}
				}
				if stop < len(p.Steps) && rng.IntN(4) == 0 {
					break // and when it is back there is another target
				}
			}
			if settled {
				checkReached(t, e, want)
			}
		}
		want := randomTarget(t, rng, "last")
		for range 20 {
			p := plan.Make(look(t, e, pullable), want)
			for _, s := range p.Steps {
				if err := act(t.Context(), e, s); err != nil {
					t.Fatalf("%s: %v", line(s), err)
				}
			}
			if len(p.Steps) == 0 {
				break
			}
		}
		checkReached(t, e, want)
	}
}

func checkReached(t *testing.T, e *enginetest.Engine, want plan.Target) {
	t.Helper()
	boxes := e.Boxes()
	if len(boxes) != len(want.Services) {
		t.Fatalf("%d containers for %d services", len(boxes), len(want.Services))
	}
	for _, s := range want.Services {
		b, ok := boxes[s.Spec.Name]
		if !ok || b.State != "running" || b.Image != s.Image() {
			t.Fatalf("%s is %+v", s.Spec.Name, b.Container)
		}
	}
	images, _ := e.Images(t.Context())
	for _, ref := range images {
		if !slices.ContainsFunc(want.Services, func(s plan.Service) bool { return s.Image() == ref }) {
			t.Fatalf("the image %s is left", ref)
		}
	}
}

func randomTarget(t *testing.T, rng *rand.Rand, commit string) plan.Target {
	t.Helper()
	var services []svc
	for _, name := range []string{"a", "b", "c"} {
		if rng.IntN(4) == 0 {
			continue
		}
		compose := []string{`{}`, `{"depends_on":["a"]}`, `{"volumes":["d:/d"]}`, `{"networks":["n"]}`, `{"environment":["X=1"]}`}[rng.IntN(5)]
		services = append(services, svc{name, fmt.Sprintf("i%d", rng.IntN(12)), compose})
	}
	networks := map[string]string{}
	if rng.IntN(2) == 0 {
		networks["n"] = []string{`{}`, `{"internal":true}`}[rng.IntN(2)]
	}
	return targetWith(t, commit, networks, services...)
}
