package composition

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// volumes takes named volumes and tmpfs. Directories of the device are refused: a release must not depend on, or change, what
// is outside its volumes; the feature labels open the few that services need.
func (b *builder) volumes(v any) error {
	list, ok := v.([]any)
	if !ok {
		return errors.New("must be a list")
	}
	for i, item := range list {
		var err error
		at := fmt.Sprintf("[%d]", i)
		if text, ok := item.(string); ok {
			err = b.shortVolume(at, text)
		} else if entry, ok := item.(map[string]any); ok {
			err = b.longVolume(at, entry)
		} else {
			err = errors.New("must be a text or an object")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	return nil
}

func (b *builder) shortVolume(at, text string) error {
	parts := strings.Split(text, ":")
	switch {
	case len(parts) == 1:
		b.leaveOutHere(at, "a volume without a name is not kept over an update; give it one")
		return nil
	case len(parts) > 3:
		return fmt.Errorf("%q is not a volume", text)
	}
	mode := ""
	if len(parts) == 3 {
		mode = parts[2]
	}
	return b.addVolume(at, parts[0], parts[1], mode)
}

func (b *builder) addVolume(at, source, target, mode string) error {
	if !strings.HasPrefix(target, "/") {
		return fmt.Errorf("the path %q must begin with /", target)
	}
	if source == "" || strings.ContainsAny(source[:1], "/.~") {
		b.leaveOutHere(at, fmt.Sprintf("the bind mount of %q is refused", source))
		return nil
	}
	if !ValidName(source) {
		return fmt.Errorf("%q is not a name", source)
	}
	bind := VolumeName(b.app, source) + ":" + target
	for _, m := range strings.Split(mode, ",") {
		switch m {
		case "", "rw", "z", "Z":
		case "ro", "nocopy":
			bind = withMode(bind, m)
		default:
			b.leaveOutHere(at, fmt.Sprintf("the mode %q is not supported", m))
		}
	}
	b.host().Binds = append(b.host().Binds, bind)
	b.svc.Volumes = append(b.svc.Volumes, source)
	return nil
}

func withMode(bind, mode string) string {
	if strings.Count(bind, ":") == 2 {
		return bind + "," + mode
	}
	return bind + ":" + mode
}

func (b *builder) longVolume(at string, entry map[string]any) error {
	get := func(key string) string {
		s, _ := scalar(entry[key])
		return s
	}
	kind, source, target := get("type"), get("source"), get("target")
	switch kind {
	case "volume", "":
		mode := ""
		if on, _ := boolean(orFalse(entry["read_only"])); on {
			mode = "ro"
		}
		if source == "" {
			b.leaveOutHere(at, "a volume without a name is not kept over an update; give it one")
			return nil
		}
		return b.addVolume(at, source, target, mode)
	case "tmpfs":
		opts := ""
		if t, ok := entry["tmpfs"].(map[string]any); ok && t["size"] != nil {
			n, err := size(t["size"])
			if err != nil {
				return err
			}
			opts = "size=" + strconv.FormatInt(n, 10)
		}
		if !strings.HasPrefix(target, "/") {
			return fmt.Errorf("the path %q must begin with /", target)
		}
		b.addTmpfs(target, opts)
	case "bind":
		b.leaveOutHere(at, fmt.Sprintf("the bind mount of %q is refused", source))
	default:
		b.leaveOutHere(at, fmt.Sprintf("a mount of type %q is not supported", kind))
	}
	return nil
}

func orFalse(v any) any {
	if v == nil {
		return false
	}
	return v
}

func (b *builder) devices(v any) error {
	list, ok := v.([]any)
	if !ok {
		return errors.New("must be a list")
	}
	for i, item := range list {
		var m container.DeviceMapping
		switch t := item.(type) {
		case string:
			parts := strings.Split(t, ":")
			m = container.DeviceMapping{PathOnHost: parts[0], PathInContainer: parts[0], CgroupPermissions: "rwm"}
			if len(parts) > 1 {
				m.PathInContainer = parts[1]
			}
			if len(parts) > 2 {
				m.CgroupPermissions = parts[2]
			}
		case map[string]any:
			m.PathOnHost, _ = scalar(t["source"])
			m.PathInContainer, _ = scalar(t["target"])
			m.CgroupPermissions, _ = scalar(t["permissions"])
			if m.PathInContainer == "" {
				m.PathInContainer = m.PathOnHost
			}
			if m.CgroupPermissions == "" {
				m.CgroupPermissions = "rwm"
			}
		}
		if !strings.HasPrefix(m.PathOnHost, "/") || !strings.HasPrefix(m.PathInContainer, "/") {
			return fmt.Errorf("[%d] is not a device", i)
		}
		b.host().Devices = append(b.host().Devices, m)
	}
	return nil
}

func (b *builder) ports(v any) error {
	list, ok := v.([]any)
	if !ok {
		return errors.New("must be a list")
	}
	for i, item := range list {
		p, err := readPort(item)
		if err == nil {
			err = b.publish(p)
		}
		if err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return nil
}

// port is one entry of "ports": a range of ports of the container and, unless empty, one of the device.
type port struct{ hostIP, published, target, protocol string }

func readPort(item any) (port, error) {
	entry, ok := item.(map[string]any)
	if !ok {
		text, err := scalar(item)
		if err != nil {
			return port{}, err
		}
		p := port{protocol: "tcp"}
		text, proto, found := strings.Cut(text, "/")
		if found {
			p.protocol = proto
		}
		at := strings.LastIndexByte(text, ':')
		p.target = text[at+1:]
		if at < 0 {
			return p, nil
		}
		p.published = text[:at]
		if at := strings.LastIndexByte(p.published, ':'); at >= 0 {
			p.hostIP, p.published = strings.Trim(p.published[:at], "[]"), p.published[at+1:]
		}
		return p, nil
	}
	p := port{protocol: "tcp"}
	for key, into := range map[string]*string{
		"target": &p.target, "published": &p.published, "protocol": &p.protocol, "host_ip": &p.hostIP,
	} {
		if entry[key] == nil {
			continue
		}
		var err error
		if *into, err = scalar(entry[key]); err != nil {
			return p, fmt.Errorf("%s %w", key, err)
		}
	}
	return p, nil
}

// maxPorts bounds the published ports of a service; the engine makes a firewall rule for each.
const maxPorts = 1024

func (b *builder) publish(p port) error {
	first, last, err := portRange(p.target)
	if err != nil {
		return err
	}
	hostFirst, hostLast := 0, 0
	if p.published != "" {
		if hostFirst, hostLast, err = portRange(p.published); err != nil {
			return err
		}
		if hostLast-hostFirst != last-first {
			return fmt.Errorf("%s and %s have different lengths", p.published, p.target)
		}
	}
	if last-first+len(b.config().ExposedPorts) >= maxPorts {
		return fmt.Errorf("these are more than %d ports", maxPorts)
	}
	var addr netip.Addr
	if p.hostIP != "" {
		if addr, err = netip.ParseAddr(p.hostIP); err != nil {
			return fmt.Errorf("%q is not an address", p.hostIP)
		}
	}
	for n := first; n <= last; n++ {
		key, ok := network.PortFrom(uint16(n), network.IPProtocol(p.protocol)) //nolint:gosec // portRange has checked it
		if !ok || (p.protocol != "tcp" && p.protocol != "udp" && p.protocol != "sctp") {
			return fmt.Errorf("%q is not a protocol", p.protocol)
		}
		if b.config().ExposedPorts == nil {
			b.config().ExposedPorts = network.PortSet{}
			b.host().PortBindings = network.PortMap{}
		}
		b.config().ExposedPorts[key] = struct{}{}
		binding := network.PortBinding{HostIP: addr}
		if p.published != "" {
			binding.HostPort = strconv.Itoa(hostFirst + n - first)
		}
		b.host().PortBindings[key] = append(b.host().PortBindings[key], binding)
	}
	return nil
}

// portRange reads "80" and "8000-8010".
func portRange(text string) (first, last int, err error) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	first, err1 := strconv.Atoi(low)
	last, err2 := strconv.Atoi(high)
	if err1 != nil || err2 != nil || first < 1 || last > 65535 || last < first {
		return 0, 0, fmt.Errorf("%q is not a port", text)
	}
	return first, last, nil
}
