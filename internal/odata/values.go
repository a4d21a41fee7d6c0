package odata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// formText is a value of an urlencoded form: a text that may stand for anything.
type formText string

// accept turns what a caller gave into values for columns: names checked, types converted, what is to be ignored dropped.
func (e *Engine) accept(r *resource, ru *rule, caller access.Caller, given map[string]any) (map[string]any, error) {
	out := make(map[string]any, len(given))
	for name, v := range given {
		col := r.column(name)
		key := name
		if col != nil && col.base != nil {
			key = col.base.Name
		}
		virtual := (col == nil || col.sql != nil) && slices.Contains(r.Virtual, name) // a hook knows what to do with it
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
		case col.sql != nil:
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
	case formText:
		return string(x)
	}
	return v
}

// convert makes a value fit a column: nil, int64, float64, bool, string (also dates) or json.RawMessage. It takes what JSON
// decoding gives, what forms give, and what Go code writes.
func convert(col *column, v any, maxLen int) (any, error) {
	v = basic(v)
	if v == nil {
		if !col.Null {
			return nil, invalid("%q cannot be null", col.Name)
		}
		return nil, nil
	}
	switch col.Type {
	case Integer, BigInteger, ForeignKey:
		if n, ok := toInt(v, col.Type == BigInteger); ok {
			return n, nil
		}
		return nil, invalid("%q is not a whole number", col.Name)
	case Real:
		if f, ok := toFloat(v); ok {
			return f, nil
		}
		return nil, invalid("%q is not a number", col.Name)
	case Boolean:
		if b, ok := toBool(v); ok {
			return b, nil
		}
		return nil, invalid("%q is not a boolean", col.Name)
	case Date:
		if d, ok := toDate(v); ok {
			return d, nil
		}
		return nil, invalid("%q is not a date", col.Name)
	case JSON:
		return toJSON(col, v)
	case WebResource:
		if f, ok := v.(File); ok {
			return f, nil
		}
		return nil, invalid("%q is given as a file, in a multipart/form-data body", col.Name)
	}
	return toText(col, v, maxLen)
}

// basic reduces Go's many types to nil, bool, int64, float64, string, json.Number, formText, json.RawMessage, time.Time; others
// stay as they are.
func basic(v any) any {
	switch v.(type) {
	case nil, bool, int64, float64, string, json.Number, formText, json.RawMessage, time.Time, File:
		return v
	}
	rv := reflect.ValueOf(v)
	switch rv.Kind() {
	case reflect.Pointer:
		if rv.IsNil() {
			return nil
		}
		return basic(rv.Elem().Interface())
	case reflect.Bool:
		return rv.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return rv.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return int64(rv.Uint()) // 32 bits at most
	case reflect.Float32, reflect.Float64:
		return rv.Float()
	case reflect.String:
		return rv.String()
	}
	return v
}

func toInt(v any, big bool) (int64, bool) {
	switch x := v.(type) {
	case int64:
		return x, true
	case float64:
		return int64(x), x == math.Trunc(x) && math.Abs(x) < 1<<53
	case json.Number:
		if n, err := x.Int64(); err == nil {
			return n, true
		}
		f, err := x.Float64()
		return int64(f), err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53
	case formText:
		n, err := strconv.ParseInt(string(x), 10, 64)
		return n, err == nil
	case string:
		n, err := strconv.ParseInt(x, 10, 64)
		return n, big && err == nil
	}
	return 0, false
}

func toFloat(v any) (float64, bool) {
	switch x := v.(type) {
	case int64:
		return float64(x), true
	case float64:
		return x, !math.IsNaN(x) && !math.IsInf(x, 0)
	case json.Number:
		f, err := x.Float64()
		return f, err == nil
	case formText:
		f, err := strconv.ParseFloat(string(x), 64)
		return f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
	}
	return 0, false
}

func toBool(v any) (bool, bool) {
	switch x := v.(type) {
	case bool:
		return x, true
	case int64:
		return x == 1, x == 0 || x == 1
	case json.Number:
		return x == "1", x == "0" || x == "1"
	case formText:
		return x == "true" || x == "1", x == "true" || x == "false" || x == "0" || x == "1"
	}
	return false, false
}

func toDate(v any) (string, bool) {
	var t time.Time
	var err error
	switch x := v.(type) {
	case time.Time:
		t = x
	case string:
		t, err = syntax.ParseDate(x)
	case formText:
		t, err = syntax.ParseDate(string(x))
	}
	if _, isText := v.(string); t.IsZero() && !isText { // milliseconds since 1970, in a form maybe as text
		ms, ok := toInt(v, false)
		if t, err = time.UnixMilli(ms), nil; !ok {
			return "", false
		}
	}
	return db.FormatTime(t), err == nil && syntax.Storable(t)
}

// toJSON stores objects and arrays. A text that holds one is taken for it, as older clients write contracts.
func toJSON(col *column, v any) (any, error) {
	var raw []byte
	switch x := v.(type) {
	case json.RawMessage:
		raw = x
	case string:
		raw = []byte(x)
	case formText:
		raw = []byte(x)
	default:
		var err error
		if raw, err = json.Marshal(v); err != nil {
			return nil, invalid("%q is not a JSON object", col.Name)
		}
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] != '{' && raw[0] != '[' || !json.Valid(raw) || !utf8.Valid(raw) {
		return nil, invalid("%q is not a JSON object", col.Name)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil { // answers hold it as it is stored
		return nil, invalid("%q is not a JSON object", col.Name)
	}
	return json.RawMessage(compact.Bytes()), nil
}

func toText(col *column, v any, maxLen int) (any, error) {
	var s string
	switch x := v.(type) {
	case string:
		s = x
	case formText:
		s = string(x)
	default:
		return nil, invalid("%q is not a string", col.Name)
	}
	switch {
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
