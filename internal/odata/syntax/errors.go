package syntax

import (
	"errors"
	"fmt"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// invalid is a request that is wrong and stays wrong.
func invalid(format string, args ...any) error { return api.Errorf(api.Invalid, format, args...) }

// Echo is a piece of a request as an error text may repeat it.
func Echo(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

func asSyntax(err error, into **syntaxError) bool { return errors.As(err, into) }

// syntaxError is a place in a text where it stops being OData.
type syntaxError struct {
	part string // "path" or the option's name
	pos  int    // byte offset in the decoded part
	hint string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("%s, at %d in %s", e.hint, e.pos, e.part) }

// maxEcho bounds how much of a request an error text repeats.
const maxEcho = 512

// malformed answers a URL that does not parse, in the reference server's words and with a hint. An API key in the URL is not
// repeated: errors end up in logs.
func malformed(url string, err error) error {
	path, query, _ := strings.Cut(url, "?")
	var kept []string
	for p := range strings.SplitSeq(query, "&") {
		if p != "" && !strings.HasPrefix(p, "apikey=") {
			kept = append(kept, p)
		}
	}
	if len(kept) > 0 {
		path += "?" + strings.Join(kept, "&")
	}
	if len(path) > maxEcho {
		path = strings.ToValidUTF8(path[:maxEcho], "") + "…"
	}
	return invalid("Malformed url: '%s': %v", path, err)
}
