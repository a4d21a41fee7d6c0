// Package standing says in short how the trust of fleets and releases is, for commands that show more than that.
package standing

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
)

// Fleet is what `fleet show` says of a fleet's trust.
type Fleet struct {
	HeldBy   string           `json:"held_by"`
	Approval api.Approval     `json:"approval"`
	Shell    string           `json:"shell"`
	Waiting  int              `json:"waiting"`  // files that wait for signatures
	Unsigned int              `json:"unsigned"` // releases that wait for the owner
	Devices  map[string]int64 `json:"devices"`  // how many, by state
	Unknown  string           `json:"unknown,omitempty"`
}

// FleetOf asks for it. What cannot be known just now is no reason to show nothing of the fleet.
func FleetOf(ctx context.Context, c *client.Client, uuid string) *Fleet {
	var s api.TrustStatus
	if err := c.Do(ctx, http.MethodGet, "/trust/v1/fleets/"+url.PathEscape(uuid), nil, &s); err != nil {
		return &Fleet{Unknown: err.Error()}
	}
	return &Fleet{s.HeldBy, s.Approval, s.Shell, len(s.Pending), len(s.Unsigned), s.Devices, ""}
}

// String says it to people.
func (f *Fleet) String() string {
	if f.Unknown != "" {
		return "not known: " + f.Unknown
	}
	text := fmt.Sprintf("root held by the %s, approval %s, devices: %s", HeldBy(f.HeldBy), f.Approval, Counts(f.Devices))
	if f.Unsigned > 0 {
		text += fmt.Sprintf("; %d releases wait for the owner", f.Unsigned)
	}
	if f.Waiting > 0 {
		text += fmt.Sprintf("; %d files wait for signatures", f.Waiting)
	}
	return text
}

// FleetsOf is what `fleet list` says of each fleet's trust, by uuid; of none where the server does not say it.
func FleetsOf(ctx context.Context, c *client.Client) map[string]*Fleet {
	var list []api.TrustFleet
	if err := c.Do(ctx, http.MethodGet, "/trust/v1/fleets", nil, &list); err != nil {
		return nil
	}
	out := map[string]*Fleet{}
	for _, f := range list {
		out[f.Fleet] = &Fleet{HeldBy: f.HeldBy, Approval: f.Approval, Shell: f.Shell, Devices: f.Devices}
	}
	return out
}

// Short is for a column of `fleet list`.
func (f *Fleet) Short() string {
	switch {
	case f == nil:
		return ""
	case f.HeldBy == "":
		return "nothing signed yet; " + Counts(f.Devices)
	}
	return HeldBy(f.HeldBy) + "; " + Counts(f.Devices)
}

// Signers says who has signed the releases of a fleet: of the newest ones, and of none where it cannot be known just now.
func Signers(ctx context.Context, c *client.Client, uuid string) func(commit string) string {
	var s api.TrustStatus
	if err := c.Do(ctx, http.MethodGet, "/trust/v1/fleets/"+url.PathEscape(uuid), nil, &s); err != nil {
		return func(string) string { return "" }
	}
	return func(commit string) string {
		for _, l := range s.Releases {
			if l.Commit == commit {
				text, _ := l.Says(s.Approval)
				return text
			}
		}
		return ""
	}
}

// HeldBy says it so that the weaker state is seen.
func HeldBy(who string) string {
	if who == api.HeldByServer {
		return "server (weaker)"
	}
	return who
}

// Counts are devices by state; what matters most comes first.
func Counts(devices map[string]int64) string {
	var list []string
	for _, state := range []string{api.TrustRejected, api.TrustWaiting, api.TrustUnverified, api.TrustVerified} {
		if n := devices[state]; n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, state))
		}
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
