package channel_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/channel"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// A certificate is renewed when a third of its life is left, while the connection stands and goes on standing; the next connection shows the
// new one.
func TestTheCertificateIsRenewedWhileConnected(t *testing.T) {
	if !roletest.Inside(t) {
		return
	}
	s := newServer(t)
	s.live(2 * time.Hour) // from an hour ago on
	dir := t.TempDir()
	var ahead atomic.Int64
	var mu sync.Mutex // covers told
	var told []string
	d := s.device(t, dir, func(c *channel.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		c.Timing.Renew = 50 * time.Millisecond
		c.Certified = func(answer api.ChannelIdentity) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, answer.Certificate)
		}
	})
	certificate := func() string {
		var kept struct {
			Answer api.ChannelIdentity `json:"answer"`
		}
		text, err := os.ReadFile(filepath.Join(dir, "channel", "identity.json"))
		if err != nil || json.Unmarshal(text, &kept) != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return kept.Answer.Certificate
	}
	d.Set(on)
	roletest.Eventually(t, "connected", d.state(api.ChannelStateOn))
	first, process := certificate(), openvpns(t)
	ahead.Store(int64(58 * time.Minute)) // it has a third of its life and a little more
	roletest.Eventually(t, "the services are reached", func() bool { return reaches("srv", "http://"+address+":48484") == "device API" })
	if n := s.times(); n != 1 || certificate() != first {
		t.Errorf("before its time it was asked for %d times", n)
	}
	s.mu.Lock()
	s.away = true
	s.mu.Unlock()
	ahead.Store(int64(61 * time.Minute))
	roletest.Eventually(t, "it is asked for, but the server is away", func() bool { return s.times() > 2 })
	s.live(5 * time.Hour) // by the clock of the server, which is behind
	s.mu.Lock()
	s.away = false
	s.mu.Unlock()
	roletest.Eventually(t, "it is renewed", func() bool { return certificate() != first })
	second := certificate()
	roletest.Eventually(t, "the rest of the agent hears of it", func() bool { mu.Lock(); defer mu.Unlock(); return len(told) == 2 && told[1] == second })
	if now := openvpns(t); len(now) != 1 || len(process) != 1 || !d.state(api.ChannelStateOn)() {
		t.Errorf("the connection did not stand: %v, before %v", now, process)
	}
	for pid := range process {
		if _, still := openvpns(t)[pid]; !still {
			t.Error("openvpn was started anew")
		}
		sh(t, "kill -9 "+pid)
	}
	roletest.Eventually(t, "noticed", func() bool { return !d.state(api.ChannelStateOn)() })
	roletest.Eventually(t, "connected again", d.state(api.ChannelStateOn))
	if certificate() != second {
		t.Error("the next connection asked for another certificate")
	}
}
