// Package engine drives a container engine that speaks Docker's Engine API, version 1.40 or newer (Docker since 19.03 and
// balenaEngine). It knows containers, images, networks and volumes, and nothing of fleets or releases. It lists, and so
// offers for removal, only what carries [LabelSupervised]: everything else on the engine belongs to somebody else.
package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// LabelSupervised, with the value "true", marks everything on the engine that is ours.
const LabelSupervised = "io.balena.supervised"

// DefaultHost is where the engine listens unless told otherwise.
const DefaultHost = "unix:///var/run/docker.sock"

// Spec is a container to be created. Everything in it but the name is what it is made of: two Specs with the same content
// make the same container.
type Spec struct {
	Name     string `json:"-"`
	Config   container.Config
	Host     container.HostConfig
	Networks map[string]*network.EndpointSettings `json:",omitempty"` // by the engine's name of the network
}

// ErrInUse says that a container, ours or another, has what was to be removed.
var ErrInUse = errors.New("a container uses it")

// Container is one that exists.
type Container struct {
	ID     string
	Name   string
	Image  string // the reference it was created from
	Labels map[string]string
	State  string // created, running, paused, restarting, removing, exited or dead
	Health string // healthy, unhealthy, starting, or "" without a health check
}

// Network is one that exists, or one to be created.
type Network struct {
	ID      string
	Name    string
	Labels  map[string]string
	Options NetworkOptions // only to create it
}

// NetworkOptions say how a network is made; the driver is always "bridge".
type NetworkOptions struct {
	Internal   bool
	EnableIPv6 bool
	IPAM       *network.IPAM     `json:",omitempty"`
	DriverOpts map[string]string `json:",omitempty"`
}

// Volume is one that exists, or one to be created; its driver is always "local".
type Volume struct {
	Name   string
	Labels map[string]string
}

// Event says that a container changed: start, die, destroy, health_status and so on.
type Event struct {
	ID     string
	Action string
	Labels map[string]string
	Time   time.Time
}

// Client is the real engine.
type Client struct {
	docker *client.Client
	gate   string // see ThroughGate
}

// New makes a client; nothing is asked of the engine yet. The host is "unix:///path" or "tcp://host:port".
func New(host string) (*Client, error) {
	if host == "" {
		host = DefaultHost
	}
	docker, err := client.New(client.WithHost(host), client.WithUserAgent("roadstead-agent"))
	if err != nil {
		return nil, fmt.Errorf("engine at %s: %w", host, err)
	}
	return &Client{docker: docker, gate: GateAddress}, nil
}

// Close ends idle connections.
func (c *Client) Close() error { return c.docker.Close() }

// Ping fails unless the engine answers and speaks a version that we know.
func (c *Client) Ping(ctx context.Context) error {
	if _, err := c.docker.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return fmt.Errorf("ask the engine: %w", err)
	}
	return nil
}

func ours() client.Filters {
	return client.Filters{}.Add("label", LabelSupervised+"=true")
}

// Containers lists ours, stopped ones too, in the order of their names.
func (c *Client) Containers(ctx context.Context) ([]Container, error) {
	list, err := c.docker.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: ours()})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var out []Container
	for _, s := range list.Items {
		got := Container{ID: s.ID, Image: CanonicalRef(c.gate, s.Image), Labels: s.Labels, State: string(s.State)}
		if len(s.Names) > 0 {
			got.Name = strings.TrimPrefix(s.Names[0], "/")
		}
		got.Health = healthOf(s)
		out = append(out, got)
	}
	slices.SortFunc(out, func(a, b Container) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// healthOf reads a container's health; engines before API 1.52 tell it only within the text of the status.
func healthOf(s container.Summary) string {
	if s.Health != nil && s.Health.Status != container.NoHealthcheck {
		return string(s.Health.Status)
	}
	switch {
	case strings.Contains(s.Status, "(healthy)"):
		return string(container.Healthy)
	case strings.Contains(s.Status, "(unhealthy)"):
		return string(container.Unhealthy)
	case strings.Contains(s.Status, "(health: starting)"):
		return string(container.Starting)
	}
	return ""
}

// Create makes a container without starting it.
func (c *Client) Create(ctx context.Context, spec Spec) (string, error) {
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range spec.Networks {
			if !yield(name) {
				return
			}
		}
	})
	image, err := c.present(ctx, spec.Config.Image)
	if err != nil {
		return "", fmt.Errorf("create container %s: %w", spec.Name, err)
	}
	spec.Config.Image = image
	opts := client.ContainerCreateOptions{Name: spec.Name, Config: &spec.Config, HostConfig: &spec.Host}
	if len(names) > 0 { // engines before API 1.44 take only one network here
		opts.NetworkingConfig = &network.NetworkingConfig{
			EndpointsConfig: map[string]*network.EndpointSettings{names[0]: spec.Networks[names[0]]},
		}
		opts.HostConfig.NetworkMode = container.NetworkMode(names[0])
	}
	made, err := c.docker.ContainerCreate(ctx, opts)
	if err != nil {
		return "", fmt.Errorf("create container %s: %w", spec.Name, err)
	}
	for _, name := range names[min(1, len(names)):] {
		_, err := c.docker.NetworkConnect(ctx, name, client.NetworkConnectOptions{Container: made.ID, EndpointConfig: spec.Networks[name]})
		if err != nil {
			err = fmt.Errorf("connect container %s to network %s: %w", spec.Name, name, err)
			return "", errors.Join(err, c.Remove(context.WithoutCancel(ctx), made.ID))
		}
	}
	return made.ID, nil
}

// Start starts a container by its id or name.
func (c *Client) Start(ctx context.Context, id string) error {
	start := func() error {
		_, err := c.docker.ContainerStart(ctx, id, client.ContainerStartOptions{})
		return err
	}
	err := start()
	if err != nil && c.endForgotten(ctx, id) {
		err = until(ctx, start)
	}
	if err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	return nil
}

// Stop asks a container to end and kills it after its own grace period. One that does not run, or does not exist, is fine.
func (c *Client) Stop(ctx context.Context, id string) error {
	if _, err := c.docker.ContainerStop(ctx, id, client.ContainerStopOptions{}); err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	return nil
}

// Remove removes a container, and its anonymous volumes; a running one is killed. One that does not exist is fine.
func (c *Client) Remove(ctx context.Context, id string) error {
	c.endForgotten(ctx, id)
	_, err := c.docker.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// Rename gives a container another name; it keeps running.
func (c *Client) Rename(ctx context.Context, id, name string) error {
	if _, err := c.docker.ContainerRename(ctx, id, client.ContainerRenameOptions{NewName: name}); err != nil {
		return fmt.Errorf("rename container %s to %s: %w", id, name, err)
	}
	return nil
}

// Networks lists ours.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	list, err := c.docker.NetworkList(ctx, client.NetworkListOptions{Filters: ours()})
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	var out []Network
	for _, n := range list.Items {
		out = append(out, Network{ID: n.ID, Name: n.Name, Labels: n.Labels})
	}
	slices.SortFunc(out, func(a, b Network) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// CreateNetwork makes a bridge network.
func (c *Client) CreateNetwork(ctx context.Context, n Network) error {
	opts := client.NetworkCreateOptions{
		Driver: "bridge", Internal: n.Options.Internal, IPAM: n.Options.IPAM, Options: n.Options.DriverOpts, Labels: n.Labels,
	}
	if n.Options.EnableIPv6 {
		opts.EnableIPv6 = &n.Options.EnableIPv6
	}
	if _, err := c.docker.NetworkCreate(ctx, n.Name, opts); err != nil {
		return fmt.Errorf("create network %s: %w", n.Name, err)
	}
	return nil
}

// RemoveNetwork removes a network that no container uses. One that does not exist is fine.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	if _, err := c.docker.NetworkRemove(ctx, name, client.NetworkRemoveOptions{}); err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("remove network %s: %w", name, err)
	}
	return nil
}

// Volumes lists ours.
func (c *Client) Volumes(ctx context.Context) ([]Volume, error) {
	list, err := c.docker.VolumeList(ctx, client.VolumeListOptions{Filters: ours()})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var out []Volume
	for _, v := range list.Items {
		out = append(out, Volume{Name: v.Name, Labels: v.Labels})
	}
	slices.SortFunc(out, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// CreateVolume makes a named volume; one that exists is left as it is.
func (c *Client) CreateVolume(ctx context.Context, v Volume) error {
	if _, err := c.docker.VolumeCreate(ctx, client.VolumeCreateOptions{Name: v.Name, Driver: "local", Labels: v.Labels}); err != nil {
		return fmt.Errorf("create volume %s: %w", v.Name, err)
	}
	return nil
}

// RemoveVolume removes a volume and what is in it. One that does not exist is fine; one that a container has is ErrInUse.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	_, err := c.docker.VolumeRemove(ctx, name, client.VolumeRemoveOptions{})
	if cerrdefs.IsConflict(err) {
		return fmt.Errorf("remove volume %s: %w: %w", name, ErrInUse, err)
	}
	if err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}

// Events calls f for every change to one of our containers from now on, until the context ends or the engine goes away.
func (c *Client) Events(ctx context.Context, f func(Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := c.docker.Events(ctx, client.EventsListOptions{ // since: what happens until the engine has heard the question, too
		Filters: ours().Add("type", "container"), Since: strconv.FormatInt(time.Now().Unix(), 10),
	})
	for {
		select {
		case m := <-stream.Messages:
			f(Event{ID: m.Actor.ID, Action: string(m.Action), Labels: m.Actor.Attributes, Time: time.Unix(0, m.TimeNano)})
		case err := <-stream.Err:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("events of the engine: %w", err)
		}
	}
}
