package apiserver_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver"
)

// principal is one kind of credential, as the matrix tries it.
type principal struct {
	name  string
	kind  access.Kind
	token string
}

// principals makes one credential of each kind: all of one tenant.
func (s *server) principals() []principal {
	s.Helper()
	session := s.user("alice")
	fleet := s.fleet(session, "hello")
	var provisioning, named string
	s.do(session, "POST", "/api-key/application/"+itoa(fleet)+"/provisioning", api.NewKey{}).want(http.StatusOK).into(&provisioning)
	s.do(session, "POST", "/api-key/user/full", api.NewKey{Name: "ci"}).want(http.StatusOK).into(&named)
	return []principal{
		{"nobody", access.Anonymous, ""},
		{"provisioning key", access.Provisioning, provisioning},
		{"device key", access.Device, s.device(session, fleet, api.DeviceUUID(strings.Repeat("a", 32))).APIKey},
		{"named key", access.User, named},
		{"session", access.User, session},
	}
}

// Every route with every kind of credential: whoever the list does not name is refused before the handler runs, with 401 for
// nobody and for provisioning keys, 403 for the others.
func TestEveryRouteWithEveryCredential(t *testing.T) {
	s := newServer(t)
	all := s.principals()
	for _, rt := range apiserver.Routes() {
		if rt.Internal || slices.Contains(rt.Who, access.Anonymous) || strings.Contains(rt.Path, "logout") {
			continue // tried in other tests, or open; a logout would end the session that the test needs
		}
		path := strings.NewReplacer("{$}", "", "{id}", "99999", "{uuid}", strings.Repeat("b", 32), "{slug}", "nothing").Replace(rt.Path)
		for _, p := range all {
			if slices.Contains(rt.Who, p.kind) {
				continue // let in; what the handler then allows is the business of the tests of what it does
			}
			want := http.StatusForbidden
			if p.kind == access.Anonymous || p.kind == access.Provisioning {
				want = http.StatusUnauthorized
			}
			if got := s.do(p.token, rt.Method, path, nil); got.status != want {
				t.Errorf("%s %s with a %s: got %d %s, want %d", rt.Method, rt.Path, p.name, got.status, got.body, want)
			}
		}
	}
}

// A provisioning key gets in at one door.
func TestDoorsOfAProvisioningKey(t *testing.T) {
	var doors []string
	for _, rt := range apiserver.Routes() {
		if slices.Contains(rt.Who, access.Provisioning) {
			doors = append(doors, rt.Method+" "+rt.Path)
		}
	}
	if !slices.Equal(doors, []string{"POST /device/register"}) {
		t.Errorf("doors: got %v", doors)
	}
}
