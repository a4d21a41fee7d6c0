// Package plan decides what a device does next. It is pure: the same current and target state give the same steps. The steps
// are made so that the power may fail between any two of them: planning again from what is then there leads to the same end,
// and a service that runs is stopped only when the image of its successor is on the device.
package plan

import (
	"maps"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/engine"
)

// Kind is what a step does.
type Kind string

// The kinds, in the order in which a plan uses them.
const (
	Pull          Kind = "pull"
	CreateVolume  Kind = "create volume"
	CreateNetwork Kind = "create network"
	Create        Kind = "create"
	Stop          Kind = "stop"
	Start         Kind = "start"
	Remove        Kind = "remove"
	Rename        Kind = "rename"
	RemoveNetwork Kind = "remove network"
	RemoveVolume  Kind = "remove volume"
	Settle        Kind = "settle" // let what was started run for a moment
	RemoveImage   Kind = "remove image"
)

// Step is one thing to do. Which fields are set depends on the kind.
type Step struct {
	Kind      Kind
	App       string // uuid, when the step is about a service
	Service   string
	Image     string          // Pull, RemoveImage: reference by digest; Create, Start: the service's image
	Container string          // Stop, Start, Remove, Rename: id, or the name of one that the plan creates
	Name      string          // Rename: the new name; RemoveNetwork, RemoveVolume
	Spec      *engine.Spec    // Create
	Network   *engine.Network // CreateNetwork
	Volume    *engine.Volume  // CreateVolume
	Replaces  []string        // Start: containers that this plan stopped to make room; they run again should the start fail
}

// Current is what is on the device.
type Current struct {
	Containers []engine.Container
	Networks   []engine.Network
	Volumes    []engine.Volume
	Images     map[string]bool // references by digest
	Pulled     []string        // references that we pulled at any time: what we may remove
	Held       map[string]bool // ids of containers that are not to be started yet, because they end again and again
}

// Target is what should be on the device.
type Target struct {
	Apps     map[string]bool // uuids of the fleets that have a place on this device, with or without a release
	Services []Service
	Networks []engine.Network
	Volumes  []engine.Volume
}

// Service is one that should run.
type Service struct {
	App     composition.App
	Stopped bool // somebody stopped it: it is not to run, though its container stays
	*composition.Service
}

// Image is the reference that the service runs from.
func (s Service) Image() string { return s.Spec.Config.Image }

// Plan is what to do, and for which services that is not all: something they depend on is not healthy yet, or their container has
// never started and its next try is not due.
type Plan struct {
	Steps   []Step
	Waiting []string
}

// Make compares the two states.
func Make(cur Current, want Target) Plan {
	p := planner{cur: cur, want: want, rebuilt: map[string]bool{}}
	p.services = startOrder(want.Services)
	p.findChangedNetworks()
	p.matchContainers()
	return p.plan()
}

// match is what there is of a service.
type match struct {
	svc   Service
	good  *engine.Container // made of just what is wanted
	stale []engine.Container
}

type planner struct {
	cur      Current
	want     Target
	services []Service
	matches  []match
	unwanted []engine.Container
	rebuilt  map[string]bool // apps with a network that must be made anew: all their containers go first
	out      Plan
}

func (p *planner) add(s Step) { p.out.Steps = append(p.out.Steps, s) }

func (p *planner) findChangedNetworks() {
	for _, have := range p.cur.Networks {
		for _, n := range p.want.Networks {
			if n.Name == have.Name && n.Labels[composition.LabelConfig] != have.Labels[composition.LabelConfig] {
				p.rebuilt[n.Labels[composition.LabelAppUUID]] = true
			}
		}
	}
}

func (p *planner) matchContainers() {
	taken := map[string]bool{}
	for _, svc := range p.services {
		m := match{svc: svc}
		for _, c := range p.cur.Containers {
			if c.Labels[composition.LabelAppUUID] != svc.App.UUID || c.Labels[composition.LabelServiceName] != svc.Name {
				continue
			}
			taken[c.ID] = true
			same := c.Labels[composition.LabelConfig] == svc.Spec.Config.Labels[composition.LabelConfig]
			usable := same && c.State != "dead" && c.State != "removing" && !p.rebuilt[svc.App.UUID]
			switch {
			case usable && m.good == nil:
				m.good = &c
			case usable && !up(*m.good) && up(c):
				m.stale = append(m.stale, *m.good)
				m.good = &c
			default:
				m.stale = append(m.stale, c)
			}
		}
		p.matches = append(p.matches, m)
	}
	for _, c := range p.cur.Containers {
		if !taken[c.ID] {
			p.unwanted = append(p.unwanted, c)
		}
	}
}

// up says that the engine keeps a container running, or trying to.
func up(c engine.Container) bool {
	return c.State == "running" || c.State == "restarting" || c.State == "paused"
}

func (p *planner) plan() Plan {
	p.pulls()
	p.volumes()
	p.rebuildNetworks()
	p.networks()
	replaced := p.creates()
	p.stops(replaced)
	started := p.starts(replaced)
	p.removals(replaced)
	p.leftovers()
	p.images(started)
	return p.out
}

// pulls fetches what is missing, everything before anything else. Until it is there, what can run of the old runs.
func (p *planner) pulls() {
	var missing []Step
	for _, m := range p.matches {
		ref := m.svc.Image()
		if m.good == nil && !p.cur.Images[ref] && !slices.ContainsFunc(missing, func(s Step) bool { return s.Image == ref }) {
			missing = append(missing, Step{Kind: Pull, App: m.svc.App.UUID, Service: m.svc.Name, Image: ref})
		}
	}
	if len(missing) == 0 {
		return
	}
	for _, m := range p.matches {
		if m.good != nil || slices.ContainsFunc(m.stale, up) {
			continue
		}
		at := slices.IndexFunc(m.stale, func(c engine.Container) bool { return c.State == "exited" && !p.cur.Held[c.ID] })
		if at >= 0 {
			p.add(Step{Kind: Start, App: m.svc.App.UUID, Service: m.svc.Name, Container: m.stale[at].ID, Image: m.stale[at].Image})
		}
	}
	p.out.Steps = append(p.out.Steps, missing...)
}

func (p *planner) volumes() {
	for _, v := range p.want.Volumes {
		if !slices.ContainsFunc(p.cur.Volumes, func(have engine.Volume) bool { return have.Name == v.Name }) {
			p.add(Step{Kind: CreateVolume, Volume: &v})
		}
	}
}

// rebuildNetworks empties and removes the networks whose settings changed. A network cannot change under its containers.
func (p *planner) rebuildNetworks() {
	for i := range p.matches {
		m := &p.matches[i]
		if !p.rebuilt[m.svc.App.UUID] {
			continue
		}
		for _, c := range m.stale {
			p.add(Step{Kind: Stop, App: m.svc.App.UUID, Service: m.svc.Name, Container: c.ID})
		}
		for _, c := range m.stale {
			p.add(Step{Kind: Remove, App: m.svc.App.UUID, Service: m.svc.Name, Container: c.ID})
		}
		m.stale = nil
	}
	p.unwanted = slices.DeleteFunc(p.unwanted, func(c engine.Container) bool {
		if !p.rebuilt[c.Labels[composition.LabelAppUUID]] {
			return false
		}
		p.add(Step{Kind: Remove, App: c.Labels[composition.LabelAppUUID], Service: c.Labels[composition.LabelServiceName], Container: c.ID})
		return true
	})
	for _, have := range p.cur.Networks {
		for _, n := range p.want.Networks {
			if n.Name == have.Name && n.Labels[composition.LabelConfig] != have.Labels[composition.LabelConfig] {
				p.add(Step{Kind: RemoveNetwork, Name: n.Name})
				p.add(Step{Kind: CreateNetwork, Network: &n})
			}
		}
	}
}

func (p *planner) networks() {
	for _, n := range p.want.Networks {
		if !slices.ContainsFunc(p.cur.Networks, func(have engine.Network) bool { return have.Name == n.Name }) {
			p.add(Step{Kind: CreateNetwork, Network: &n})
		}
	}
}

// creates makes the new containers beside the old ones, so that a definition that the engine refuses stops nothing. It answers
// which services are replaced now: one that depends on something unhealthy waits.
func (p *planner) creates() map[string]bool {
	replaced := map[string]bool{}
	for _, m := range p.matches {
		if m.good != nil {
			continue
		}
		if !p.dependenciesHold(m.svc) {
			p.out.Waiting = append(p.out.Waiting, m.svc.Name)
			continue
		}
		replaced[m.svc.Spec.Name] = true
		for _, c := range slices.Concat(m.stale, p.unwanted) {
			if c.Name == m.svc.Spec.Name {
				p.add(Step{Kind: Rename, App: m.svc.App.UUID, Service: m.svc.Name, Container: c.ID, Name: "old_" + short(c.ID) + "_" + c.Name})
			}
		}
		p.add(Step{Kind: Create, App: m.svc.App.UUID, Service: m.svc.Name, Image: m.svc.Image(), Spec: &m.svc.Spec})
	}
	return replaced
}

func short(id string) string { return id[:min(12, len(id))] }

// dependenciesHold says whether everything the service must find healthy is so now.
func (p *planner) dependenciesHold(svc Service) bool {
	for name, condition := range svc.DependsOn {
		if condition != "service_healthy" {
			continue
		}
		at := slices.IndexFunc(p.matches, func(m match) bool { return m.svc.App.UUID == svc.App.UUID && m.svc.Name == name })
		if at < 0 {
			continue
		}
		good := p.matches[at].good
		if good == nil || good.State != "running" || (good.Health != "" && good.Health != "healthy") {
			return false
		}
	}
	return true
}

// stops ends what is replaced or not wanted, the dependent before what it depends on.
func (p *planner) stops(replaced map[string]bool) {
	for _, m := range slices.Backward(p.matches) {
		if m.good != nil && m.svc.Stopped {
			p.stop(*m.good)
		}
	}
	for _, c := range p.unwanted {
		p.stop(c)
	}
	for _, m := range slices.Backward(p.matches) {
		if m.good != nil || replaced[m.svc.Spec.Name] {
			for _, c := range m.stale {
				p.stop(c)
			}
		}
	}
}

func (p *planner) stop(c engine.Container) {
	if up(c) {
		p.add(Step{Kind: Stop, App: c.Labels[composition.LabelAppUUID], Service: c.Labels[composition.LabelServiceName], Container: c.ID, Image: c.Image})
	}
}

// starts starts what is new or has ended, what others depend on first. It answers whether anything new was started.
func (p *planner) starts(replaced map[string]bool) bool {
	fresh := false
	for _, m := range p.matches {
		step := Step{Kind: Start, App: m.svc.App.UUID, Service: m.svc.Name, Image: m.svc.Image()}
		for _, c := range m.stale {
			if up(c) {
				step.Replaces = append(step.Replaces, c.ID)
			}
		}
		switch {
		case m.svc.Stopped:
			continue
		case m.good == nil && replaced[m.svc.Spec.Name]:
			step.Container = m.svc.Spec.Name
			fresh = true
		case m.good != nil && m.good.State == "created" && p.cur.Held[m.good.ID]:
			p.out.Waiting = append(p.out.Waiting, m.svc.Name) // it has never started yet, so the release does not run
			continue
		case m.good != nil && mayStart(*m.good, m.svc.Restart) && !p.cur.Held[m.good.ID]:
			if !p.dependenciesHold(m.svc) {
				p.out.Waiting = append(p.out.Waiting, m.svc.Name)
				continue
			}
			step.Container = m.good.ID
			fresh = fresh || m.good.State == "created"
		default:
			continue
		}
		p.add(step)
	}
	return fresh
}

// mayStart says whether a container that does not run should. One that ended by itself and has no policy to start again has
// done its work.
func mayStart(c engine.Container, restart string) bool {
	switch c.State {
	case "created":
		return true
	case "exited":
		return restart == "always" || restart == "unless-stopped"
	}
	return false
}

func (p *planner) removals(replaced map[string]bool) {
	remove := func(c engine.Container) {
		p.add(Step{Kind: Remove, App: c.Labels[composition.LabelAppUUID], Service: c.Labels[composition.LabelServiceName], Container: c.ID})
	}
	for _, c := range p.unwanted {
		remove(c)
	}
	for _, m := range p.matches {
		if m.good == nil && !replaced[m.svc.Spec.Name] {
			continue
		}
		for _, c := range m.stale {
			remove(c)
		}
		if m.good != nil && m.good.Name != m.svc.Spec.Name {
			p.add(Step{Kind: Rename, App: m.svc.App.UUID, Service: m.svc.Name, Container: m.good.ID, Name: m.svc.Spec.Name})
		}
	}
}

// leftovers removes networks that nobody wants and the volumes of fleets that left the device. A volume that a release does
// not name any more stays: the next one may want it back.
func (p *planner) leftovers() {
	for _, have := range p.cur.Networks {
		if !slices.ContainsFunc(p.want.Networks, func(n engine.Network) bool { return n.Name == have.Name }) && !p.waits(have.Labels) {
			p.add(Step{Kind: RemoveNetwork, Name: have.Name})
		}
	}
	for _, have := range p.cur.Volumes {
		if app := have.Labels[composition.LabelAppUUID]; app != "" && !p.want.Apps[app] {
			p.add(Step{Kind: RemoveVolume, Name: have.Name})
		}
	}
}

// waits says whether an old container of the app stays for now, and with it what it uses.
func (p *planner) waits(labels map[string]string) bool {
	return len(p.out.Waiting) > 0 && p.want.Apps[labels[composition.LabelAppUUID]]
}

// images gives up the images that we pulled and that no service wants, once their successors have run for a moment.
func (p *planner) images(started bool) {
	wanted := map[string]bool{}
	for _, m := range p.matches {
		wanted[m.svc.Image()] = true
		if m.good != nil {
			wanted[m.good.Image] = true // the same content under the name of an earlier release
		}
	}
	var drop []Step
	for _, ref := range slices.Sorted(slices.Values(p.cur.Pulled)) {
		if !wanted[ref] && len(p.out.Waiting) == 0 {
			drop = append(drop, Step{Kind: RemoveImage, Image: ref})
		}
	}
	if started {
		p.add(Step{Kind: Settle})
	}
	p.out.Steps = append(p.out.Steps, slices.CompactFunc(drop, func(a, b Step) bool { return a.Image == b.Image })...)
}

// startOrder sorts services so that each comes after what it depends on; otherwise by name. A circle is cut where it closes.
func startOrder(services []Service) []Service {
	byName := slices.Clone(services)
	slices.SortFunc(byName, func(a, b Service) int {
		return strings.Compare(a.App.UUID+"\x00"+a.Name, b.App.UUID+"\x00"+b.Name)
	})
	var out []Service
	seen := map[string]bool{}
	var visit func(s Service)
	visit = func(s Service) {
		if seen[s.App.UUID+"\x00"+s.Name] {
			return
		}
		seen[s.App.UUID+"\x00"+s.Name] = true
		for _, dep := range slices.Sorted(maps.Keys(s.DependsOn)) {
			for _, other := range byName {
				if other.App.UUID == s.App.UUID && other.Name == dep {
					visit(other)
				}
			}
		}
		out = append(out, s)
	}
	for _, s := range byName {
		visit(s)
	}
	return out
}
