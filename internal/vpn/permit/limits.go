package permit

import (
	"time"

	"github.com/roadstead-io/roadstead/internal/limit"
)

// Limits bounds what the role's services have open; 0 is the house's number.
type Limits struct {
	Waiting           int `json:"waiting,omitempty"`             // connections of a service whose client has not said who it is
	WaitingPerAddress int `json:"waiting_per_address,omitempty"` // the same of one address
	PerUser           int `json:"per_user,omitempty"`            // tunnels and sessions of one user
	PerDevice         int `json:"per_device,omitempty"`          // connections to one device
	IdleMinutes       int `json:"idle_minutes,omitempty"`        // after which a tunnel ends that carries nothing
	Visitors          int `json:"visitors,omitempty"`            // connections of browsers to the public addresses of all devices
	URLMegabytes      int `json:"url_megabytes,omitempty"`       // of one request to a public address
}

func (l *Limits) fields() []limit.Field {
	return []limit.Field{
		limit.Count("waiting", &l.Waiting, 1000),
		limit.Count("waiting_per_address", &l.WaitingPerAddress, 100),
		limit.Count("per_user", &l.PerUser, 200),
		limit.Count("per_device", &l.PerDevice, 200),
		limit.Count("idle_minutes", &l.IdleMinutes, 60),
		limit.Count("visitors", &l.Visitors, 2000),
		limit.Count("url_megabytes", &l.URLMegabytes, 1024),
	}
}

// Parse reads "per_user=50,idle_minutes=10".
func (l *Limits) Parse(text string) error { return limit.Parse(l.fields(), text) }

// Validate names the limit that is wrong.
func (l Limits) Validate() error { return limit.Validate(l.fields()) }

// Defaults gives what is 0 its number.
func (l *Limits) Defaults() { limit.Defaults(l.fields()) }

// Idle is the time after which a tunnel ends that carries nothing.
func (l Limits) Idle() time.Duration { return time.Duration(l.IdleMinutes) * time.Minute }
