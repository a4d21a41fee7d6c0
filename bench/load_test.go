package bench_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// wire is a client on one kept connection that does no more than it must: the machine's time is for the server. It reads
// answers whole and throws their bodies away.
type wire struct {
	conn net.Conn
	host string
	in   *bufio.Reader
	out  []byte
}

func newWire(conn net.Conn, host string) *wire {
	return &wire{conn: conn, host: host, in: bufio.NewReaderSize(conn, 32<<10)}
}

// do makes one request and gives the status of the answer.
func (c *wire) do(r request) (int, error) {
	b := append(c.out[:0], r.method...)
	b = append(append(b, ' '), strings.ReplaceAll(r.path, " ", "%20")...)
	b = append(append(b, " HTTP/1.1\r\nHost: "...), c.host...)
	b = append(b, "\r\nAccept-Encoding: gzip\r\n"...)
	for name, values := range r.header {
		b = append(append(append(append(b, name...), ": "...), values[0]...), "\r\n"...)
	}
	if r.body != nil {
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), int64(len(r.body)), 10), "\r\n"...)
	}
	b = append(append(b, "\r\n"...), r.body...)
	c.out = b
	if _, err := c.conn.Write(b); err != nil {
		return 0, err
	}
	return c.answer()
}

func (c *wire) line() ([]byte, error) {
	line, err := c.in.ReadSlice('\n')
	return bytes.TrimRight(line, "\r\n"), err
}

func (c *wire) answer() (int, error) {
	line, err := c.line()
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("not an answer: %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, err
	}
	length, chunked := int64(0), false
	for {
		if line, err = c.line(); err != nil {
			return 0, err
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return 0, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	if !chunked {
		return status, c.skip(length)
	}
	for {
		if line, err = c.line(); err != nil {
			return 0, err
		}
		n, err := strconv.ParseInt(string(line), 16, 64)
		if err != nil {
			return 0, err
		}
		if err := c.skip(n + 2); err != nil || n == 0 { // with the end of its line
			return status, err
		}
	}
}

func (c *wire) skip(n int64) error {
	_, err := c.in.Discard(int(n))
	return err
}

// outcome is what one measured stretch of load came to.
type outcome struct {
	requests int
	took     time.Duration
	slowest  time.Duration
}

func (o outcome) perSecond() float64 { return float64(o.requests) / o.took.Seconds() }

// saturate makes requests on every connection, each as fast as its answers come, for some time. next numbers the requests,
// over several stretches too.
func saturate(clients []*wire, h hot, next *atomic.Int64, length time.Duration) (outcome, error) {
	var o outcome
	var all sync.WaitGroup
	var mu sync.Mutex // covers o and failed
	var failed error
	began := time.Now()
	for _, c := range clients {
		all.Go(func() {
			n, slowest, err := c.repeat(h, next, began.Add(length))
			mu.Lock()
			defer mu.Unlock()
			o.requests += n
			o.slowest = max(o.slowest, slowest)
			failed = errors.Join(failed, err)
		})
	}
	all.Wait()
	o.took = time.Since(began)
	return o, failed
}

func (c *wire) repeat(h hot, next *atomic.Int64, until time.Time) (n int, slowest time.Duration, err error) {
	for at := time.Now(); at.Before(until); n++ {
		r := h.ask(int(next.Add(1)) - 1)
		status, err := c.do(r)
		if err != nil {
			return n, slowest, fmt.Errorf("%s: %w", h.name, err)
		}
		if status != h.want {
			rest, _ := io.ReadAll(io.LimitReader(c.in, int64(c.in.Buffered())))
			return n, slowest, fmt.Errorf("%s %s: got %d, want %d %s", r.method, r.path, status, h.want, rest)
		}
		now := time.Now()
		slowest, at = max(slowest, now.Sub(at)), now
	}
	return n, slowest, nil
}
