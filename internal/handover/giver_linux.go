package handover

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxWaiting bounds how many connections wait in the channel; more wait before it, and what waits there nobody else can take.
const maxWaiting = 32

// Giver is the end of a channel that hands connections over.
type Giver struct {
	conn  *net.UnixConn
	slots chan struct{} // one for each connection in the channel

	writing sync.Mutex // one message at a time, each with a deadline of its own

	mu      sync.Mutex // covers what follows
	last    uint64
	waiting map[uint64]chan struct{} // closed when the connection was taken
}

// NewGiver uses an end made by [Pair]. It starts nothing; see [Giver.Run].
func NewGiver(end *os.File) (*Giver, error) {
	conn, err := open(end)
	if err != nil {
		return nil, err
	}
	// The numbers of a process before this one may still come back from takers.
	return &Giver{conn: conn, slots: make(chan struct{}, maxWaiting), last: rand.Uint64(), waiting: map[uint64]chan struct{}{}}, nil
}

// Run hears what is taken, until the context ends.
func (g *Giver) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = g.conn.Close() })
	defer stop()
	var answer [8]byte
	for {
		n, err := g.conn.Read(answer[:])
		if ctx.Err() != nil || errors.Is(err, io.EOF) { // or the other end is gone for good, and Give says so
			return nil
		}
		if err != nil {
			return fmt.Errorf("handover: %w", err)
		}
		if n != len(answer) {
			continue
		}
		g.mu.Lock()
		if taken, ok := g.waiting[binary.BigEndian.Uint64(answer[:])]; ok {
			close(taken)
			delete(g.waiting, binary.BigEndian.Uint64(answer[:]))
		}
		g.mu.Unlock()
	}
}

// Give hands a connection over with the bytes that were read from it. When it returns nil the connection is another process'
// and closed here. [ErrNotTaken] means that it is still the caller's.
func (g *Giver) Give(ctx context.Context, conn *net.TCPConn, read []byte) error {
	if len(read) > MaxRead {
		return fmt.Errorf("handover: %d bytes were read, more than %d", len(read), MaxRead)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return ErrNotTaken
	}
	defer func() { <-g.slots }()
	taken := make(chan struct{})
	g.mu.Lock()
	g.last++
	id := g.last
	g.waiting[id] = taken
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.waiting, id)
		g.mu.Unlock()
	}()
	deadline, _ := ctx.Deadline()
	if err := g.send(conn, pack(id, now(), read), deadline); err != nil {
		return err
	}
	select {
	case <-taken:
		return conn.Close()
	case <-ctx.Done():
		return ErrNotTaken
	}
}

func (g *Giver) send(conn *net.TCPConn, msg []byte, deadline time.Time) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	g.writing.Lock()
	defer g.writing.Unlock()
	_ = g.conn.SetWriteDeadline(deadline)
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		_, _, sendErr = g.conn.WriteMsgUnix(msg, unix.UnixRights(int(fd)), nil)
	})
	if errors.Is(sendErr, os.ErrDeadlineExceeded) {
		return ErrNotTaken // the channel is full of what a process before this one gave
	}
	if err = errors.Join(err, sendErr); err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	return nil
}
