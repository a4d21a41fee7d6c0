package debian

import (
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/internal/pattern"
)

var versionForm = pattern.New(`^([0-9]{1,9}:)?[0-9A-Za-z.+~-]{1,200}$`)

// Compare orders two versions as Debian's policy says: negative when a is the older one.
func Compare(a, b string) int {
	ae, au, ar := parts(a)
	be, bu, br := parts(b)
	if ae != be {
		return ae - be
	}
	if c := compareText(au, bu); c != 0 {
		return c
	}
	return compareText(ar, br)
}

// parts are the epoch, the upstream version and the revision.
func parts(v string) (epoch int, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, _ = strconv.Atoi(e)
		v = rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// compareText compares runs of other characters and runs of digits in turn.
func compareText(a, b string) int {
	for a != "" || b != "" {
		for (a != "" && !digit(a[0])) || (b != "" && !digit(b[0])) {
			if c := weight(a) - weight(b); c != 0 {
				return c
			}
			a, b = a[min(1, len(a)):], b[min(1, len(b)):]
		}
		var x, y string
		x, a = number(a)
		y, b = number(b)
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// number cuts the digits off that a text begins with, without leading zeros.
func number(s string) (digits, rest string) {
	i := 0
	for i < len(s) && digit(s[i]) {
		i++
	}
	return strings.TrimLeft(s[:i], "0"), s[i:]
}

// weight orders what is no digit: a tilde before the end of the text, letters before all else.
func weight(s string) int {
	switch {
	case s == "" || digit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case s[0] >= 'A' && s[0] <= 'Z' || s[0] >= 'a' && s[0] <= 'z':
		return int(s[0])
	}
	return int(s[0]) + 256
}
