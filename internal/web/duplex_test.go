package web_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/web"
)

// What is left of a body whose handler did not wait for it must never be taken for a request: the connection is one that the edge shares
// among everybody. The sender stalls until the answer has begun, so that nothing could be read to its end, and then sends the rest.
func TestTheRestOfABodyIsNoRequest(t *testing.T) {
	var served atomic.Int32
	mux := http.NewServeMux()
	mux.Handle("POST /push", web.FullDuplex(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now()) // as one who was told to stop
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})))
	mux.HandleFunc("GET /inside", func(http.ResponseWriter, *http.Request) { served.Add(1) })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	inside := "GET /inside HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, body := range []struct{ name, head, begin, rest string }{
		{"of known length", fmt.Sprintf("Content-Length: %d", 4+len(inside)), "abcd", inside},
		{"in chunks", "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\nabcd", 4+len(inside)), inside + "\r\n0\r\n\r\n"},
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(srv.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "POST /push HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s", body.head, body.begin)
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("%s: %v", body.name, err)
		}
		if res.StatusCode != http.StatusRequestEntityTooLarge || !res.Close {
			t.Errorf("%s: got %d, close %t, want 413 and the last answer of its connection", body.name, res.StatusCode, res.Close)
		}
		_, _ = io.WriteString(conn, body.rest)
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if more, err := in.ReadString('\n'); more != "" {
			t.Errorf("%s: the rest of the body was answered: %q %v", body.name, more, err)
		}
		_ = conn.Close()
	}
	if n := served.Load(); n != 0 {
		t.Errorf("%d requests that were inside bodies were served", n)
	}
}

// A body that was read before the answer began costs no connection.
func TestAConnectionOutlivesABodyThatWasRead(t *testing.T) {
	srv := httptest.NewServer(web.FullDuplex(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		_, _ = w.Write(text)
	})))
	defer srv.Close()
	for range 3 {
		res, err := http.Post(srv.URL, "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(text) != "hello" || res.Close {
			t.Errorf("got %q, close %t", text, res.Close)
		}
	}
}
