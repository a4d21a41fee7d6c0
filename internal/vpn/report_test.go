package vpn

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// More sessions than a report holds are told of in parts that together are all of them, also when one is lost in between; what begins
// and ends meanwhile is told as well.
func TestManySessionsAreToldInParts(t *testing.T) {
	const many = 2*api.MaxChannelReport + 100
	var mu sync.Mutex // covers what follows
	var heard []api.ChannelReport
	refuse := 0
	role := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var report api.ChannelReport
		if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
			t.Error(err)
		}
		if refuse--; refuse == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		heard = append(heard, report)
		_ = json.NewEncoder(w).Encode(api.ChannelAnswer{})
	}))
	defer role.Close()
	s := &Server{log: slog.New(slog.DiscardHandler), api: &pki.Peer{URL: role.URL, HTTP: role.Client()}, boot: "b", devices: map[string]*session{}}
	i := &instance{server: s, known: true, full: true, changed: make(chan struct{}, 1), knocks: map[int]*knock{}, clients: map[int]*session{}}
	s.instances = []*instance{i}
	add := func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.begin(&session{id: newID(), uuid: fmt.Sprintf("%032x", n), instance: i, client: n, address: "10.240.0.9", identity: api.IdentityKey})
	}
	for n := range many {
		add(n)
	}
	next := func(wantAgain bool) api.ChannelReport {
		t.Helper()
		again, err := i.report(t.Context())
		if err != nil || again != wantAgain {
			t.Fatalf("again: %v, %v", again, err)
		}
		mu.Lock()
		defer mu.Unlock()
		return heard[len(heard)-1]
	}
	whole := func() (names []string, parts []api.ChannelReport) {
		t.Helper()
		for after := ""; ; {
			r := next(true)
			if !r.Full || r.After != after || len(r.Up) > api.MaxChannelReport || len(r.Down) > 0 {
				t.Fatalf("a part with %d sessions, full %v, from %q, want from %q", len(r.Up), r.Full, r.After, after)
			}
			for _, u := range r.Up {
				if u.Session <= r.After || r.To != "" && u.Session > r.To {
					t.Fatalf("session %s in the part from %q to %q", u.Session, r.After, r.To)
				}
				names = append(names, u.Session)
			}
			parts = append(parts, r)
			if after = r.To; len(parts) == 1 {
				add(many + len(names)) // meanwhile one comes
			}
			if len(parts) == 2 {
				return names, parts
			}
		}
	}
	names, _ := whole()
	last := next(true) // the one that came is to be told, too
	for _, u := range last.Up {
		names = append(names, u.Session)
	}
	if last.To != "" || !last.Full {
		t.Errorf("the last part is up to %q", last.To)
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) < many || len(names) > many+1 {
		t.Errorf("%d sessions were told of, want %d", len(names), many)
	}
	if r := next(false); r.Full || len(r.Up) != 1 {
		t.Errorf("what came meanwhile: %d sessions, full %v", len(r.Up), r.Full)
	}
	if r := next(false); r.Full || len(r.Up)+len(r.Down) != 0 {
		t.Errorf("nothing more is there to tell: %+v", r)
	}

	// A part that is lost: everything anew.
	s.mu.Lock()
	i.everything()
	s.mu.Unlock()
	mu.Lock()
	refuse = 2
	mu.Unlock()
	first := next(true)
	if again, err := i.report(t.Context()); err == nil || again {
		t.Fatalf("a report that failed: again %v, %v", again, err)
	}
	if r := next(true); !r.Full || r.After != "" || len(r.Up) != len(first.Up) {
		t.Errorf("after a failure: full %v from %q", r.Full, r.After)
	}
}
