package device

import (
	"context"
	"encoding/json"
	"math"
	"strconv"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
)

// ReportV2 takes a report of a supervisor before version 13. The body is {"local": {what changed}, "dependent": …}; its apps are keyed
// by ids: {"<fleet>": {"services": {"<image>": {"status", "releaseId", "download_progress"}}}}, and is_on__commit says what runs.
func (d *Devices) ReportV2(ctx context.Context, by access.Caller, uuid api.DeviceUUID, body []byte, address string) error {
	if by.Kind != access.Device {
		return api.Errorf(api.Forbidden, "only a device reports its state")
	}
	r, err := readReportV2(body)
	if err != nil {
		return err
	}
	return d.take(ctx, by, uuid, r, address)
}

// olderApps is what such a report says of releases.
type olderApps struct {
	commit   string // what runs; "" when it does not say
	said     bool   // whether it says anything of services
	services []olderService
}

type olderService struct {
	image, release int64 // release 0: not said
	status         string
	progress       any
}

func readReportV2(body []byte) (*report, error) {
	var outer struct {
		Local map[string]json.RawMessage `json:"local"`
	}
	if err := json.Unmarshal(body, &outer); err != nil {
		return nil, api.Errorf(api.Invalid, "a report is an object with the part \"local\"")
	}
	if outer.Local == nil { // of devices behind the device, of which there are none
		return &report{columns: map[string]any{}}, nil
	}
	r := &report{columns: map[string]any{}}
	if err := r.readColumns(outer.Local); err != nil {
		return nil, err
	}
	older := &olderApps{}
	if raw, ok := outer.Local["is_on__commit"]; ok && string(raw) != "null" {
		if err := json.Unmarshal(raw, &older.commit); err != nil {
			return nil, api.Errorf(api.Invalid, "\"is_on__commit\" is not a string")
		}
	}
	if err := older.read(outer.Local["apps"]); err != nil {
		return nil, err
	}
	if older.said || older.commit != "" {
		r.older = older
	}
	return r, nil
}

// olderEntry is a service in such a report; ids may be numbers or texts, in the entry or in its key.
type olderEntry struct {
	Image    json.Number `json:"imageId"`
	Release  json.Number `json:"releaseId"`
	Status   string      `json:"status"`
	Progress *float64    `json:"download_progress"`
}

func (o *olderApps) read(raw json.RawMessage) error {
	bad := api.Errorf(api.Invalid, "\"apps\" does not have the form of a report")
	if raw == nil || string(raw) == "null" {
		return nil
	}
	apps, err := listOrObject(raw)
	if err != nil || len(apps) > maxAppsReported {
		return bad
	}
	o.said = true
	for _, app := range apps {
		var fields struct {
			Services json.RawMessage `json:"services"`
		}
		if err := json.Unmarshal(app.value, &fields); err != nil {
			return bad
		}
		if fields.Services == nil {
			continue
		}
		services, err := listOrObject(fields.Services)
		if err != nil {
			return bad
		}
		if len(o.services)+len(services) > maxInstalls {
			return api.Errorf(api.TooLarge, "a report names at most %d releases and services", maxInstalls)
		}
		for _, s := range services {
			one, err := s.service()
			if err != nil {
				return bad
			}
			o.services = append(o.services, one)
		}
	}
	return nil
}

// entry is a value of an object or a list, with its key if it has one.
type entry struct {
	key   string
	value json.RawMessage
}

func listOrObject(raw json.RawMessage) ([]entry, error) {
	var out []entry
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		for _, v := range list {
			out = append(out, entry{value: v})
		}
		return out, nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, err
	}
	for k, v := range object {
		out = append(out, entry{k, v})
	}
	return out, nil
}

func (e entry) service() (s olderService, err error) {
	var in olderEntry
	if err := json.Unmarshal(e.value, &in); err != nil {
		return s, err
	}
	if in.Image == "" {
		in.Image = json.Number(e.key)
	}
	if s.image, err = strconv.ParseInt(string(in.Image), 10, 64); err != nil {
		return s, err
	}
	if in.Release != "" {
		if s.release, err = strconv.ParseInt(string(in.Release), 10, 64); err != nil {
			return s, err
		}
	}
	s.status = in.Status
	if in.Progress != nil {
		s.progress = int64(math.Round(max(0, min(*in.Progress, 100))))
	}
	return s, nil
}

// planOlder compares what an older device says of its fleet's releases. Images that are not its fleet's refuse the whole report.
func planOlder(ctx context.Context, tx *db.Tx, p *plan, older *olderApps, k *known) error {
	home := k.home
	if older.commit != "" {
		id, err := findRelease(ctx, tx, home.fleet, older.commit)
		if err != nil {
			return err
		}
		if id != home.running {
			p.set["is_running__release"] = id
		}
	}
	if !older.said {
		return nil
	}
	installs := map[int64]install{}
	for _, s := range older.services {
		// Without a release it is the newest that has the image, which is the only one but for images that were built once.
		var release int64
		err := tx.QueryRowContext(ctx, `SELECT r.id FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
			WHERE ri.image = ? AND r.belongs_to__application = ? AND r.status = 'success' AND (CAST(? AS BIGINT) = 0 OR r.id = ?)
			ORDER BY r.id DESC LIMIT 1`, s.image, home.fleet, s.release, s.release).Scan(&release)
		if noRows(err) {
			return api.ErrUnauthorized
		}
		if err != nil {
			return err
		}
		addInstall(installs, install{image: s.image, release: release, status: s.status, progress: s.progress})
	}
	p.compareInstalls(k.installs, installs)
	return nil
}
