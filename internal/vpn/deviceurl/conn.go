package deviceurl

import (
	"io"
	"net"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/internal/vpn/permit"
)

type readCloser = io.ReadCloser

// download is the body of an answer.
type download struct {
	io.ReadCloser
	leave *permit.Permit
}

func (d *download) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	d.leave.Count(0, int64(n))
	return n, err
}

// socket is both ways of a WebSocket, as the device has it.
type socket struct {
	io.ReadWriteCloser
	leave *permit.Permit
}

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(p)
	s.leave.Count(0, int64(n))
	return n, err
}

func (s *socket) Write(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Write(p)
	s.leave.Count(int64(n), 0)
	return n, err
}

// patient is a connection on whose other side somebody may take nothing for a while, but not for ever.
type patient struct{ net.Conn }

func (p *patient) Write(b []byte) (int, error) {
	_ = p.SetWriteDeadline(time.Now().Add(stallTime))
	return p.Conn.Write(b)
}

// door is a listener that bounds what is open, in all and of one address. What is too much is closed at once.
type door struct {
	net.Listener
	most, perAddress int

	mu  sync.Mutex // covers what follows
	all int
	of  map[string]int
}

func newDoor(ln net.Listener, most, perAddress int) *door {
	return &door{Listener: ln, most: most, perAddress: perAddress, of: map[string]int{}}
}

func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		d.mu.Lock()
		full := d.all >= d.most || d.of[from] >= d.perAddress
		if !full {
			d.all++
			d.of[from]++
		}
		d.mu.Unlock()
		if full {
			_ = conn.Close()
			continue
		}
		return &entered{patient: patient{conn}, leave: sync.OnceFunc(func() { d.left(from) })}, nil
	}
}

func (d *door) left(from string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all--
	if d.of[from]--; d.of[from] == 0 {
		delete(d.of, from)
	}
}

// entered is a visitor's connection.
type entered struct {
	patient
	leave func()
}

func (e *entered) Close() error {
	e.leave()
	return e.Conn.Close()
}
