package admission_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/admission"
)

// idler is a client that keeps its connection.
type idler struct {
	net.Conn
	in *bufio.Reader
}

func (c idler) ask() error {
	if _, err := fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// The connections beyond the bound that were idle for longest are closed; one that is asked on again is the youngest.
func TestTheLongestIdleConnectionEnds(t *testing.T) {
	idle := admission.NewIdle(3)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	srv.Config.ConnState = idle.State
	srv.Start()
	defer srv.Close()
	clients := make([]idler, 5)
	ask := func(n int) {
		t.Helper()
		if clients[n].Conn == nil {
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			clients[n] = idler{conn, bufio.NewReader(conn)}
		}
		if err := clients[n].ask(); err != nil {
			t.Fatalf("client %d: %v", n, err)
		}
		want := 0
		for _, c := range clients {
			if c.Conn != nil {
				want++
			}
		}
		for deadline := time.Now().Add(5 * time.Second); idle.Len() != min(want, 3); { // a connection is idle a moment after its answer
			if time.Now().After(deadline) {
				t.Fatalf("%d connections are idle, want %d", idle.Len(), min(want, 3))
			}
			<-time.After(time.Millisecond)
		}
	}
	for n := range 3 {
		ask(n)
	}
	ask(0) // now client 1 has been idle for longest
	ask(2)
	ask(3)
	ask(4)
	for n, c := range clients {
		ended := n == 0 || n == 1
		wait := 100 * time.Millisecond
		if ended {
			wait = 10 * time.Second
		}
		_ = c.SetReadDeadline(time.Now().Add(wait))
		_, err := c.in.ReadByte()
		if timeout, ok := err.(net.Error); (ok && timeout.Timeout()) == ended { //nolint:errorlint // of the connection itself
			t.Errorf("client %d: %v; ended is to be %t", n, err, ended)
		}
	}
}
