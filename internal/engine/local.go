package engine

import (
	"context"
	"fmt"
	"strings"

	cerrdefs "github.com/containerd/errdefs"

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

// CanonicalRef turns a name at the gate back into the real one. Any other it leaves as it is.
func CanonicalRef(gate, ref string) string {
	rest, ok := strings.CutPrefix(ref, gate+"/")
	if !ok {
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

// names gives the names under which an image may be on the engine: its own, from before there was a gate, and the gate's.
func (c *Client) names(ref string) []string {
	if local, err := LocalRef(c.gate, ref); err == nil {
		return []string{ref, local}
	}
	return []string{ref}
}

// present gives the name under which an image is on the engine.
func (c *Client) present(ctx context.Context, ref string) (string, error) {
	names := c.names(ref)
	for _, name := range names[1:] {
		_, err := c.docker.ImageInspect(ctx, ref)
		switch {
		case err == nil:
			return ref, nil
		case cerrdefs.IsNotFound(err):
			return name, nil
		default:
			return "", fmt.Errorf("inspect image %s: %w", ref, err)
		}
	}
	return ref, nil
}
