package securitytxt_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/web/securitytxt"
)

// fields reads the file as RFC 9116 says it is written: a name, a colon, a space, a value.
func fields(t *testing.T, text string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok || value == "" || strings.ContainsAny(value, "\r\n") {
			t.Errorf("not a field: %q", line)
		}
		out[name] = append(out[name], value)
	}
	return out
}

func TestTheFileIsGoodAtAnyTime(t *testing.T) {
	site := api.Site{Domain: "roadstead.test", Port: 8443}
	for day := range 800 {
		now := time.Date(2026, 1, 1, 23, 59, 59, 0, time.UTC).AddDate(0, 0, day)
		f := fields(t, securitytxt.Text(site, "", []string{"api", ""}, now))
		if len(f["Contact"]) != 1 || f["Contact"][0] != "mailto:security@roadstead.test" || len(f["Expires"]) != 1 || len(f["Preferred-Languages"]) != 1 {
			t.Fatalf("%s: got %v", now, f)
		}
		if len(f["Canonical"]) != 2 || f["Canonical"][0] != "https://api.roadstead.test:8443/.well-known/security.txt" ||
			f["Canonical"][1] != "https://roadstead.test:8443/.well-known/security.txt" {
			t.Fatalf("canonical: got %v", f["Canonical"])
		}
		end, err := time.Parse(time.RFC3339, f["Expires"][0])
		if err != nil || !end.After(now.AddDate(0, 3, 0)) || !end.Before(now.AddDate(1, 0, 0)) {
			t.Fatalf("on %s it expires %s, %v", now, f["Expires"][0], err)
		}
	}
}

func TestContacts(t *testing.T) {
	for contact, good := range map[string]bool{
		"": true, "mailto:security@example.com": true, "https://example.com/report": true, "tel:+1-201-555-0123": true,
		"security@example.com": false, "http://example.com": false, "https://": false, "mailto:nobody": false, "javascript:alert(1)": false,
		"mailto:a@example.com\nExpires: 2000-01-01T00:00:00Z": false, "https://example.com/a b": false,
	} {
		if err := securitytxt.Check(contact); (err == nil) != good {
			t.Errorf("%q: got %v", contact, err)
		}
	}
}

func TestHandler(t *testing.T) {
	h := securitytxt.Handler(api.Site{Domain: "roadstead.test", Port: 443}, "https://example.com/report", []string{"api"})
	for method, status := range map[string]int{"GET": http.StatusOK, "HEAD": http.StatusOK, "POST": http.StatusNotFound, "DELETE": http.StatusNotFound} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, securitytxt.Path, nil))
		if w.Code != status {
			t.Errorf("%s: got %d, want %d", method, w.Code, status)
		}
		if method == "GET" && (w.Header().Get("Content-Type") != "text/plain; charset=utf-8" || !strings.HasPrefix(w.Body.String(), "Contact: https://example.com/report\n")) {
			t.Errorf("got %v %q", w.Header(), w.Body)
		}
	}
}
