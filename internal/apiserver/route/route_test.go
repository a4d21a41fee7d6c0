package route_test

import (
	"net/http"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
)

// The default deny: a route that does not say who may call it keeps the role from starting.
func TestRoutesThatAreRefused(t *testing.T) {
	handle := func(http.ResponseWriter, *http.Request) error { return nil }
	for what, tt := range map[string]struct {
		rt   route.Route
		good bool
	}{
		"public":     {route.Route{Handle: handle, Who: route.Users}, true},
		"internal":   {route.Route{Handle: handle, Roles: []string{api.RoleBuilder}}, true},
		"nobody":     {route.Route{Handle: handle}, false},
		"both":       {route.Route{Handle: handle, Who: route.Users, Roles: []string{api.RoleBuilder}}, false},
		"no handler": {route.Route{Who: route.Users}, false},
		"a service":  {route.Route{Handle: handle, Who: []access.Kind{access.Service}}, false},
		"a session":  {route.Route{Handle: handle, Who: route.Users, Login: rights.FreshLogin}, true},
		"of a key":   {route.Route{Handle: handle, Who: route.People, Login: rights.AnyLogin}, false},
		"of nobody":  {route.Route{Handle: handle, Who: route.Anybody, Login: rights.AnyLogin}, false},
		"of a role":  {route.Route{Handle: handle, Roles: []string{api.RoleBuilder}, Login: rights.AnyLogin}, false},
		"the system": {route.Route{Handle: handle, Who: []access.Kind{access.User, access.System}}, false},
	} {
		if err := tt.rt.Check(); (err == nil) != tt.good {
			t.Errorf("%s: got %v", what, err)
		}
	}
}
