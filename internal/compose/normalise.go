package compose

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// normaliser turns a parsed file into the composition of a release, collecting what it refuses and ignores.
type normaliser struct {
	root     *os.Root
	env      types.Mapping
	refused  []string
	warnings []string
	kept     []string // fields that are supported
	envFiles int      // read so far
	size     int      // bytes of the environment that they hold
	services []Service
}

const (
	maxSaid    = 40  // refusals and warnings that are told one by one
	maxMessage = 400 // bytes of one: values of a file stand in it
)

func (n *normaliser) refuse(format string, args ...any) {
	n.refused = append(n.refused, sentence(format, args...))
}

func (n *normaliser) warn(format string, args ...any) {
	switch len(n.warnings) {
	default:
		n.warnings = append(n.warnings, sentence(format, args...))
	case maxSaid * 5:
		n.warnings = append(n.warnings, "more is ignored than is told here")
	case maxSaid*5 + 1:
	}
}

func sentence(format string, args ...any) string {
	text := fmt.Sprintf(format, args...)
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}

// refusals is the error that lists what was refused so far.
func (n *normaliser) refusals(file string) error {
	switch len(n.refused) {
	case 0:
		return nil
	case 1:
		return api.Errorf(api.Invalid, "%s: %s", file, n.refused[0])
	}
	told, more := n.refused, ""
	if len(told) > maxSaid {
		told, more = told[:maxSaid], fmt.Sprintf("\n  and %d more", len(told)-maxSaid)
	}
	return api.Errorf(api.Invalid, "%s:\n  %s%s", file, strings.Join(told, "\n  "), more)
}

// checkModel holds every field against the table.
func (n *normaliser) checkModel(model map[string]any) {
	n.checkFields("", model, topFields)
	services, _ := model["services"].(map[string]any)
	for _, name := range sortedKeys(services) {
		service, _ := services[name].(map[string]any)
		n.checkFields("services."+name+".", service, serviceFields)
		build, _ := service["build"].(map[string]any)
		n.checkFields("services."+name+".build.", build, buildFields)
	}
	for place, table := range map[string][]Field{"networks": networkFields, "volumes": volumeFields} {
		blocks, _ := model[place].(map[string]any)
		for _, name := range sortedKeys(blocks) {
			block, _ := blocks[name].(map[string]any)
			n.checkFields(place+"."+name+".", block, table)
		}
	}
}

func (n *normaliser) checkFields(at string, block map[string]any, table []Field) {
	for _, name := range sortedKeys(block) {
		if strings.HasPrefix(name, "x-") {
			continue
		}
		switch f := lookup(table, name); f.Support {
		case Kept:
			n.kept = append(n.kept, at+name)
		case Ignored:
			n.warn("%s%s is ignored: %s", at, name, f.Note)
		case Refused:
			n.refuse("%s%s is not supported: %s", at, name, f.Note)
		}
	}
}

// lookup finds a field's row. One that the table does not know is refused: the parser may learn fields before we do.
func lookup(table []Field, name string) Field {
	for _, f := range table {
		if f.Name == name {
			return f
		}
	}
	return Field{Name: name, Support: Refused, Note: "this field is not known"}
}

var nameRule = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

func (n *normaliser) project(p *types.Project) map[string]any {
	services := map[string]any{}
	if len(p.Services) == 0 {
		n.refuse("services: there is none")
	}
	if len(p.Services) > maxServices {
		n.refuse("services: there are %d, and %d are allowed", len(p.Services), maxServices)
		return nil
	}
	for _, name := range sortedKeys(p.Services) {
		if !nameRule.MatchString(name) {
			n.refuse("services.%s: a name has letters, digits, '_', '.' and '-', and at most 128 of them", name)
			continue
		}
		services[name] = n.service(name, p.Services[name])
	}
	networks, volumes := map[string]any{}, map[string]any{}
	for name, v := range p.Networks {
		block := n.block("networks."+name, v, networkFields)
		if ipam, ok := block["ipam"].(map[string]any); ok && len(ipam) == 0 {
			delete(block, "ipam") // the parser gives every network an empty one
		}
		networks[name] = block
	}
	for name, v := range p.Volumes {
		volumes[name] = n.block("volumes."+name, v, volumeFields)
		if v.Driver != "" && v.Driver != "local" {
			n.refuse("volumes.%s.driver %q is not supported: volumes of a device are local", name, v.Driver)
		}
	}
	return map[string]any{"services": services, "networks": networks, "volumes": volumes}
}

// block gives the supported fields of a parsed block in their JSON form.
func (n *normaliser) block(at string, v any, table []Field) map[string]any {
	text, err := json.Marshal(v)
	if err != nil {
		n.refuse("%s: %v", at, err)
		return nil
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		n.refuse("%s: %v", at, err)
		return nil
	}
	out := map[string]any{}
	for name, value := range all {
		if lookup(table, name).Support == Kept && value != nil {
			out[name] = value
		}
	}
	return out
}

// service gives one service's block. Fields that the parser has only in a long form which devices in the field do not read go
// back into the short one.
func (n *normaliser) service(name string, s types.ServiceConfig) map[string]any {
	at := "services." + name
	out := n.block(at, s, serviceFields)
	delete(out, "env_file")
	delete(out, "extends")
	set := func(field string, v any, present bool) {
		delete(out, field)
		if present {
			out[field] = v
		}
	}
	labels := map[string]string(s.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	env := n.environment(at, s)
	set("environment", env, len(env) > 0)
	volumes, tmpfs := n.volumes(at, s, labels)
	set("volumes", volumes, len(volumes) > 0)
	set("tmpfs", append([]string(s.Tmpfs), tmpfs...), len(s.Tmpfs)+len(tmpfs) > 0)
	set("labels", labels, len(labels) > 0)
	ports := n.ports(at, s.Ports)
	set("ports", ports, len(ports) > 0)
	set("devices", devices(s.Devices), len(s.Devices) > 0)
	set("depends_on", n.dependsOn(at, s.DependsOn), len(s.DependsOn) > 0)
	set("networks", n.networks(at, s.Networks), len(s.Networks) > 0)
	set("mem_limit", int64(s.MemLimit), s.MemLimit != 0)
	set("mem_reservation", int64(s.MemReservation), s.MemReservation != 0)
	set("shm_size", int64(s.ShmSize), s.ShmSize != 0)
	set("extra_hosts", s.ExtraHosts.AsList(":"), len(s.ExtraHosts) > 0)
	set("entrypoint", []string(s.Entrypoint), s.Entrypoint != nil)
	set("command", []string(s.Command), s.Command != nil)
	n.checkModes(at, s)
	service := Service{Name: name, Platforms: n.platforms(at, s)}
	delete(out, "platform")
	if s.Build != nil {
		service.Build = n.build(at, s.Build)
		set("build", buildBlock(service.Build), true)
		delete(out, "image")
	} else {
		service.Image = s.Image
	}
	n.services = append(n.services, service)
	return out
}

// checkModes refuses the modes that name another container: a device cannot know which one is meant while it updates.
func (n *normaliser) checkModes(at string, s types.ServiceConfig) {
	for field, mode := range map[string]string{"network_mode": s.NetworkMode, "pid": s.Pid, "ipc": s.Ipc} {
		if strings.HasPrefix(mode, "container:") || strings.HasPrefix(mode, "service:") {
			n.refuse("%s.%s %q is not supported: it names another container", at, field, mode)
		}
	}
	for _, opt := range s.SecurityOpt {
		if !strings.HasPrefix(opt, "no-new-privileges") {
			n.refuse("%s.security_opt %q is not supported: only no-new-privileges is", at, opt)
		}
	}
	if s.PidsLimit < 0 {
		n.refuse("%s.pids_limit must not be negative", at)
	}
}

// environment joins the service's files and its own block, which wins.
func (n *normaliser) environment(at string, s types.ServiceConfig) map[string]string {
	env := map[string]string{}
	for _, f := range s.EnvFiles {
		if !filepath.IsLocal(f.Path) {
			n.refuse("%s.env_file %q must be a file inside the source", at, f.Path)
			continue
		}
		if _, err := n.root.Stat(f.Path); err != nil && !bool(f.Required) && os.IsNotExist(err) {
			continue
		}
		if n.envFiles++; n.envFiles > maxEnvFiles {
			n.refuse("%s.env_file: more than %d files are named in all", at, maxEnvFiles)
			return env
		}
		vars, err := readEnvFile(n.root, f.Path, n.env)
		if err != nil {
			n.refuse("%s.env_file: %v", at, err)
			continue
		}
		for k, v := range vars {
			env[k] = v
			n.size += len(v)
		}
		if n.size > maxUnfolded {
			n.refuse("%s.env_file: the files hold more than %d bytes in all", at, maxUnfolded)
			return env
		}
	}
	for k, v := range s.Environment {
		if v == nil {
			n.warn("%s.environment.%s has no value and is left out", at, k)
			continue
		}
		env[k] = *v
	}
	return env
}

func (n *normaliser) volumes(at string, s types.ServiceConfig, labels map[string]string) (volumes, tmpfs []string) {
	for i, v := range s.Volumes {
		at := fmt.Sprintf("%s.volumes[%d]", at, i)
		if !path.IsAbs(v.Target) {
			n.refuse("%s: %q must be an absolute path in the container", at, v.Target)
			continue
		}
		switch v.Type {
		case types.VolumeTypeVolume:
			n.namedVolume(at, v, &volumes)
		case types.VolumeTypeTmpfs:
			entry := v.Target
			if v.Tmpfs != nil && v.Tmpfs.Size > 0 {
				entry += ":size=" + strconv.FormatInt(int64(v.Tmpfs.Size), 10)
			}
			tmpfs = append(tmpfs, entry)
		case types.VolumeTypeBind:
			label, ok := features[path.Clean(v.Source)]
			if !ok {
				n.refuse("%s: the directory %q of the device cannot be mounted: a release has named volumes, and the feature "+
					"labels of docs/composition.md for what belongs to the device", at, v.Source)
				continue
			}
			labels[label] = "1"
			n.warn("%s: the bind mount of %s becomes the label %s", at, v.Source, label)
		default:
			n.refuse("%s: volumes of type %q are not supported", at, v.Type)
		}
	}
	return volumes, tmpfs
}

func (n *normaliser) namedVolume(at string, v types.ServiceVolumeConfig, volumes *[]string) {
	switch {
	case v.Source == "":
		n.refuse("%s: name the volume of %s; one without a name would be lost at every update", at, v.Target)
		return
	case v.Volume != nil && v.Volume.Subpath != "":
		n.refuse("%s: volume.subpath is not supported: mount the whole volume", at)
		return
	case strings.Contains(v.Target, ":"):
		n.refuse("%s: %q must not hold a colon", at, v.Target)
		return
	}
	entry := v.Source + ":" + v.Target
	if v.ReadOnly {
		entry += ":ro"
	}
	*volumes = append(*volumes, entry)
}

func (n *normaliser) ports(at string, ports []types.ServicePortConfig) []string {
	var out []string
	for _, p := range ports {
		entry := strconv.FormatUint(uint64(p.Target), 10)
		if p.Published != "" {
			entry = p.Published + ":" + entry
		}
		if p.HostIP != "" {
			addr, err := netip.ParseAddr(p.HostIP)
			if err != nil {
				n.refuse("%s.ports: %q is not an address", at, p.HostIP)
				continue
			}
			if p.Published == "" {
				entry = ":" + entry
			}
			if addr.Is6() {
				entry = "[" + p.HostIP + "]:" + entry
			} else {
				entry = p.HostIP + ":" + entry
			}
		}
		if p.Protocol != "" && p.Protocol != "tcp" {
			entry += "/" + p.Protocol
		}
		out = append(out, entry)
	}
	return out
}

func devices(list []types.DeviceMapping) []string {
	var out []string
	for _, d := range list {
		entry := d.Source
		if d.Target != "" {
			entry += ":" + d.Target
		}
		if d.Permissions != "" && d.Permissions != "rwm" {
			if d.Target == "" {
				entry += ":" + d.Source
			}
			entry += ":" + d.Permissions
		}
		out = append(out, entry)
	}
	return out
}

// dependsOn is a list of names where only the order matters, which every agent reads, and an object where a condition does.
func (n *normaliser) dependsOn(at string, deps types.DependsOnConfig) any {
	list, conditions, plain := []string{}, map[string]any{}, true
	for _, name := range sortedKeys(deps) {
		d := deps[name]
		switch d.Condition {
		case "", types.ServiceConditionStarted, types.ServiceConditionHealthy:
		default:
			n.refuse("%s.depends_on.%s: the condition %q is not supported: a device runs services that stay", at, name, d.Condition)
		}
		if d.Restart {
			n.warn("%s.depends_on.%s.restart is ignored", at, name)
		}
		if d.Condition == types.ServiceConditionHealthy {
			plain = false
		}
		list = append(list, name)
		conditions[name] = map[string]any{"condition": d.Condition}
	}
	if plain {
		return list
	}
	return conditions
}

func (n *normaliser) networks(at string, nets map[string]*types.ServiceNetworkConfig) map[string]any {
	out := map[string]any{}
	for _, name := range sortedKeys(nets) {
		block := map[string]any{}
		out[name] = block
		c := nets[name]
		if c == nil {
			continue
		}
		if len(c.Aliases) > 0 {
			block["aliases"] = c.Aliases
		}
		if c.Ipv4Address != "" {
			block["ipv4_address"] = c.Ipv4Address
		}
		if c.Ipv6Address != "" {
			block["ipv6_address"] = c.Ipv6Address
		}
		if len(c.LinkLocalIPs) > 0 || len(c.DriverOpts) > 0 || c.MacAddress != "" || c.InterfaceName != "" {
			n.refuse("%s.networks.%s: only aliases, ipv4_address and ipv6_address are supported", at, name)
		}
	}
	return out
}

var platformForm = pattern.New(`^linux/[a-z0-9]{1,20}(/[a-z0-9]{1,10})?$`)

// platforms are those that a service is made for. Whether the fleet is built for them is the builder's to know.
func (n *normaliser) platforms(at string, s types.ServiceConfig) []string {
	var list []string
	if s.Build != nil {
		list = s.Build.Platforms
	}
	field := ".build.platforms"
	if s.Platform != "" {
		list, field = []string{s.Platform}, ".platform" // which is one of them
	}
	for _, p := range list {
		if !platformForm.MatchString(p) {
			n.refuse("%s%s: %.100q is no platform like linux/arm64 or linux/arm/v7", at, field, p)
		}
	}
	return list
}

func (n *normaliser) build(at string, b *types.BuildConfig) *Build {
	out := &Build{Context: b.Context, Dockerfile: b.Dockerfile, Inline: b.DockerfileInline, Target: b.Target,
		Args: map[string]string{}, Labels: b.Labels, ShmSize: int64(b.ShmSize), NoCache: b.NoCache}
	if out.Context == "" {
		out.Context = "."
	}
	out.Context = path.Clean(out.Context)
	if !filepath.IsLocal(out.Context) || strings.Contains(b.Context, "://") {
		n.refuse("%s.build.context %q must be a directory inside the source", at, b.Context)
	} else if info, err := n.root.Stat(out.Context); err != nil || !info.IsDir() {
		n.refuse("%s.build.context: there is no directory %q in the source", at, out.Context)
	}
	// The Dockerfile may stand beside the context, but not outside the source.
	if out.Dockerfile != "" && !filepath.IsLocal(path.Join(out.Context, out.Dockerfile)) {
		n.refuse("%s.build.dockerfile %q must be a file inside the source", at, out.Dockerfile)
	}
	for k, v := range b.Args {
		if v == nil {
			n.warn("%s.build.args.%s has no value and is left out", at, k)
			continue
		}
		out.Args[k] = *v
	}
	out.ExtraHosts = b.ExtraHosts.AsList("=")
	return out
}

// buildBlock is how a release remembers what was built. Arguments are left out: people put secrets into them.
func buildBlock(b *Build) map[string]any {
	out := map[string]any{"context": b.Context}
	if b.Dockerfile != "" {
		out["dockerfile"] = b.Dockerfile
	}
	if b.Target != "" {
		out["target"] = b.Target
	}
	return out
}
