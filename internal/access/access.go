// Package access says who is asking. It is a leaf that every other package may use: it knows kinds of callers, never rows.
// What each kind may do is declared beside the resources (see internal/odata) and beside the routes (see internal/web).
package access

import (
	"context"
)

// Kind is a kind of principal.
type Kind string

// The kinds. Every access rule is given per kind, and a kind without a rule gets nothing.
const (
	Anonymous    Kind = "anonymous"
	User         Kind = "user"         // a person: session token or named API key
	HalfUser     Kind = "half session" // a person's session that waits for a second factor: it can give or enrol one, nothing else
	ScopedKey    Kind = "scoped key"   // a person's API key that is limited to some verbs or to some fleets
	Device       Kind = "device"       // a device's own key
	FrozenDevice Kind = "frozen"       // the key of a device that is frozen: who it is, nothing else
	FleetKey     Kind = "fleet key"    // reads one fleet
	Provisioning Kind = "provisioning" // may register devices into one fleet
	Service      Kind = "service"      // another role of the server, known by its certificate
	System       Kind = "system"       // the api role itself; no access filter applies
)

// Kinds lists the kinds that come from outside, in the order of the permission table.
func Kinds() []Kind {
	return []Kind{Anonymous, HalfUser, User, ScopedKey, Device, FrozenDevice, FleetKey, Provisioning, Service}
}

// Caller is one authenticated (or anonymous) principal.
type Caller struct {
	Kind    Kind
	Actor   int64  // actor row of a user, device or fleet; 0 for the others
	User    int64  // Kinds User, HalfUser and ScopedKey
	Device  int64  // Kinds Device and FrozenDevice
	Fleet   int64  // Kind Provisioning: the fleet it may register into. Kind Device: the fleet it is in. Kind FleetKey: its fleet
	Key     int64  // api_key row that authenticated the caller, if one did
	Session int64  // session row that authenticated the caller, if one did
	SSHKey  int64  // user__has__public_key row that authenticated the caller, if one did: on the channel git
	Staff   bool   // Kind User: a session of support staff, whom customers may have opened something to
	Role    string // Kind Service: name of the role
	Name    string // for logs: user name, "d_<uuid>", role name

	Channels Channels // of the key: the ways on which it may come; 0 means all
	Networks string   // of the key: network prefixes that it may come from, with a space between; "" means all

	Address string // IP address that the request came from
	Request string // id of the request, as it is in the log
}

// Nobody is the caller without credentials.
func Nobody() Caller { return Caller{Kind: Anonymous, Name: "anonymous"} }

// Itself is the api role acting on its own behalf, in hooks and jobs.
func Itself() Caller { return Caller{Kind: System, Name: "system"} }

type key struct{}

// With gives a request's context its caller. Only the api role calls it, once it knows who is asking; domain functions take the
// caller as an argument.
func With(ctx context.Context, c Caller) context.Context { return context.WithValue(ctx, key{}, c) }

// From reads the caller back, in handlers; a context without one is anonymous.
func From(ctx context.Context) Caller {
	if c, ok := ctx.Value(key{}).(Caller); ok {
		return c
	}
	return Nobody()
}
