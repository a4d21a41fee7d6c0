package odata

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// readable finds a resource that the caller may read something of. One that does not exist looks like one that may not be
// read at all.
func (e *Engine) readable(caller access.Caller, name string) (*resource, error) {
	r := e.schema.byName[name]
	if r == nil {
		return nil, errUnauthorized
	}
	if caller.Kind == access.System {
		return r, nil
	}
	if rule := r.rules[caller.Kind]; rule == nil || rule.read == nil {
		return nil, errUnauthorized
	}
	return r, nil
}

// read answers a GET: a JSON array, or a number for /$count.
func (e *Engine) read(ctx context.Context, tx *db.Tx, caller access.Caller, req *syntax.Request) (json.RawMessage, error) {
	r, err := e.readable(caller, req.Resource)
	if err != nil {
		return nil, err
	}
	c := newCompiler(&sqlite, caller, tx.Now, req.Aliases)
	text, err := c.statement(r, req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, e.lim.Time, errSlow)
	defer cancel()
	out, err := e.rows(ctx, tx, text, c.args, req.Action == "$count")
	if err != nil && errors.Is(context.Cause(ctx), errSlow) {
		return nil, errSlow
	}
	return out, err
}

// byID asks for one row.
func byID(resource string, id int64) *syntax.Request {
	key := []syntax.KeyPart{{Value: syntax.Literal{Value: id}}}
	return &syntax.Request{Resource: resource, Key: key, Query: syntax.Query{Top: -1}}
}

var errSlow = api.Errorf(api.Unavailable, "the request took too long; ask for less")

// statement compiles a whole GET.
func (c *compiler) statement(r *resource, req *syntax.Request) (string, error) {
	s, where, err := c.selection(r, req)
	if err != nil {
		return "", err
	}
	tail := " FROM " + s.from()
	if len(where) > 0 {
		tail += " WHERE " + strings.Join(where, " AND ")
	}
	if req.Action == "$count" {
		return "SELECT count(*)" + tail, nil
	}
	row, err := c.row(s, &req.Query)
	if err != nil {
		return "", err
	}
	keys, err := c.orderKeys(s, &req.Query, true)
	return "SELECT " + row + tail + keys + c.page(&req.Query), err
}

// selection is the table of a request with the conditions of rule, key and filter.
func (c *compiler) selection(r *resource, req *syntax.Request) (s scope, where []string, err error) {
	if s, err = c.open(r, scope{}); err != nil {
		return s, nil, err
	}
	rule, err := c.visible(s)
	if err != nil {
		return s, nil, err
	}
	if rule != "" {
		where = append(where, rule)
	}
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

// rows runs a statement whose only column is the JSON of a row and puts the rows in an array.
func (e *Engine) rows(ctx context.Context, tx *db.Tx, text string, args []any, count bool) (_ json.RawMessage, err error) {
	rows, err := tx.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, queryError(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var raw sql.RawBytes
	if count {
		if !rows.Next() {
			return nil, queryError(errors.Join(rows.Err(), sql.ErrNoRows))
		}
		err := rows.Scan(&raw)
		return json.RawMessage(slices.Clone(raw)), err
	}
	out := []byte{'['}
	for n := 0; rows.Next(); n++ {
		if n >= e.lim.Top {
			return nil, invalid("the answer has more than %d rows; ask for pages with $top and $skip", e.lim.Top)
		}
		if err := rows.Scan(&raw); err != nil {
			return nil, fmt.Errorf("odata: read: %w", err)
		}
		if len(out)+len(raw) > e.lim.Answer {
			return nil, invalid("the answer is larger than %d bytes; ask for pages with $top and $skip", e.lim.Answer)
		}
		if n > 0 {
			out = append(out, ',')
		}
		out = append(out, raw...)
	}
	if err := rows.Err(); err != nil {
		return nil, queryError(err)
	}
	return append(out, ']'), nil
}

func queryError(err error) error {
	if db.IsTooBig(err) {
		return invalid("the request or its answer is too large")
	}
	return fmt.Errorf("odata: query: %w", err)
}
