// Package statev2 writes a device's target state as supervisors before version 13 read it: the device's fleet alone, keyed by ids, with
// each service's compose block spread out.
package statev2

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// State is the body of GET /device/v2/:uuid/state.
type State struct {
	Local     Local     `json:"local"`
	Dependent Dependent `json:"dependent"`
}

// Local is the device itself.
type Local struct {
	Name   string            `json:"name"`
	Config map[string]string `json:"config"`
	Apps   map[string]App    `json:"apps"` // by id
}

// Dependent is what once were devices behind the device; there are none.
type Dependent struct {
	Apps    struct{} `json:"apps"`
	Devices struct{} `json:"devices"`
}

// App is its fleet.
type App struct {
	Name      string                     `json:"name"`
	Commit    string                     `json:"commit,omitempty"`
	ReleaseID int64                      `json:"releaseId,omitempty"`
	Services  map[string]map[string]any  `json:"services"` // by id
	Volumes   map[string]json.RawMessage `json:"volumes"`
	Networks  map[string]json.RawMessage `json:"networks"`
}

// Of gives the older form of a device's target; fleet is the id of its fleet.
func Of(target *api.DeviceTarget, fleet int64) (*State, error) {
	out := &State{Local: Local{Name: target.Name, Config: target.Config, Apps: map[string]App{}}}
	for _, app := range target.Apps {
		if app.ID != fleet {
			continue // the supervisor's app and the host's are known to newer supervisors only
		}
		older, err := appOf(app)
		if err != nil {
			return nil, fmt.Errorf("target state: %w", err)
		}
		out.Local.Apps[strconv.FormatInt(app.ID, 10)] = older
	}
	return out, nil
}

func appOf(app *api.AppTarget) (App, error) {
	out := App{
		Name: app.Name, Services: map[string]map[string]any{}, Volumes: map[string]json.RawMessage{},
		Networks: map[string]json.RawMessage{},
	}
	for commit, release := range app.Releases {
		out.Commit, out.ReleaseID = commit, release.ID
		maps.Copy(out.Volumes, release.Volumes)
		maps.Copy(out.Networks, release.Networks)
		for name, s := range release.Services {
			service, err := serviceOf(name, s)
			if err != nil {
				return out, err
			}
			out.Services[strconv.FormatInt(s.ID, 10)] = service
		}
	}
	return out, nil
}

func serviceOf(name string, s *api.ServiceTarget) (map[string]any, error) {
	out := map[string]any{}
	if s.Composition != nil {
		var block map[string]json.RawMessage
		if err := json.Unmarshal(s.Composition, &block); err != nil {
			return nil, fmt.Errorf("composition of %s: %w", name, err)
		}
		for key, value := range block {
			out[key] = value
		}
		out["environment"] = overPairs(block["environment"], s.Environment)
		out["labels"] = overPairs(block["labels"], s.Labels)
	} else {
		out["environment"], out["labels"] = s.Environment, s.Labels
	}
	out["imageId"], out["serviceName"], out["image"], out["running"] = s.ImageID, name, s.Image, true
	if s.Contract != nil {
		out["contract"] = s.Contract
	}
	return out, nil
}

// overPairs lays values over those of a compose block, which is an object or a list of NAME=value.
func overPairs(raw json.RawMessage, over map[string]string) map[string]string {
	out := map[string]string{}
	var list []string
	var object map[string]any
	if json.Unmarshal(raw, &list) == nil {
		for _, pair := range list {
			name, value, _ := strings.Cut(pair, "=")
			out[name] = value
		}
	} else if json.Unmarshal(raw, &object) == nil {
		for name, value := range object {
			switch v := value.(type) {
			case nil:
				out[name] = ""
			case string:
				out[name] = v
			default:
				text, _ := json.Marshal(v) // it came out of JSON just now
				out[name] = string(text)
			}
		}
	}
	maps.Copy(out, over)
	return out
}
