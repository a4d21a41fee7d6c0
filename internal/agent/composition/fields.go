package composition

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// silent fields mean nothing on a device: they were the builder's business, or only describe.
var silent = []string{"image", "build", "running", "contract", "expose", "platform", "pull_policy", "annotations", "attach", "profiles"}

// supported fields, each with what it does.
var supported = map[string]func(b *builder, v any) error{
	"cap_add":           texts(func(b *builder, l []string) { b.host().CapAdd = l }),
	"cap_drop":          texts(func(b *builder, l []string) { b.host().CapDrop = l }),
	"cgroup_parent":     text(func(b *builder, s string) { b.host().CgroupParent = s }),
	"command":           (*builder).command,
	"cpu_quota":         number(func(b *builder, n int64) { b.host().CPUQuota = n }),
	"cpu_shares":        number(func(b *builder, n int64) { b.host().CPUShares = n }),
	"cpus":              (*builder).cpus,
	"cpuset":            text(func(b *builder, s string) { b.host().CpusetCpus = s }),
	"depends_on":        (*builder).dependsOn,
	"devices":           (*builder).devices,
	"dns":               (*builder).dns,
	"dns_opt":           texts(func(b *builder, l []string) { b.host().DNSOptions = l }),
	"dns_search":        texts(func(b *builder, l []string) { b.host().DNSSearch = l }),
	"domainname":        text(func(b *builder, s string) { b.config().Domainname = s }),
	"entrypoint":        (*builder).entrypoint,
	"environment":       (*builder).environment,
	"extra_hosts":       (*builder).extraHosts,
	"group_add":         texts(func(b *builder, l []string) { b.host().GroupAdd = l }),
	"healthcheck":       (*builder).healthcheck,
	"hostname":          text(func(b *builder, s string) { b.config().Hostname = s }),
	"init":              flag(func(b *builder, on bool) { b.host().Init = &on }),
	"ipc":               (*builder).ipc,
	"labels":            (*builder).labels,
	"mac_address":       (*builder).macAddress,
	"mem_limit":         bytesOf(func(b *builder, n int64) { b.host().Memory = n }),
	"mem_reservation":   bytesOf(func(b *builder, n int64) { b.host().MemoryReservation = n }),
	"network_mode":      (*builder).networkMode,
	"networks":          (*builder).networks,
	"oom_kill_disable":  flag(func(b *builder, on bool) { b.host().OomKillDisable = &on }),
	"oom_score_adj":     number(func(b *builder, n int64) { b.host().OomScoreAdj = int(n) }),
	"pid":               (*builder).pid,
	"pids_limit":        number(func(b *builder, n int64) { b.host().PidsLimit = &n }),
	"ports":             (*builder).ports,
	"privileged":        flag(func(b *builder, on bool) { b.host().Privileged = on }),
	"read_only":         flag(func(b *builder, on bool) { b.host().ReadonlyRootfs = on }),
	"restart":           (*builder).restart,
	"security_opt":      (*builder).securityOpt,
	"shm_size":          bytesOf(func(b *builder, n int64) { b.host().ShmSize = n }),
	"stop_grace_period": (*builder).stopGracePeriod,
	"stop_signal":       text(func(b *builder, s string) { b.config().StopSignal = s }),
	"storage_opt":       textMap(func(b *builder, m map[string]string) { b.host().StorageOpt = m }),
	"sysctls":           textMap(func(b *builder, m map[string]string) { b.host().Sysctls = m }),
	"tmpfs":             (*builder).tmpfs,
	"tty":               flag(func(b *builder, on bool) { b.config().Tty = on }),
	"ulimits":           (*builder).ulimits,
	"user":              text(func(b *builder, s string) { b.config().User = s }),
	"userns_mode":       text(func(b *builder, s string) { b.host().UsernsMode = container.UsernsMode(s) }),
	"volumes":           (*builder).volumes,
	"working_dir":       text(func(b *builder, s string) { b.config().WorkingDir = s }),
}

// Fields names the supported fields of a service, for the manual.
func Fields() []string { return slices.Sorted(maps.Keys(supported)) }

func read[T any](parse func(any) (T, error), set func(*builder, T)) func(*builder, any) error {
	return func(b *builder, v any) error {
		val, err := parse(v)
		if err == nil {
			set(b, val)
		}
		return err
	}
}

func text(set func(*builder, string)) func(*builder, any) error    { return read(scalar, set) }
func texts(set func(*builder, []string)) func(*builder, any) error { return read(stringList, set) }
func number(set func(*builder, int64)) func(*builder, any) error   { return read(integer, set) }
func bytesOf(set func(*builder, int64)) func(*builder, any) error  { return read(size, set) }
func flag(set func(*builder, bool)) func(*builder, any) error      { return read(boolean, set) }
func textMap(set func(*builder, map[string]string)) func(*builder, any) error {
	return read(stringMap, set)
}

func (b *builder) command(v any) (err error) {
	b.config().Cmd, err = words(v)
	return err
}

func (b *builder) entrypoint(v any) (err error) {
	if b.config().Entrypoint, err = words(v); err == nil && len(b.config().Entrypoint) == 0 {
		b.config().Entrypoint = []string{""} // an empty one takes the image's away
	}
	return err
}

func (b *builder) environment(v any) (err error) {
	b.env, err = stringMap(v)
	return err
}

func (b *builder) labels(v any) (err error) {
	b.lab, err = stringMap(v)
	return err
}

func (b *builder) cpus(v any) error {
	s, err := scalar(v)
	if err != nil {
		return err
	}
	var n float64
	if _, err := fmt.Sscanf(s, "%g", &n); err != nil || math.IsNaN(n) || n < 0 || n > 4096 {
		return errors.New("must be a number of processors")
	}
	b.host().NanoCPUs = int64(n * 1e9)
	return nil
}

func (b *builder) dependsOn(v any) error {
	if byName, ok := v.(map[string]any); ok {
		for name, val := range byName {
			condition := "service_started"
			if entry, ok := val.(map[string]any); ok && entry["condition"] != nil {
				condition, _ = entry["condition"].(string)
			}
			switch condition {
			case "service_started", "service_healthy":
			default:
				b.leaveOutHere("."+name, fmt.Sprintf("the condition %q is not supported, the order of starting is kept", condition))
				condition = "service_started"
			}
			b.svc.DependsOn[name] = condition
		}
		return nil
	}
	list, err := stringList(v)
	for _, name := range list {
		b.svc.DependsOn[name] = "service_started"
	}
	return err
}

func (b *builder) dns(v any) error {
	list, err := stringList(v)
	if err != nil {
		return err
	}
	for _, s := range list {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("%q is not an address", s)
		}
		b.host().DNS = append(b.host().DNS, addr)
	}
	return nil
}

func (b *builder) extraHosts(v any) error {
	if list, ok := v.([]any); ok {
		hosts, err := stringList(list)
		for _, h := range hosts {
			if name, addr, ok := strings.Cut(h, "="); ok {
				h = name + ":" + addr
			}
			b.host().ExtraHosts = append(b.host().ExtraHosts, h)
		}
		return err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return errors.New("must be an object or a list")
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		addrs, err := stringList(m[name])
		if err != nil {
			return fmt.Errorf("%s %w", name, err)
		}
		for _, a := range addrs {
			b.host().ExtraHosts = append(b.host().ExtraHosts, name+":"+a)
		}
	}
	return nil
}

func (b *builder) ipc(v any) error {
	mode, err := scalar(v)
	switch mode {
	case "host", "private", "none", "shareable":
		b.host().IpcMode = container.IpcMode(mode)
	default:
		b.leaveOutHere("", fmt.Sprintf("the mode %q is not supported", mode))
	}
	return err
}

func (b *builder) pid(v any) error {
	mode, err := scalar(v)
	if mode == "host" {
		b.host().PidMode = "host"
	} else if mode != "" {
		b.leaveOutHere("", fmt.Sprintf("the mode %q is not supported", mode))
	}
	return err
}

func (b *builder) networkMode(v any) error {
	mode, err := scalar(v)
	switch mode {
	case "host", "none":
		b.host().NetworkMode = container.NetworkMode(mode)
	case "bridge", "default", "":
	default:
		b.leaveOutHere("", fmt.Sprintf("the mode %q is not supported", mode))
	}
	return err
}

func (b *builder) restart(v any) error {
	policy, err := scalar(v)
	if err != nil {
		return err
	}
	name, _, _ := strings.Cut(policy, ":")
	switch name {
	case "always", "unless-stopped", "on-failure", "no":
		b.svc.Restart = policy
	case "false":
		b.svc.Restart = "no"
	default:
		return fmt.Errorf("%q is not a policy", policy)
	}
	return nil
}

func (b *builder) securityOpt(v any) error {
	list, err := stringList(v)
	for i, opt := range list {
		opt = strings.Replace(opt, ":", "=", 1)
		switch {
		case strings.HasPrefix(opt, "no-new-privileges"), opt == "seccomp=unconfined", strings.HasPrefix(opt, "apparmor="):
			b.host().SecurityOpt = append(b.host().SecurityOpt, opt)
		default:
			b.leaveOutHere(fmt.Sprintf("[%d]", i), fmt.Sprintf("%q is not supported", opt))
		}
	}
	return err
}

func (b *builder) stopGracePeriod(v any) error {
	d, err := duration(v)
	seconds := int(math.Ceil(d.Seconds()))
	b.config().StopTimeout = &seconds
	return err
}

func (b *builder) tmpfs(v any) error {
	list, err := stringList(v)
	for _, entry := range list {
		dir, opts, _ := strings.Cut(entry, ":")
		b.addTmpfs(dir, opts)
	}
	return err
}

func (b *builder) addTmpfs(dir, opts string) {
	if b.host().Tmpfs == nil {
		b.host().Tmpfs = map[string]string{}
	}
	b.host().Tmpfs[dir] = opts
}

func (b *builder) macAddress(v any) error {
	s, err := scalar(v)
	if err != nil {
		return err
	}
	b.leaveOutHere("", "the address "+s+" is not set: it would be the same on every device of the fleet")
	return nil
}

func (b *builder) ulimits(v any) error {
	m, ok := v.(map[string]any)
	if !ok {
		return errors.New("must be an object")
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		limit := units.Ulimit{Name: name}
		var err error
		if pair, ok := m[name].(map[string]any); ok {
			var err2 error
			limit.Soft, err = integer(pair["soft"])
			limit.Hard, err2 = integer(pair["hard"])
			err = errors.Join(err, err2)
		} else {
			limit.Soft, err = integer(m[name])
			limit.Hard = limit.Soft
		}
		if err != nil {
			return fmt.Errorf("%s %w", name, err)
		}
		b.host().Ulimits = append(b.host().Ulimits, &limit)
	}
	return nil
}

func (b *builder) healthcheck(v any) error {
	m, ok := v.(map[string]any)
	if !ok {
		return errors.New("must be an object")
	}
	check := &container.HealthConfig{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		var err error
		set := func(d *time.Duration) { *d, err = duration(m[key]) }
		switch key {
		case "test":
			if one, ok := m[key].(string); ok {
				check.Test = []string{"CMD-SHELL", one}
			} else {
				check.Test, err = stringList(m[key])
			}
		case "interval":
			set(&check.Interval)
		case "timeout":
			set(&check.Timeout)
		case "start_period":
			set(&check.StartPeriod)
		case "retries":
			var n int64
			n, err = integer(m[key])
			check.Retries = int(n)
		case "disable":
			var off bool
			if off, err = boolean(m[key]); off {
				check.Test = []string{"NONE"}
			}
		default:
			b.leaveOutHere("."+key, "this field is not supported")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	b.config().Healthcheck = check
	return nil
}

func (b *builder) networks(v any) error {
	b.nets = map[string]*network.EndpointSettings{}
	m, ok := v.(map[string]any)
	if !ok {
		list, err := stringList(v)
		for _, name := range list {
			b.nets[name] = &network.EndpointSettings{}
		}
		return errors.Join(err, b.checkNetworks())
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		end := &network.EndpointSettings{}
		b.nets[name] = end
		opts, _ := m[name].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(opts)) {
			var err error
			switch key {
			case "aliases":
				end.Aliases, err = stringList(opts[key])
			case "ipv4_address", "ipv6_address":
				var s string
				var addr netip.Addr
				if s, err = scalar(opts[key]); err == nil {
					addr, err = netip.ParseAddr(s)
				}
				if end.IPAMConfig == nil {
					end.IPAMConfig = &network.EndpointIPAMConfig{}
				}
				if key == "ipv4_address" {
					end.IPAMConfig.IPv4Address = addr
				} else {
					end.IPAMConfig.IPv6Address = addr
				}
			default:
				b.leaveOutHere("."+name+"."+key, "this field is not supported")
			}
			if err != nil {
				return fmt.Errorf("%s.%s: %w", name, key, err)
			}
		}
	}
	return b.checkNetworks()
}

func (b *builder) checkNetworks() error {
	for name := range b.nets {
		if !ValidName(name) {
			return fmt.Errorf("%q is not a name", name)
		}
	}
	return nil
}
