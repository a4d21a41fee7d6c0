// Package route says what one entry in the api role's list of routes is: who may call it, and what answers.
package route

import (
	"fmt"
	"slices"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Route is one entry of the role's list. Exactly one of Who and Roles says who may call it; a route with neither keeps the role
// from starting.
type Route struct {
	Method string // "" for every method
	Path   string // pattern of net/http.ServeMux, matched on the escaped path
	Handle web.HandlerFunc
	Who    []access.Kind // public route, reached through the edge: the kinds of callers that get in
	Roles  []string      // internal route: the roles, by certificate, that get in
	Stream bool          // no time limit, no compression; its context ends when the server stops
	Basic  bool          // the token may also come as the password of Basic authentication
	Keyed  bool          // who has no key that holds is told so in the words that devices know

	Login   rights.Login    // what is asked of a person: a key does, a session, a fresh one
	Verb    access.Verbs    // what a person's key is used for here; none: to read. It tells of use, and lets nobody in
	Channel access.Channels // on which a key comes here; none: the API
}

// Who gets in.
var (
	Anybody         = []access.Kind{access.Anonymous}                                                                   // no authentication is even tried
	Users           = []access.Kind{access.User}                                                                        // sessions and whole named keys
	People          = []access.Kind{access.User, access.ScopedKey}                                                      // and limited ones, within their limits
	PeopleAndDevice = []access.Kind{access.User, access.ScopedKey, access.Device}                                       // the handler decides by level or device
	Named           = []access.Kind{access.User, access.ScopedKey, access.Device, access.FrozenDevice, access.FleetKey} // whoever is somebody
	ByRules         = []access.Kind{access.Anonymous, access.User, access.ScopedKey, access.Device, access.FleetKey}    // the engine's rules decide, row by row
)

// Check is the default deny: a route that does not say who may call it is a mistake.
func (r Route) Check() error {
	switch {
	case r.Handle == nil:
		return fmt.Errorf("route %s %s: no handler", r.Method, r.Path)
	case len(r.Who) == 0 && len(r.Roles) == 0:
		return fmt.Errorf("route %s %s: nobody is named who may call it", r.Method, r.Path)
	case len(r.Who) > 0 && len(r.Roles) > 0:
		return fmt.Errorf("route %s %s: it is either for the public or for roles", r.Method, r.Path)
	case slices.Contains(r.Who, access.Service) || slices.Contains(r.Who, access.System):
		return fmt.Errorf("route %s %s: name roles instead of a kind", r.Method, r.Path)
	case r.Login != rights.NoLogin && (!slices.Contains(r.Who, access.User) || slices.Contains(r.Who, access.ScopedKey)):
		return fmt.Errorf("route %s %s: a session is asked of those who cannot have one, or of nobody", r.Method, r.Path)
	}
	return nil
}

// By is the channel on which a key comes.
func (r Route) By() access.Channels {
	if r.Channel == 0 {
		return access.API
	}
	return r.Channel
}
