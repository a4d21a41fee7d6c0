package composition

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/engine"
)

// builder collects one service while its fields are read.
type builder struct {
	dev  Device
	app  App
	svc  *Service
	path string // of the field at hand
	env  map[string]string
	lab  map[string]string
	nets map[string]*network.EndpointSettings // by the name in the composition
}

func (b *builder) leaveOut(field, reason string) {
	b.svc.LeftOut = append(b.svc.LeftOut, LeftOut{Field: b.svc.Name + "." + field, Reason: reason})
}

// leaveOutHere names (a part of) the field at hand.
func (b *builder) leaveOutHere(part, reason string) {
	b.svc.LeftOut = append(b.svc.LeftOut, LeftOut{Field: b.path + part, Reason: reason})
}

func (b *builder) config() *container.Config   { return &b.svc.Spec.Config }
func (b *builder) host() *container.HostConfig { return &b.svc.Spec.Host }

// defaults are what a service has unless its block says otherwise.
func (b *builder) defaults() {
	b.env, b.lab = map[string]string{}, map[string]string{}
	b.config().Tty = true
	b.host().IpcMode = "shareable"
	b.host().ShmSize = 64 << 20
	grace := 10
	b.config().StopTimeout = &grace
}

// finish puts together what the fields, the target and the device say.
func (b *builder) finish(target *api.ServiceTarget) (*Service, error) {
	svc := b.svc
	for key, val := range target.Labels {
		b.lab[key] = val
	}
	b.lab = normalLabels(b.lab)
	env := b.injected()
	maps.Copy(env, b.env)
	maps.Copy(env, target.Environment)
	b.features(env)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(env[name], 0) {
			return nil, fmt.Errorf("services.%s.environment: %q is not a variable", svc.Name, name)
		}
		b.config().Env = append(b.config().Env, name+"="+env[name])
	}
	b.attach()
	b.host().RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyMode(svc.Restart)}
	if policy, count, ok := strings.Cut(svc.Restart, ":"); ok { // on-failure:5
		n, err := strconv.Atoi(count)
		if err != nil {
			return nil, fmt.Errorf("services.%s.restart: %q is not a policy", svc.Name, svc.Restart)
		}
		svc.Restart = policy
		b.host().RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyMode(policy), MaximumRetryCount: n}
	}
	shared := path.Join(b.dev.SharedDir, strconv.FormatInt(b.app.ID, 10), svc.Name)
	b.host().Binds = append(b.host().Binds, shared+":/tmp/resin", shared+":/tmp/balena")
	// Two releases may name the same image by two locations. What the container is made of is the content: the digest.
	b.config().Image = target.Image[strings.LastIndexByte(target.Image, '@')+1:]
	b.config().Labels = b.lab
	b.lab[engine.LabelSupervised] = "true"
	b.lab[LabelAppID] = strconv.FormatInt(b.app.ID, 10)
	b.lab[LabelAppUUID] = b.app.UUID
	b.lab[LabelServiceID] = strconv.FormatInt(target.ID, 10)
	b.lab[LabelServiceName] = svc.Name
	b.lab[LabelConfig] = Hash(svc.Spec)
	b.config().Image = target.Image
	svc.Spec.Name = ContainerName(b.app, svc.Name, target.ImageID)
	svc.ID, svc.ImageID = target.ID, target.ImageID
	slices.Sort(svc.Volumes)
	svc.Volumes = slices.Compact(svc.Volumes)
	return svc, nil
}

// attach joins the networks; a service that names none joins the one called default.
func (b *builder) attach() {
	if b.host().NetworkMode != "" {
		if len(b.nets) > 0 {
			b.leaveOut("networks", "a service with a network_mode joins no network")
		}
		return
	}
	if len(b.nets) == 0 {
		b.nets = map[string]*network.EndpointSettings{"default": {}}
	}
	b.svc.Spec.Networks = map[string]*network.EndpointSettings{}
	for _, name := range slices.Sorted(maps.Keys(b.nets)) {
		end := b.nets[name]
		end.Aliases = append(end.Aliases, b.svc.Name)
		slices.Sort(end.Aliases)
		end.Aliases = slices.Compact(end.Aliases)
		b.svc.Spec.Networks[NetworkName(b.app, name)] = end
		b.svc.Networks = append(b.svc.Networks, name)
	}
	if b.svc.API {
		b.svc.Spec.Networks[APINetworkName] = &network.EndpointSettings{}
	}
}

// injected are the variables that every service finds; each comes under both of its names.
func (b *builder) injected() map[string]string {
	env := map[string]string{
		"USER": "root", "BALENA": "1", "RESIN": "1",
		"BALENA_SERVICE_HANDOVER_COMPLETE_PATH": "/tmp/balena/handover-complete",
		"RESIN_SERVICE_KILL_ME_PATH":            "/tmp/balena/handover-complete",
	}
	for name, val := range map[string]string{
		"APP_ID": strconv.FormatInt(b.app.ID, 10), "APP_UUID": b.app.UUID, "APP_NAME": b.app.Name, "SERVICE_NAME": b.svc.Name,
		"DEVICE_UUID": string(b.dev.UUID), "DEVICE_TYPE": b.dev.Type, "DEVICE_ARCH": b.dev.Arch,
		"DEVICE_NAME_AT_INIT": b.dev.Name, "HOST_OS_VERSION": b.dev.OSVersion, "APP_LOCK_PATH": "/tmp/balena/updates.lock",
	} {
		env["BALENA_"+name] = val
		env["RESIN_"+name] = val
	}
	return env
}

// normalLabels writes the old names of balena's own labels in the new way; a label given under its new name wins.
func normalLabels(in map[string]string) map[string]string {
	out := make(map[string]string, len(in))
	for key, val := range in {
		if strings.HasPrefix(key, "io.resin.") {
			key = strings.ReplaceAll(key, "resin", "balena")
			if _, given := in[key]; given {
				continue
			}
		}
		out[key] = val
	}
	return out
}

func truthy(text string) bool {
	switch strings.ToLower(text) {
	case "1", "true", "on", "yes":
		return true
	}
	return false
}

const featurePrefix = "io.balena.features."

// featurePaths are the features that are just paths of the device seen inside the container.
var featurePaths = map[string][]string{
	"dbus":           {"/run/dbus:/host/run/dbus"},
	"kernel-modules": {"/lib/modules:/lib/modules"},
	"firmware":       {"/lib/firmware:/lib/firmware"},
	"sysfs":          {"/sys:/sys"},
	"procfs":         {"/proc:/proc"},
	"journal-logs":   {"/var/log/journal:/var/log/journal", "/run/log/journal:/run/log/journal", "/etc/machine-id:/etc/machine-id"},
}

// features does what the labels io.balena.features.* ask for. What it cannot do is named.
func (b *builder) features(env map[string]string) {
	for _, label := range slices.Sorted(maps.Keys(b.lab)) {
		feature, ok := strings.CutPrefix(label, featurePrefix)
		if !ok || !truthy(b.lab[label]) {
			continue
		}
		if binds, ok := featurePaths[feature]; ok {
			b.bindPaths(label, binds)
			continue
		}
		switch feature {
		case "balena-api":
			if b.dev.APIKey == "" {
				b.leaveOut("labels."+label, "the device's key is sealed, and the engine would write it to the disk")
				continue
			}
			for _, prefix := range []string{"BALENA_", "RESIN_"} {
				env[prefix+"API_KEY"] = b.dev.APIKey
				env[prefix+"API_URL"] = b.dev.APIURL
			}
		case "supervisor-api":
			if b.dev.APIKeyOf == nil {
				b.leaveOut("labels."+label, "the device has no API of its own")
				continue
			}
			b.ownAPI(env)
		case "balena-socket":
			sock := b.dev.EngineSocket
			b.bindPaths(label, []string{sock + ":/host/run/balena-engine.sock", sock + ":/var/run/balena.sock"})
			env["DOCKER_HOST"] = "unix:///var/run/balena.sock"
		case "optional": // says something about contracts only
		default: // gpu, extra-firmware, host-os.board-rev, …
			b.leaveOut("labels."+label, "this feature is not supported")
		}
	}
}

// ownAPI tells a service how to reach the device's own API, and lets it.
func (b *builder) ownAPI(env map[string]string) {
	host := APIAddress.String()
	if b.host().NetworkMode == "host" {
		host = "127.0.0.1"
	}
	b.svc.API = true
	for name, val := range map[string]string{
		"HOST": host, "PORT": strconv.Itoa(APIPort), "ADDRESS": "http://" + host + ":" + strconv.Itoa(APIPort), "API_KEY": b.dev.APIKeyOf(b.app.UUID),
	} {
		env["BALENA_SUPERVISOR_"+name] = val
		env["RESIN_SUPERVISOR_"+name] = val
	}
}

func (b *builder) bindPaths(label string, binds []string) {
	for _, bind := range binds {
		source, _, _ := strings.Cut(bind, ":")
		if source == "" || !b.dev.Exists(source) {
			b.leaveOut("labels."+label, "the device has no "+source)
			continue
		}
		b.host().Binds = append(b.host().Binds, bind)
	}
}
