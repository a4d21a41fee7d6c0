// Package batch does together what is asked at the same time: in the same few statements, and by one commit.
package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

const (
	room = 1024             // asks that wait for their turn; whoever comes beyond them waits for room
	long = 20 * time.Second // one turn
)

// Batch lets asks that come at the same time be done together: each asker is answered when its own is done, durably if it was a
// write. While some are being done the next gather; nobody waits for others to come.
type Batch[T any] struct {
	do    func(ctx context.Context, all []*Ask[T]) error
	size  int
	queue chan *Ask[T]
	ended chan struct{} // closed when nobody takes from the queue any more
}

// Ask is one asker's part.
type Ask[T any] struct {
	Of  T     // what is asked, with room for the answer
	Err error // why it was refused

	ctx  context.Context //nolint:containedctx // the asker's
	done chan error      // holds one
}

// New makes a batch; it starts nothing, see [Batch.Run]. do does all of a list of at most size asks. What it refuses to one alone it says in that one's Err, having done nothing for it. An error of its own says that all of it
// is to be done again: each is then done alone, so that one that cannot be done fails alone. It sets anew what it says in an ask,
// and what it had done the first time it must not do twice.
func New[T any](size int, do func(ctx context.Context, all []*Ask[T]) error) *Batch[T] {
	return &Batch[T]{do: do, size: size, queue: make(chan *Ask[T], room), ended: make(chan struct{})}
}

var errNotNow = api.Errorf(api.Unavailable, "the server is busy; try again")

// Do returns once what is asked is done, or with the error that it ended in. After an error the answer in it is not to be
// looked at: it may still be written.
func (b *Batch[T]) Do(ctx context.Context, of T) error {
	a := &Ask[T]{Of: of, ctx: ctx, done: make(chan error, 1)}
	select {
	case b.queue <- a:
	case <-b.ended:
		return errNotNow
	case <-ctx.Done():
		return errNotNow
	}
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done(): // it may still be done, like every request whose answer is not awaited
		return ctx.Err()
	case <-b.ended:
		select {
		case err := <-a.done:
			return err
		default:
			return errNotNow
		}
	}
}

// Run does what comes until the context ends, and then what has come.
func (b *Batch[T]) Run(ctx context.Context) error {
	defer close(b.ended)
	for {
		select {
		case a := <-b.queue:
			b.turn(context.WithoutCancel(ctx), b.gather(a))
		case <-ctx.Done():
			for {
				select {
				case a := <-b.queue:
					b.turn(context.WithoutCancel(ctx), b.gather(a))
				default:
					return nil
				}
			}
		}
	}
}

// gather takes what waits.
func (b *Batch[T]) gather(first *Ask[T]) []*Ask[T] {
	all := []*Ask[T]{first}
	for len(all) < b.size {
		select {
		case a := <-b.queue:
			all = append(all, a)
		default:
			return all
		}
	}
	return all
}

// turn does all together, and each alone when that fails. Nothing is done for those who no longer wait.
func (b *Batch[T]) turn(ctx context.Context, all []*Ask[T]) {
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	waiting := make([]*Ask[T], 0, len(all))
	for _, a := range all {
		if err := a.ctx.Err(); err != nil {
			a.done <- err
			continue
		}
		waiting = append(waiting, a)
	}
	if len(waiting) == 0 {
		return
	}
	err := b.try(ctx, waiting)
	if err == nil || len(waiting) == 1 {
		for _, a := range waiting {
			a.done <- errors.Join(err, a.Err)
		}
		return
	}
	for _, a := range waiting {
		if err := a.ctx.Err(); err != nil {
			a.done <- err
			continue
		}
		err := b.try(ctx, []*Ask[T]{a})
		a.done <- errors.Join(err, a.Err)
	}
}

// try keeps a panic from whoever else is asked for, as a server's handlers do: it is an error with its stack.
func (b *Batch[T]) try(ctx context.Context, all []*Ask[T]) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return b.do(ctx, all)
}
