package web

import (
	"net/http"
	"path"
	"strings"
)

// StrictTransport tells browsers never to come without TLS.
const StrictTransport = "max-age=31536000; includeSubDomains"

// Door is the first wall of a role that serves the public itself, under one name: another name's request is sent away, for that has a
// connection of its own, and what roles say to each other is not there. The routes check the caller's certificate too.
func Door(name string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", StrictTransport)
		if !names(r.Host, name) {
			_ = WriteText(w, http.StatusMisdirectedRequest, "Ask this name on a connection of its own.\n")
			return
		}
		if hidden(r.URL.Path) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// names reports whether a Host header is a name.
func names(host, name string) bool {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), name)
}

// hidden reports whether a path is one of those that roles use among themselves, however it is written.
func hidden(p string) bool {
	if !strings.Contains(p, "//") && !strings.Contains(p, "/.") && !isInternal(p) {
		return false
	}
	return isInternal(path.Clean("/" + p))
}

func isInternal(p string) bool {
	const internal = "/internal"
	if len(p) >= len(internal) && strings.EqualFold(p[:len(internal)], internal) {
		return len(p) == len(internal) || p[len(internal)] == '/'
	}
	return strings.EqualFold(p, "/healthz")
}
