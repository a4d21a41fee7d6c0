package fetch_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/builder/fetch"
)

const good = "what the lock file names"

func TestWhatTheLockFileNamesIsFetchedOnce(t *testing.T) {
	asked := 0
	url, f, cache := mirror(t, func(w http.ResponseWriter, _ *http.Request) { asked++; _, _ = io.WriteString(w, good) })
	l := fetch.Locked{Name: "file", URLs: []string{url + "/file"}, SHA256: sum(good), Size: int64(len(good))}
	for range 2 {
		file, err := f.File(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != good {
			t.Fatalf("got %q, %v", text, err)
		}
	}
	if asked != 1 {
		t.Errorf("the mirror was asked %d times", asked)
	}
	// What lies in the cache is not believed either.
	if err := os.WriteFile(filepath.Join(cache, l.SHA256), []byte("what the lock file namez"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.File(t.Context(), l); err != nil || asked != 2 {
		t.Errorf("%v; the mirror was asked %d times, want 2", err, asked)
	}
}

func TestTheSecondPlaceIsAskedWhenTheFirstHasItNot(t *testing.T) {
	url, f, _ := mirror(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, good)
	})
	l := fetch.Locked{Name: "file", URLs: []string{url + "/first", url + "/second"}, SHA256: sum(good), Size: int64(len(good))}
	if _, err := f.File(t.Context(), l); err != nil {
		t.Error(err)
	}
}

// Each of these is something that a mirror, or somebody between it and us, may try; or a hole in a lock file.
func TestWhatIsNotAsTheLockFileSaysIsRefused(t *testing.T) {
	lock := fetch.Locked{Name: "prog.deb", SHA256: sum(good), Size: int64(len(good))}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		lock   func(*fetch.Locked)
		want   []string
	}{
		"one flipped byte": {answer: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Replace(good, "lock", "lock"[:3]+"j", 1))
		}, want: []string{"prog.deb", "has SHA-256", lock.SHA256}},
		"truncated": {answer: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, good[:5])
		}, want: []string{"prog.deb", "has 5 bytes"}},
		"cut off": {answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "24")
			_, _ = io.WriteString(w, good[:5])
		}, want: []string{"prog.deb was cut off"}},
		"endless": {answer: func(w http.ResponseWriter, r *http.Request) {
			for block := make([]byte, 64<<10); r.Context().Err() == nil; {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}, want: []string{"prog.deb", "larger than 24 bytes"}},
		"not there": {answer: http.NotFound, want: []string{"prog.deb", "404"}},
		"redirected to plain http": {answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/prog.deb", http.StatusFound)
		}, want: []string{"prog.deb", "only https"}},
		"redirected in a circle": {answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}, want: []string{"prog.deb", "leads elsewhere"}},
		"redirected to this network": {answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://169.254.169.254/latest/meta-data", http.StatusFound)
		}, want: []string{"prog.deb", "not a public one"}},
		"plain http":     {lock: func(l *fetch.Locked) { l.URLs = []string{"http://127.0.0.1:1/prog.deb"} }, want: []string{"prog.deb", "only https"}},
		"a file":         {lock: func(l *fetch.Locked) { l.URLs = []string{"file:///etc/passwd"} }, want: []string{"prog.deb"}},
		"missing digest": {lock: func(l *fetch.Locked) { l.SHA256 = "" }, want: []string{"prog.deb", "SHA-256 is missing"}},
		"MD5":            {lock: func(l *fetch.Locked) { l.SHA256 = strings.Repeat("a", 32) }, want: []string{"prog.deb", "MD5"}},
		"SHA-1":          {lock: func(l *fetch.Locked) { l.SHA256 = strings.Repeat("a", 40) }, want: []string{"prog.deb", "SHA-1"}},
		"a digest that is a path": {lock: func(l *fetch.Locked) { l.SHA256 = "../../etc/passwd" },
			want: []string{"prog.deb", "is no SHA-256"}},
		"too large": {lock: func(l *fetch.Locked) { l.Size = fetch.MaxSize + 1 }, want: []string{"prog.deb", "size"}},
		"no size":   {lock: func(l *fetch.Locked) { l.Size = 0 }, want: []string{"prog.deb", "size"}},
		"nowhere":   {lock: func(l *fetch.Locked) { l.URLs = nil }, want: []string{"prog.deb"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.answer == nil {
				c.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, good) }
			}
			url, f, cache := mirror(t, c.answer)
			l := lock
			l.URLs = []string{url + "/prog.deb"}
			if c.lock != nil {
				c.lock(&l)
			}
			_, err := f.File(t.Context(), l)
			refused(t, err, c.want...)
			nothing(t, cache)
		})
	}
}

// A server that nobody vouches for is not asked, whatever it would say.
func TestAMirrorNeedsACertificate(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	cache := t.TempDir()
	other, err := fetch.New(fetch.Config{Cache: cache, Allow: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, err = other.File(t.Context(), fetch.Locked{Name: "f", URLs: []string{srv.URL}, SHA256: sum("x"), Size: 1})
	refused(t, err, "certificate")
}
