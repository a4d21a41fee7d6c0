// Package odata answers OData requests (the dialect of balena's Pine) from tables that other packages declare. It knows no
// word of the domain: a [Model] says which resources there are, how they hang together and who may do what with which rows;
// from it come the routes, the SQL, the filters that keep tenants apart, the metadata document and the permission page.
//
// A request is parsed into a tree, checked against the model, joined with the caller's access rules at every table that it
// opens, and compiled to one SQL statement that returns JSON. Values are always bound, never spliced into the SQL.
package odata

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/dialect"
	"github.com/roadstead-io/roadstead/internal/odata/rows"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// Config says what an engine serves.
type Config struct {
	Model    Model
	DB       *db.DB
	Limits   Limits
	Prefixes []string // of the paths it is mounted under, for instance "/v7/"
	Versions []Version
	Files    Files // keeps what WebResource columns hold; needed if there is one
}

// Engine serves a model. It is safe for concurrent use.
type Engine struct {
	schema *schema
	db     *db.DB
	d      *dialect.Dialect
	lim    Limits
	files  Files
	mounts []*mount
	kept   rows.Kept[planKey]
}

// New checks a model and makes an engine of it. It refuses a resource without rules, a rule that does not parse or names what
// does not exist, and relations to nowhere: nothing may be open because of a slip.
func New(cfg Config) (*Engine, error) {
	lim := cfg.Limits.WithDefaults()
	s, err := newSchema(cfg.Model, Limits{}.WithDefaults()) // the limits of requests are not those of rules
	if err != nil {
		return nil, err
	}
	e := &Engine{schema: s, db: cfg.DB, d: dialect.Of(cfg.DB), lim: lim, files: cfg.Files}
	for _, p := range cfg.Prefixes {
		e.mounts = append(e.mounts, &mount{prefix: p, schema: s})
	}
	for _, v := range cfg.Versions {
		old, err := s.older(v, Limits{}.WithDefaults())
		if err != nil {
			return nil, fmt.Errorf("odata: %w", err)
		}
		e.mounts = append(e.mounts, &mount{prefix: v.Prefix, schema: old, older: true})
	}
	if cfg.Files == nil {
		for _, r := range s.resources {
			for _, c := range r.Columns {
				if c.Type == WebResource {
					return nil, fmt.Errorf("odata: resource %q has files and nothing keeps them", r.Name)
				}
			}
		}
	}
	return e, e.eachStatement(func(string) error { return nil })
}

// Check has the database prepare a statement for every resource, kind of caller and rule, over all columns: a table or
// column that the model has and the database lacks is found at the start, not by the first user.
func (e *Engine) Check(ctx context.Context) error {
	return e.db.Read(ctx, func(tx *db.Tx) error {
		return e.eachStatement(func(text string) error {
			stmt, err := tx.PrepareContext(ctx, text)
			if err != nil {
				return err
			}
			return stmt.Close()
		})
	})
}

// eachStatement compiles every rule of every resource into a statement that names all its columns, and the columns of older
// versions.
func (e *Engine) eachStatement(do func(text string) error) error {
	for _, m := range e.mounts {
		for _, r := range m.schema.resources {
			if r.base == r {
				continue
			}
			text, err := e.compiler(access.System, nil).probe(r, syntax.Literal{Value: true})
			if err == nil {
				err = do(text)
			}
			if err != nil {
				return fmt.Errorf("odata: %s%s: %w", m.prefix, r.Name, err)
			}
		}
	}
	for _, r := range e.schema.resources {
		for k, rule := range r.rules {
			filters := map[string]syntax.Expr{"Read": rule.read, "Create": rule.create, "Update": rule.update, "Delete": rule.delete}
			for name, kinds := range r.actions {
				filters["action "+name] = kinds[k]
			}
			for what, f := range filters {
				if f == nil && what != "Read" { // never; the columns are looked at once
					continue
				}
				text, err := e.compiler(k, nil).probe(r, f)
				if err == nil {
					err = do(text)
				}
				if err != nil {
					return fmt.Errorf("odata: resource %q, %s of %s: %w", r.Name, what, k, err)
				}
			}
			if err := e.eachByColumn(r, k, rule, do); err != nil {
				return fmt.Errorf("odata: resource %q, %s: %w", r.Name, k, err)
			}
		}
	}
	return nil
}

// eachByColumn does the same for the filters that stand beside single columns.
func (e *Engine) eachByColumn(r *resource, k access.Kind, rule *rule, do func(text string) error) error {
	probe := func(of *resource, name string, f syntax.Expr) error {
		text, err := e.compiler(k, nil).probe(of, f)
		if err == nil {
			err = do(text)
		}
		if err != nil {
			return fmt.Errorf("filter for %s: %w", name, err)
		}
		return nil
	}
	for name, f := range rule.needs {
		if err := probe(r, name, f); err != nil {
			return err
		}
	}
	for name, f := range rule.refs {
		if err := probe(r.columns[name].target, name, f); err != nil {
			return err
		}
	}
	return nil
}

func (c *compiler) probe(r *resource, f syntax.Expr) (string, error) {
	s, err := c.open(r, scope{})
	if err != nil {
		return "", err
	}
	where, err := c.ruleFilter(s, f)
	if err != nil {
		return "", err
	}
	if where == "" {
		where = "TRUE"
	}
	var columns []string
	for _, def := range r.Columns {
		col := r.columns[def.Name]
		for _, p := range col.sql {
			if p.Param != "" && !knownParam(p.Param) {
				return "", fmt.Errorf("column %q: the SQL knows no @%s", col.Name, p.Param)
			}
		}
		for _, s.asked = range []bool{false, true} {
			columns = append(columns, c.raw(s, col))
		}
	}
	return "SELECT " + strings.Join(columns, ",") + " FROM " + s.from() + " WHERE " + where, nil
}

func knownParam(name string) bool { return slices.Contains(callerParams, name) }

// Query answers a GET inside a transaction: "device(5)?$select=id" gives the array (or, for /$count, the number) that stands
// under "d" on the wire. The text is percent-decoded like a URL; see [Quote] for values.
func (e *Engine) Query(ctx context.Context, tx *db.Tx, caller access.Caller, pathAndQuery string) (json.RawMessage, error) {
	path, query, _ := strings.Cut(pathAndQuery, "?")
	req, err := syntax.ParseRequest(e.lim, "", path, query)
	if err != nil {
		return nil, fmt.Errorf("odata: query: %w", err)
	}
	return e.read(ctx, tx, caller, e.schema, req)
}

func (e *Engine) compiler(kind access.Kind, aliases map[string]syntax.Expr) *compiler {
	c := newCompiler(e.d, kind, aliases)
	c.rows = e.lim.Rows
	return c
}
