package apiserver

import (
	"net/http"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
)

// The default deny: a route that does not say who may call it keeps the role from starting.
func TestRoutesThatAreRefused(t *testing.T) {
	handle := func(http.ResponseWriter, *http.Request) error { return nil }
	for what, tt := range map[string]struct {
		rt   route
		good bool
	}{
		"public":     {route{handle: handle, who: users}, true},
		"internal":   {route{handle: handle, roles: []string{api.RoleBuilder}}, true},
		"nobody":     {route{handle: handle}, false},
		"both":       {route{handle: handle, who: users, roles: []string{api.RoleBuilder}}, false},
		"no handler": {route{who: users}, false},
		"a service":  {route{handle: handle, who: []access.Kind{access.Service}}, false},
		"the system": {route{handle: handle, who: []access.Kind{access.User, access.System}}, false},
	} {
		if err := tt.rt.check(); (err == nil) != tt.good {
			t.Errorf("%s: got %v", what, err)
		}
	}
}
