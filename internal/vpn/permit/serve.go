package permit

import (
	"context"
	"errors"
	"net"
	"sync"
)

// Serve takes connections from a listener, each in a goroutine of its own, until the context ends; it returns when the last has. Those whose
// client has not said who it is, see admitted, are bounded, in all and of one address: one more is closed at once.
func Serve(ctx context.Context, ln net.Listener, most, perAddress int, serve func(ctx context.Context, conn net.Conn, admitted func())) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	w := waiting{of: map[string]int{}, most: most, perAddress: perAddress}
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		from, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		if !w.enter(from) {
			_ = conn.Close()
			continue
		}
		wait.Go(func() {
			admitted := sync.OnceFunc(func() { w.leave(from) })
			defer admitted()
			unhook := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer unhook()
			serve(ctx, conn, admitted)
		})
	}
}

// waiting counts the connections whose client has not said who it is.
type waiting struct {
	most, perAddress int

	mu  sync.Mutex // covers what follows
	all int
	of  map[string]int // by address
}

func (w *waiting) enter(from string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all >= w.most || w.of[from] >= w.perAddress {
		return false
	}
	w.all++
	w.of[from]++
	return true
}

func (w *waiting) leave(from string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all--
	if w.of[from]--; w.of[from] == 0 {
		delete(w.of, from)
	}
}
