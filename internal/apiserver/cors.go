package apiserver

import (
	"net/http"
	"strings"
)

// What pages of other origins may do. Every token stands in a header that a page sets itself and no cookie is ever looked at, so
// any origin may ask: it has no more than what it brings.
const (
	corsMethods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
	corsHeaders = "Content-Type, Authorization, If-None-Match, Application-Record-Count, MaxDataServiceVersion, X-Requested-With, " +
		"X-Balena-Client"
	corsExpose = "ETag, Location, Retry-After, X-Request-Id"
	corsMaxAge = "86400"
)

// browsers answers the questions that browsers ask before a page may call, and lets pages read the answers. Devices and scripts
// are spared the headers, as they are by balena's server.
func browsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fromBrowser(r) {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Expose-Headers", corsExpose)
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", corsMethods)
			h.Set("Access-Control-Allow-Headers", corsHeaders)
			h.Set("Access-Control-Max-Age", corsMaxAge)
			w.WriteHeader(http.StatusOK)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// fromBrowser reports whether a request may come from a page, for all that its header tells.
func fromBrowser(r *http.Request) bool {
	agent := r.UserAgent()
	return agent != "" && !strings.HasPrefix(agent, "Supervisor") && !strings.HasPrefix(agent, "curl") &&
		!strings.HasPrefix(r.URL.Path, "/internal/") && r.URL.Path != "/healthz"
}
