package line

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// stale is the age at which a request is passed over: whoever sent it has given up.
const stale = 4 * time.Second

// atOnce bounds the requests that are worked on at a time.
const atOnce = 512

// Handler answers a request. file is what came beside it, the handler's to close; conn, if there is one, goes beside the answer and is
// closed then.
type Handler func(ctx context.Context, r Request, file *os.File) (a Answer, conn net.Conn, err error)

// Serve answers the requests of one end until the context ends, and waits for those under way.
func Serve(ctx context.Context, f *os.File, h Handler) error {
	e, err := open(f)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = e.conn.Close() })
	defer stop()
	var work sync.WaitGroup
	defer work.Wait()
	places := make(chan struct{}, atOnce)
	for {
		var r Request
		file, err := e.receive(&r)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("line: %w", err)
		}
		if now()-r.At > stale {
			if file != nil {
				_ = file.Close()
			}
			continue
		}
		places <- struct{}{}
		work.Go(func() {
			defer func() { <-places }()
			e.answer(ctx, h, r, file)
		})
	}
}

func (e *end) answer(ctx context.Context, h Handler, r Request, file *os.File) {
	a, c, err := h(ctx, r, file)
	a.ID = r.ID
	if err != nil {
		a.Error, a.Code = err.Error(), codeOf(err)
	}
	if c != nil {
		defer func() { _ = c.Close() }()
	}
	beside, _ := c.(syscall.Conn)
	_ = e.send(a, beside) // who does not listen asks again
}
