// Package limit reads what an operator may bound, by name: NAME=N,NAME=N.
package limit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Field is one limit: where it is kept, and what it is when nobody says.
type Field struct {
	Name    string
	n       *int
	bytes   *int64
	usually int64
}

// Count is a limit that counts.
func Count(name string, n *int, usually int64) Field {
	return Field{Name: name, n: n, usually: usually}
}

// Size is a limit in bytes.
func Size(name string, n *int64, usually int64) Field {
	return Field{Name: name, bytes: n, usually: usually}
}

func (f Field) get() int64 {
	if f.n != nil {
		return int64(*f.n)
	}
	return *f.bytes
}

func (f Field) set(v int64) {
	if f.n != nil {
		*f.n = int(v)
		return
	}
	*f.bytes = v
}

const (
	maxCount = 10_000_000
	maxSize  = 1 << 50
)

// Validate names the limit that is wrong.
func Validate(fields []Field) error {
	for _, f := range fields {
		most := int64(maxCount)
		if f.bytes != nil {
			most = maxSize
		}
		if v := f.get(); v < 0 || v > most {
			return fmt.Errorf("limits: %s=%d: 0 to %d; 0 means the default", f.Name, v, most)
		}
	}
	return nil
}

// Parse reads limits as the command line has them, "minutes=60,source_bytes=2GiB".
func Parse(fields []Field, text string) error {
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		i := 0
		for i < len(fields) && fields[i].Name != name {
			i++
		}
		if i == len(fields) {
			var names []string
			for _, f := range fields {
				names = append(names, f.Name)
			}
			return fmt.Errorf("there is no limit %q, only %s", name, strings.Join(names, ", "))
		}
		v, err := amount(value, fields[i].bytes != nil)
		if err != nil {
			return fmt.Errorf("%s=%q: %w", name, value, err)
		}
		fields[i].set(v)
	}
	return Validate(fields)
}

// amount reads a number; of bytes also as "500MiB".
func amount(text string, bytes bool) (int64, error) {
	shift := 0
	if bytes {
		for unit, s := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40} {
			if rest, ok := strings.CutSuffix(text, unit); ok {
				text, shift = rest, s
			}
		}
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 0 || v > maxSize>>shift {
		if bytes {
			return 0, errors.New("expected a number of bytes, such as 500MiB")
		}
		return 0, errors.New("expected a whole number")
	}
	return v << shift, nil
}

// Defaults gives what is 0 its default.
func Defaults(fields []Field) {
	for _, f := range fields {
		if f.get() == 0 {
			f.set(f.usually)
		}
	}
}
