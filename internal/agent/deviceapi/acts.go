// Package deviceapi is the device's own API: balena's supervisor API, version 1 and 2, which the server reaches through the
// control channel and containers reach over a bridge of their own. It checks who asks and for which fleet; what is asked for is
// done by [Acts], which also does what waited at the server for a device without a channel.
package deviceapi

import (
	"context"
	"errors"
	"io"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/locks"
	"github.com/roadstead-io/roadstead/internal/agent/proxy"
)

// Port is where the API listens, on every address that it listens on at all.
const Port = 48484

// What an act can fail with, beside an error that nobody expected.
var (
	ErrLocked   = locks.ErrHeld
	ErrNotFound = errors.New("not found")
	ErrInvalid  = errors.New("not valid")
	ErrMissing  = errors.New("this device has no means for it")
)

// Acts is everything that a device does when it is told to.
type Acts interface {
	Machine
	Fleets
	System
	Belongings
	Teller
}

// Machine acts on the device as a whole. Reboot and Shutdown answer once it is certain that they will happen, a moment before
// they do. Without force, an update lock of any service refuses them.
type Machine interface {
	Reboot(ctx context.Context, force bool) error
	Shutdown(ctx context.Context, force bool) error
	Blink(ctx context.Context) error
	// Update polls at once, and with force applies the target state whatever is locked. It answers false when instant updates are
	// switched off, and nothing was done.
	Update(ctx context.Context, force, cancel bool) (accepted bool, err error)
}

// Fleets acts on the containers of one fleet on this device.
type Fleets interface {
	RestartApp(ctx context.Context, app App, force bool) error
	Purge(ctx context.Context, app App, force bool) error
	Service(ctx context.Context, app App, which Service, verb Verb, force bool) error
}

// App names a fleet: by its uuid or, where that is empty, by its number.
type App struct {
	ID   int64
	UUID string
}

// Service names a service of a fleet: by its name or by the number of its image. Without either it is the fleet's only one.
type Service struct {
	Name    string
	ImageID int64
}

// Verb is what is done to a service.
type Verb string

// The verbs. A service that was stopped stays so until it is started, the release changes or the device starts anew.
const (
	Restart Verb = "restart"
	Stop    Verb = "stop"
	Start   Verb = "start"
)

// System is the operating system under the agent.
type System interface {
	HostConfig(ctx context.Context) (HostConfig, error)
	// SetHostConfig checks everything before it sets anything. A proxy by which the server is not reached is refused, but with force.
	SetHostConfig(ctx context.Context, change HostChange, force bool) error
	// Journal writes entries of the system's journal until there are no more, or for ever when they are to be followed.
	Journal(ctx context.Context, what Journal, to io.Writer) error
	// RenewKey replaces a key: of the fleet with that uuid, or the device's own when it is empty.
	RenewKey(ctx context.Context, fleet string) (string, error)
}

// Belongings are what the device has beside its containers.
type Belongings interface {
	// Tags are the device's, as the server has them.
	Tags(ctx context.Context) ([]api.Tag, error)
	// SetTags remembers tags until the server has them. Others stay as they are.
	SetTags(ctx context.Context, tags map[string]string) error
	// CleanVolumes removes the volumes that no wanted release names and no container has: those of one fleet or, without a uuid, of all.
	CleanVolumes(ctx context.Context, fleet string) error
}

// HostConfig is what of the operating system can be told, and set.
type HostConfig struct {
	Hostname string
	Proxy    *proxy.Setting // nil: none
}

// HostChange is what is to be set. A nil field is left alone.
type HostChange struct {
	Hostname *string
	Proxy    *proxy.Change
	NoProxy  bool // there shall be none
}

// Journal says which entries are wanted.
type Journal struct {
	All         bool   `json:"all"`
	Follow      bool   `json:"follow"`
	Count       int    `json:"count"`
	Unit        string `json:"unit"`
	Format      string `json:"format"`
	ContainerID string `json:"containerId"`
	Since       string `json:"since"`
	Until       string `json:"until"`
}

// Teller says how the device is.
type Teller interface {
	State(ctx context.Context) (State, error)
	Healthy(ctx context.Context) error
}

// State is everything that can be asked of a device.
type State struct {
	UUID         string
	Name         string
	Type         string
	Arch         string
	OSVersion    string
	AgentVersion string
	IPAddress    string // space separated
	MACAddress   string // space separated
	Fleets       []FleetState
	Applied      bool // the target state is reached
	Failed       bool // the last attempt to reach it failed
	Channel      ChannelState
}

// ChannelState is the state of the control channel.
type ChannelState struct {
	Enabled   bool
	Connected bool
}

// FleetState is one fleet on the device.
type FleetState struct {
	App
	Name         string
	Commit       string // of the wanted release
	ReleaseID    int64
	UpdateStatus string
	Services     []ServiceState
}

// ServiceState is one service of a fleet.
type ServiceState struct {
	Service
	ID               int64
	Image            string
	ContainerID      string // "" when there is no container
	Status           string
	DownloadProgress *int
	Environment      map[string]string // without keys
}
