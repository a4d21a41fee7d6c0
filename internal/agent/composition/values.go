package composition

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// The readers below take a decoded JSON value (numbers as json.Number) in any of the forms that compose files have for it.

func scalar(v any) (string, error) {
	switch t := v.(type) {
	case string:
		return t, nil
	case json.Number:
		return t.String(), nil
	case bool:
		return strconv.FormatBool(t), nil
	}
	return "", errors.New("must be a text or a number")
}

func boolean(v any) (bool, error) {
	text, err := scalar(v)
	if err != nil {
		return false, errors.New("must be true or false")
	}
	switch strings.ToLower(text) {
	case "true", "1", "yes", "on":
		return true, nil
	case "false", "0", "no", "off", "":
		return false, nil
	}
	return false, errors.New("must be true or false")
}

func integer(v any) (int64, error) {
	text, err := scalar(v)
	if err != nil {
		return 0, errors.New("must be a whole number")
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, errors.New("must be a whole number")
	}
	return n, nil
}

// size reads "64m", "1gb", "512" and numbers as bytes.
func size(v any) (int64, error) {
	text, err := scalar(v)
	if err != nil {
		return 0, err
	}
	text = strings.ToLower(strings.TrimSpace(text))
	digits := strings.TrimRight(text, "bkmgti ")
	unit, ok := map[string]float64{
		"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20,
		"g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30, "t": 1 << 40, "tb": 1 << 40, "tib": 1 << 40,
	}[strings.TrimSpace(text[len(digits):])]
	n, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || math.IsNaN(n) || n < -1 || n*unit > 1<<62 {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	return int64(n * unit), nil
}

// duration reads "1m30s" and numbers, which are seconds.
func duration(v any) (time.Duration, error) {
	text, err := scalar(v)
	if err != nil {
		return 0, err
	}
	if n, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(n) < 1e9 {
		return time.Duration(n * float64(time.Second)), nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration", text)
	}
	return d, nil
}

// stringList reads a list of scalars, or one scalar as a list of one.
func stringList(v any) ([]string, error) {
	list, ok := v.([]any)
	if !ok {
		one, err := scalar(v)
		if err != nil {
			return nil, errors.New("must be a text or a list of texts")
		}
		return []string{one}, nil
	}
	out := make([]string, 0, len(list))
	for i, item := range list {
		text, err := scalar(item)
		if err != nil {
			return nil, fmt.Errorf("[%d] %w", i, err)
		}
		out = append(out, text)
	}
	return out, nil
}

// stringMap reads {"a": "b"} and ["a=b"]. A key without a value has none to give: it is left out.
func stringMap(v any) (map[string]string, error) {
	out := map[string]string{}
	switch t := v.(type) {
	case map[string]any:
		for key, val := range t {
			if val == nil {
				continue
			}
			text, err := scalar(val)
			if err != nil {
				return nil, fmt.Errorf("%s %w", key, err)
			}
			out[key] = text
		}
	case []any:
		for i, item := range t {
			text, ok := item.(string)
			if !ok {
				return nil, fmt.Errorf("[%d] must be a text", i)
			}
			if key, val, ok := strings.Cut(text, "="); ok {
				out[key] = val
			}
		}
	default:
		return nil, errors.New("must be an object or a list")
	}
	return out, nil
}

// words reads a command: a list of its words, or one text that is split as a shell would split it, without expanding anything.
func words(v any) ([]string, error) {
	text, ok := v.(string)
	if !ok {
		if _, isList := v.([]any); !isList {
			return nil, errors.New("must be a text or a list of texts")
		}
		return stringList(v)
	}
	var out []string
	var word strings.Builder
	inWord, quote := false, rune(0)
	escaped := false
	for _, c := range text {
		switch {
		case escaped:
			if quote == '"' && c != '"' && c != '\\' && c != '$' && c != '`' {
				word.WriteByte('\\')
			}
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				word.WriteRune(c)
			}
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if inWord {
				out = append(out, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("has a quote that does not end")
	}
	if inWord {
		out = append(out, word.String())
	}
	return out, nil
}
