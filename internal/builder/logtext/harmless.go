// Package logtext makes what a build prints fit to be kept and shown: no secret of the build, and nothing that steers a terminal
// but colours. What a build prints is the word of strangers, for it may run anybody's install script; and a log is read by all
// who observe a fleet, with programs that pass it to their terminals as it is.
package logtext

import (
	"strings"
	"unicode/utf8"
)

const (
	esc   = '\x1b'
	bel   = '\x07'
	reset = "\x1b[0m"

	maxColour = 64 // bytes of a sequence that sets colours
)

// Harmless keeps letters, tabs, line ends and colours, and drops every other control character, sequence and all: titles, links,
// the clipboard, movements of the cursor, answers that a terminal would type for its user, and turns of the writing direction.
func Harmless(s string) string {
	if plain(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	coloured := false
	for i := 0; i < len(s); {
		if s[i] == esc {
			n, colour := sequence(s[i:])
			if colour {
				b.WriteString(s[i : i+n])
				coloured = s[i:i+n] != reset && s[i:i+n] != "\x1b[m"
			}
			i += n
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteRune(utf8.RuneError)
		case string8bit(r):
			n += controlString(s[i+n:])
		case !steers(r):
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	if coloured {
		b.WriteString(reset)
	}
	return b.String()
}

// plain reports whether nothing has to be done, as for nearly every line.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 0x7f || c < ' ' && c != '\t' && c != '\n' {
			return false
		}
	}
	return true
}

// steers reports whether a character is none that people read.
func steers(r rune) bool {
	switch {
	case r == '\t' || r == '\n':
		return false
	case r < ' ', r >= 0x7f && r <= 0x9f:
		return true
	case r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f: // directions
		return true
	case r == 0x2028, r == 0x2029: // line ends of a kind
		return true
	}
	return false
}

// string8bit reports whether a character begins a string for the terminal, in the form without an escape character.
func string8bit(r rune) bool {
	return r == 0x90 || r == 0x98 || r == 0x9d || r == 0x9e || r == 0x9f
}

// sequence measures the escape sequence at the beginning of a text, and says whether it is one for colours. One that does not end
// takes the rest of the line with it.
func sequence(s string) (n int, colour bool) {
	if len(s) < 2 {
		return len(s), false
	}
	switch c := s[1]; {
	case c == '[':
		i := 2
		for i < len(s) && s[i] >= 0x30 && s[i] <= 0x3f {
			i++
		}
		params := s[2:i]
		for i < len(s) && s[i] >= 0x20 && s[i] <= 0x2f {
			i++
		}
		if i >= len(s) || s[i] < 0x40 || s[i] > 0x7e {
			return i, false // broken off; what follows is text, or a sequence of its own
		}
		colour = s[i] == 'm' && i == 2+len(params) && len(params) <= maxColour && strings.Trim(params, "0123456789;:") == ""
		return i + 1, colour
	case c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_':
		return 2 + controlString(s[2:]), false
	case c >= 0x20 && c <= 0x2f:
		i := 2
		for i < len(s) && s[i] >= 0x20 && s[i] <= 0x2f {
			i++
		}
		return min(i+1, len(s)), false
	case c >= 0x30 && c <= 0x7e:
		return 2, false
	}
	return 1, false
}

// controlString measures a string for the terminal with its end.
func controlString(s string) int {
	for i := range len(s) {
		switch {
		case s[i] == bel:
			return i + 1
		case s[i] == esc && i+1 < len(s) && s[i+1] == '\\':
			return i + 2
		case s[i] == '\n':
			return i
		case s[i] == 0xc2 && i+1 < len(s) && s[i+1] == 0x9c:
			return i + 2
		}
	}
	return len(s)
}
