package odata

import (
	"fmt"
	"maps"
	"slices"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata/dialect"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// Version is an older shape of the same API under a prefix of its own. What it does not mention is as in the model; rules and
// hooks are always those of the model, in whose names they speak.
type Version struct {
	Prefix    string // for instance "/v6/"
	Resources []Older
}

// Older is a resource as it once was.
type Older struct {
	Name string
	Of   string // the resource of the model behind it; empty: the one of this name
	// Only is a filter of the rows that it has, as in a rule: in the names of the model. Empty: all. A resource with a filter
	// takes no POST.
	Only    string
	Gone    []string // columns of the model that it lacked
	Columns []OlderColumn
}

// OlderColumn is a column as it once was, in place of one of the model that has its name or that it stands for.
type OlderColumn struct {
	Column
	Of string // the column of the model that it stands for; empty: it is computed, and cannot be written
}

// older makes the schema of an older version from that of the model.
func (s *schema) older(v Version, lim Limits) (*schema, error) {
	old := &schema{byName: map[string]*resource{}}
	told := map[string]Older{}
	for _, o := range v.Resources {
		if o.Of == "" {
			o.Of = o.Name
		}
		if s.byName[o.Of] == nil {
			return nil, fmt.Errorf("%s: %q is of %q, which is no resource", v.Prefix, o.Name, o.Of)
		}
		told[o.Name] = o
	}
	for _, base := range s.resources {
		o, ok := told[base.Name]
		if !ok {
			o = Older{Name: base.Name, Of: base.Name}
		}
		delete(told, base.Name)
		if err := old.addOlder(s, o, lim); err != nil {
			return nil, fmt.Errorf("%s: resource %q: %w", v.Prefix, o.Name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(told)) { // those that have another name, or stand beside theirs
		if err := old.addOlder(s, told[name], lim); err != nil {
			return nil, fmt.Errorf("%s: resource %q: %w", v.Prefix, name, err)
		}
	}
	for _, r := range old.resources {
		if err := old.relate(r); err != nil {
			return nil, fmt.Errorf("%s: resource %q: %w", v.Prefix, r.Name, err)
		}
	}
	old.implicitReverse()
	return old, nil
}

// addOlder adds one resource, its columns put together from the model's and what the version says of them.
func (s *schema) addOlder(model *schema, o Older, lim Limits) error {
	base := model.byName[o.Of]
	def := *base.Resource
	def.Name, def.Keys, def.Columns = o.Name, nil, nil
	def.Table = base.table[1 : len(base.table)-1]
	if o.Name != base.Name {
		def.Synonyms = nil
	}
	replaced := map[string]bool{}
	for _, g := range o.Gone {
		if base.columns[g] == nil {
			return fmt.Errorf("%q is gone, but never was", g)
		}
		replaced[g] = true
	}
	for _, c := range o.Columns {
		if c.Of != "" && base.columns[c.Of] == nil {
			return fmt.Errorf("column %q is of %q, which is no column", c.Name, c.Of)
		}
		if c.Of == "" && c.SQL == "" {
			return fmt.Errorf("column %q is of nothing", c.Name)
		}
		replaced[c.Name], replaced[c.Of] = true, true
	}
	standsFor := map[string]*column{}
	for _, c := range base.Columns {
		if replaced[c.Name] {
			continue
		}
		if o.Name != base.Name {
			c.Reverse = nil // the resource of the model has them
		}
		standsFor[c.Name] = base.columns[c.Name]
		def.Columns = append(def.Columns, c)
	}
	for _, c := range o.Columns {
		if c.Of != "" {
			of := base.columns[c.Of]
			c.SQL, c.Shaped, c.Read, c.Null, c.Hidden = of.SQL, of.Shaped, of.Read, of.Null, of.Hidden
			standsFor[c.Name] = of
		}
		def.Columns = append(def.Columns, c.Column)
	}
	r, err := s.add(&def)
	if err != nil {
		return err
	}
	for _, c := range r.columns {
		c.base = standsFor[c.Name]
	}
	def.Keys = olderKeys(base, standsFor)
	r.base, r.rules, r.actions = base, base.rules, base.actions
	r.alias = o.Name != base.Name
	if o.Only != "" {
		if r.only, err = syntax.ParseRule(lim, o.Only); err != nil {
			return fmt.Errorf("only: %w", err)
		}
		if _, err := newCompiler(dialect.Of(nil), access.System, nil).probe(base, r.only); err != nil {
			return fmt.Errorf("only: %w", err)
		}
	}
	s.resources = append(s.resources, r)
	return nil
}

// olderKeys are the natural keys of the model whose columns are all still there, in their older names.
func olderKeys(base *resource, standsFor map[string]*column) [][]string {
	var keys [][]string
	for _, key := range base.Keys {
		var names []string
		for _, of := range key {
			for name, col := range standsFor {
				if col != nil && col.Name == of {
					names = append(names, name)
				}
			}
		}
		if len(names) == len(key) {
			keys = append(keys, names)
		}
	}
	return keys
}
