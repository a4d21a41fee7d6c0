package device

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/device/statev2"
)

// made is a target put together, not written out yet.
type made struct {
	facts  *facts
	config map[string]string
	fleet  *part
	others [2]*part // the supervisor's and the host's; nil: none
	shared *shared  // nil: the device has variables of its own
}

// shared is what all devices of a fleet get that have nothing of their own.
type shared struct {
	config   map[string]string
	interval time.Duration
	json     []byte // all of a device's target but its name
}

// maxAlike bounds the combinations of a fleet's part with those of supervisors and hosts that are kept written out.
const maxAlike = 8

// shared gives what devices on this part have in common that have nothing of their own.
func (p *part) shared(others [2]*part, configOf func(ofFleet, ofDevice map[string]string) map[string]string) (*shared, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.alike[others]; s != nil {
		return s, nil
	}
	s := &shared{config: configOf(p.config, nil)}
	s.interval = pollInterval(s.config)
	text, err := json.Marshal(&api.DeviceTarget{Config: s.config, Apps: apps(p, others, &ownVariables{}, s.config)})
	if err != nil {
		return nil, err
	}
	s.json = bytes.TrimPrefix(text, []byte(`{"name":""`))
	if p.alike == nil || len(p.alike) >= maxAlike {
		p.alike = map[[2]*part]*shared{}
	}
	p.alike[others] = s
	return s, nil
}

// apps are the apps of a device by the uuid of their fleet.
func apps(fleet *part, others [2]*part, own *ownVariables, config map[string]string) map[string]*api.AppTarget {
	out := map[string]*api.AppTarget{fleet.uuid: fleet.target(own, config)}
	for _, other := range others {
		if other != nil {
			out[other.uuid] = other.target(own, nil)
		}
	}
	return out
}

// State is what the device should run; nil when the asker has it.
func (t Target) State() api.TargetState {
	m := t.made
	if m == nil {
		return nil
	}
	own := &m.facts.own
	return api.TargetState{m.facts.uuid: {Name: own.name, Config: m.config, Apps: apps(m.fleet, m.others, own, m.config)}}
}

// JSON is the State written out. What a fleet's devices have in common is written once.
func (t Target) JSON() ([]byte, error) {
	m := t.made
	if m == nil || m.shared == nil {
		return json.Marshal(t.State())
	}
	uuid, err := json.Marshal(string(m.facts.uuid))
	if err != nil {
		return nil, err
	}
	name, err := json.Marshal(m.facts.own.name)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{[]byte("{"), uuid, []byte(`:{"name":`), name, m.shared.json, []byte("}")}, nil), nil
}

// V2 gives the State in the form of supervisors before version 13.
func (t Target) V2() (*statev2.State, error) {
	for _, state := range t.State() {
		return statev2.Of(state, t.fleet)
	}
	return nil, nil
}
