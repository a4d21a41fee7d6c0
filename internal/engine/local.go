package engine

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/roadstead-io/roadstead/internal/pattern"
)

// GateAddress is where the agent lets the engine pull through it. Docker takes all of 127.0.0.0/8 for registries without TLS; the host is the
// agent's own, so that no container's port meets it.
const GateAddress = "127.48.48.4:48480"

var (
	digestForm = pattern.New(`^sha256:[0-9a-f]{64}$`)
	hostForm   = pattern.New(`^[a-z0-9]+([.-]+[a-z0-9]+)*(:[0-9]{1,5})?$`)
	repoForm   = pattern.New(`^[a-z0-9]+([._/-]+[a-z0-9]+)*$`)
)

// IsDigest tells whether a text is a digest as references have it.
func IsDigest(s string) bool { return digestForm.MatchString(s) }

// LocalRef is the name under which the engine pulls a reference ("host/name@sha256:…") through the gate at an address: the registry's host becomes the first
// part of the name, its port after two underscores.
func LocalRef(gate, ref string) (string, error) {
	name, digest, _ := strings.Cut(ref, "@")
	host, repo, _ := strings.Cut(name, "/")
	if !IsDigest(digest) || !hostForm.MatchString(host) || !repoForm.MatchString(repo) || len(host)+len(repo) > 200 {
		return "", fmt.Errorf("%q is no reference by digest", ref)
	}
	return gate + "/" + strings.Replace(host, ":", "__", 1) + "/" + repo + "@" + digest, nil
}

// CanonicalRef turns a name at the gate back into the real one, whichever port the gate had: where something else listens at its own, it takes another. Any
// other name it leaves as it is.
func CanonicalRef(gate, ref string) string {
	address, _, _ := net.SplitHostPort(gate)
	at, rest, _ := strings.Cut(ref, "/")
	port, ok := strings.CutPrefix(at, address+":")
	if n, err := strconv.ParseUint(port, 10, 16); !ok || address == "" || err != nil || n == 0 {
		return ref
	}
	host, name, ok := strings.Cut(rest, "/")
	if !ok {
		return ref
	}
	return strings.Replace(host, "__", ":", 1) + "/" + name
}

// ThroughGate says at which address images are pulled through the agent, if not at GateAddress.
func (c *Client) ThroughGate(address string) { c.gate = address }

// names gives the names under which an image is on the engine: its own, from before there was a gate, and those at the gate, by the ports that it had.
func (c *Client) names(ctx context.Context, ref string) ([]string, error) {
	list, err := c.docker.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var names []string
	for _, image := range list.Items {
		for _, name := range image.RepoDigests {
			if CanonicalRef(c.gate, name) == ref && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// present gives the name under which an image is on the engine.
func (c *Client) present(ctx context.Context, ref string) (string, error) {
	local, err := LocalRef(c.gate, ref)
	if err != nil {
		return ref, nil //nolint:nilerr // it is no reference by digest, and never came through the gate
	}
	for _, name := range []string{ref, local} {
		_, err := c.docker.ImageInspect(ctx, name)
		switch {
		case err == nil:
			return name, nil
		case !cerrdefs.IsNotFound(err):
			return "", fmt.Errorf("inspect image %s: %w", ref, err)
		}
	}
	names, err := c.names(ctx, ref)
	if err != nil || len(names) == 0 {
		return local, err
	}
	return names[0], nil
}
