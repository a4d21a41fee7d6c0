package fleet

import (
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// ports are the ranges of a list such as "22222, 8000-8099"; "all" is one of all, "none" none.
func ports(list string) ([][2]int, error) {
	bad := func(format string, args ...any) ([][2]int, error) {
		return nil, api.Errorf(api.Invalid, TunnelPorts+": "+format+`; say "all", "none", or a list such as "22222, 8000-8099"`, args...)
	}
	words := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
	if len(words) == 1 && strings.EqualFold(words[0], "all") {
		return [][2]int{{1, 65535}}, nil
	}
	if len(words) == 1 && strings.EqualFold(words[0], "none") {
		return nil, nil
	}
	if len(words) == 0 {
		return bad("it is empty")
	}
	var out [][2]int
	for _, word := range words {
		low, high, ranged := strings.Cut(word, "-")
		if !ranged {
			high = low
		}
		from, err1 := strconv.ParseUint(low, 10, 16)
		to, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil || from == 0 || to < from {
			return bad("%.40q is no port from 1 to 65535, and no range of them", word)
		}
		out = append(out, [2]int{int(from), int(to)})
	}
	return out, nil
}

// InPorts reports whether a port is in a value of [TunnelPorts]. What cannot be read opens nothing: it was written before it was checked.
func InPorts(list string, port int) bool {
	open, err := ports(list)
	if err != nil {
		return false
	}
	for _, r := range open {
		if port >= r[0] && port <= r[1] {
			return true
		}
	}
	return false
}
