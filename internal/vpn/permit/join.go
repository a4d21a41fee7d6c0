package permit

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Why a joined connection ended by itself.
const (
	WhyClosed = "closed"
	WhyIdle   = "idle"
)

const joinBuffer = 32 << 10

// Join carries bytes between whoever has the permit and the device, both ways, until both have said their last word, one of them is gone,
// nothing moved for the idle time (0: that is no reason) or the permit ended. Then both are closed and the permit is ended.
func (o *Permit) Join(client, device net.Conn, idle time.Duration) {
	var moved atomic.Int64
	moved.Store(time.Now().UnixNano())
	why := WhyClosed
	var once sync.Once
	shut := func(reason string) {
		once.Do(func() {
			why = reason
			_ = client.Close()
			_ = device.Close()
		})
	}
	stop := context.AfterFunc(o.ctx, func() { shut(WhyClosed) })
	defer stop()
	ended := make(chan struct{})
	var wait sync.WaitGroup
	if idle > 0 {
		wait.Go(func() { watchIdle(ended, &moved, idle, func() { shut(WhyIdle) }) })
	}
	var both sync.WaitGroup
	both.Go(func() {
		if !carry(device, client, func(n int64) { moved.Store(time.Now().UnixNano()); o.in.Add(n) }) {
			shut(WhyClosed)
		}
	})
	both.Go(func() {
		if !carry(client, device, func(n int64) { moved.Store(time.Now().UnixNano()); o.out.Add(n) }) {
			shut(WhyClosed)
		}
	})
	both.Wait()
	close(ended)
	wait.Wait()
	shut(WhyClosed)
	o.End(why)
}

func watchIdle(ended <-chan struct{}, moved *atomic.Int64, idle time.Duration, shut func()) {
	left := idle
	for {
		timer := time.NewTimer(left)
		select {
		case <-ended:
			timer.Stop()
			return
		case <-timer.C:
		}
		if left = idle - time.Since(time.Unix(0, moved.Load())); left <= 0 {
			shut()
			return
		}
	}
}

// carry copies one way and hands the end on; false: the way is broken, or it cannot be handed on.
func carry(to, from net.Conn, count func(int64)) bool {
	buf := make([]byte, joinBuffer)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return false
			}
			count(int64(n))
		}
		if errors.Is(err, io.EOF) {
			half, ok := to.(interface{ CloseWrite() error })
			return ok && half.CloseWrite() == nil
		}
		if err != nil {
			return false
		}
	}
}
