package bench_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

var (
	floodSeconds = setting("ROADSTEAD_BENCH_FLOOD", "10")
	floodRate    = setting("ROADSTEAD_BENCH_LOGINS", "10000") // a minute
)

// BenchmarkLoginFlood prints how long a page (50 devices, five columns) takes while 10,000 logins a minute come with wrong passwords, each
// from another address, so that no throttle stops them, half of them for accounts that there are. Budget: the API stays responsive, p99 ≤ 1 s.
func BenchmarkLoginFlood(b *testing.B) {
	seconds, err := strconv.Atoi(floodSeconds)
	if err != nil {
		b.Fatal(err)
	}
	rate, err := strconv.Atoi(floodRate)
	if err != nil {
		b.Fatal(err)
	}
	p := startRole(b, "")
	w := p.newWorld(b, 100)
	page := ask("GET", "/v7/device?$select=id,uuid,device_name,status,is_online&$top=50&$orderby=id asc", w.admin.APIKey, nil)
	fmt.Printf("\n%s\n| | pages | p50 ms | p99 ms | slowest ms | logins answered | of them told to come later |\n|---|---|---|---|---|---|---|\n", machine())
	for _, flood := range []bool{false, true} {
		var stop atomic.Bool
		var wg sync.WaitGroup
		var answered, later atomic.Int64
		if flood {
			wg.Go(func() {
				tick := time.NewTicker(time.Minute / time.Duration(rate))
				defer tick.Stop()
				for n := 0; !stop.Load(); n++ {
					<-tick.C
					name := "nobody" + strconv.Itoa(n)
					if n%2 == 0 {
						name = w.admin.Username
					}
					wg.Go(func() {
						a, err := w.send(api.RoleEdge, ask("POST", "/login_", "", api.Login{Username: name, Password: "a wrong password"},
							fmt.Sprintf("X-Forwarded-For: 10.%d.%d.%d", n>>16, n>>8&255, n&255)))
						if err != nil {
							return
						}
						answered.Add(1)
						if a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests {
							later.Add(1)
						}
					})
				}
			})
		}
		var took pageTimes
		for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
			began := time.Now()
			a, err := w.send(api.RoleEdge, page)
			w.must(err)
			if a.status != http.StatusOK {
				b.Fatalf("a page during the flood: %d %s", a.status, a.body)
			}
			took = append(took, float64(time.Since(began).Microseconds())/1000)
		}
		stop.Store(true)
		wg.Wait()
		slices.Sort(took)
		name := map[bool]string{false: "no logins", true: fmt.Sprintf("%d logins a minute", rate)}[flood]
		fmt.Printf("| %s | %d | %.1f | %.1f | %.1f | %d | %d |\n", name, len(took), took.at(50), took.at(99), took.at(100), answered.Load(), later.Load())
		if took.at(99) > 1000 {
			b.Errorf("p99 of a page is %.0f ms", took.at(99))
		}
	}
	b.ReportMetric(0, "ns/op")
}
