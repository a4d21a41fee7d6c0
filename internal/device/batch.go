package device

import (
	"context"
	"errors"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	batchQueue = 1024             // writes that wait for their commit; whoever comes beyond them waits for room
	batchSize  = 256              // writes in one commit
	batchTime  = 20 * time.Second // one commit
)

// batch lets writes that come at the same time share one commit: each asker is answered when its own write is durable. While one
// commit is under way the next writes gather; nobody waits for others to come.
type batch struct {
	db    *db.DB
	queue chan *write
	ended chan struct{} // closed when nobody takes from the queue any more
}

// write is one asker's part of a commit.
type write struct {
	ctx  context.Context // the asker's
	do   func(ctx context.Context, tx *db.Tx) error
	done chan error // holds one
}

func newBatch(d *db.DB) *batch {
	return &batch{db: d, queue: make(chan *write, batchQueue), ended: make(chan struct{})}
}

var errNotNow = api.Errorf(api.Unavailable, "the server is busy; try again")

// write runs do in a transaction that it shares with others, and returns once that is committed, or do's error. do may be run more
// than once, and must have no effect but through the transaction.
func (b *batch) write(ctx context.Context, do func(ctx context.Context, tx *db.Tx) error) error {
	w := &write{ctx: ctx, do: do, done: make(chan error, 1)}
	select {
	case b.queue <- w:
	case <-b.ended:
		return errNotNow
	case <-ctx.Done():
		return errNotNow
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done(): // it may still be written, like every request whose answer is not awaited
		return ctx.Err()
	case <-b.ended:
		select {
		case err := <-w.done:
			return err
		default:
			return errNotNow
		}
	}
}

// run commits what comes until the context ends, and then what has come.
func (b *batch) run(ctx context.Context) error {
	defer close(b.ended)
	for {
		select {
		case w := <-b.queue:
			b.commit(context.WithoutCancel(ctx), b.gather(w))
		case <-ctx.Done():
			for {
				select {
				case w := <-b.queue:
					b.commit(context.WithoutCancel(ctx), b.gather(w))
				default:
					return nil
				}
			}
		}
	}
}

// gather takes what waits.
func (b *batch) gather(first *write) []*write {
	all := []*write{first}
	for len(all) < batchSize {
		select {
		case w := <-b.queue:
			all = append(all, w)
		default:
			return all
		}
	}
	return all
}

// commit writes all in one transaction. When one of them fails, each gets a transaction of its own, so that it fails alone.
func (b *batch) commit(ctx context.Context, all []*write) {
	ctx, cancel := context.WithTimeout(ctx, batchTime)
	defer cancel()
	err := b.db.Write(ctx, func(tx *db.Tx) error {
		for _, w := range all {
			if w.ctx.Err() != nil {
				continue // nobody waits for it
			}
			if err := w.do(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || len(all) == 1 {
		for _, w := range all {
			w.done <- errors.Join(err, w.ctx.Err())
		}
		return
	}
	for _, w := range all {
		if w.ctx.Err() != nil {
			w.done <- w.ctx.Err()
			continue
		}
		w.done <- b.db.Write(ctx, func(tx *db.Tx) error { return w.do(ctx, tx) })
	}
}
