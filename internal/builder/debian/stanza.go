package debian

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// stanzas reads paragraphs of fields, the form of all of Debian's lists.
type stanzas struct {
	lines *bufio.Scanner
	only  map[string]bool // the fields that are kept; nil means all
}

func newStanzas(r io.Reader, only map[string]bool) *stanzas {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), maxField)
	return &stanzas{lines: s, only: only}
}

// next gives the next paragraph, or io.EOF. Lines that go on are joined with newlines.
func (s *stanzas) next() (map[string]string, error) {
	fields := map[string]string{}
	var name string
	var text strings.Builder
	keep := func() {
		if name != "" && (s.only == nil || s.only[name]) {
			fields[name] = text.String()
		}
	}
	begun := false
	for s.lines.Scan() {
		line := strings.TrimRight(s.lines.Text(), "\r")
		if strings.TrimSpace(line) == "" {
			if begun {
				break
			}
			continue
		}
		begun = true
		if line[0] == ' ' || line[0] == '\t' {
			if name == "" {
				return nil, errors.New("a line that goes on, and none before it")
			}
			if s.only == nil || s.only[name] {
				text.WriteString("\n" + line)
			}
			if text.Len() > 16*maxField {
				return nil, fmt.Errorf("field %s is too long", name)
			}
			continue
		}
		keep()
		key, value, ok := strings.Cut(line, ":")
		if !ok || key == "" || strings.ContainsAny(key, " \t") {
			return nil, fmt.Errorf("%.60q is no field", line)
		}
		if _, twice := fields[key]; twice {
			return nil, fmt.Errorf("field %s is there twice", key)
		}
		name = key
		text.Reset()
		text.WriteString(strings.TrimSpace(value))
	}
	if err := s.lines.Err(); err != nil {
		return nil, err
	}
	keep()
	if !begun {
		return nil, io.EOF
	}
	return fields, nil
}
