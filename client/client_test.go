package client_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
)

// serve starts a TLS server and a client that trusts only it.
func serve(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	c, err := client.New(client.Config{URL: srv.URL, Token: "T0", CA: pool, UserAgent: "test", IdleTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		srv.CloseClientConnections() // a follower may still hang on one
		srv.Close()
	})
	return c
}

func TestEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"roadstead.test":                         "https://api.roadstead.test",
		"roadstead.test:8443":                    "https://api.roadstead.test:8443",
		"https://api.roadstead.test:8443/":       "https://api.roadstead.test:8443",
		"https://dashboard.roadstead.test":       "https://api.roadstead.test",
		" https://API.roadstead.test ":           "https://api.roadstead.test",
		"https://127.0.0.1:9080":                 "https://127.0.0.1:9080",
		"https://[::1]:9080":                     "https://[::1]:9080",
		"http://api.roadstead.test":              "",
		"":                                       "",
		"https://api.roadstead.test/v7":          "",
		"https://user:secret@api.roadstead.test": "",
		"ht tp://x":                              "",
	} {
		got, err := client.Endpoint(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Endpoint(%q): got %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestServiceURL(t *testing.T) {
	c, err := client.New(client.Config{URL: "roadstead.test:8443"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.ServiceURL("builder"), "https://builder.roadstead.test:8443"; got != want {
		t.Errorf("ServiceURL: got %s, want %s", got, want)
	}
}

func TestRequestsOnTheWire(t *testing.T) {
	ctx := t.Context()
	for _, tt := range []struct {
		name string
		do   func(c *client.Client) error
		want string // method and target as they stand in the request line
		body string
	}{
		{"list", func(c *client.Client) error {
			_, err := client.Get[client.Fleet](ctx, c, "application", client.Query{
				Select: "id,slug", Filter: client.Where("slug eq ? and id in ?", "o'k/a&b+c#d%", []int64{1, 2}), OrderBy: "app_name asc",
				Expand: "owns__device($select=id;$filter=is_online eq true)", Top: 5, Skip: 2})
			return err
		}, "GET /v7/application?$select=id,slug&$filter=slug%20eq%20%27o%27%27k/a%26b%2Bc%23d%25%27%20and%20id%20in%20(1,2)" +
			"&$expand=owns__device($select=id;$filter=is_online%20eq%20true)&$orderby=app_name%20asc&$top=5&$skip=2", ""},
		{"natural key", func(c *client.Client) error {
			_, err := client.Get[client.Organization](ctx, c, client.Key("organization", "handle", "a'b/c d%27"), client.Query{})
			return err
		}, "GET /v7/organization(handle='a''b%2Fc%20d%2527')", ""},
		{"time", func(c *client.Client) error {
			_, err := client.Get[client.Device](ctx, c, "device", client.Query{Filter: client.Where("created_at ge ?", time.Unix(0, 0))})
			return err
		}, "GET /v7/device?$filter=created_at%20ge%20datetime%271970-01-01T00:00:00.000Z%27", ""},
		{"patch", func(c *client.Client) error {
			return c.Patch(ctx, client.ID("device", 5), client.Query{}, map[string]any{"device_name": "x"})
		}, "PATCH /v7/device(5)", `{"device_name":"x"}`},
		{"delete by filter", func(c *client.Client) error {
			return c.Delete(ctx, "device_tag", client.Query{Filter: client.Where("device eq ? and tag_key eq ?", 5, "k")})
		}, "DELETE /v7/device_tag?$filter=device%20eq%205%20and%20tag_key%20eq%20%27k%27", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got, body, auth string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				got, body, auth = r.Method+" "+r.RequestURI, string(b), r.Header.Get("Authorization")
				if r.Method == http.MethodGet {
					fmt.Fprint(w, `{"d":[]}`)
				}
			})
			if err := tt.do(c); err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("request:\n got %s\nwant %s", got, tt.want)
			}
			if body != tt.body {
				t.Errorf("body: got %s, want %s", body, tt.body)
			}
			if auth != "Bearer T0" {
				t.Errorf("Authorization: got %q", auth)
			}
		})
	}
}

func TestRefusesToChangeEverything(t *testing.T) {
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	if err := c.Delete(t.Context(), "device", client.Query{}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("Delete: got %v, want invalid", err)
	}
	if err := c.Patch(t.Context(), "device", client.Query{}, map[string]any{"note": ""}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("Patch: got %v, want invalid", err)
	}
}

func TestRows(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"d":[{"id":1,"belongs_to__application":{"__id":100},"is_running__release":null,
			"is_of__device_type":[{"id":5,"slug":"intel-nuc"}],"should_be_running__release":[],"note":null,"memory_usage":12,"unknown":{}}]}`)
	})
	d, err := client.One[client.Device](t.Context(), c, "device(1)", client.Query{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Fleet.ID != 100 || d.Fleet.Row != nil || d.Running.ID != 0 || d.DeviceType.ID != 5 || d.DeviceType.Get().Slug != "intel-nuc" ||
		d.Target.Row != nil || d.Note != "" || d.MemoryUsage == nil || *d.MemoryUsage != 12 {
		t.Errorf("got %+v", d)
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		ct     string
		body   string
		is     error
		text   string
	}{
		{"JSON string", 400, "application/json; charset=utf-8", `"a \"device\" needs a name"`, api.ErrInvalid, `a "device" needs a name`},
		{"text", 409, "text/plain", `"uuid" must be unique.`, api.ErrConflict, `"uuid" must be unique.`},
		{"message", 403, "application/json", `{"message":"no"}`, api.ErrForbidden, "no"},
		{"error text", 400, "application/json", `{"error":{"text":"deep","message":"other"}}`, api.ErrInvalid, "deep"},
		{"error string", 400, "application/json", `{"error":"plain"}`, api.ErrInvalid, "plain"},
		{"error message", 400, "application/json", `{"error":{"message":"inner"}}`, api.ErrInvalid, "inner"},
		{"empty 401", 401, "", "", api.ErrUnauthorized, "does not accept these credentials"},
		{"a proxy's page", 404, "text/html", "<html>nginx</html>", api.ErrNotFound, "does not exist"},
		{"too large", 413, "", "", api.ErrTooLarge, "413"},
		{"a redirect", 302, "", "", nil, "302"},
		{"internal", 500, "", "", nil, "500"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if tt.ct != "" {
					w.Header().Set("Content-Type", tt.ct)
				}
				w.Header().Set("X-Request-Id", "1a2b")
				w.Header().Set("Location", "https://elsewhere.example.com/")
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			})
			err := c.Do(t.Context(), http.MethodPost, "/x", map[string]any{}, nil)
			if err == nil || (tt.is != nil && !errors.Is(err, tt.is)) {
				t.Fatalf("got %v, want %v", err, tt.is)
			}
			if !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), "(request 1a2b)") {
				t.Errorf("text: got %q, want %q and the request id", err, tt.text)
			}
		})
	}
}

func TestRetry(t *testing.T) {
	for _, tt := range []struct {
		method string
		status int
		after  string
		calls  int32
		ok     bool
	}{
		{http.MethodGet, 503, "0", 3, true},
		{http.MethodGet, 502, "", 3, true},
		{http.MethodPatch, 429, "0", 3, true},
		{http.MethodPatch, 429, "", 1, false},
		{http.MethodGet, 503, "3600", 1, false},
		{http.MethodPost, 503, "0", 1, false},
		{http.MethodGet, 500, "0", 1, false},
	} {
		t.Run(fmt.Sprint(tt.method, tt.status, tt.after), func(t *testing.T) {
			var calls atomic.Int32
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if calls.Add(1) < 3 {
					if tt.after != "" {
						w.Header().Set("Retry-After", tt.after)
					}
					w.WriteHeader(tt.status)
					return
				}
				if b, _ := io.ReadAll(r.Body); string(b) != `{"a":1}` {
					t.Errorf("body at the last try: %q", b)
				}
			})
			err := c.Do(t.Context(), tt.method, "/x", map[string]int{"a": 1}, nil)
			if (err == nil) != tt.ok || calls.Load() != tt.calls {
				t.Errorf("got %v after %d calls, want ok %v after %d", err, calls.Load(), tt.ok, tt.calls)
			}
		})
	}
}

func TestUpsert(t *testing.T) {
	for _, tt := range []struct {
		name, conflict string
		status         int
		patched        bool
		ok             bool
	}{
		{"new", "", 201, false, true},
		{"unique", `"\"name\" and \"device\" must be unique."`, 409, true, true},
		{"unique, as an object", `{"message":"must be UNIQUE"}`, 409, true, true},
		{"another conflict", `"Data is referenced by release."`, 409, false, false},
		{"refused", `"no"`, 403, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var patch string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPatch {
					b, _ := io.ReadAll(r.Body)
					patch = r.RequestURI + " " + string(b)
					return
				}
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.conflict)
			})
			err := c.Upsert(t.Context(), "device_tag", map[string]any{"device": 5, "tag_key": "it's", "value": "v"}, "device", "tag_key")
			if (err == nil) != tt.ok || (patch != "") != tt.patched {
				t.Fatalf("got %v, patch %q, want ok %v, patched %v", err, patch, tt.ok, tt.patched)
			}
			if want := `/v7/device_tag?$filter=device%20eq%205%20and%20tag_key%20eq%20%27it%27%27s%27 {"value":"v"}`; tt.patched && patch != want {
				t.Errorf("patch:\n got %s\nwant %s", patch, want)
			}
		})
	}
}

func TestLogin(t *testing.T) {
	for _, body := range []string{"eyJ.a.b", `"eyJ.a.b"`, "eyJ.a.b\n"} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Error("the old token was sent along")
			}
			fmt.Fprint(w, body)
		})
		if got, err := c.Login(t.Context(), "a", "b"); got != "eyJ.a.b" || err != nil {
			t.Errorf("Login with answer %q: got %q, %v", body, got, err)
		}
	}
}

func TestTokenIssued(t *testing.T) {
	if at, ok := client.TokenIssued("e30.eyJpYXQiOjE3MDAwMDAwMDB9.x"); !ok || at.Unix() != 1700000000 {
		t.Errorf("got %v, %v", at, ok)
	}
	for _, s := range []string{"", "rsu_abc", "a.b.c", "e30.e30.x"} {
		if _, ok := client.TokenIssued(s); ok {
			t.Errorf("TokenIssued(%q): ok", s)
		}
	}
}

func TestDownloadConfigKeepsUnknownKeys(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var got map[string]any
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		want := map[string]any{"appId": 7.0, "version": "6.0.0", "provisioningKeyMaxUses": 3.0}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
		fmt.Fprint(w, `{"applicationId":7,"strange":[1]}`)
	})
	got, err := c.DownloadConfig(t.Context(), client.NewConfig{Fleet: 7, Version: "6.0.0", KeyMaxUses: 3})
	if err != nil || string(got) != `{"applicationId":7,"strange":[1]}` {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestFindFleetAmbiguous(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"d":[{"id":1,"slug":"a/x"},{"id":2,"slug":"b/x"}]}`)
	})
	_, err := c.FindFleet(t.Context(), "x", client.Query{})
	var many *client.AmbiguousError
	if !errors.As(err, &many) || !errors.Is(err, api.ErrInvalid) || len(many.Matches) != 2 {
		t.Errorf("got %v, want an ambiguity", err)
	}
}

func TestFindDeviceByNameOfHexDigits(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.RequestURI, "device_name%20eq%20%27face%27") {
			fmt.Fprint(w, `{"d":[{"id":9,"uuid":"0123"}]}`)
			return
		}
		fmt.Fprint(w, `{"d":[]}`)
	})
	if d, err := c.FindDevice(t.Context(), "face", client.Query{}); err != nil || d.ID != 9 {
		t.Errorf("got %+v, %v, want device 9", d, err)
	}
	if _, err := c.FindDevice(t.Context(), "beef", client.Query{}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestFindRelease(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.RequestURI, "/v7/release(12)?"):
			fmt.Fprint(w, `{"d":[{"id":12,"commit":"fff0"}]}`)
		case strings.Contains(r.RequestURI, "startswith(commit,%27aa"), strings.Contains(r.RequestURI, "startswith(commit,%2777"):
			fmt.Fprint(w, `{"d":[{"id":2,"commit":"aa01"},{"id":1,"commit":"aa01"}]}`)
		case strings.Contains(r.RequestURI, "startswith(commit,%27bb"):
			fmt.Fprint(w, `{"d":[{"id":3,"commit":"bb01"},{"id":4,"commit":"bb02"}]}`)
		default:
			fmt.Fprint(w, `{"d":[]}`)
		}
	})
	for ref, want := range map[string]int64{"12": 12, "aa": 2, "AA01": 2, "77": 2, "bb": 0, "nonsense": 0, "": 0, "99": 0} {
		r, err := c.FindRelease(t.Context(), ref, client.Query{})
		if (err == nil) != (want != 0) || (err == nil && r.ID != want) {
			t.Errorf("FindRelease(%q): got %v, %v, want %d", ref, r, err, want)
		}
	}
}

func TestTimeout(t *testing.T) {
	release := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Do(ctx, http.MethodGet, "/x", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want deadline exceeded", err)
	}
}
