// Package enginetest has a container engine that lives in memory, and the tests that it and the real one must both pass. It
// behaves as the real one does as far as the agent can see: names are unique, a network or an image in use is not removed,
// policies start containers again, only our own things are listed.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/mount"

	"github.com/roadstead-io/roadstead/internal/engine"
)

// Engine is an engine in memory. Make it with [New].
type Engine struct {
	mu         sync.Mutex // covers everything below
	registry   map[string]bool
	refuse     map[string]error
	images     map[string]bool
	containers map[string]*Box
	networks   map[string]engine.Network
	volumes    map[string]engine.Volume
	watchers   map[int]chan engine.Event
	readers    map[int]reader
	calls      []string
	next       int
}

// Box is a container of the fake engine.
type Box struct {
	engine.Container
	Spec   engine.Spec
	Starts int
}

type reader struct {
	id    string
	lines chan engine.Line
}

// New makes an engine that can pull the given references.
func New(pullable ...string) *Engine {
	e := &Engine{
		registry: map[string]bool{}, refuse: map[string]error{}, images: map[string]bool{}, containers: map[string]*Box{},
		networks: map[string]engine.Network{}, volumes: map[string]engine.Volume{}, watchers: map[int]chan engine.Event{},
		readers: map[int]reader{},
	}
	for _, ref := range pullable {
		e.registry[ref] = true
	}
	return e
}

// Publish makes a reference pullable.
func (e *Engine) Publish(ref string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.registry[ref] = true
}

// Refuse makes one call fail from now on: "pull REF", "create NAME", "start NAME", "stop NAME", "ping". A nil error ends that.
func (e *Engine) Refuse(call string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		delete(e.refuse, call)
		return
	}
	e.refuse[call] = err
}

// Calls lists what was asked of the engine to change something, in order, and forgets it.
func (e *Engine) Calls() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.calls
	e.calls = nil
	return out
}

// Boxes are copies of the containers, by name.
func (e *Engine) Boxes() map[string]Box {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]Box{}
	for _, b := range e.containers {
		out[b.Name] = *b
	}
	return out
}

// End ends a container as its own process would. The restart policy "always" starts it again.
func (e *Engine) End(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.find(name)
	if b == nil {
		return
	}
	e.set(b, "exited", "die")
	if p := b.Spec.Host.RestartPolicy.Name; p == "always" || p == "unless-stopped" {
		b.Starts++
		e.set(b, "running", "start")
	}
}

// Say lets a container write a line.
func (e *Engine) Say(name string, line engine.Line) {
	e.mu.Lock()
	b := e.find(name)
	var to []chan engine.Line
	for _, r := range e.readers {
		if b != nil && r.id == b.ID {
			to = append(to, r.lines)
		}
	}
	e.mu.Unlock()
	for _, c := range to {
		c <- line
	}
}

// SetHealth changes a container's health.
func (e *Engine) SetHealth(name, health string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if b := e.find(name); b != nil {
		b.Health = health
		e.tell(b, "health_status: "+health)
	}
}

// call notes a change; the caller holds the lock.
func (e *Engine) call(what string) error {
	e.calls = append(e.calls, what)
	return e.refuse[what]
}

func (e *Engine) find(id string) *Box {
	if b := e.containers[id]; b != nil {
		return b
	}
	for _, b := range e.containers {
		if b.Name == id {
			return b
		}
	}
	return nil
}

func (e *Engine) set(b *Box, state, action string) {
	b.State = state
	e.tell(b, action)
	if state != "running" {
		for n, r := range e.readers {
			if r.id == b.ID {
				close(r.lines)
				delete(e.readers, n)
			}
		}
	}
}

func (e *Engine) tell(b *Box, action string) {
	for _, w := range e.watchers {
		select {
		case w <- engine.Event{ID: b.ID, Action: action, Labels: b.Labels, Time: time.Now()}:
		default: // a watcher that does not look misses it, as with the real one
		}
	}
}

func (e *Engine) Ping(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.refuse["ping"]
}

func (e *Engine) Containers(context.Context) ([]engine.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []engine.Container
	for _, b := range e.containers {
		if b.Labels[engine.LabelSupervised] == "true" {
			out = append(out, b.Container)
		}
	}
	slices.SortFunc(out, func(a, b engine.Container) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (e *Engine) Create(_ context.Context, spec engine.Spec) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.call("create " + spec.Name); err != nil {
		return "", err
	}
	if e.find(spec.Name) != nil {
		return "", fmt.Errorf("the name %s is taken", spec.Name)
	}
	if !e.images[spec.Config.Image] {
		return "", fmt.Errorf("no image %s", spec.Config.Image)
	}
	for name := range spec.Networks {
		if _, ok := e.networks[name]; !ok {
			return "", fmt.Errorf("no network %s", name)
		}
	}
	e.next++
	id := fmt.Sprintf("%064x", e.next)
	e.containers[id] = &Box{Spec: spec, Container: engine.Container{
		ID: id, Name: spec.Name, Image: spec.Config.Image, Labels: maps.Clone(spec.Config.Labels), State: "created",
	}}
	return id, nil
}

func (e *Engine) Start(_ context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.find(id)
	if b == nil {
		return fmt.Errorf("no container %s", id)
	}
	if err := e.call("start " + b.Name); err != nil {
		return err
	}
	if b.State != "running" {
		b.Starts++
		e.set(b, "running", "start")
	}
	return nil
}

func (e *Engine) Stop(_ context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.find(id)
	if b == nil {
		return nil
	}
	if err := e.call("stop " + b.Name); err != nil {
		return err
	}
	if b.State == "running" {
		e.set(b, "exited", "die")
	}
	return nil
}

func (e *Engine) Remove(_ context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.find(id)
	if b == nil {
		return nil
	}
	if err := e.call("remove " + b.Name); err != nil {
		return err
	}
	e.set(b, "removing", "destroy")
	delete(e.containers, b.ID)
	return nil
}

func (e *Engine) Rename(_ context.Context, id, name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.find(id)
	if b == nil {
		return fmt.Errorf("no container %s", id)
	}
	if err := e.call("rename " + b.Name + " " + name); err != nil {
		return err
	}
	if e.find(name) != nil {
		return fmt.Errorf("the name %s is taken", name)
	}
	b.Name = name
	e.tell(b, "rename")
	return nil
}

func (e *Engine) Networks(context.Context) ([]engine.Network, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []engine.Network
	for _, name := range slices.Sorted(maps.Keys(e.networks)) {
		if e.networks[name].Labels[engine.LabelSupervised] == "true" {
			out = append(out, e.networks[name])
		}
	}
	return out, nil
}

func (e *Engine) CreateNetwork(_ context.Context, n engine.Network) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.call("create network " + n.Name); err != nil {
		return err
	}
	e.next++
	n.ID = fmt.Sprint(e.next)
	e.networks[n.Name] = n
	return nil
}

func (e *Engine) RemoveNetwork(_ context.Context, name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.call("remove network " + name); err != nil {
		return err
	}
	for _, b := range e.containers {
		if _, ok := b.Spec.Networks[name]; ok && b.State == "running" {
			return fmt.Errorf("network %s is in use", name)
		}
	}
	delete(e.networks, name)
	return nil
}

func (e *Engine) Volumes(context.Context) ([]engine.Volume, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []engine.Volume
	for _, name := range slices.Sorted(maps.Keys(e.volumes)) {
		if e.volumes[name].Labels[engine.LabelSupervised] == "true" {
			out = append(out, e.volumes[name])
		}
	}
	return out, nil
}

func (e *Engine) CreateVolume(_ context.Context, v engine.Volume) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.call("create volume " + v.Name); err != nil {
		return err
	}
	if _, ok := e.volumes[v.Name]; !ok {
		e.volumes[v.Name] = v
	}
	return nil
}

func (e *Engine) RemoveVolume(_ context.Context, name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.call("remove volume " + name); err != nil {
		return err
	}
	for _, b := range e.containers {
		if slices.ContainsFunc(b.Spec.Host.Binds, func(bind string) bool { return strings.HasPrefix(bind, name+":") }) ||
			slices.ContainsFunc(b.Spec.Host.Mounts, func(m mount.Mount) bool { return m.Source == name }) {
			return fmt.Errorf("remove volume %s: %w", name, engine.ErrInUse)
		}
	}
	delete(e.volumes, name)
	return nil
}

func (e *Engine) Images(context.Context) ([]string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.images)), nil
}

func (e *Engine) Pull(ctx context.Context, ref string, _ engine.Auth, progress func(int)) error {
	ref = engine.CanonicalRef(engine.GateAddress, ref) // the real one shows what came through the gate by its real name
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.call("pull " + ref); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !e.registry[ref] {
		return fmt.Errorf("pull %s: manifest unknown", ref)
	}
	if progress != nil {
		e.mu.Unlock()
		progress(50)
		e.mu.Lock()
	}
	e.images[ref] = true
	return nil
}

func (e *Engine) RemoveImage(_ context.Context, ref string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.call("remove image " + ref); err != nil {
		return err
	}
	for _, b := range e.containers {
		if b.Image == ref {
			return errors.New("image is in use")
		}
	}
	delete(e.images, ref)
	return nil
}

func (e *Engine) Events(ctx context.Context, f func(engine.Event)) error {
	c := make(chan engine.Event, 1000)
	e.mu.Lock()
	e.next++
	n := e.next
	e.watchers[n] = c
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.watchers, n)
		e.mu.Unlock()
	}()
	for {
		select {
		case event := <-c:
			if event.Labels[engine.LabelSupervised] == "true" {
				f(event)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *Engine) Logs(ctx context.Context, id string, _ time.Time, f func(engine.Line)) error {
	e.mu.Lock()
	b := e.find(id)
	if b == nil || b.State != "running" {
		e.mu.Unlock()
		return nil
	}
	e.next++
	n, r := e.next, reader{id: b.ID, lines: make(chan engine.Line)}
	e.readers[n] = r
	e.mu.Unlock()
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				return nil
			}
			f(line)
		case <-ctx.Done():
			e.mu.Lock()
			delete(e.readers, n)
			e.mu.Unlock()
			return ctx.Err()
		}
	}
}
