package signin_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/signin"
)

// server answers what a login needs: one token holds, and codes are answered as the test says, in turn.
func server(t *testing.T, answers ...any) *client.Client {
	t.Helper()
	var mu sync.Mutex // covers answers
	mux := http.NewServeMux()
	mux.HandleFunc("GET /actor/v1/whoami", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"id":1,"actorType":"user","actorTypeId":1,"username":"ann"}`)
	})
	mux.HandleFunc("POST /auth/v1/device/code", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.DeviceCode{DeviceCode: "d", UserCode: "BCDF-GHJK", VerificationURI: "https://dashboard.roadstead.test/device", Interval: 5})
	})
	mux.HandleFunc("POST /auth/v1/device/token", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		next := answers[0]
		answers = answers[1:]
		w.Header().Set("Content-Type", "application/json")
		switch a := next.(type) {
		case int:
			w.WriteHeader(a)
		case api.DeviceToken:
			if a.Error != "" {
				w.WriteHeader(http.StatusBadRequest)
			}
			_ = json.NewEncoder(w).Encode(a)
		}
	})
	srv := httptest.NewTLSServer(mux)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	t.Cleanup(srv.Close)
	c, err := client.New(client.Config{URL: srv.URL, CA: pool})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// callback is the address that a page was opened with.
func callback(t *testing.T, page string) string {
	t.Helper()
	_, last, _ := strings.Cut(page, "/login/cli/")
	for range 2 {
		var err error
		if last, err = url.PathUnescape(last); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

func TestBrowser(t *testing.T) {
	var said strings.Builder
	w := signin.Web{Client: server(t), Timeout: 10 * time.Second, Say: func(f string, a ...any) { fmt.Fprintf(&said, f+"\n", a...) }}
	w.Open = func(ctx context.Context, page string) error {
		if strings.Contains(page, "http%3A") || !strings.Contains(page, "/login/cli/http%253A%252F%252F127.0.0.1%253A") {
			t.Errorf("the page %s: its callback is not encoded twice", page)
		}
		back := callback(t, page)
		post := func(address, host string, form url.Values) int {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
			if err != nil {
				t.Error(err)
				return 0
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if host != "" {
				req.Host = host
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return 0
			}
			_ = res.Body.Close()
			return res.StatusCode
		}
		good := url.Values{"token": {"good"}}
		u, _ := url.Parse(back)
		for what, got := range map[string][2]int{
			// Another page's doing: it does not know the path, or comes under another name.
			"no secret":          {post("http://"+u.Host+"/auth", "", good), 404},
			"another secret":     {post("http://"+u.Host+"/auth/00", "", good), 404},
			"another name":       {post(back, "evil.example.com", good), 404},
			"no token":           {post(back, "", url.Values{}), 400},
			"a token of nobody":  {post(back, "", url.Values{"token": {"bad"}}), 401},
			"in the query alone": {post(back+"?token=good", "", url.Values{}), 400},
			"a long one":         {post(back, "", url.Values{"token": {strings.Repeat("x", 100_000)}}), 400},
		} {
			if got[0] != got[1] {
				t.Errorf("%s: %d, want %d", what, got[0], got[1])
			}
		}
		if status := post(back, "", good); status != 200 {
			t.Errorf("the session: %d", status)
		}
		return nil
	}
	token, err := signin.Browser(t.Context(), w)
	if err != nil || token != "good" {
		t.Errorf("got %q, %v", token, err)
	}
	if !strings.Contains(said.String(), "/login/cli/") {
		t.Errorf("the address was not shown: %s", said.String())
	}
	w.Timeout, w.Open = 50*time.Millisecond, func(context.Context, string) error { return nil }
	if _, err := signin.Browser(t.Context(), w); err == nil || !strings.Contains(err.Error(), "within 50ms") {
		t.Errorf("nobody came: %v", err)
	}
	// Without a browser, a code does.
	w.Client = server(t, api.DeviceToken{AccessToken: "by code"})
	w.Open = func(context.Context, string) error { return errors.New("no such program") }
	w.Pause = func(context.Context, time.Duration) error { return nil }
	if token, err := signin.Browser(t.Context(), w); err != nil || token != "by code" || !strings.Contains(said.String(), "BCDF-GHJK") {
		t.Errorf("without a browser: %q, %v", token, err)
	}
}

func TestDevice(t *testing.T) {
	no := func(e string) api.DeviceToken { return api.DeviceToken{Error: e} }
	yes := api.DeviceToken{AccessToken: "good", TokenType: "bearer"}
	for _, tt := range []struct {
		answers []any
		pauses  []time.Duration
		token   string
		err     error
	}{
		{[]any{yes}, []time.Duration{5}, "good", nil},
		{[]any{no(api.DevicePending), yes}, []time.Duration{5, 5}, "good", nil},
		{[]any{no(api.DeviceSlowDown), no(api.DevicePending), no(api.DeviceSlowDown), yes}, []time.Duration{5, 10, 10, 15}, "good", nil},
		{[]any{503, no(api.DevicePending), yes}, []time.Duration{5, 10, 10}, "good", nil},
		{[]any{no(api.DevicePending), no(api.DeviceDenied)}, []time.Duration{5, 5}, "", api.ErrForbidden},
		{[]any{no(api.DeviceExpired)}, []time.Duration{5}, "", api.ErrUnauthorized},
		{[]any{500}, []time.Duration{5}, "", &api.Error{Code: api.Internal}},
	} {
		var pauses []time.Duration
		token, err := signin.Device(t.Context(), signin.Web{
			Client: server(t, tt.answers...), Say: func(string, ...any) {},
			Pause: func(_ context.Context, d time.Duration) error { pauses = append(pauses, d/time.Second); return nil },
		})
		if token != tt.token || !errors.Is(err, tt.err) || !slices.Equal(pauses, tt.pauses) {
			t.Errorf("%v: %q, %v, pauses %v; want %q, %v, %v", tt.answers, token, err, pauses, tt.token, tt.err, tt.pauses)
		}
	}
}
