// Package composition turns what a release says about a service, a network or a volume (blocks of a compose file) into what
// the engine is to make. It guesses nothing: a field that it does not know, or that a device must not grant, is left out and
// named, and a field of the wrong shape is an error that names its path.
package composition

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Labels of ours on containers, networks and volumes, beside [engine.LabelSupervised].
const (
	LabelAppID       = "io.balena.app-id"
	LabelAppUUID     = "io.balena.app-uuid"
	LabelServiceID   = "io.balena.service-id"
	LabelServiceName = "io.balena.service-name"
	LabelConfig      = "io.roadstead.config" // hash of what the container or network was made of
)

// Device is what a service may learn about the device it runs on.
type Device struct {
	UUID         api.DeviceUUID
	Name         string // when the device was first seen; it does not follow a rename
	Type         string
	Arch         string
	OSVersion    string
	APIKey       string // what a service is told that asks for it; empty: nobody is
	APIURL       string
	EngineSocket string                    // path on the device
	SharedDir    string                    // directory for what device and services share: update locks
	APIKeyOf     func(fleet string) string // the key of a fleet, by its uuid, for the device's own API; nil: there is no such API
	Exists       func(string) bool         // whether a path exists on the device
}

// App is the fleet and release that a service belongs to.
type App struct {
	ID        int64
	UUID      string
	Name      string
	ReleaseID int64
	Commit    string
}

// Service is a service as the engine is to run it.
type Service struct {
	Name      string
	Spec      engine.Spec
	Networks  []string          // names in the composition
	Volumes   []string          // names in the composition
	DependsOn map[string]string // service → service_started or service_healthy
	Restart   string            // always, unless-stopped, on-failure or no
	ID        int64
	ImageID   int64
	API       bool // it asked for the device's own API
	LeftOut   []LeftOut
}

// LeftOut names something that a composition asked for and that is not done.
type LeftOut struct {
	Field  string // "web.volumes[0]", "networks.a.driver"
	Reason string
}

var nameRule = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// ValidName reports whether a service, network or volume may have that name.
func ValidName(name string) bool { return len(name) <= 128 && nameRule.MatchString(name) }

// NetworkName is the engine's name of a network.
func NetworkName(app App, name string) string { return app.UUID + "_" + name }

// VolumeName is the engine's name of a volume.
func VolumeName(app App, name string) string { return fmt.Sprintf("%d_%s", app.ID, name) }

// The network by which containers reach the device's own API, and nothing else: not one another, nor the outside.
const (
	APINetworkName = "supervisor0" // on the engine, and of the bridge
	APIPort        = 48484
)

// Where that network is, as balena's devices have it.
var (
	APISubnet  = netip.MustParsePrefix("10.114.104.0/25")
	APIAddress = netip.MustParseAddr("10.114.104.1")
)

// APINetwork is that network.
func APINetwork() engine.Network {
	n := engine.Network{Name: APINetworkName, Labels: map[string]string{engine.LabelSupervised: "true"}, Options: engine.NetworkOptions{
		Internal:   true,
		IPAM:       &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: APISubnet, Gateway: APIAddress}}},
		DriverOpts: map[string]string{"com.docker.network.bridge.name": APINetworkName, "com.docker.network.bridge.enable_icc": "false"},
	}}
	n.Labels[LabelConfig] = Hash(n)
	return n
}

// ContainerName is the engine's name of a container. [ReleaseOf] reads it back.
func ContainerName(app App, service string, imageID int64) string {
	return fmt.Sprintf("%s_%d_%d_%s", service, imageID, app.ReleaseID, app.Commit)
}

// ReleaseOf gives the commit of the release that a container belongs to, from its name.
func ReleaseOf(containerName string) string {
	return containerName[strings.LastIndexByte(containerName, '_')+1:]
}

// ForService reads one service of a target.
func ForService(dev Device, app App, name string, target *api.ServiceTarget) (*Service, error) {
	if !ValidName(name) {
		return nil, fmt.Errorf("services: %q is not a name", name)
	}
	fields, err := object(target.Composition)
	if err != nil {
		return nil, fmt.Errorf("services.%s: %w", name, err)
	}
	b := &builder{dev: dev, app: app, svc: &Service{
		Name: name, DependsOn: map[string]string{}, Restart: "always",
	}}
	b.defaults()
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if strings.HasPrefix(field, "x-") || slices.Contains(silent, field) || fields[field] == nil {
			continue
		}
		set, ok := supported[field]
		if !ok {
			b.leaveOut(field, "this field is not supported")
			continue
		}
		b.path = name + "." + field
		if err := set(b, fields[field]); err != nil {
			return nil, fmt.Errorf("services.%s: %w", b.path, err)
		}
	}
	return b.finish(target)
}

// Environment gives the variables that a service's block sets.
func Environment(block json.RawMessage) (map[string]string, error) {
	fields, err := object(block)
	if err != nil || fields["environment"] == nil {
		return nil, err
	}
	return stringMap(fields["environment"])
}

// ForNetwork reads one network of a target. A nil block is a network with nothing special.
func ForNetwork(app App, name string, block json.RawMessage) (engine.Network, []LeftOut, error) {
	n := engine.Network{Name: NetworkName(app, name)}
	if !ValidName(name) {
		return n, nil, fmt.Errorf("networks: %q is not a name", name)
	}
	fields, err := object(block)
	if err != nil {
		return n, nil, fmt.Errorf("networks.%s: %w", name, err)
	}
	var out []LeftOut
	labels := map[string]string{}
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		v, path := fields[field], "networks."+name+"."+field
		if v == nil || strings.HasPrefix(field, "x-") {
			continue
		}
		var err error
		switch field {
		case "driver":
			if s, _ := v.(string); s != "bridge" && s != "default" && s != "" {
				out = append(out, LeftOut{path, "only bridge networks are made"})
			}
		case "internal":
			n.Options.Internal, err = boolean(v)
		case "enable_ipv6":
			n.Options.EnableIPv6, err = boolean(v)
		case "driver_opts":
			n.Options.DriverOpts, err = stringMap(v)
		case "ipam":
			n.Options.IPAM, err = ipam(v)
		case "labels":
			labels, err = stringMap(v)
		default:
			out = append(out, LeftOut{path, "this field is not supported"})
		}
		if err != nil {
			return n, nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	n.Labels = labels
	n.Labels[engine.LabelSupervised] = "true"
	n.Labels[LabelAppID] = fmt.Sprint(app.ID)
	n.Labels[LabelAppUUID] = app.UUID
	n.Labels[LabelConfig] = Hash(n)
	return n, out, nil
}

// ForVolume reads one volume of a target.
func ForVolume(app App, name string, block json.RawMessage) (engine.Volume, []LeftOut, error) {
	v := engine.Volume{Name: VolumeName(app, name)}
	if !ValidName(name) {
		return v, nil, fmt.Errorf("volumes: %q is not a name", name)
	}
	fields, err := object(block)
	if err != nil {
		return v, nil, fmt.Errorf("volumes.%s: %w", name, err)
	}
	var out []LeftOut
	labels := map[string]string{}
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		val, path := fields[field], "volumes."+name+"."+field
		switch {
		case val == nil || strings.HasPrefix(field, "x-") || field == "name":
		case field == "labels":
			if labels, err = stringMap(val); err != nil {
				return v, nil, fmt.Errorf("%s: %w", path, err)
			}
		case field == "driver" && (val == "local" || val == "default" || val == ""):
		default: // driver_opts among them: they can mount any directory of the device
			out = append(out, LeftOut{path, "only plain local volumes are made"})
		}
	}
	v.Labels = labels
	v.Labels[engine.LabelSupervised] = "true"
	v.Labels[LabelAppID] = fmt.Sprint(app.ID)
	v.Labels[LabelAppUUID] = app.UUID
	return v, out, nil
}

// Hash is the same for two specs exactly when they make the same thing.
func Hash(spec any) string {
	text, err := json.Marshal(spec)
	if err != nil {
		panic(err) // the types here always marshal
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

func ipam(v any) (*network.IPAM, error) {
	fields, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("must be an object")
	}
	out := &network.IPAM{Driver: "default"}
	list, _ := fields["config"].([]any)
	for i, item := range list {
		entry, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("config[%d] must be an object", i)
		}
		var c network.IPAMConfig
		for key, val := range entry {
			text, err := scalar(val)
			if err == nil {
				switch key {
				case "subnet":
					c.Subnet, err = netip.ParsePrefix(text)
				case "ip_range":
					c.IPRange, err = netip.ParsePrefix(text)
				case "gateway":
					c.Gateway, err = netip.ParseAddr(text)
				default:
					err = fmt.Errorf("is not supported")
				}
			}
			if err != nil {
				return nil, fmt.Errorf("config[%d].%s: %w", i, key, err)
			}
		}
		out.Config = append(out.Config, c)
	}
	return out, nil
}

// object decodes a block; nothing, null and false are an empty one.
func object(raw json.RawMessage) (map[string]any, error) {
	if len(raw) == 0 || string(raw) == "null" || string(raw) == "false" {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("must be an object")
	}
	return m, nil
}
