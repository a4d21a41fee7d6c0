package apiserver

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// Orders that come soon after a question share the next one; whoever is alone waits for nobody.
func TestOrdersGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tk := newTokens(nil, slog.New(slog.DiscardHandler))
		put := func(after time.Duration) *order {
			o := &order{ask: api.PullTokenRequest{Subject: after.String()}, done: make(chan signed, 1)}
			go func() { <-time.After(after); tk.orders <- o }()
			return o
		}
		first := &order{}
		put(0)
		soon := put(betweenQuestions / 2)
		put(2 * betweenQuestions)
		synctest.Wait()
		if got := tk.gather(first, -time.Second); len(got) != 2 {
			t.Errorf("after a pause: %d orders in one question, want the first and the one that waits", len(got))
		}
		began := time.Now()
		got := tk.gather(first, betweenQuestions)
		if len(got) != 2 || got[1] != soon {
			t.Errorf("soon after a question: %d orders in the next, want the first and the one that came meanwhile", len(got))
		}
		if took := time.Since(began); took != betweenQuestions {
			t.Errorf("the question waited %s, want %s", took, betweenQuestions)
		}
		<-tk.orders // the last one is still there
	})
}
