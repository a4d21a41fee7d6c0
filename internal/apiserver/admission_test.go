package apiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver"
)

// bounded starts a server anew with bounds that a test reaches.
func bounded(t *testing.T, bounds apiserver.Admission) *server {
	t.Helper()
	s := newServer(t)
	s.stop()
	s.bounds = bounds
	s.start()
	return s
}

// retryAfter is when an answer wants its client back.
func retryAfter(t *testing.T, a *answer) int {
	t.Helper()
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil {
		t.Fatalf("Retry-After %q: %v", a.header.Get("Retry-After"), err)
	}
	return seconds
}

// Attack, or a power cut: as many requests of devices come as there are places, and more wait than may. The next one is told
// when to come again; people, other roles and health checks are answered as ever.
func TestDevicesDoNotTakeThePlacesOfPeople(t *testing.T) {
	s := bounded(t, apiserver.Admission{DeviceRequests: 2})
	dev := s.device(s.admin.APIKey, s.fleet(s.admin.APIKey, "harbour"), hexUUID(1))
	state := "/device/v3/" + string(dev.UUID) + "/state"
	s.do(dev.APIKey, "GET", state, nil).want(http.StatusOK)

	leave, err := s.running.HoldDevices(t.Context(), 0)
	s.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- s.running.WaitAmongDevices(ctx, 2*64) }()
	s.waiting(2 * 64)
	for _, path := range []string{state, "/v7/device?$select=id"} { // the second is found to be a device's when its key is looked at
		began := time.Now()
		refused := s.do(dev.APIKey, "GET", path, nil).want(http.StatusServiceUnavailable)
		if n := retryAfter(t, refused); n < 5 || n > 30 {
			t.Errorf("GET %s: come again after %d s", path, n)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("GET %s: it took %s to say so", path, d)
		}
	}
	s.do(s.admin.APIKey, "GET", "/v7/device?$select=id", nil).want(http.StatusOK)
	s.role(api.RoleParent, "GET", "/healthz", nil).want(http.StatusOK)
	s.do("", "GET", "/ping", nil).want(http.StatusOK)
	cancel()
	if err := <-gone; err == nil {
		t.Error("somebody got in")
	}
	leave()
	s.do(dev.APIKey, "GET", state, nil).want(http.StatusOK)
}

// waiting waits until so many requests of devices wait.
func (s *server) waiting(n int) {
	s.Helper()
	var load struct{ Devices struct{ Waiting int } }
	for end := time.Now().Add(10 * time.Second); load.Devices.Waiting != n; {
		if time.Now().After(end) {
			s.Fatalf("%d requests wait, not %d", load.Devices.Waiting, n)
		}
		s.role(api.RoleAdmin, "GET", "/internal/v1/load", nil).want(http.StatusOK).into(&load)
	}
}

// One user cannot take the service down for others: beyond a share, requests wait, and beyond that they are refused.
func TestOneUserHasOnlyAShare(t *testing.T) {
	s := bounded(t, apiserver.Admission{CallerRequests: 1})
	var me struct{ ID int64 }
	s.do(s.admin.APIKey, "GET", "/user/v1/whoami", nil).want(http.StatusOK).into(&me)
	other := s.user("grace")
	leave, err := s.running.HoldUser(t.Context(), me.ID)
	s.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answers := make(chan int, 100)
	for range 17 { // sixteen may wait
		go func() {
			req, err := http.NewRequestWithContext(ctx, "GET", s.edge().URL+"/v7/device?$select=id", nil)
			if err == nil {
				req.Header.Set("Authorization", "Bearer "+s.admin.APIKey)
				req.Host = "api.roadstead.test"
				if res, err := s.edge().HTTP.Do(req); err == nil {
					_ = res.Body.Close()
					answers <- res.StatusCode
					return
				}
			}
			answers <- 0
		}()
	}
	if status := <-answers; status != http.StatusTooManyRequests {
		t.Fatalf("the first answer is %d, want 429", status)
	}
	refused := s.do(s.admin.APIKey, "GET", "/v7/device?$select=id", nil).want(http.StatusTooManyRequests)
	if n := retryAfter(t, refused); n < 1 || n > 59 { // from a minute on, the balena CLI does not try again
		t.Errorf("come again after %d s", n)
	}
	if !strings.Contains(refused.body, "too many requests") {
		t.Errorf("it says %s", refused.body)
	}
	s.do(other, "GET", "/v7/device?$select=id", nil).want(http.StatusOK)
	leave()
	for range 16 {
		if status := <-answers; status != http.StatusOK {
			t.Errorf("one that waited was answered %d", status)
		}
	}
}

// Attack: bodies that come slowly, or never. They keep no place.
func TestSlowBodiesKeepNoPlace(t *testing.T) {
	s := bounded(t, apiserver.Admission{DeviceRequests: 1})
	fleet := s.fleet(s.admin.APIKey, "harbour")
	dev := s.device(s.admin.APIKey, fleet, hexUUID(1))
	for name, sent := range map[string]string{"short": "{", "long": "{" + strings.Repeat(" ", 100<<10)} {
		ctx, cancel := context.WithCancel(t.Context())
		body, send := io.Pipe()
		req, err := http.NewRequestWithContext(ctx, "PATCH", s.edge().URL+"/device/v3/state", body)
		s.must(err)
		req.Header.Set("Authorization", "Bearer "+dev.APIKey)
		req.Header.Set("Content-Type", "application/json")
		req.Host = "api.roadstead.test"
		done := make(chan string, 1)
		go func() {
			res, err := s.edge().HTTP.Do(req)
			if err != nil {
				done <- err.Error()
				return
			}
			_ = res.Body.Close()
			done <- res.Status
		}()
		_, err = send.Write([]byte(sent))
		s.must(err)
		began := time.Now()
		s.do(dev.APIKey, "GET", "/device/v3/"+string(dev.UUID)+"/state", nil).want(http.StatusOK)
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("%s: another request took %s", name, d)
		}
		// It is answered when the rest comes after all.
		_, err = io.Copy(send, bytes.NewReader(fmt.Appendf(nil, `%q:{"name":"a-name"}}`, dev.UUID)))
		s.must(err)
		s.must(send.Close())
		if got := <-done; got != "200 OK" {
			t.Errorf("%s: the slow one was answered %s", name, got)
		}
		cancel()
	}
}

func TestAdmissionNamesABadBound(t *testing.T) {
	for name, bounds := range map[string]apiserver.Admission{
		"device_requests": {DeviceRequests: -1}, "user_requests": {UserRequests: -1}, "caller_requests": {CallerRequests: -1},
		"streams": {Streams: -1}, "handshakes": {Handshakes: -1}, "idle_connections": {IdleConnections: -1},
	} {
		if err := bounds.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
