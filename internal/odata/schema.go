package odata

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata/dialect"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// schema is a model, checked and made quick to look things up in. It does not change after New.
type schema struct {
	resources []*resource
	byName    map[string]*resource // names and synonyms
}

// resource is a Resource with its relations resolved and its rules parsed.
type resource struct {
	*Resource
	table   string // quoted
	order   []string
	columns map[string]*column
	toOne   map[string]*column // foreign keys, by name and synonym
	toMany  map[string]*column // foreign keys of other resources that point here, by reverse name
	rules   map[access.Kind]*rule
	actions map[string]map[access.Kind]syntax.Expr
	base    *resource   // the resource of the model behind one of an older version; itself otherwise
	only    syntax.Expr // of an older version: the rows it has; nil: all
	alias   bool        // of an older version: it stands beside the resource that has its rows
}

// column is a Column with what it belongs to.
type column struct {
	Column
	of     *resource
	target *resource      // ForeignKey
	sql    []dialect.Part // computed
	shaped map[Shape][]dialect.Part
	base   *column // the column of the model behind one of an older version; itself in the model; nil when there is none
}

// rule is a Rule, parsed. A nil filter means never.
type rule struct {
	read, create, update, delete syntax.Expr
	write, ignore, hide          map[string]bool
	needs, refs                  map[string]syntax.Expr
}

// column finds a property by its name or, for a foreign key, a synonym.
func (r *resource) column(name string) *column {
	if c, ok := r.columns[name]; ok {
		return c
	}
	return r.toOne[name]
}

// validName reports whether a declared name is one that a request can say and that needs no quoting in SQL.
func validName(s string) bool {
	return s != "" && (s[0] < '0' || s[0] > '9') && dialect.WordEnd(s, 0) == len(s)
}

func newSchema(m Model, lim Limits) (*schema, error) {
	s := &schema{byName: map[string]*resource{}}
	for _, def := range m.Resources {
		r, err := s.add(def)
		if err != nil {
			return nil, fmt.Errorf("odata: resource %q: %w", def.Name, err)
		}
		s.resources = append(s.resources, r)
	}
	for _, r := range s.resources {
		if err := s.relate(r); err != nil {
			return nil, fmt.Errorf("odata: resource %q: %w", r.Name, err)
		}
	}
	s.implicitReverse()
	for _, r := range s.resources {
		if err := r.parseRules(lim); err != nil {
			return nil, fmt.Errorf("odata: resource %q: %w", r.Name, err)
		}
	}
	return s, nil
}

// add takes a resource's own names and columns.
func (s *schema) add(def *Resource) (*resource, error) {
	r := &resource{Resource: def, columns: map[string]*column{}, toOne: map[string]*column{}, toMany: map[string]*column{}}
	r.base = r
	table := def.Table
	if table == "" {
		table = def.Name
	}
	if !validName(table) {
		return nil, fmt.Errorf("table %q is not a name", table)
	}
	r.table = dialect.Quote(table)
	for _, n := range append([]string{def.Name}, def.Synonyms...) {
		if !validName(n) {
			return nil, fmt.Errorf("%q is not a name", n)
		}
		if _, taken := s.byName[n]; taken {
			return nil, fmt.Errorf("the name %q is taken", n)
		}
		s.byName[n] = r
	}
	if len(def.Columns) == 0 || def.Columns[0].Name != "id" || def.Columns[0].Type != Integer {
		return nil, fmt.Errorf("the first column must be id, an Integer")
	}
	for _, c := range def.Columns {
		if !validName(c.Name) {
			return nil, fmt.Errorf("column %q is not a name", c.Name)
		}
		if r.columns[c.Name] != nil {
			return nil, fmt.Errorf("column %q is declared twice", c.Name)
		}
		if c.Shaped != nil && c.SQL == "" {
			return nil, fmt.Errorf("column %q has shapes of an SQL that it lacks", c.Name)
		}
		if c.SQL != "" && c.Read != "" {
			return nil, fmt.Errorf("column %q is computed: there is nothing stored to be shown otherwise", c.Name)
		}
		if (c.Type == ForeignKey) != (c.To != "") {
			return nil, fmt.Errorf("column %q: a foreign key needs a target, and nothing else has one", c.Name)
		}
		col := &column{Column: c, of: r, sql: dialect.Split(cmp.Or(c.SQL, c.Read))}
		col.shape()
		col.base = col
		r.columns[c.Name], r.order = col, append(r.order, c.Name)
	}
	return r, nil
}

// shape prepares a computed column for every shape of statement.
func (c *column) shape() {
	if c.Shaped == nil {
		return
	}
	c.shaped = map[Shape][]dialect.Part{}
	for i := range 8 {
		s := Shape{Scoped: i&1 != 0, Staff: i&2 != 0, Asked: i&4 != 0}
		c.shaped[s] = dialect.Split(c.Shaped(s))
	}
}

// relate resolves foreign keys and their reverse names.
func (s *schema) relate(r *resource) error {
	for _, def := range r.Columns {
		c := r.columns[def.Name]
		if c.Type != ForeignKey {
			continue
		}
		if c.target = s.byName[c.To]; c.target == nil {
			return fmt.Errorf("column %q points to %q, which is no resource", c.Name, c.To)
		}
		for _, n := range append([]string{c.Name}, c.Synonyms...) {
			if !validName(n) || r.toOne[n] != nil || (n != c.Name && r.columns[n] != nil) {
				return fmt.Errorf("column %q: the name %q is taken or none", c.Name, n)
			}
			r.toOne[n] = c
		}
		for _, n := range c.Reverse {
			if !validName(n) || !c.target.free(n) {
				return fmt.Errorf("column %q: %q already has something named %q", c.Name, c.To, n)
			}
			c.target.toMany[n] = c
		}
	}
	for _, key := range r.Keys {
		for _, n := range key {
			if r.columns[n] == nil {
				return fmt.Errorf("natural key names %q, which is no column", n)
			}
		}
	}
	return nil
}

func (r *resource) free(name string) bool { return r.column(name) == nil && r.toMany[name] == nil }

// implicitReverse lets a target see rows under the names of their resource, where only one foreign key can be meant.
func (s *schema) implicitReverse() {
	for _, r := range s.resources {
		to := map[*resource][]*column{}
		for _, def := range r.Columns {
			if c := r.columns[def.Name]; c.target != nil {
				to[c.target] = append(to[c.target], c)
			}
		}
		for target, cols := range to {
			for _, n := range append([]string{r.Name}, r.Synonyms...) {
				if len(cols) == 1 && !r.alias && target.free(n) {
					target.toMany[n] = cols[0]
				}
			}
		}
	}
}

// parseRules parses every filter and checks the column lists.
func (r *resource) parseRules(lim Limits) error {
	if len(r.Rules) == 0 {
		return fmt.Errorf("it has no access rules")
	}
	known := access.Kinds()
	r.rules = map[access.Kind]*rule{}
	for _, k := range slices.Sorted(maps.Keys(r.Rules)) {
		if !slices.Contains(known, k) {
			return fmt.Errorf("a rule for %q, which is no kind of caller from outside", k)
		}
		p, err := r.parseRule(lim, r.Rules[k])
		if err != nil {
			return fmt.Errorf("rule of %s: %w", k, err)
		}
		r.rules[k] = p
	}
	r.actions = map[string]map[access.Kind]syntax.Expr{}
	for name, kinds := range r.Actions {
		r.actions[name] = map[access.Kind]syntax.Expr{}
		for k, text := range kinds {
			e, err := syntax.ParseRule(lim, text)
			if err != nil || !slices.Contains(known, k) {
				return fmt.Errorf("action %s of %s: %w", name, k, err)
			}
			r.actions[name][k] = e
		}
	}
	return nil
}

func (r *resource) parseRule(lim Limits, def Rule) (*rule, error) {
	p := &rule{write: set(def.Write), ignore: set(def.Ignore), hide: set(def.Hide)}
	for _, f := range []struct {
		what, text string
		into       *syntax.Expr
	}{{"Read", def.Read, &p.read}, {"Create", def.Create, &p.create}, {"Update", def.Update, &p.update}, {"Delete", def.Delete, &p.delete}} {
		if f.text == "" {
			continue
		}
		e, err := syntax.ParseRule(lim, f.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.what, err)
		}
		*f.into = e
	}
	for _, n := range def.Write {
		c := r.columns[n]
		if c == nil && !slices.Contains(r.Virtual, n) {
			return nil, fmt.Errorf("rule: Write names %q, which is no column", n)
		}
		if c != nil && c.SQL != "" && !slices.Contains(r.Virtual, n) {
			return nil, fmt.Errorf("rule: Write names %q, which is computed", n)
		}
	}
	for _, n := range def.Hide {
		if r.columns[n] == nil {
			return nil, fmt.Errorf("rule: Hide names %q, which is no column", n)
		}
	}
	var err error
	if p.needs, err = r.parseByColumn(lim, "Needs", def.Needs, p.write, func(*column) bool { return true }); err != nil {
		return nil, err
	}
	p.refs, err = r.parseByColumn(lim, "Refs", def.Refs, p.write, func(c *column) bool { return c.target != nil })
	return p, err
}

// parseByColumn parses filters that are given per writable column.
func (r *resource) parseByColumn(
	lim Limits, what string, filters map[string]string, writable map[string]bool, fits func(*column) bool,
) (map[string]syntax.Expr, error) {
	out := map[string]syntax.Expr{}
	for _, n := range slices.Sorted(maps.Keys(filters)) {
		if c := r.columns[n]; c == nil || !writable[n] || !fits(c) {
			return nil, fmt.Errorf("rule: %s names %q, which is no column for it that may be written", what, n)
		}
		e, err := syntax.ParseRule(lim, filters[n])
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", what, n, err)
		}
		out[n] = e
	}
	return out, nil
}

func set(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}
