package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/internal/builder/queue"
)

var wide = queue.Limits{Running: 1, RunningOfOne: 1, Open: 1000, OpenOfOne: 1000}

// enter takes a ticket of an organization.
func enter(t *testing.T, q *queue.Queue, organization int64) *queue.Ticket {
	t.Helper()
	k, err := q.Enter()
	if err == nil {
		err = k.Belong(organization)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// works has builds wait and work for a second each, and gives the order in which they began.
func works(t *testing.T, q *queue.Queue, organizations ...int64) []int64 {
	t.Helper()
	var mu sync.Mutex
	var order []int64
	var wait sync.WaitGroup
	for _, o := range organizations {
		k := enter(t, q, o)
		wait.Go(func() {
			defer k.Leave()
			if err := k.Wait(context.Background(), nil); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, o)
			mu.Unlock()
			<-time.After(time.Second) // of the bubble's clock
		})
		synctest.Wait()
	}
	wait.Wait()
	return order
}

// An organization with 50 waiting builds does not delay another's first one.
func TestFiftyOfOneDoNotDelayAnothersFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(wide, nil)
		ask := append(slices.Repeat([]int64{1}, 50), 2, 2, 3)
		got := works(t, q, ask...)
		if want := []int64{1, 2, 3, 1, 2, 1, 1}; !slices.Equal(got[:7], want) || len(got) != len(ask) {
			t.Errorf("%d builds, the first of %v, want %v", len(got), got[:7], want)
		}
	})
}

func TestEightBuildsOfFourOrganizationsEndFairly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := wide
		l.Running, l.RunningOfOne = 2, 2
		got := works(t, queue.New(l, nil), 1, 1, 1, 1, 1, 2, 3, 4)
		// Both places are free when the first two come; from then on each organization has its turn.
		for i := 0; i < len(got); i += 2 { // two begin at a time
			slices.Sort(got[i : i+2])
		}
		if want := []int64{1, 1, 2, 3, 1, 4, 1, 1}; !slices.Equal(got, want) {
			t.Errorf("began in the order %v, want %v", got, want)
		}
	})
}

func TestOneOrganizationMayBeKeptFromAllPlaces(t *testing.T) {
	l := wide
	l.Running, l.RunningOfOne = 2, 1
	q := queue.New(l, nil)
	first, second, other := enter(t, q, 1), enter(t, q, 1), enter(t, q, 2)
	for _, k := range []*queue.Ticket{first, other} {
		if err := k.Wait(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second.Wait(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("the second of one organization: got %v, want it to wait", err)
	}
	other.Leave()
	if err := second.Wait(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a place free that is not for it: got %v, want it to wait", err)
	}
	first.Leave()
	if err := second.Wait(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestBounds(t *testing.T) {
	q := queue.New(queue.Limits{Running: 1, RunningOfOne: 1, Open: 3, OpenOfOne: 2}, nil)
	one := enter(t, q, 1)
	enter(t, q, 1)
	third, err := q.Enter()
	if err != nil {
		t.Fatal(err)
	}
	if err := third.Belong(1); !errors.Is(err, queue.ErrShareFull) {
		t.Errorf("a third of one organization: got %v", err)
	}
	if _, err := q.Enter(); !errors.Is(err, queue.ErrFull) {
		t.Errorf("a fourth: got %v", err)
	}
	third.Leave()
	third.Leave() // once is enough, twice does no harm
	enter(t, q, 2)
	if _, err := q.Enter(); !errors.Is(err, queue.ErrFull) {
		t.Errorf("a fourth after one has left twice: got %v", err)
	}
	one.Leave()
	enter(t, q, 1)
}

// places are what each waiting build was told, in the order in which it was.
func TestPlacesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(wide, nil)
		ctx, cancel := context.WithCancel(t.Context())
		told := map[string][]int{}
		var mu sync.Mutex
		var wait sync.WaitGroup
		tickets := map[string]*queue.Ticket{}
		for _, b := range []struct {
			name string
			org  int64
		}{{"a1", 1}, {"a2", 1}, {"a3", 1}, {"b1", 2}} {
			k := enter(t, q, b.org)
			tickets[b.name] = k
			wait.Go(func() {
				_ = k.Wait(ctx, func(p queue.Place) {
					mu.Lock()
					defer mu.Unlock()
					told[b.name] = append(told[b.name], p.Number)
					if p.Wait != 0 {
						t.Errorf("%s was promised %s, of which nothing is known", b.name, p.Wait)
					}
				})
			})
			synctest.Wait()
		}
		tickets["a1"].Leave() // b1 works
		synctest.Wait()
		tickets["a2"].Leave() // gave up while it waited
		synctest.Wait()
		cancel()
		wait.Wait()
		want := map[string][]int{"a2": {1, 2, 1}, "a3": {2, 3, 2, 1}, "b1": {1}}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}

// How long it may take is said only when the last builds give a reason to.
func TestTheWaitIsHonest(t *testing.T) {
	for title, tt := range map[string]struct {
		took []time.Duration
		want time.Duration // of the third in the queue, with one place
	}{
		"too few":        {slices.Repeat([]time.Duration{time.Minute}, 4), 0},
		"alike":          {slices.Repeat([]time.Duration{time.Minute}, 5), 3 * time.Minute},
		"too different":  {[]time.Duration{time.Second, time.Minute, time.Minute, time.Minute, time.Hour}, 0},
		"one odd of ten": {append(slices.Repeat([]time.Duration{time.Minute}, 10), time.Hour), 3 * time.Minute},
	} {
		t.Run(title, func(t *testing.T) {
			now := time.Unix(0, 0)
			q := queue.New(wide, func() time.Time { return now })
			for _, d := range tt.took {
				k := enter(t, q, 1)
				if err := k.Wait(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				now = now.Add(d)
				k.Done()
				k.Leave()
			}
			if err := enter(t, q, 1).Wait(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			var last *queue.Ticket
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for range 3 {
				last = enter(t, q, 1)
				_ = last.Wait(ctx, nil)
			}
			if p, ok := last.Place(); !ok || p.Number != 3 || p.Of != 3 || p.Wait != tt.want {
				t.Errorf("got %+v, %v, want the 3rd of 3 in %s", p, ok, tt.want)
			}
		})
	}
}

// Whatever comes and goes, the places are never more than there are, and nobody is forgotten.
func TestManyAtOnce(t *testing.T) {
	l := queue.Limits{Running: 3, RunningOfOne: 2, Open: 1000, OpenOfOne: 1000}
	q := queue.New(l, nil)
	var mu sync.Mutex
	at := map[int64]int{}
	var wait sync.WaitGroup
	for i := range 300 {
		k := enter(t, q, int64(i%7))
		wait.Go(func() {
			defer k.Leave()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%5 == 0 {
				cancel()
			}
			if k.Wait(ctx, nil) != nil {
				return
			}
			count := func(by int) {
				mu.Lock()
				defer mu.Unlock()
				at[-1] += by
				at[int64(i%7)] += by
				if at[-1] > l.Running || at[int64(i%7)] > l.RunningOfOne {
					t.Errorf("at work: %v", fmt.Sprint(at))
				}
			}
			count(1)
			count(-1)
		})
	}
	wait.Wait()
	if working, waiting := q.Counts(); working != 0 || waiting != 0 {
		t.Errorf("%d at work and %d waiting are left", working, waiting)
	}
}
