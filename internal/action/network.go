package action

import (
	"encoding/json"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// network is what a host configuration is changed to. A proxy may have a password: it is kept while the action is open, and in no log.
type network struct {
	Hostname *string
	Proxy    map[string]json.RawMessage
}

var hostnameRule = pattern.New(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)?$`)

// readNetwork names the field that is wrong. What a proxy may be the device knows.
func readNetwork(text json.RawMessage) (n network, err error) {
	if len(text) > api.MaxActionNetwork {
		return n, api.Errorf(api.TooLarge, "network: at most %d bytes", api.MaxActionNetwork)
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil || len(fields) == 0 {
		return n, api.Errorf(api.Invalid, "network: not an object with hostname or proxy")
	}
	for name, raw := range fields {
		switch name {
		case "hostname":
			if json.Unmarshal(raw, &n.Hostname) != nil || n.Hostname == nil || !hostnameRule.MatchString(*n.Hostname) {
				return n, api.Errorf(api.Invalid, "network.hostname: not a host name")
			}
		case "proxy":
			if json.Unmarshal(raw, &n.Proxy) != nil || n.Proxy == nil {
				return n, api.Errorf(api.Invalid, "network.proxy: not an object; an empty one is none")
			}
		default:
			return n, api.Errorf(api.Invalid, "network.%.40s: is not known", name)
		}
	}
	return n, nil
}

// record says in the audit log what is changed.
func (n network) record(detail map[string]any) {
	if n.Hostname != nil {
		detail["hostname"] = *n.Hostname
	}
	switch {
	case n.Proxy != nil && len(n.Proxy) == 0:
		detail["proxy"] = "removed"
	case n.Proxy != nil:
		detail["proxy"] = "set"
	}
}
