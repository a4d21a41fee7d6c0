// Package wire reads the values that writes bring: what JSON decoding gives, what forms give, and what Go code gives, made into
// the few types that a column can hold.
package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

// FormText is a value of an urlencoded form: a text that may stand for anything.
type FormText string

// Basic reduces Go's many types to nil, bool, int64, float64, string, json.Number, FormText, json.RawMessage and time.Time; others
// stay as they are.
func Basic(v any) any {
	switch v.(type) {
	case nil, bool, int64, float64, string, json.Number, FormText, json.RawMessage, time.Time:
		return v
	}
	rv := reflect.ValueOf(v)
	switch rv.Kind() {
	case reflect.Pointer:
		if rv.IsNil() {
			return nil
		}
		return Basic(rv.Elem().Interface())
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

// Int reads a whole number; a text may hold a big one.
func Int(v any, big bool) (int64, bool) {
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
	case FormText:
		n, err := strconv.ParseInt(string(x), 10, 64)
		return n, err == nil
	case string:
		n, err := strconv.ParseInt(x, 10, 64)
		return n, big && err == nil
	}
	return 0, false
}

// Float reads a number.
func Float(v any) (float64, bool) {
	switch x := v.(type) {
	case int64:
		return float64(x), true
	case float64:
		return x, !math.IsNaN(x) && !math.IsInf(x, 0)
	case json.Number:
		f, err := x.Float64()
		return f, err == nil
	case FormText:
		f, err := strconv.ParseFloat(string(x), 64)
		return f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
	}
	return 0, false
}

// Bool reads a truth value, or 0 or 1.
func Bool(v any) (bool, bool) {
	switch x := v.(type) {
	case bool:
		return x, true
	case int64:
		return x == 1, x == 0 || x == 1
	case json.Number:
		return x == "1", x == "0" || x == "1"
	case FormText:
		return x == "true" || x == "1", x == "true" || x == "false" || x == "0" || x == "1"
	}
	return false, false
}

// Date reads a point in time and gives it in the database's form.
func Date(v any) (string, bool) {
	var t time.Time
	var err error
	switch x := v.(type) {
	case time.Time:
		t = x
	case string:
		t, err = syntax.ParseDate(x)
	case FormText:
		t, err = syntax.ParseDate(string(x))
	}
	if _, isText := v.(string); t.IsZero() && !isText { // milliseconds since 1970, in a form maybe as text
		ms, ok := Int(v, false)
		if t, err = time.UnixMilli(ms), nil; !ok {
			return "", false
		}
	}
	return db.FormatTime(t), err == nil && syntax.Storable(t)
}

// JSON reads objects and arrays. A text that holds one is taken for it, as older clients write contracts.
func JSON(v any) (json.RawMessage, bool) {
	var raw []byte
	switch x := v.(type) {
	case json.RawMessage:
		raw = x
	case string:
		raw = []byte(x)
	case FormText:
		raw = []byte(x)
	default:
		var err error
		if raw, err = json.Marshal(v); err != nil {
			return nil, false
		}
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] != '{' && raw[0] != '[' || !json.Valid(raw) || !utf8.Valid(raw) {
		return nil, false
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil { // answers hold it as it is stored
		return nil, false
	}
	return json.RawMessage(compact.Bytes()), true
}

// String reads a text.
func String(v any) (string, bool) {
	switch x := v.(type) {
	case string:
		return x, true
	case FormText:
		return string(x), true
	}
	return "", false
}
