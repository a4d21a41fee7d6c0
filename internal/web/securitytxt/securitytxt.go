// Package securitytxt serves /.well-known/security.txt (RFC 9116): whom to tell of a vulnerability.
package securitytxt

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// Path is where the file is.
const Path = "/.well-known/security.txt"

// The file is good for half a year from the start of the month: it never ends while it is served, is always less than a year ahead, and
// is the same for everybody who reads it in that month.
const life = 183 * 24 * time.Hour

// Check refuses a contact that is no address: mailto:, https:// or tel:.
func Check(contact string) error {
	if contact == "" {
		return nil
	}
	u, err := url.Parse(contact)
	switch {
	case err != nil || strings.ContainsFunc(contact, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
	case u.Scheme == "https" && u.Host != "", u.Scheme == "mailto" && strings.Contains(u.Opaque, "@"), u.Scheme == "tel" && u.Opaque != "":
		return nil
	}
	return fmt.Errorf("security contact: %q is not mailto:…, https://… or tel:…", contact)
}

// Text is the file as it is at a time. contact may be empty: mail to security@ the domain. names are the services that serve it, "" the domain
// itself: the file says of itself where it may be read.
func Text(site api.Site, contact string, names []string, now time.Time) string {
	if contact == "" {
		contact = "mailto:security@" + site.Domain
	}
	now = now.UTC()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	var b strings.Builder
	fmt.Fprintf(&b, "Contact: %s\nExpires: %s\nPreferred-Languages: en\n", contact, month.Add(life).Format(time.RFC3339))
	for _, name := range names {
		fmt.Fprintf(&b, "Canonical: %s%s\n", address(site, name), Path)
	}
	return b.String()
}

func address(site api.Site, name string) string {
	if name != "" {
		return site.URL(name)
	}
	return "https://" + strings.TrimPrefix(site.Host(""), ".")
}

// Handler serves the file to everybody.
func Handler(site api.Site, contact string, names []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "max-age=86400")
		_, _ = w.Write([]byte(Text(site, contact, names, time.Now())))
	})
}
