package deviceurl

import (
	"fmt"
	"html"
	"net/http"
	"strings"
)

// page is an answer of our own: HTML for browsers, text for the rest.
func page(w http.ResponseWriter, r *http.Request, status int, title, text string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, "%s. %s\n", title, text)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">"+
		"<title>%[1]s</title><h1>%[1]s</h1><p>%[2]s</p></html>\n", html.EscapeString(title), html.EscapeString(text))
}

// offline says that the device is not there just now.
func offline(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Retry-After", "30")
	page(w, r, http.StatusServiceUnavailable, "The device is offline", "It is not connected just now. Try again later.")
}
