package apiserver_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
)

// watch asks whether somebody may follow a build, and gives who they are.
func (c *crew) watch(token, path string, want int) (w api.BuildWatch) {
	c.Helper()
	a := c.server.role(api.RoleBuilder, "POST", path+"/watch", nil, "Authorization: Bearer "+token).want(want)
	if want == http.StatusOK {
		a.into(&w)
	}
	return w
}

// gone is who of those who follow a build may not any more.
func (c *crew) gone(path string, who ...api.BuildFollower) []int64 {
	c.Helper()
	var b api.Build
	c.server.role(api.RoleBuilder, "POST", path+"/heartbeat", api.BuildBeat{Followers: who}).want(http.StatusOK).into(&b)
	return b.Gone
}

// Only those who see the fleet follow its builds, only its maker sends the source, and both end with what was shown at the beginning.
func TestWhoFollowsABuild(t *testing.T) {
	c := newCrew(t)
	c.join("developer")
	stranger := c.user("mallory")
	build := c.begin(c.worker)
	maker := c.watch(c.worker, build, http.StatusOK)
	other := c.watch(c.owner, build, http.StatusOK)
	keyed := c.watch(c.key, build, http.StatusOK)
	if !maker.MaySend || !keyed.MaySend || other.MaySend {
		t.Errorf("may send the source: its maker %v, the maker's key %v, another %v", maker.MaySend, keyed.MaySend, other.MaySend)
	}
	c.watch(stranger, build, http.StatusNotFound)
	c.watch(c.owner, "/internal/v1/builds/999", http.StatusNotFound)
	c.watch("nonsense", build, http.StatusUnauthorized)
	c.server.role(api.RoleBuilder, "POST", build+"/watch", nil).want(http.StatusUnauthorized)
	for _, p := range c.principals() {
		switch p.kind {
		case access.Device, access.FleetKey:
			c.watch(p.token, build, http.StatusForbidden)
		case access.Provisioning:
			c.watch(p.token, build, http.StatusUnauthorized)
		}
	}
	who := []api.BuildFollower{maker.Follower, other.Follower, keyed.Follower}
	for i := range who {
		who[i].ID = int64(10 + i)
	}
	if gone := c.gone(build, who...); len(gone) != 0 {
		t.Errorf("while all hold: %v may not follow", gone)
	}
	forged := []api.BuildFollower{{ID: 1, User: who[1].User}, {ID: 2, User: who[1].User, Login: who[0].Login}, {ID: 3}, {ID: 4, User: who[1].User, Login: strings.Repeat("0", 32)}}
	if gone := c.gone(build, forged...); len(gone) != len(forged) {
		t.Errorf("of those who show nothing, or what is another's, only %v may not follow", gone)
	}
	c.do(c.worker, "POST", "/user/v1/logout", nil).want(http.StatusOK)
	if gone := c.gone(build, who...); len(gone) != 1 || gone[0] != 10 {
		t.Errorf("after the maker's session has ended: %v may not follow", gone)
	}
	c.exec(`DELETE FROM user_application_membership`)
	if gone := c.gone(build, who...); len(gone) != 2 || gone[1] != 12 {
		t.Errorf("after the maker left the fleet: %v may not follow", gone)
	}
}
