package origin

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// change is one value that differs; "" is a value too, null is none.
type change struct {
	Name   string  `json:"name"`
	Before *string `json:"before"`
	After  *string `json:"after"`
}

// service is what is compared of one service of a release.
type service struct {
	digest      string
	size        int64
	packages    map[string]string // "kind name" → versions; nil: not known
	unknown     string            // why
	environment map[string]string
	ports       map[string]string
	volumes     map[string]string
	labels      map[string]string
	privileges  []string
	settings    map[string]string // all else in the composition; only of documents that are signed
}

// serviceDiff is what differs in one service.
type serviceDiff struct {
	Service     string     `json:"service"`
	Change      string     `json:"change"` // added, removed, changed
	Image       *imageDiff `json:"image,omitempty"`
	Packages    []change   `json:"packages,omitempty"`
	Unknown     string     `json:"packages_unknown,omitempty"` // why packages are not compared
	Environment []change   `json:"environment,omitempty"`
	Ports       []change   `json:"ports,omitempty"`
	Volumes     []change   `json:"volumes,omitempty"`
	Labels      []change   `json:"labels,omitempty"`
	Settings    []change   `json:"settings,omitempty"`
	Gained      []string   `json:"privileges_gained,omitempty"`
	Lost        []string   `json:"privileges_lost,omitempty"`
}

// imageDiff is what became of an image.
type imageDiff struct {
	Before     string `json:"before"`
	After      string `json:"after"`
	SizeBefore int64  `json:"size_before"`
	SizeAfter  int64  `json:"size_after"`
}

// compare gives what differs, by service.
func compare(before, after map[string]service) []serviceDiff {
	list := []serviceDiff{}
	names := slices.Collect(maps.Keys(before))
	for n := range after {
		if _, both := before[n]; !both {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		b, had := before[n]
		a, has := after[n]
		d := serviceDiff{Service: n, Change: "changed", Environment: values(b.environment, a.environment), Ports: values(b.ports, a.ports),
			Volumes: values(b.volumes, a.volumes), Labels: values(b.labels, a.labels), Settings: values(b.settings, a.settings),
			Gained: less(a.privileges, b.privileges), Lost: less(b.privileges, a.privileges)}
		switch {
		case !had:
			d.Change = "added"
		case !has:
			d.Change = "removed"
		}
		if b.digest != a.digest {
			d.Image = &imageDiff{b.digest, a.digest, b.size, a.size}
			switch unknown := strings.Trim(b.unknown+"; "+a.unknown, "; "); {
			case unknown != "":
				d.Unknown = unknown
			default:
				d.Packages = values(b.packages, a.packages)
			}
		}
		if d.Change != "changed" || d.Image != nil || len(d.Environment)+len(d.Ports)+len(d.Volumes)+len(d.Labels)+len(d.Settings)+len(d.Gained)+len(d.Lost) > 0 {
			list = append(list, d)
		}
	}
	return list
}

// values gives the names whose values differ.
func values(before, after map[string]string) []change {
	var list []change
	for _, n := range slices.Sorted(maps.Keys(before)) {
		b := before[n]
		if a, ok := after[n]; !ok {
			list = append(list, change{n, &b, nil})
		} else if a != b {
			list = append(list, change{n, &b, &a})
		}
	}
	for _, n := range slices.Sorted(maps.Keys(after)) {
		if _, had := before[n]; !had {
			a := after[n]
			list = append(list, change{n, nil, &a})
		}
	}
	slices.SortStableFunc(list, func(a, b change) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// less is what is in the first list and not in the second.
func less(list, without []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(without, s) })
}

// composed reads one service of a composition. Any form that a compose file allows is understood, and what is strange is compared as
// the text that it is.
func composed(block map[string]any, imageLabels map[string]string) service {
	s := service{
		environment: pairs(block["environment"]), ports: items(block["ports"]), volumes: items(block["volumes"]),
		labels: maps.Clone(imageLabels),
	}
	if s.labels == nil {
		s.labels = map[string]string{}
	}
	maps.Copy(s.labels, pairs(block["labels"])) // the composition wins over the image
	s.privileges = privileges(block, s.labels)
	return s
}

// text is a value as it is compared and shown.
func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(data)
}

// pairs reads what stands as an object or as a list of "name=value".
func pairs(v any) map[string]string {
	out := map[string]string{}
	switch v := v.(type) {
	case map[string]any:
		for k, value := range v {
			out[k] = text(value)
		}
	case []any:
		for _, e := range v {
			name, value, _ := strings.Cut(text(e), "=")
			out[name] = value
		}
	}
	return out
}

// items reads a list whose entries are compared whole.
func items(v any) map[string]string {
	out := map[string]string{}
	switch v := v.(type) {
	case nil:
	case []any:
		for _, e := range v {
			out[text(e)] = ""
		}
	default:
		out[text(v)] = ""
	}
	return out
}

// shared are the settings with which a container shares something of the device's with it.
var shared = map[string]string{
	"network_mode": "host", "pid": "host", "ipc": "host", "uts": "host", "userns_mode": "host", "cgroup": "host",
}

// features are labels that give a container something of the device's: its engine, its supervisor's API, its modules.
const features = "io.balena.features."

// privileges are what a service may do beyond a container's usual: words for people, one each.
func privileges(block map[string]any, labels map[string]string) []string {
	var list []string
	if text(block["privileged"]) == "true" {
		list = append(list, "privileged")
	}
	for _, k := range []string{"cap_add", "devices", "device_cgroup_rules", "security_opt", "group_add"} {
		for e := range items(block[k]) {
			list = append(list, k+": "+e)
		}
	}
	for k, v := range shared {
		if text(block[k]) == v {
			list = append(list, k+": "+v)
		}
	}
	for k, v := range pairs(block["sysctls"]) {
		list = append(list, "sysctls: "+k+"="+v)
	}
	for k, v := range labels {
		feature, ok := strings.CutPrefix(k, features)
		if ok || strings.HasPrefix(k, "io.resin.features.") {
			if !ok {
				feature = strings.TrimPrefix(k, "io.resin.features.")
			}
			if v != "0" && v != "false" && v != "" {
				list = append(list, "feature: "+feature)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// versions are the packages of a service, by kind and name, and by platform where it is made for several; of one that is there several
// times, all versions.
func versions(bills []bill) map[string]string {
	all := map[string][]string{}
	for _, b := range bills {
		for _, p := range b.packages {
			k := p.Kind + " " + p.Name
			if p.Arch != "" && p.Arch != "all" && p.Arch != "noarch" {
				k += " " + p.Arch
			}
			if b.Platform != "" {
				k += " on " + b.Platform
			}
			if !slices.Contains(all[k], p.Version) {
				all[k] = append(all[k], p.Version)
			}
		}
	}
	out := map[string]string{}
	for k, v := range all {
		slices.Sort(v)
		out[k] = strings.Join(v, ", ")
	}
	return out
}
