package tunnel

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// maxHead bounds the request line and the headers together.
const maxHead = 8 << 10

// request is what a client asks for before the bytes begin.
type request struct {
	uuid  api.DeviceUUID
	port  int
	token string // "" when it has none
	from  string // for whom a role asks; of others it is of no account
}

// refusal is an answer that is no tunnel. Its text is the reason in the status line, which the command lines show.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return strconv.Itoa(e.status) + " " + e.text }

func refuse(status int, text string) error {
	if text == "" {
		text = http.StatusText(status)
	}
	return &refusal{status, text}
}

var errNoRequest = errors.New("the client went away, or was too slow")

// readHead reads up to the empty line that ends the headers. rest is what came after it: bytes for the device already.
func readHead(r io.Reader) (head string, rest []byte, err error) {
	buf := make([]byte, 0, 1024)
	for {
		if i := bytes.Index(buf, []byte("\r\n\r\n")); i >= 0 {
			return string(buf[:i]), buf[i+4:], nil
		}
		if len(buf) >= maxHead {
			return "", nil, refuse(http.StatusBadRequest, "")
		}
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, min(2*cap(buf), maxHead)), buf...)
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err != nil && n == 0 {
			return "", nil, errNoRequest
		}
	}
}

// host is the only kind of name that leads anywhere: a device's, under an ending that is nobody's domain. Nothing is ever looked up.
var host = pattern.New(`^([0-9a-f]{32}|[0-9a-f]{62})\.(?:balena|resin|roadstead|vpn)(?::([0-9]{1,5}))?$`)

// parse reads a request, strictly: what one reader could take for something else than another is refused.
func parse(head string) (q request, err error) {
	bad := refuse(http.StatusBadRequest, "")
	lines := strings.Split(head, "\r\n")
	parts := strings.Split(lines[0], " ")
	if len(parts) != 3 || parts[2] != "HTTP/1.0" && parts[2] != "HTTP/1.1" {
		return q, bad
	}
	if parts[0] != http.MethodConnect {
		return q, refuse(http.StatusBadRequest, "Only CONNECT is served here")
	}
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return q, bad
		}
		switch strings.ToLower(name) {
		case "content-length", "transfer-encoding": // a request to connect has no body
			return q, bad
		case "x-forwarded-for":
			if addr, err := netip.ParseAddr(strings.Trim(value, " \t")); err == nil {
				q.from = addr.String()
			}
		case "proxy-authorization":
			if q.token != "" {
				return q, bad
			}
			if q.token, ok = tokenOf(strings.Trim(value, " \t")); !ok {
				return q, refuse(http.StatusProxyAuthRequired, "")
			}
		}
	}
	m := host.FindStringSubmatch(parts[1])
	if m == nil {
		return q, refuse(http.StatusForbidden, "")
	}
	q.uuid, q.port = api.DeviceUUID(m[1]), 80
	if m[2] != "" {
		if q.port, err = strconv.Atoi(m[2]); err != nil || q.port < 1 || q.port > 65535 {
			return q, refuse(http.StatusForbidden, "")
		}
	}
	return q, nil
}

func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", r)
	})
}

// tokenOf reads Basic, whose user name nobody looks at, and Bearer.
func tokenOf(value string) (string, bool) {
	scheme, rest, _ := strings.Cut(value, " ")
	rest = strings.Trim(rest, " ")
	switch strings.ToLower(scheme) {
	case "bearer":
		return rest, rest != ""
	case "basic":
		plain, err := base64.StdEncoding.DecodeString(rest)
		_, password, ok := strings.Cut(string(plain), ":")
		return password, err == nil && ok && password != ""
	}
	return "", false
}
