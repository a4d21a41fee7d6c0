package odata

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/rows"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// readable finds a resource that the caller may read something of. One that does not exist looks like one that may not be
// read at all.
func (s *schema) readable(kind access.Kind, name string) (*resource, error) {
	r := s.byName[name]
	if r == nil {
		return nil, errUnauthorized
	}
	if kind == access.System {
		return r, nil
	}
	if rule := r.rules[kind]; rule == nil || rule.read == nil {
		return nil, errUnauthorized
	}
	return r, nil
}

// planned compiles a GET.
func (e *Engine) planned(caller access.Caller, s *schema, req *syntax.Request) (*rows.Plan, error) {
	r, err := s.readable(caller.Kind, req.Resource)
	if err != nil {
		return nil, err
	}
	c := e.compiler(caller.Kind, req.Aliases)
	c.staff = caller.Staff
	return c.plan(r, req, nil)
}

// read answers a GET: a JSON array, or a number for /$count.
func (e *Engine) read(ctx context.Context, tx *db.Tx, caller access.Caller, s *schema, req *syntax.Request) (json.RawMessage, error) {
	p, err := e.planned(caller, s, req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, e.lim.Time, errSlow)
	defer cancel()
	d, err := e.run(ctx, tx, caller, p)
	return d, slow(ctx, err)
}

// byID asks for one row.
func byID(resource string, id int64) *syntax.Request {
	key := []syntax.KeyPart{{Value: syntax.Literal{Value: id}}}
	return &syntax.Request{Resource: resource, Key: key, Query: syntax.Query{Top: -1}}
}

// run answers a plan.
func (e *Engine) run(ctx context.Context, tx *db.Tx, caller access.Caller, p *rows.Plan) (json.RawMessage, error) {
	now := tx.NowText()
	return rows.Reader{
		Tx: tx, MaxRows: e.lim.Rows, MaxBytes: e.lim.Answer, File: e.storedFile,
		Bind: func(args []any, parents []int64) []any { return values(e.d, args, caller, now, parents) },
	}.Read(ctx, p)
}

var errSlow = api.Errorf(api.Unavailable, "the request took too long; ask for less")

// selection is the table of a request with the conditions of rule, key and filter. asked says that something else finds its rows;
// a key does so, too.
func (c *compiler) selection(r *resource, req *syntax.Request, asked bool) (s scope, where []string, err error) {
	pinned := r.pinned(req.Query.Filter)
	if s, err = c.open(r, scope{asked: asked || pinned || req.Key != nil}); err != nil {
		return s, nil, err
	}
	rule, err := c.visible(s)
	if err != nil {
		return s, nil, err
	}
	if pinned {
		for i := range rule {
			rule[i] = c.d.Opaque(rule[i])
		}
	}
	where = append(where, rule...)
	if req.Key != nil {
		key, err := c.key(s, req.Key)
		if err != nil {
			return s, nil, err
		}
		where = append(where, key...)
	}
	if req.Query.Filter != nil {
		f, err := c.condition(s, req.Query.Filter)
		if err != nil {
			return s, nil, err
		}
		where = append(where, f)
	}
	return s, where, nil
}

// key compiles (5) or a natural key, whose parts may come in any order.
func (c *compiler) key(s scope, parts []syntax.KeyPart) ([]string, error) {
	var names, where []string
	for _, k := range parts {
		if k.Name == "" {
			k.Name = "id"
		}
		col, err := c.property(s, k.Name)
		if err != nil {
			return nil, err
		}
		v, err := c.value(s, k.Value)
		if err != nil {
			return nil, err
		}
		if n, isInt := v.v.(int64); col.Type == Integer || col.Type == ForeignKey {
			switch {
			case !isInt:
				return nil, invalid("the key %s of %s must be a whole number", k.Name, s.res.Name)
			case n > math.MaxInt32 || n < math.MinInt32:
				return nil, invalid("the key %s of %s is out of range", k.Name, s.res.Name)
			}
		}
		cond, err := c.compare(s, syntax.Compare{Op: "eq", Left: syntax.Path{Names: []string{k.Name}}, Right: k.Value})
		if err != nil {
			return nil, err
		}
		names, where = append(names, col.Name), append(where, cond)
	}
	if !s.res.isKey(names) {
		return nil, invalid("%s is not addressed by (%s)", s.res.Name, syntax.Echo(strings.Join(names, ",")))
	}
	return where, nil
}

func (r *resource) isKey(names []string) bool {
	slices.Sort(names)
	for _, key := range append([][]string{{"id"}}, r.Keys...) {
		if slices.Equal(slices.Sorted(slices.Values(key)), names) {
			return true
		}
	}
	return false
}
