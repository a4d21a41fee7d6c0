package odata_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
)

// seeds are the requests of the golden files, and some that ask for as much as the limits allow.
func seeds(f *testing.F) {
	for _, query := range []string{
		"$select=id&$filter=" + strings.ReplaceAll(lambdas(8), " ", "%20"), "$select=id&$expand=" + expands(8),
		"$select=id&$filter=" + strings.Repeat("device_tag/any(t:t/id+eq+1)+or+", 89) + "true",
		"$select=id&$orderby=" + strings.Repeat("device_tag/$count,", 15) + "id",
		"$filter=" + strings.Repeat("note+ne+'x'+and+", 900) + "true",
	} {
		f.Add("device", query)
	}
	for _, file := range []string{"testdata/queries.txt", "testdata/clients.txt", "testdata/refused.txt", "testdata/tenants.txt"} {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			who, request, ok := strings.Cut(strings.TrimSpace(line), " ")
			if ok && who == "bob" && !strings.HasPrefix(line, " ") {
				path, query, _ := strings.Cut(strings.ReplaceAll(request, " ", "%20"), "?")
				f.Add(path, query)
			}
		}
	}
}

// slowest is how long any request may take on a database of a few rows.
const slowest = 100 * time.Millisecond

// slowestSeen keeps the request that took longest, for scripts/fuzz.sh: in the directory that ROADSTEAD_FUZZ_SLOWEST names, in a file for
// each process that fuzzes.
type slowestSeen struct {
	mu   sync.Mutex // covers took and the file
	took time.Duration
}

// so is the longest time until now.
func (s *slowestSeen) so() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.took
}

func (s *slowestSeen) note(t *testing.T, took time.Duration, path, query string) {
	dir := os.Getenv("ROADSTEAD_FUZZ_SLOWEST")
	s.mu.Lock()
	defer s.mu.Unlock()
	if took <= s.took {
		return
	}
	if s.took = took; dir == "" {
		return
	}
	text := fmt.Sprintf("%09.3f ms %q ? %q\n", float64(took.Microseconds())/1000, path, query)
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(os.Getpid())), []byte(text), 0o600); err != nil {
		t.Error(err)
	}
}

// FuzzRequest goes all the way to the database: what the parser and the model accept, the database accepts too, and a row of
// the other tenant never shows.
func FuzzRequest(f *testing.F) {
	seeds(f)
	s := newServer(f)
	var longest slowestSeen
	f.Fuzz(func(t *testing.T, path, query string) {
		u := &url.URL{Scheme: "http", Host: "x", Path: "/v7/x", RawQuery: query}
		if unescaped, err := url.PathUnescape(path); err == nil {
			u.Path, u.RawPath = "/v7/"+unescaped, "/v7/"+path
		}
		r := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}
		var w *httptest.ResponseRecorder
		var err error
		took := slowest + 1
		for again := range 4 { // a busy machine may take its time once, not every time; what is quicker than another was is not looked at twice
			if again > 0 {
				u.RawQuery = query + "&again=" + strconv.Itoa(again) // means nothing, but is another URL: its plan is not one that was kept
			}
			start := time.Now()
			w = httptest.NewRecorder()
			err = s.Handler()(w, r.WithContext(access.With(t.Context(), bob)))
			if took = min(took, time.Since(start)); took <= longest.so() {
				break
			}
		}
		longest.note(t, took, path, query)
		if took > slowest {
			t.Errorf("%q ? %q took %s", path, query, took)
		}
		if err != nil {
			switch api.AsError(err).Code {
			case api.Invalid, api.Unauthorized:
			default:
				t.Errorf("%q ? %q: %v", path, query, err)
			}
			return
		}
		for _, theirs := range []string{"ee99", "enemy", "theirs", "5ec2e7"} {
			if strings.Contains(w.Body.String(), theirs) {
				t.Errorf("%q ? %q shows %q: %s", path, query, theirs, w.Body)
			}
		}
	})
}
