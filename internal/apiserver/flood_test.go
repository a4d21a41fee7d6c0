package apiserver_test

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/password"
)

// The attack: logins from everywhere, each from another address, many at a time. Pages are answered meanwhile, the logins that are too many are
// told to come later, and memory stays bounded: a hash takes 19 MiB, and no more than two are computed at once.
func TestALoginFloodKeepsNobodyWaiting(t *testing.T) {
	s := newServer(t)
	s.stop()
	s.cost = password.Floor // what it costs is what the attack is about
	s.start()
	var stop atomic.Bool
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := map[int]int{}
	edge := s.edge()
	for worker := range 100 { // more than people's requests have places
		wg.Go(func() {
			for n := 0; !stop.Load() && n < 250; n++ {
				status := s.loginFrom(edge.HTTP, edge.URL, fmt.Sprintf("10.%d.%d.1", worker, n))
				mu.Lock()
				count[status]++
				mu.Unlock()
			}
		})
	}
	var most uint64
	var load struct {
		People, Logins struct{ Running, Waiting int }
	}
	for n := 0; n < 16 || load.Logins.Waiting == 0 && n < 500; n++ {
		s.do(s.admin.APIKey, "GET", "/v7/device?$select=id", nil).want(http.StatusOK)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapInuse)
		if n >= 8 && load.Logins.Waiting == 0 {
			s.role(api.RoleAdmin, "GET", "/internal/v1/load", nil).want(http.StatusOK).into(&load)
		}
	}
	stop.Store(true)
	wg.Wait()
	if load.People.Running > 8 || load.Logins.Running > 4 || load.Logins.Waiting == 0 {
		t.Errorf("during the flood: %+v", load)
	}
	if count[http.StatusServiceUnavailable] == 0 || count[http.StatusUnauthorized] == 0 {
		t.Errorf("the logins were answered %v", count)
	}
	if most > 400<<20 {
		t.Errorf("%d MiB in use", most>>20)
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
	_ = res.Body.Close()
	return res.StatusCode
}
