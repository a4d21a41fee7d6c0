package trust_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/roadstead-io/roadstead/internal/apiserver/trustdoor"
)

// Each answer of the signer's gets lost once, after what it was asked for was done, as when a process is killed there: what is done again is harmless.
func TestAnswersThatGetLost(t *testing.T) {
	for lost := int64(1); lost <= 8; lost++ {
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			w := newWorld(t)
			w.target(w.hers, w.release(w.hers, 1))
			d := w.device(w.hers, 1)
			var asked atomic.Int64
			real := trustdoor.Signer(w.signer)
			w.trust = w.processWith(func(ctx context.Context, what string, in, out any) error {
				if err := real(ctx, what, in, out); err != nil {
					return err
				}
				if what != "director" && asked.Add(1) == lost {
					return errors.New("the process is gone")
				}
				return nil
			})
			failed := 0
			for range 3 {
				root, err := w.trust.Root(t.Context(), d.by, w.hers)
				if err == nil {
					_ = root
					break
				}
				failed++
			}
			d.equip()
			_, err := d.check(w.trust, commitOf(1))
			if err != nil {
				failed++
				_, err = d.check(w.trust, commitOf(1))
			}
			w.Must(err)
			w.target(w.hers, w.release(w.hers, 2))
			if _, err = d.check(w.trust, commitOf(2)); err != nil {
				failed++
				_, err = d.check(w.trust, commitOf(2))
			}
			w.Must(err)
			if failed > 1 {
				t.Errorf("one lost answer failed %d requests", failed)
			}
			if n := w.Number(`SELECT count(*) FROM trust_leaf WHERE name = ?`, commitOf(2)); n != 1 {
				t.Errorf("the release stands in the log %d times", n)
			}
		})
	}
}
