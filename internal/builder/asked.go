package builder

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"

	"github.com/roadstead-io/roadstead/internal/compose"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// asked is which secrets a build asks for: in its Dockerfiles, or of the session, as a step does that a base image brought along. A
// step that is in the cache does not ask.
type asked struct {
	mu  sync.Mutex // covers ids
	ids map[string]bool
	any bool // a variable decides
}

func (a *asked) note(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ids == nil {
		a.ids = map[string]bool{}
	}
	a.ids[id] = true
}

func (a *asked) has(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.any || a.ids[id]
}

var secretMount = pattern.New(`--mount=["']?(\S*\btype=secret\b[^\s"']*)`)

// read finds the secrets that the steps of a Dockerfile ask for.
func (a *asked) read(dockerfile string) {
	for _, m := range secretMount.FindAllStringSubmatch(dockerfile, -1) {
		var id, target string
		for field := range strings.SplitSeq(m[1], ",") {
			switch key, value, _ := strings.Cut(field, "="); key {
			case "id", "source", "src":
				id = value
			case "target", "dst", "destination":
				target = path.Base(value)
			}
		}
		if id == "" {
			id = target
		}
		if strings.Contains(id, "$") {
			a.mu.Lock()
			a.any = true
			a.mu.Unlock()
		}
		a.note(id)
	}
}

// askedStore is the secrets of a service.
type askedStore struct {
	all   map[string][]byte
	asked *asked
}

// GetSecret implements secrets.SecretStore.
func (s askedStore) GetSecret(_ context.Context, id string) ([]byte, error) {
	s.asked.note(id)
	value, ok := s.all[id]
	if !ok {
		return nil, secrets.ErrNotFound
	}
	return value, nil
}

// secretSession answers the build service's questions for secrets by name. A secret is no part of a step's identity.
func secretSession(all map[string][]byte, a *asked) session.Attachable {
	return secretsprovider.NewSecretProvider(askedStore{all, a})
}

// unused are the secrets that no step of any service asks for.
func (g *given) unused(services []compose.Service, a *asked) []string {
	used := map[string]bool{}
	for id := range g.push.Secrets {
		used[id] = used[id] || a.has(id)
	}
	files := slices.Sorted(maps.Keys(g.files))
	for _, file := range files {
		if !used[file] {
			used[file] = false // it is there
		}
	}
	for _, svc := range services {
		declared, everywhere := g.settings.Secrets(svc.Name, files)
		for id, file := range declared {
			used[file] = used[file] || svc.Build != nil && (everywhere || a.has(id))
		}
	}
	maps.DeleteFunc(used, func(_ string, yes bool) bool { return yes })
	return slices.Sorted(maps.Keys(used))
}

// tellUnused says what was given in vain: a misspelt name is noticed.
func (b *build) tellUnused(pre *aside, services []compose.Service) {
	for _, id := range pre.unused(services, &b.asked) {
		b.say("Note: no step asks for the secret %s; one that needs it says RUN --mount=type=secret,id=%s", id, id)
	}
}
