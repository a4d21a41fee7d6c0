package apiserver_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// stream opens a request whose answer does not end, and waits for its header.
func (s *server) stream(token, path string) *http.Response {
	s.Helper()
	resp := s.stream0(token, path)
	if resp.StatusCode != http.StatusOK {
		s.Fatalf("GET %s: got %d", path, resp.StatusCode)
	}
	return resp
}

// stream0 is the same whatever the status.
func (s *server) stream0(token, path string) *http.Response {
	s.Helper()
	id, err := pki.LoadIdentity(filepath.Join(s.dir, api.RoleEdge))
	s.must(err)
	peer := id.Client(api.RoleAPI, s.addr)
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, peer.URL+path, nil)
	s.must(err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := peer.HTTP.Do(req)
	s.must(err)
	s.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// ended waits until a stream ends, and says how long that took.
func (s *server) ended(resp *http.Response) time.Duration {
	s.Helper()
	start, done := time.Now(), make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, bufio.NewReader(resp.Body))
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		s.Error("the stream goes on")
	}
	return time.Since(start)
}

// A server that stops does not wait for streams: they end, and their clients come again.
func TestStoppingEndsStreams(t *testing.T) {
	s := newServer(t)
	session := s.login(s.admin.Username, s.admin.Password)
	device := s.device(session, s.fleet(session, "hello"), api.DeviceUUID(strings.Repeat("a", 32)))
	resp := s.stream(session, fmt.Sprintf("/device/v2/%s/logs?stream=1", device.UUID))
	start := time.Now()
	s.stop()
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("the stop took %v", took)
	}
	s.ended(resp)
}

// Whoever logs out, loses a key or a session, loses what was open with it, within two seconds.
func TestRevokingEndsStreams(t *testing.T) {
	s := newServer(t)
	session := s.login(s.admin.Username, s.admin.Password)
	device := s.device(session, s.fleet(session, "hello"), api.DeviceUUID(strings.Repeat("a", 32)))
	path := fmt.Sprintf("/device/v2/%s/logs?stream=1", device.UUID)
	var key string
	s.do(session, "POST", "/api-key/user/full", api.NewKey{Name: "short"}).want(http.StatusOK).into(&key)
	id := s.do(session, "GET", q("/v7/api_key?$select=id&$filter=name eq 'short'"), nil).rows()[0]["id"]

	byKey, bySession := s.stream(key, path), s.stream(session, path)
	s.do(session, "DELETE", "/v7/api_key("+itoa(id)+")", nil).want(http.StatusOK)
	if took := s.ended(byKey); took > 2*time.Second {
		t.Errorf("the stream of a deleted key went on for %v", took)
	}
	s.do(session, "POST", "/user/v1/logout", nil).want(http.StatusOK)
	if took := s.ended(bySession); took > 2*time.Second {
		t.Errorf("the stream of an ended session went on for %v", took)
	}
}

// A disabled user loses what is open, with a session and with keys, and opens nothing more.
func TestDisablingEndsStreams(t *testing.T) {
	s := newServer(t)
	session := s.login(s.admin.Username, s.admin.Password)
	fleet := s.fleet(session, "hello")
	device := s.device(session, fleet, api.DeviceUUID(strings.Repeat("a", 32)))
	var reader string
	s.do(session, "POST", "/api-key/v1", api.NewKey{ActorType: "application", ActorTypeID: fleet, Roles: []string{"fleet-api-key"}}).
		want(http.StatusOK).into(&reader)
	path := fmt.Sprintf("/device/v2/%s/logs?stream=1", device.UUID)
	open := map[string]*http.Response{"session": s.stream(session, path), "named key": s.stream(s.admin.APIKey, path)}
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/change", api.UserChange{User: s.admin.Username, Act: api.UserDisable}).want(http.StatusOK)
	for what, resp := range open {
		if took := s.ended(resp); took > 2*time.Second {
			t.Errorf("the stream of a %s went on for %v", what, took)
		}
	}
	for what, token := range map[string]string{"session": session, "named key": s.admin.APIKey, "fleet key": reader} {
		if got := s.do(token, "GET", "/actor/v1/whoami", nil); got.status != http.StatusUnauthorized {
			t.Errorf("whoami with a %s: got %d", what, got.status)
		}
		if got := s.do(token, "GET", "/v7/application", nil); got.status != http.StatusUnauthorized {
			t.Errorf("fleets with a %s: got %d", what, got.status)
		}
	}
	s.do(device.APIKey, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
}
