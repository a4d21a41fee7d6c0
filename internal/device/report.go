package device

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
)

// metricsEvery is how often metrics alone are worth a write.
const metricsEvery = time.Minute

// metrics are what a device measures all the time: a report of nothing else may be dropped.
var metrics = []string{
	"memory_usage", "memory_total", "storage_usage", "storage_total", "storage_block_device", "cpu_usage", "cpu_temp",
}

const (
	maxUnsupported  = 200 // names of features that a device could not honour
	maxReportedInt  = math.MaxInt32
	maxAppsReported = 50
	maxInstalls     = 1000
)

// Report takes what a device says of itself: all of it or nothing. The body is {"<uuid>": {what changed}}; keys that mean
// nothing here are ignored, for newer and older devices send more and less. address is where the report came from.
func (d *Devices) Report(ctx context.Context, by access.Caller, body []byte, address string) error {
	if by.Kind != access.Device {
		return api.Errorf(api.Forbidden, "only a device reports its state")
	}
	uuid, raw, err := splitReport(body)
	if err != nil {
		return err
	}
	r, err := readReport(raw)
	if err != nil {
		return err
	}
	return d.take(ctx, by, uuid, r, address)
}

// splitReport finds the one device that a report is about.
func splitReport(body []byte) (uuid api.DeviceUUID, raw json.RawMessage, err error) {
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

// told is a report on its way: who sent it, and what comes of it.
type told struct {
	by     access.Caller
	uuid   api.DeviceUUID
	report *report
	plan   *plan
}

// take stores a report. Those that come at the same time are compared with what is known together, and written together.
func (d *Devices) take(ctx context.Context, by access.Caller, uuid api.DeviceUUID, r *report, address string) error {
	if address != "" {
		r.columns["public_address"] = cut(address, 100)
	}
	t := &told{by: by, uuid: uuid, report: r}
	if err := d.reports.Do(ctx, t); err != nil {
		return fmt.Errorf("report of %s: %w", uuid, err)
	}
	if !t.plan.beaten {
		d.Heard(ctx, Target{device: by.Device, at: t.plan.at, interval: t.plan.interval, wasOnline: t.plan.online})
	}
	return nil
}

// report is a decoded report: the columns it gives, and what it says of releases (nil: nothing).
type report struct {
	columns map[string]any // nil, int64 or string; bool for is_undervolted
	apps    map[string]*api.AppReport
	older   *olderApps // the same, from a device that speaks of ids
}

func readReport(raw json.RawMessage) (*report, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return nil, api.Errorf(api.Invalid, "a device's report is an object")
	}
	r := &report{columns: map[string]any{}}
	if err := r.readColumns(fields); err != nil {
		return nil, err
	}
	return r, r.readApps(fields["apps"])
}

// readColumns reads what a report says of the device itself.
func (r *report) readColumns(fields map[string]json.RawMessage) error {
	for _, c := range reported {
		if raw, ok := fields[c.name]; ok {
			v, err := readColumn(raw, c.name, c.number, c.maxLen)
			if err != nil {
				return err
			}
			r.columns[c.name] = v
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
			r.columns[name] = v
		}
	}
	if id, ok := r.columns["cpu_id"].(string); ok && strings.ContainsFunc(id, func(c rune) bool { return c < ' ' || c > '~' }) {
		delete(r.columns, "cpu_id") // some boards read noise
	}
	if raw, ok := fields["is_undervolted"]; ok {
		var v *bool
		if err := json.Unmarshal(raw, &v); err != nil {
			return api.Errorf(api.Invalid, "\"is_undervolted\" is not a boolean")
		}
		if v != nil {
			r.columns["is_undervolted"] = *v
		}
	}
	return r.readUnsupported(fields["unsupported_features"])
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
			s = plain(s)
		}
		return cut(s, maxLen), nil
	}
	var f float64
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, api.Errorf(api.Invalid, "%q is not a number", name)
	}
	return int64(math.Round(max(-maxReportedInt, min(f, maxReportedInt)))), nil
}

func (r *report) readUnsupported(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	var names []string
	if err := json.Unmarshal(raw, &names); err != nil {
		return api.Errorf(api.Invalid, "\"unsupported_features\" is not a list of names")
	}
	if len(names) == 0 {
		r.columns["unsupported_features"] = nil
		return nil
	}
	names = names[:min(len(names), maxUnsupported)]
	for i := range names {
		names[i] = cut(plain(names[i]), 200)
	}
	slices.Sort(names)
	text, err := json.Marshal(slices.Compact(names))
	if err != nil {
		return err
	}
	r.columns["unsupported_features"] = string(text)
	return nil
}

func (r *report) readApps(raw json.RawMessage) error {
	if raw == nil || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, &r.apps); err != nil {
		return api.Errorf(api.Invalid, "\"apps\" does not have the form of a report: %v", err)
	}
	n := 0
	for _, app := range r.apps {
		if app == nil {
			continue
		}
		for _, release := range app.Releases {
			if release != nil {
				n += 1 + len(release.Services)
			}
		}
	}
	if len(r.apps) > maxAppsReported || n > maxInstalls {
		return api.Errorf(api.TooLarge, "a report names at most %d releases and services", maxInstalls)
	}
	if r.apps == nil {
		r.apps = map[string]*api.AppReport{}
	}
	return nil
}
