package deviceurl

import (
	"net/http"
	"slices"
	"strings"
)

// The names that are ours on every address. A browser keeps cookies with this prefix to the one host that set them.
const (
	cookiePrefix = "__Host-roadstead"
	visitCookie  = cookiePrefix + "-visit"
	stateCookie  = cookiePrefix + "-state"
	tokenHeader  = "Roadstead-Token"
	own          = "/.roadstead/"
)

// saysWho are headers by which servers behind a proxy learn who the client is: only what we say ourselves is let through.
var saysWho = []string{"x-real-ip", "x-client-ip", "client-ip", "true-client-ip", "cf-connecting-ip", "fastly-client-ip", "x-cluster-client-ip", "x-original-url", "x-rewrite-url", "via"}

// toDevice takes from a request what is not the device's business: cookies and tokens of ours, and what a visitor claims about themselves.
func toDevice(h http.Header, basic bool) {
	for name := range h {
		plain := strings.ReplaceAll(strings.ToLower(name), "_", "-") // some servers take one for the other
		if strings.HasPrefix(plain, "x-forwarded") || plain == "forwarded" || strings.HasPrefix(plain, "roadstead-") || slices.Contains(saysWho, plain) {
			delete(h, name)
		}
	}
	if basic {
		h.Del("Authorization")
	}
	var kept []string
	for _, line := range h["Cookie"] {
		for part := range strings.SplitSeq(line, ";") {
			name, _, _ := strings.Cut(strings.TrimSpace(part), "=")
			if part = strings.TrimSpace(part); part != "" && !ours(name) {
				kept = append(kept, part)
			}
		}
	}
	h.Del("Cookie")
	if len(kept) > 0 {
		h.Set("Cookie", strings.Join(kept, "; "))
	}
}

func ours(cookie string) bool {
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(cookie)), strings.ToLower(cookiePrefix))
}

// beyond are headers of an answer that would have an effect beyond the address itself, or last longer than its being open.
var beyond = []string{
	"Strict-Transport-Security", "Public-Key-Pins", "Public-Key-Pins-Report-Only", "Expect-Ct", "Alt-Svc", "Clear-Site-Data", "Nel", "Report-To",
	"Reporting-Endpoints", "Proxy-Authenticate", "Proxy-Authentication-Info", "Set-Login", "Via",
}

// toVisitor takes them from a device's answer, and keeps its cookies to its own address.
func toVisitor(h http.Header) {
	for _, name := range beyond {
		h.Del(name)
	}
	given := h["Set-Cookie"]
	h.Del("Set-Cookie")
	for _, line := range given {
		if line, ok := hostOnly(line); ok {
			h.Add("Set-Cookie", line)
		}
	}
}

// hostOnly takes the domain from a cookie; false: it has no name, or one of ours.
func hostOnly(line string) (string, bool) {
	parts := strings.Split(line, ";")
	name, _, ok := strings.Cut(parts[0], "=")
	if !ok || strings.TrimSpace(name) == "" || ours(name) {
		return "", false
	}
	kept := slices.DeleteFunc(parts[1:], func(part string) bool {
		attribute, _, _ := strings.Cut(part, "=")
		return strings.EqualFold(strings.TrimSpace(attribute), "domain")
	})
	return strings.Join(append(parts[:1:1], kept...), ";"), true
}
