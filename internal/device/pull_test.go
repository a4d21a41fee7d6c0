package device_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

func TestPullGrants(t *testing.T) {
	w := newWorld(t)
	f, far := w.Fleet(w.alice, "harbour"), w.Fleet(w.bob, "elsewhere")
	old, target := w.push(w.alice, "alice/harbour", "web"), w.push(w.alice, "alice/harbour", "web", "writer")
	foreign := w.push(w.bob, "bob/elsewhere", "web")
	dev, made := w.device(w.alice, f, uuidOf(1))
	neighbour, _ := w.device(w.bob, far, uuidOf(2))
	scope := func(b built, service, actions string) string {
		return "repository:" + b.images[service].Repository + ":" + actions
	}
	granted := func(by access.Caller, scopes ...string) (names string) {
		t.Helper()
		w.Read(func(tx *db.Tx) error {
			grants, err := w.Devices.PullGrants(t.Context(), tx, by, registry, scopes)
			for _, g := range grants {
				if strings.Join(g.Actions, ",") != "pull" || g.Type != "repository" {
					t.Errorf("a grant of more than a pull: %+v", g)
				}
				names += g.Name + " "
			}
			return err
		})
		return names
	}
	yes := func(b built, services ...string) (names string) {
		for _, s := range services {
			names += b.images[s].Repository + " "
		}
		return names
	}
	check := func(what string, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	check("target", granted(dev, scope(target, "web", "pull"), scope(target, "writer", "pull,push"), scope(target, "web", "pull")), yes(target, "web", "writer"))
	check("push", granted(dev, scope(target, "web", "push")), "")
	check("old release", granted(dev, scope(old, "web", "pull")), "")
	check("another fleet", granted(dev, scope(foreign, "web", "pull")), "")
	check("the neighbour", granted(neighbour, scope(target, "web", "pull"), scope(foreign, "web", "pull")), yes(foreign, "web"))
	check("nonsense", granted(dev, "", "registry:catalog:*", "repository:../v2:pull", "repository:v2/%00:pull", "x", scope(target, "web", "*"),
		"repository:"+strings.Repeat("v2/", 1000)+":pull"), "")
	check("by digest", granted(dev, strings.Replace(scope(target, "web", "pull"), ":pull", "@"+digest(1)+":pull", 1)), yes(target, "web"))
	check("a user", granted(w.alice, scope(old, "web", "pull,push"), scope(foreign, "web", "pull")), yes(old, "web"))
	check("a provisioning key", granted(access.Caller{Kind: access.Provisioning, Fleet: f}, scope(target, "web", "pull")), "")
	check("nobody", granted(access.Nobody(), scope(target, "web", "pull")), "")

	w.patchDevice(made.ID, "is_pinned_on__release", old.id)
	check("pinned", granted(dev, scope(old, "web", "pull"), scope(target, "web", "pull")), yes(old, "web"))
	w.Must(w.report(dev, uuidOf(1), w.apps(f, target, target.commit, "done", nil)))
	// A stolen key must not open every release that the fleet ever had by naming it in a report.
	check("pinned, says that it runs the other", granted(dev, scope(old, "web", "pull"), scope(target, "web", "pull")), yes(old, "web"))
	w.Want(w.alice, "DELETE", fmt.Sprintf("device(%d)", made.ID), nil, 200, "")
	check("deleted", granted(dev, scope(old, "web", "pull"), scope(target, "web", "pull")), "")
}
