package job_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/roadstead-io/roadstead/internal/job"
)

// Who does not wait any more neither ends what others wait for, nor has it begun again.
func TestWhoLeavesEndsNothing(t *testing.T) {
	var together job.Together
	var began atomic.Int64
	started, proceed := make(chan struct{}), make(chan struct{})
	do := func(ctx context.Context) error {
		if began.Add(1) == 1 {
			close(started)
		}
		select {
		case <-proceed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	impatient, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- together.Do(impatient, "a", do) }()
	<-started
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left was told %v", err)
	}
	other := make(chan error, 1)
	entered := make(chan struct{})
	go func() {
		close(entered)
		other <- together.Do(t.Context(), "a", do)
	}()
	<-entered
	close(proceed)
	if err := <-other; err != nil {
		t.Errorf("who waited was told %v", err)
	}
	wrong := errors.New("wrong")
	if err := together.Do(t.Context(), "b", func(context.Context) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("the error of what was done: %v", err)
	}
}
