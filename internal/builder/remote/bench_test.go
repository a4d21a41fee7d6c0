package remote_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/builder/pool"
)

// far is a way to an address on which every byte is so long under way.
func far(t testing.TB, to string, delay time.Duration) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	type part struct {
		at   time.Time
		data []byte
	}
	carry := func(to, from net.Conn) {
		way := make(chan part, 4096)
		go func() {
			defer func() { _ = to.Close() }()
			for p := range way {
				<-time.After(time.Until(p.at))
				if _, err := to.Write(p.data); err != nil {
					_ = from.Close()
				}
			}
		}()
		for {
			data := make([]byte, 64<<10)
			n, err := from.Read(data)
			if n > 0 {
				way <- part{time.Now().Add(delay), data[:n]}
			}
			if err != nil {
				close(way)
				return
			}
		}
	}
	go func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				_ = a.Close()
				continue
			}
			go carry(a, b)
			go carry(b, a)
		}
	}()
	return ln.Addr().String()
}

// How fast a finished image comes back from a worker: one stream, one direction.
func BenchmarkStream(b *testing.B) {
	for _, trip := range []time.Duration{0, 30 * time.Millisecond} {
		b.Run(fmt.Sprintf("trip=%s", trip), func(b *testing.B) {
			const size = 256 << 20
			w := newWorld(b)
			if trip > 0 {
				w.reach = far(b, w.at, trip/2)
			}
			mux := http.NewServeMux()
			mux.Handle("GET /v1/status", statusOnly())
			mux.HandleFunc("POST /v1/domains/{d}/connect", func(res http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(res).Hijack()
				if err != nil {
					return
				}
				defer func() { _ = conn.Close() }()
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: buildkit\r\n\r\n")
				block := make([]byte, 1<<20)
				for range size / len(block) {
					if _, err := conn.Write(block); err != nil {
						return
					}
				}
			})
			w.machine("arm-1", manager(b, mux))
			await(b, "it is in the pool", func() bool { _, ok := w.member("arm-1"); return ok })
			b.SetBytes(size)
			for b.Loop() {
				l, err := w.pool.Choose(b.Context(), pool.Wish{Domain: "org-1", Platform: "linux/arm64"})
				if err != nil {
					b.Fatal(err)
				}
				conn, err := l.Connect(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.CopyN(io.Discard, conn, size); err != nil {
					b.Fatalf("%d bytes, %v", n, err)
				}
				_ = conn.Close()
				l.Leave()
			}
		})
	}
}
