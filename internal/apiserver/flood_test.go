package apiserver_test

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// The attack: logins from everywhere, each from another address, many at a time. Whoever opens pages meanwhile has a place at once, for the
// logins wait in a line of their own; those that are too many are told to come later, and memory stays bounded: a hash takes 19 MiB, and no
// more than two are computed at once. What counts is who stands where, not how long it takes: that is the machine's affair.
func TestALoginFloodKeepsNobodyWaiting(t *testing.T) {
	s := newServer(t)
	s.stop()
	s.cost = password.Floor // what it costs is what the attack is about
	s.start()
	people, admin := s.kept(api.RoleEdge), s.kept(api.RoleAdmin) // connected before the flood: it is places that are looked at, not handshakes
	page := func() { people("/v7/device?$select=id", nil) }
	var load struct {
		People, Logins struct{ Running, Waiting, Refused int }
	}
	look := func() { admin("/internal/v1/load", &load) }
	page()
	look()

	var stop atomic.Bool
	var wg sync.WaitGroup
	var mu sync.Mutex // covers count
	count := map[int]int{}
	edge := s.edge()
	defer wg.Wait() // however it ends, this comes after stop
	defer stop.Store(true)
	for worker := range 100 { // more than people's requests have places
		wg.Go(func() {
			for n := 0; !stop.Load(); n++ {
				status := s.loginFrom(edge.HTTP, edge.URL, fmt.Sprintf("10.%d.%d.%d", worker, n>>8&255, n&255))
				mu.Lock()
				count[status]++
				mu.Unlock()
			}
		})
	}
	// The flood has come when there is a line somewhere: that of the logins, or, if they had none, that of the people.
	for look(); load.Logins.Waiting == 0 && load.People.Waiting == 0; {
		look()
	}
	var most uint64
	answered := func(status int) bool { mu.Lock(); defer mu.Unlock(); return count[status] > 0 }
	for n := 0; !t.Failed() && (n < 16 || !answered(http.StatusServiceUnavailable) || !answered(http.StatusUnauthorized)); n++ {
		page()
		look()
		// The place of the page that has just been answered may not be given back yet; nobody else is there.
		if load.People.Running > 1 || load.People.Waiting > 0 || load.People.Refused > 0 || load.Logins.Running > 4 || load.Logins.Waiting > 60 {
			t.Errorf("during the flood, at page %d: %+v", n, load)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapInuse)
	}
	if load.Logins.Refused == 0 {
		t.Errorf("no login was turned away: %+v", load)
	}
	if most > 400<<20 {
		t.Errorf("%d MiB in use", most>>20)
	}
}

// kept gives what asks as a role, over one connection that stays.
func (s *server) kept(role string) func(path string, into any) {
	s.Helper()
	id, err := pki.LoadIdentity(filepath.Join(s.dir, role))
	s.must(err)
	peer := id.Client(api.RoleAPI, s.addr)
	s.Cleanup(peer.HTTP.CloseIdleConnections)
	return func(path string, into any) {
		s.Helper()
		req, err := http.NewRequestWithContext(s.Context(), "GET", peer.URL+path, nil)
		s.must(err)
		req.Host = "api.roadstead.test"
		if role == api.RoleEdge {
			req.Header.Set("Authorization", "Bearer "+s.admin.APIKey)
			req.Header.Set("X-Forwarded-For", "192.0.2.1")
		}
		res, err := peer.HTTP.Do(req)
		s.must(err)
		defer func() { _ = res.Body.Close() }()
		data, err := io.ReadAll(res.Body)
		s.must(err)
		a := &answer{TB: s.TB, what: "GET " + path, status: res.StatusCode, header: res.Header, body: string(data)}
		if a.want(http.StatusOK); into != nil {
			a.into(into)
		}
	}
}

// loginFrom tries a wrong password from an address.
func (s *server) loginFrom(c *http.Client, base, address string) int {
	req, err := http.NewRequestWithContext(s.Context(), "POST", base+"/login_", strings.NewReader(`{"username":"nobody","password":"a wrong password"}`))
	if err != nil {
		return 0
	}
	req.Host = "api.roadstead.test"
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Forwarded-For", address)
	res, err := c.Do(req)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, res.Body) // else the connection is closed, and a flood of handshakes takes every processor and every port
	_ = res.Body.Close()
	return res.StatusCode
}
