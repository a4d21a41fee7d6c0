package report

import (
	"strings"
	"unicode"
)

// Plain drops from what a device says of itself whatever would steer the terminal of who reads it, or turn the direction of
// its writing. Clients of others print these texts as they come.
func Plain(s string) string {
	return strings.Map(func(c rune) rune {
		if Steers(c) {
			return -1
		}
		return c
	}, s)
}

// Steers reports whether a character does so.
func Steers(c rune) bool { return unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) }

// Cut shortens a text to at most n bytes without breaking a character.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
