// Package report reads what devices say of themselves. Devices are strangers: what they say is bounded, cleaned and of the right
// types after that, and no more than that; whether it is true, and what comes of it, is decided where it is compared with what is known.
package report

import (
	"encoding/json"
	"math"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

const (
	maxUnsupported  = 200 // names of features that a device could not honour
	maxReportedInt  = math.MaxInt32
	maxAppsReported = 50
	MaxInstalls     = 1000 // releases and services of one report
)

// Columns are the plain columns of a device that it reports; texts beyond MaxLen are cut in a report.
var Columns = []struct {
	Name   string
	MaxLen int
	Number bool
}{
	{Name: "status", MaxLen: 50},
	{Name: "os_version", MaxLen: 255}, {Name: "os_variant", MaxLen: 255}, {Name: "supervisor_version", MaxLen: 20},
	{Name: "ip_address", MaxLen: 2000}, {Name: "mac_address", MaxLen: 900},
	{Name: "memory_usage", Number: true}, {Name: "memory_total", Number: true},
	{Name: "storage_usage", Number: true}, {Name: "storage_total", Number: true}, {Name: "storage_block_device", MaxLen: 255},
	{Name: "cpu_usage", Number: true}, {Name: "cpu_temp", Number: true}, {Name: "cpu_id", MaxLen: 255},
}

// How the HTTP server of a device's agent is called: its port and the key that it asks for. No resource has a column for them.
const (
	PortColumn   = "api_port"
	SecretColumn = "api_secret"
)

// secretRule is what agents take as a key.
var secretRule = pattern.New(`^\w{1,64}$`)

// Split finds the one device that a report is about.
func Split(body []byte) (uuid api.DeviceUUID, raw json.RawMessage, err error) {
	var byUUID map[api.DeviceUUID]json.RawMessage
	if err := json.Unmarshal(body, &byUUID); err != nil || len(byUUID) == 0 {
		return "", nil, api.Errorf(api.Invalid, "a report is an object with the device's uuid as its only key")
	}
	if len(byUUID) > 1 { // no device speaks for another
		return "", nil, api.ErrUnauthorized
	}
	for uuid, raw = range byUUID {
	}
	return uuid, raw, nil
}

// Report is what one device says: the columns it gives, and what it says of releases (nil: nothing).
type Report struct {
	Columns map[string]any // nil, int64 or string; bool for is_undervolted
	Apps    map[string]*api.AppReport
	Older   *Older // the same, from a device that speaks of ids
}

// Read reads the part of one device.
func Read(raw json.RawMessage) (*Report, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return nil, api.Errorf(api.Invalid, "a device's report is an object")
	}
	r := &Report{Columns: map[string]any{}}
	if err := r.readColumns(fields); err != nil {
		return nil, err
	}
	return r, r.readApps(fields["apps"])
}

// readColumns reads what a report says of the device itself.
func (r *Report) readColumns(fields map[string]json.RawMessage) error {
	for _, c := range Columns {
		if raw, ok := fields[c.Name]; ok {
			v, err := readColumn(raw, c.Name, c.Number, c.MaxLen)
			if err != nil {
				return err
			}
			r.Columns[c.Name] = v
		}
	}
	for name, number := range map[string]bool{"provisioning_progress": true, "download_progress": true, "provisioning_state": false} {
		if raw, ok := fields[name]; ok {
			v, err := readColumn(raw, name, number, 1000)
			if err != nil {
				return err
			}
			if v == "" {
				v = nil
			}
			r.Columns[name] = v
		}
	}
	if id, ok := r.Columns["cpu_id"].(string); ok && strings.ContainsFunc(id, func(c rune) bool { return c < ' ' || c > '~' }) {
		delete(r.Columns, "cpu_id") // some boards read noise
	}
	if raw, ok := fields["is_undervolted"]; ok {
		var v *bool
		if err := json.Unmarshal(raw, &v); err != nil {
			return api.Errorf(api.Invalid, "\"is_undervolted\" is not a boolean")
		}
		if v != nil {
			r.Columns["is_undervolted"] = *v
		}
	}
	r.readServer(fields)
	r.readChannel(fields["channel"])
	r.readProtection(fields["key_protection"])
	return r.readUnsupported(fields["unsupported_features"])
}

// readServer reads how the device is called. What cannot be that is ignored: a refusal would be repeated for ever.
func (r *Report) readServer(fields map[string]json.RawMessage) {
	var port *int64
	if raw, ok := fields[PortColumn]; ok && json.Unmarshal(raw, &port) == nil && (port == nil || *port > 0 && *port <= 65535) {
		r.Columns[PortColumn] = nil
		if port != nil {
			r.Columns[PortColumn] = *port
		}
	}
	var secret *string
	if raw, ok := fields[SecretColumn]; ok && json.Unmarshal(raw, &secret) == nil && (secret == nil || secretRule.MatchString(*secret)) {
		r.Columns[SecretColumn] = nil
		if secret != nil {
			r.Columns[SecretColumn] = *secret
		}
	}
}

// readChannel reads how a device says that its control channel is. As above, what means nothing is ignored.
func (r *Report) readChannel(raw json.RawMessage) {
	var said api.DeviceChannel
	states := []string{api.ChannelStateOn, api.ChannelStateWaiting, api.ChannelStateFailed, api.ChannelStateOff, api.ChannelStateLocked}
	if raw == nil || json.Unmarshal(raw, &said) != nil || !slices.Contains(states, said.State) {
		return
	}
	r.Columns["channel_state"], r.Columns["channel_reason"] = said.State, nil
	if said.Reason != "" {
		r.Columns["channel_reason"] = Cut(Plain(said.Reason), 200)
	}
}

// readProtection reads how a device says that it keeps its keys. As above, what means nothing is ignored.
func (r *Report) readProtection(raw json.RawMessage) {
	var said string
	if raw != nil && json.Unmarshal(raw, &said) == nil && (said == api.KeyInFile || said == api.KeyInTPM) {
		r.Columns["key_protection"] = said
	}
}

func readColumn(raw json.RawMessage, name string, number bool, maxLen int) (any, error) {
	if string(raw) == "null" {
		return nil, nil // null is a value here
	}
	if !number {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, api.Errorf(api.Invalid, "%q is not a string", name)
		}
		if name != "cpu_id" { // which is left out as a whole when it is noise
			s = Plain(s)
		}
		return Cut(s, maxLen), nil
	}
	var f float64
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, api.Errorf(api.Invalid, "%q is not a number", name)
	}
	return int64(math.Round(max(-maxReportedInt, min(f, maxReportedInt)))), nil
}

func (r *Report) readUnsupported(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	var names []string
	if err := json.Unmarshal(raw, &names); err != nil {
		return api.Errorf(api.Invalid, "\"unsupported_features\" is not a list of names")
	}
	if len(names) == 0 {
		r.Columns["unsupported_features"] = nil
		return nil
	}
	names = names[:min(len(names), maxUnsupported)]
	for i := range names {
		names[i] = Cut(Plain(names[i]), 200)
	}
	slices.Sort(names)
	text, err := json.Marshal(slices.Compact(names))
	if err != nil {
		return err
	}
	r.Columns["unsupported_features"] = string(text)
	return nil
}

func (r *Report) readApps(raw json.RawMessage) error {
	if raw == nil || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, &r.Apps); err != nil {
		return api.Errorf(api.Invalid, "\"apps\" does not have the form of a report: %v", err)
	}
	n := 0
	for _, app := range r.Apps {
		if app == nil {
			continue
		}
		for _, release := range app.Releases {
			if release != nil {
				n += 1 + len(release.Services)
			}
		}
	}
	if len(r.Apps) > maxAppsReported || n > MaxInstalls {
		return api.Errorf(api.TooLarge, "a report names at most %d releases and services", MaxInstalls)
	}
	if r.Apps == nil {
		r.Apps = map[string]*api.AppReport{}
	}
	return nil
}
