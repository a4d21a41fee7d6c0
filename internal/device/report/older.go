package report

import (
	"encoding/json"
	"math"
	"strconv"

	"github.com/roadstead-io/roadstead/api"
)

// Older is what a report of a supervisor before version 13 says of releases.
type Older struct {
	Commit   string // what runs; "" when it does not say
	Said     bool   // whether it says anything of services
	Services []OlderService
}

// OlderService is one service in it.
type OlderService struct {
	Image, Release int64 // release 0: not said
	Status         string
	Progress       any
}

// ReadV2 reads a whole report of such a supervisor.
func ReadV2(body []byte) (*Report, error) {
	var outer struct {
		Local map[string]json.RawMessage `json:"local"`
	}
	if err := json.Unmarshal(body, &outer); err != nil {
		return nil, api.Errorf(api.Invalid, "a report is an object with the part \"local\"")
	}
	if outer.Local == nil { // of devices behind the device, of which there are none
		return &Report{Columns: map[string]any{}}, nil
	}
	r := &Report{Columns: map[string]any{}}
	if err := r.readColumns(outer.Local); err != nil {
		return nil, err
	}
	older := &Older{}
	if raw, ok := outer.Local["is_on__commit"]; ok && string(raw) != "null" {
		if err := json.Unmarshal(raw, &older.Commit); err != nil {
			return nil, api.Errorf(api.Invalid, "\"is_on__commit\" is not a string")
		}
	}
	if err := older.read(outer.Local["apps"]); err != nil {
		return nil, err
	}
	if older.Said || older.Commit != "" {
		r.Older = older
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

func (o *Older) read(raw json.RawMessage) error {
	bad := api.Errorf(api.Invalid, "\"apps\" does not have the form of a report")
	if raw == nil || string(raw) == "null" {
		return nil
	}
	apps, err := listOrObject(raw)
	if err != nil || len(apps) > maxAppsReported {
		return bad
	}
	o.Said = true
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
		if len(o.Services)+len(services) > MaxInstalls {
			return api.Errorf(api.TooLarge, "a report names at most %d releases and services", MaxInstalls)
		}
		for _, s := range services {
			one, err := s.service()
			if err != nil {
				return bad
			}
			o.Services = append(o.Services, one)
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

func (e entry) service() (s OlderService, err error) {
	var in olderEntry
	if err := json.Unmarshal(e.value, &in); err != nil {
		return s, err
	}
	if in.Image == "" {
		in.Image = json.Number(e.key)
	}
	if s.Image, err = strconv.ParseInt(string(in.Image), 10, 64); err != nil {
		return s, err
	}
	if in.Release != "" {
		if s.Release, err = strconv.ParseInt(string(in.Release), 10, 64); err != nil {
			return s, err
		}
	}
	s.Status = in.Status
	if in.Progress != nil {
		s.Progress = int64(math.Round(max(0, min(*in.Progress, 100))))
	}
	return s, nil
}
