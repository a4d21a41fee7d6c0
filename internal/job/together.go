package job

import (
	"context"
	"time"

	"golang.org/x/sync/singleflight"
)

// Together does something once for all in this process who want the same at the same time.
type Together struct{ once singleflight.Group }

// togetherTime bounds what is done, whoever waits for it.
const togetherTime = time.Minute

// Do waits until it is done, by this caller or another one. It goes on when one of them does not wait any more.
func (t *Together) Do(ctx context.Context, key string, do func(ctx context.Context) error) error {
	done := t.once.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), togetherTime)
		defer cancel()
		return nil, do(ctx)
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}
