package cage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/internal/vpn/line"
)

// Bounds of a connection of the public.
const (
	// deadAfter is how long what was sent may go unacknowledged, and how long a silent peer is believed: openvpn sends a ping each ten seconds.
	deadAfter = 20 * time.Second
	// knownBy is when a connection must have become a device's session; the vpn role writes a note on it then.
	knownBy = 45 * time.Second
)

// flow is a connection of the public, and the one to openvpn in the namespace.
type flow struct {
	public, inner net.Conn
	from, note    string
	known         *time.Timer // closes it, unless there is a note by then
}

func (f *flow) close() {
	f.known.Stop()
	_, _ = f.public.Close(), f.inner.Close()
}

// flows are the connections of one openvpn process, by the port that it sees.
type flows struct {
	mu   sync.Mutex // covers what follows
	open map[int]*flow
	work sync.WaitGroup
}

// take carries a connection of the public to openvpn, from now on.
func (i *instance) take(ctx context.Context, file *os.File, from string, read []byte) (port int, err error) {
	public, err := net.FileConn(file)
	if err != nil {
		return 0, err
	}
	tcp, ok := public.(*net.TCPConn)
	if !ok {
		return 0, errors.Join(fmt.Errorf("a %T is no connection of the public", public), public.Close())
	}
	if err := endWhenDead(tcp); err != nil {
		return 0, errors.Join(err, public.Close())
	}
	var d net.Dialer
	inner, err := d.DialContext(ctx, "tcp4", i.address())
	if err != nil {
		return 0, errors.Join(err, public.Close())
	}
	if _, err := inner.Write(read); err != nil {
		return 0, errors.Join(err, public.Close(), inner.Close())
	}
	port = inner.LocalAddr().(*net.TCPAddr).Port
	f := &flow{public: public, inner: inner, from: from}
	f.known = time.AfterFunc(knownBy, func() { i.flows.unknown(port, f) })
	i.flows.mu.Lock()
	i.flows.open[port] = f
	i.flows.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{public, inner}, {inner, public}} {
		both.Go(func() {
			carry(way[1], way[0])
			f.close() // one direction without the other is of no use to openvpn
		})
	}
	i.flows.work.Go(func() {
		both.Wait()
		i.flows.mu.Lock()
		if i.flows.open[port] == f {
			delete(i.flows.open, port)
		}
		i.flows.mu.Unlock()
	})
	return port, nil
}

// endWhenDead makes the kernel find out that the other side is gone.
func endWhenDead(conn *net.TCPConn) error {
	err := conn.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3})
	if err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	err = raw.Control(func(fd uintptr) {
		setErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
	})
	return errors.Join(err, setErr)
}

var buffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// carry copies until either end closes. While nothing comes it holds no memory but its own: most devices are silent most of the time.
func carry(to, from net.Conn) {
	sc, ok := from.(syscall.Conn)
	if !ok {
		_, _ = io.Copy(to, from)
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	for {
		var buf *[16 << 10]byte
		var n int
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			buf = buffers.Get().(*[16 << 10]byte)
			n, readErr = unix.Read(int(fd), buf[:])
			if errors.Is(readErr, unix.EAGAIN) || errors.Is(readErr, unix.EINTR) {
				buffers.Put(buf)
				buf, readErr = nil, nil
				return false
			}
			return true
		})
		if buf == nil {
			return
		}
		if err == nil && readErr == nil && n > 0 {
			_, err = to.Write(buf[:n])
		} else {
			err = io.EOF
		}
		buffers.Put(buf)
		if err != nil {
			return
		}
	}
}

// unknown ends a connection that nobody has made known in time.
func (f *flows) unknown(port int, of *flow) {
	f.mu.Lock()
	end := f.open[port] == of && of.note == ""
	f.mu.Unlock()
	if end {
		of.close()
	}
}

// list gives the connections of ports beyond one, in order.
func (f *flows) list(after, most int) (list []line.Flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ports []int
	for port := range f.open {
		if port > after {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	for _, port := range ports[:min(most, len(ports))] {
		list = append(list, line.Flow{Port: port, From: f.open[port].from, Note: f.open[port].note})
	}
	return list
}

// maxNote bounds what is kept of a connection: a hundred of them fit in one message.
const maxNote = 400

func (f *flows) note(port int, text string) error {
	if len(text) > maxNote {
		return fmt.Errorf("a note of %d bytes is longer than %d", len(text), maxNote)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	one := f.open[port]
	if one == nil {
		return errors.New("there is no such connection any more")
	}
	one.note = text
	return nil
}

func (f *flows) drop(port int) {
	f.mu.Lock()
	one := f.open[port]
	f.mu.Unlock()
	if one != nil {
		one.close()
	}
}

func (f *flows) closeAll() {
	f.mu.Lock()
	for _, one := range f.open {
		one.close()
	}
	f.mu.Unlock()
	f.work.Wait()
}
