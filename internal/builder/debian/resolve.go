package debian

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// shelf holds the newest of every package for one architecture.
type shelf struct {
	byName    map[string]Package
	providers map[string][]string // names of packages, by what they provide
}

func newShelf() *shelf { return &shelf{byName: map[string]Package{}, providers: map[string][]string{}} }

func (s *shelf) add(p Package) error {
	if CheckName(p.Name) != nil {
		return api.Errorf(api.Invalid, "%q is no package's name", p.Name)
	}
	if old, ok := s.byName[p.Name]; ok && Compare(old.Version, p.Version) >= 0 {
		return nil
	}
	s.byName[p.Name] = p
	for _, one := range strings.Split(p.provides, ",") {
		if name, _, _, ok := relation(one); ok && !slices.Contains(s.providers[name], p.Name) {
			s.providers[name] = append(s.providers[name], p.Name)
		}
	}
	return nil
}

var relationForm = pattern.New(`^([a-z0-9][a-z0-9+.-]*)(?::[a-z0-9-]+)?(?:\s*\(\s*(<<|<=|=|>=|>>)\s*([^\s)]+)\s*\))?`)

// relation reads "name (>= version)".
func relation(text string) (name, op, version string, ok bool) {
	m := relationForm.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return "", "", "", false
	}
	return m[1], m[2], m[3], true
}

func satisfies(have, op, version string) bool {
	c := Compare(have, version)
	switch op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	case ">>":
		return c > 0
	}
	return true
}

// close gives the packages that are wanted with all that they depend on.
func (s *shelf) close(w Want) ([]Package, error) {
	chosen := map[string]Package{}
	var queue []string
	take := func(name string) {
		if _, ok := chosen[name]; !ok {
			chosen[name] = s.byName[name]
			queue = append(queue, name)
		}
	}
	for _, name := range w.Packages {
		if _, ok := s.byName[name]; !ok {
			return nil, api.Errorf(api.NotFound, "there is no package %s", name)
		}
		take(name)
	}
	if w.Essential {
		for _, name := range slices.Sorted(maps.Keys(s.byName)) {
			if s.byName[name].essential && !slices.Contains(w.Without, name) {
				take(name)
			}
		}
	}
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		for _, group := range chosen[name].depends {
			next, err := s.pick(group, chosen, w.Without)
			if err != nil {
				return nil, fmt.Errorf("%s needs %s: %w", name, strings.TrimSpace(group), err)
			}
			if next != "" {
				take(next)
			}
		}
	}
	var list []Package
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		if err := chosen[name].Validate(); err != nil {
			return nil, err
		}
		list = append(list, chosen[name])
	}
	return list, nil
}

// pick chooses among alternatives: what is there already, else the first that exists, else the first that provides one. "" means
// that nothing more is needed.
func (s *shelf) pick(group string, chosen map[string]Package, without []string) (string, error) {
	first := ""
	for _, one := range strings.Split(group, "|") {
		name, op, version, ok := relation(one)
		if !ok {
			return "", api.Errorf(api.Invalid, "that cannot be read")
		}
		if p, ok := chosen[name]; ok && satisfies(p.Version, op, version) || slices.Contains(without, name) {
			return "", nil
		}
		for _, by := range s.providers[name] {
			if _, ok := chosen[by]; ok {
				return "", nil
			}
		}
		if p, ok := s.byName[name]; ok && first == "" && satisfies(p.Version, op, version) {
			first = name
		}
	}
	if first != "" {
		return first, nil
	}
	for _, one := range strings.Split(group, "|") {
		name, _, _, _ := relation(one)
		if by := slices.Sorted(slices.Values(s.providers[name])); len(by) > 0 {
			return by[0], nil
		}
	}
	return "", api.Errorf(api.NotFound, "no package is that")
}
