package tuf

import (
	"encoding/json"
	"strconv"
	"strings"
)

// strict looks at a whole file as JSON before anything decodes it. It refuses what decoders disagree about: members that stand twice (also
// when only their case differs), bytes after the end, numbers that are no plain whole ones, characters beyond printable ASCII, and depth.
func strict(what string, data []byte, limit int) error {
	if len(data) == 0 {
		return Refuse(what, ReasonMissing, "", "a file", "nothing")
	}
	if len(data) > limit {
		return Refuse(what, ReasonSize, "", "at most "+strconv.Itoa(limit)+" bytes", strconv.Itoa(len(data)))
	}
	s := scanner{data: data}
	s.space()
	if s.peek() != '{' {
		return Refuse(what, ReasonMalformed, "", "an object", "something else")
	}
	why := s.value(0)
	if why == "" {
		s.space()
		if s.at != len(data) {
			why = "bytes after the end"
		}
	}
	if why != "" {
		return Refuse(what, ReasonMalformed, "", "", why+" at byte "+strconv.Itoa(s.at))
	}
	return nil
}

// scanner walks over JSON. Its methods give what is wrong, or "".
type scanner struct {
	data []byte
	at   int
}

func (s *scanner) peek() byte {
	if s.at < len(s.data) {
		return s.data[s.at]
	}
	return 0
}

func (s *scanner) space() {
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

func (s *scanner) value(depth int) string {
	if depth > maxDepth {
		return "deeper than " + strconv.Itoa(maxDepth)
	}
	switch c := s.peek(); {
	case c == '{':
		return s.object(depth)
	case c == '[':
		return s.array(depth)
	case c == '"':
		_, why := s.text(false)
		return why
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	}
	for _, word := range []string{"true", "false"} { // null says nothing, and go-tuf falls over it
		if strings.HasPrefix(string(s.data[s.at:min(len(s.data), s.at+5)]), word) {
			s.at += len(word)
			return ""
		}
	}
	return "no value"
}

func (s *scanner) object(depth int) string {
	s.at++
	seen := map[string]bool{}
	s.space()
	if s.peek() == '}' {
		s.at++
		return ""
	}
	for {
		s.space()
		if s.peek() != '"' {
			return "no member's name"
		}
		name, why := s.text(true)
		if why != "" {
			return why
		}
		if seen[name] {
			return "member " + name + " stands twice"
		}
		seen[name] = true
		s.space()
		if s.peek() != ':' {
			return "no colon"
		}
		s.at++
		s.space()
		if why := s.value(depth + 1); why != "" {
			return why
		}
		s.space()
		switch s.peek() {
		case ',':
			s.at++
		case '}':
			s.at++
			return ""
		default:
			return "no end of an object"
		}
	}
}

func (s *scanner) array(depth int) string {
	s.at++
	s.space()
	if s.peek() == ']' {
		s.at++
		return ""
	}
	for {
		s.space()
		if why := s.value(depth + 1); why != "" {
			return why
		}
		s.space()
		switch s.peek() {
		case ',':
			s.at++
		case ']':
			s.at++
			return ""
		default:
			return "no end of a list"
		}
	}
}

// text reads a string. Names of members have no capital letter and no escape, so that no decoder takes one for another.
func (s *scanner) text(name bool) (string, string) {
	start := s.at
	s.at++
	for s.at < len(s.data) {
		c := s.data[s.at]
		switch {
		case c == '"':
			s.at++
			var text string
			if err := json.Unmarshal(s.data[start:s.at], &text); err != nil {
				return "", "no string"
			}
			for i := range len(text) {
				if c := text[i]; (c < ' ' && c != '\n') || c > '~' {
					return "", "a character that is not printable ASCII"
				}
			}
			return text, ""
		case c == '\\' && name:
			return "", "an escape in a member's name"
		case c == '\\':
			s.at += 2
		case c < ' ' || c > '~':
			return "", "a character that is not printable ASCII"
		case name && c >= 'A' && c <= 'Z':
			return "", "a capital letter in a member's name"
		default:
			s.at++
		}
	}
	return "", "no end of a string"
}

// number reads a whole number that every decoder reads alike.
func (s *scanner) number() string {
	start := s.at
	if s.peek() == '-' {
		s.at++
	}
	digits := s.at
	for c := s.peek(); c >= '0' && c <= '9'; c = s.peek() {
		s.at++
	}
	switch c := s.peek(); {
	case s.at == digits, s.data[digits] == '0' && (s.at > digits+1 || digits > start):
		return "no number"
	case s.at-digits > 15: // below 2^53
		return "a number too large"
	case c == '.' || c == 'e' || c == 'E':
		return "a number that is not whole"
	}
	return ""
}
