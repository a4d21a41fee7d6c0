package odata

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
	"github.com/roadstead-io/roadstead/internal/odata/wire"
)

// accept turns what a caller gave into values for columns: names checked, types converted, what is to be ignored dropped.
func (e *Engine) accept(r *resource, ru *rule, caller access.Caller, given map[string]any) (map[string]any, error) {
	out := make(map[string]any, len(given))
	for name, v := range given {
		col := r.column(name)
		key := name
		if col != nil && col.base != nil {
			key = col.base.Name
		}
		virtual := (col == nil || col.SQL != "") && slices.Contains(r.Virtual, name) // a hook knows what to do with it
		if caller.Kind != access.System {
			if ru.ignore[key] || ru.ignore[name] {
				continue
			}
			if !ru.write[key] {
				if virtual || col != nil && !col.Hidden && !ru.hide[key] {
					return nil, api.Errorf(api.Forbidden, "%q may not be written", name)
				}
				return nil, invalid("%s has no property %q", r.Name, syntax.Echo(name))
			}
		}
		switch {
		case virtual:
			out[name] = plain(v)
			continue
		case col == nil:
			return nil, invalid("%s has no property %q", r.Name, syntax.Echo(name))
		case col.SQL != "":
			return nil, invalid("%q is computed and cannot be written", name)
		}
		if _, twice := out[key]; twice {
			return nil, invalid("%q is given twice, under two names", key)
		}
		max := col.MaxLen
		if max == 0 && caller.Kind != access.System {
			max = e.lim.Text
		}
		x, err := convert(col, v, max)
		if err != nil {
			return nil, err
		}
		if col.base != col { // as the model keeps it
			if x, err = convert(col.base, x, max); err != nil {
				return nil, err
			}
		}
		out[key] = x
	}
	return out, nil
}

// plain gives a virtual field's value the few types that hooks expect.
func plain(v any) any {
	switch x := v.(type) {
	case json.Number:
		if n, err := x.Int64(); err == nil {
			return n
		}
		f, _ := x.Float64()
		return f
	case wire.FormText:
		return string(x)
	}
	return v
}

// convert makes a value fit a column: nil, int64, float64, bool, string (also dates) or json.RawMessage. It takes what JSON
// decoding gives, what forms give, and what Go code writes.
func convert(col *column, v any, maxLen int) (any, error) {
	v = wire.Basic(v)
	if v == nil {
		if !col.Null {
			return nil, invalid("%q cannot be null", col.Name)
		}
		return nil, nil
	}
	switch col.Type {
	case Integer, BigInteger, ForeignKey:
		if n, ok := wire.Int(v, col.Type == BigInteger); ok {
			return n, nil
		}
		return nil, invalid("%q is not a whole number", col.Name)
	case Real:
		if f, ok := wire.Float(v); ok {
			return f, nil
		}
		return nil, invalid("%q is not a number", col.Name)
	case Boolean:
		if b, ok := wire.Bool(v); ok {
			return b, nil
		}
		return nil, invalid("%q is not a boolean", col.Name)
	case Date:
		if d, ok := wire.Date(v); ok {
			return d, nil
		}
		return nil, invalid("%q is not a date", col.Name)
	case JSON:
		if j, ok := wire.JSON(v); ok {
			return j, nil
		}
		return nil, invalid("%q is not a JSON object", col.Name)
	case WebResource:
		if f, ok := v.(File); ok {
			return f, nil
		}
		return nil, invalid("%q is given as a file, in a multipart/form-data body", col.Name)
	}
	s, ok := wire.String(v)
	switch {
	case !ok:
		return nil, invalid("%q is not a string", col.Name)
	case maxLen > 0 && len(s) > maxLen:
		return nil, invalid("%q is longer than %d bytes", col.Name, maxLen)
	case !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0:
		return nil, invalid("%q holds a zero byte or is not valid UTF-8", col.Name)
	}
	return s, nil
}

// Quote makes an OData text literal of a value, percent-encoded for use inside a URL's path or query.
func Quote(value string) string {
	return "'" + strings.ReplaceAll(url.QueryEscape(strings.ReplaceAll(value, "'", "''")), "+", "%20") + "'"
}

// stored is a converted value as it is bound.
func stored(v any) any {
	switch x := v.(type) {
	case bool:
		if x {
			return int64(1)
		}
		return int64(0)
	case json.RawMessage:
		return string(x)
	case File:
		data, _ := json.Marshal(x) // texts and a number always encode
		return string(data)
	}
	return v
}

// assignments gives the columns of a write in a fixed order with their values to bind. Hooks have run: a name that is
// neither column nor virtual field is their mistake.
func assignments(r *resource, values map[string]any) (names []string, args []any, err error) {
	for name := range values {
		if r.columns[name] != nil {
			names = append(names, name)
		} else if !slices.Contains(r.Virtual, name) {
			return nil, nil, fmt.Errorf("odata: a hook of %s gave %q, which is no column", r.Name, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		v, err := convert(r.columns[name], values[name], 0)
		if err != nil {
			return nil, nil, err
		}
		args = append(args, stored(v))
	}
	return names, args, nil
}
