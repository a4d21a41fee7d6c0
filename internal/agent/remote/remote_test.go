package remote_test

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
)

func serve(t *testing.T, h http.HandlerFunc, change func(*httptest.Server)) *remote.Client {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	if change != nil {
		change(srv)
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	c, err := remote.New(remote.Config{Endpoint: srv.URL + "/ignored/path", RootCA: root, UserAgent: "test", Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestErrorsCarryStatusTextAndWait(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `"slow down"`)
	}, nil)
	err := c.Report(t.Context(), "u", "k", map[string]json.RawMessage{"status": json.RawMessage(`"Idle"`)})
	if remote.StatusOf(err) != 429 || remote.RetryAfterOf(err) != 7*time.Second || !errors.Is(err, api.ErrRateLimited) ||
		!strings.Contains(err.Error(), "slow down") {
		t.Errorf("got %v, status %d, wait %s", err, remote.StatusOf(err), remote.RetryAfterOf(err))
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var asked atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}, nil)
	if _, _, err := c.Target(t.Context(), "u", "k", ""); remote.StatusOf(err) != http.StatusFound || asked.Load() != 1 {
		t.Errorf("%v after %d requests", err, asked.Load())
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("talked over TLS 1.1") }, func(srv *httptest.Server) {
		srv.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11} //nolint:gosec // the point of the test
	})
	if _, _, err := c.Target(t.Context(), "u", "k", ""); err == nil {
		t.Error("no error")
	}
}

func TestNotModifiedNeedsATagOfOurs(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer k" || r.URL.Path != "/device/v3/u/state" {
			t.Errorf("%s with %q", r.URL.Path, r.Header.Get("Authorization"))
		}
		w.WriteHeader(http.StatusNotModified)
	}, nil)
	if text, tag, err := c.Target(t.Context(), "u", "k", `W/"1"`); text != nil || tag != `W/"1"` || err != nil {
		t.Errorf("with a tag: %s %s %v", text, tag, err)
	}
	if _, _, err := c.Target(t.Context(), "u", "k", ""); remote.StatusOf(err) != 304 {
		t.Errorf("without a tag: %v", err)
	}
}

func TestHugeAnswerIsRefused(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, io.LimitReader(zeros{}, 9<<20))
	}, nil)
	if _, _, err := c.Target(t.Context(), "u", "k", ""); err == nil || !strings.Contains(err.Error(), "larger than 8 MiB") {
		t.Errorf("got %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestFindSelf(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		id     int64
		fails  bool
	}{
		{200, `{"d":[{"id":5}]}`, 5, false}, {200, `{"d":[]}`, 0, false}, {401, ``, 0, false}, {404, ``, 0, false},
		{500, ``, 0, true}, {502, `<html>`, 0, true}, {200, `<html>`, 0, true},
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if got := r.URL.Query().Get("$filter"); got != "uuid eq 'u'" {
				t.Errorf("filter %q", got)
			}
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		}, nil)
		if id, err := c.FindSelf(t.Context(), "u", "k"); id != tt.id || (err != nil) != tt.fails {
			t.Errorf("%d %s: got %d, %v", tt.status, tt.body, id, err)
		}
	}
}

func TestOnlyHTTPS(t *testing.T) {
	for _, endpoint := range []string{"http://a", "a", "https://", "", "ftp://a"} {
		if _, err := remote.New(remote.Config{Endpoint: endpoint}); err == nil {
			t.Errorf("%q is taken", endpoint)
		}
	}
}

// A server that is full asks to be left alone for a while. Nobody comes back before that, and not all at the same moment.
func TestWaitHonoursTheServer(t *testing.T) {
	busy := fmt.Errorf("poll: %w", &remote.StatusError{Status: http.StatusServiceUnavailable, RetryAfter: 10 * time.Second})
	seen := map[time.Duration]bool{}
	for range 100 {
		d := remote.Wait(time.Second, busy)
		if d < 10*time.Second || d > 12*time.Second {
			t.Fatalf("it waits %s", d)
		}
		seen[d] = true
	}
	if len(seen) < 50 {
		t.Errorf("only %d different waits in 100", len(seen))
	}
	if d := remote.Wait(time.Minute, busy); d != time.Minute {
		t.Errorf("its own longer wait became %s", d)
	}
	if d := remote.Wait(time.Second, errors.New("no answer")); d != time.Second {
		t.Errorf("without a word of the server it waits %s", d)
	}
}

func TestBackoffGrowsToItsMaximum(t *testing.T) {
	b := remote.Backoff{Min: time.Second, Max: 10 * time.Second}
	for i, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		want *= time.Second
		if got := b.Next(); got > want || got < want*8/10 {
			t.Errorf("wait %d is %s, want about %s", i, got, want)
		}
	}
	b.Reset()
	if got := b.Next(); got > time.Second {
		t.Errorf("after a success it waits %s", got)
	}
	long := remote.Backoff{Min: time.Second, Max: time.Hour}
	for range 200 {
		if got := long.Next(); got <= 0 || got > time.Hour {
			t.Fatalf("it waits %s", got)
		}
	}
}
