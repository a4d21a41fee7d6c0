package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/agent/trust"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// A device that was given a root of trust checks every target state before anything of it happens: see package trust. One that was not runs
// what it is told.

// waiting is what the poll remembers of what could not be accepted, and of what was told about it.
type waiting struct {
	checked bool // the target state that came last was checked, and may not be applied
	refused bool // it was not accepted, for that or because it makes no sense: all of it is asked for again
	retry   remote.Backoff
	why     string           // what was logged last
	told    *api.TrustReport // nil: nothing since the start
}

// sooner shortens the wait for the next poll while a target state waits.
func (w *waiting) sooner(wait time.Duration) time.Duration {
	if !w.checked {
		w.retry.Reset()
		return wait
	}
	w.retry.Max = wait
	return min(wait, w.retry.Next())
}

// openTrust reads what the device believes.
func (a *Agent) openTrust() (err error) {
	a.waiting.retry.Min = a.cfg.Timing.PollRetry
	a.checks, err = trust.Open(trust.Config{
		StateDir: a.cfg.StateDir, UUID: a.who.UUID, Mark: a.who.Trust, Given: a.conf.Trust, Anew: a.conf.APIKey != "", Log: a.log, Now: a.cfg.Now, Write: a.room.WriteFile,
		Bundle: func(ctx context.Context, have api.TrustHave) (api.TrustBundle, error) {
			return a.server.Bundle(ctx, a.who.UUID, a.who.Key, have)
		},
	})
	a.signed.Store(a.checks)
	return err
}

// notBefore is the newest time that was signed for the fleet.
func (a *Agent) notBefore() time.Time {
	if t := a.signed.Load(); t != nil {
		return t.NotBefore()
	}
	return time.Time{}
}

// commanded checks signed commands; nil where none are needed.
func (a *Agent) commanded() func(api.TrustCommand, []byte) error {
	if a.checks == nil {
		return nil
	}
	return a.checks.Command
}

// verify says whether a target state may be applied. One that may not waits, for what it lacks may come.
func (a *Agent) verify(ctx context.Context, want *desired) error {
	if a.checks == nil {
		return nil
	}
	err := a.checks.Check(ctx, want.device)
	if a.channel != nil {
		a.channel.Look()
	}
	if err != nil {
		a.waiting.checked = true
		return err
	}
	a.waiting.why = ""
	return nil
}

// renew keeps the statement of the director from expiring.
func (a *Agent) renew(ctx context.Context) {
	want := a.wanted()
	if a.checks == nil || want == nil {
		return
	}
	err := a.checks.Renew(ctx, want.device)
	if ctx.Err() != nil {
		return
	}
	if a.channel != nil {
		a.channel.Look()
	}
	if err == nil {
		a.waiting.why = ""
	} else if why := withoutDigits(err.Error()); why != a.waiting.why {
		a.waiting.why = why
		a.log.Warn("what this device runs cannot be verified anew; it keeps running", "error", err)
		a.logs.system("What this device runs cannot be verified anew, and keeps running: " + err.Error())
	}
}

// withoutDigits is what tells one failure from another: names of temporary files and times in it change by themselves.
func withoutDigits(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
}

// reject says why a target state is not applied. What runs keeps running.
func (a *Agent) reject(etag string, text []byte, err error) {
	rejected := rejectedOf(a.who.UUID, text)
	if a.waiting.checked && !a.checks.Refused(err) {
		rejected = nil // it may yet come
	}
	a.mu.Lock()
	changed := a.st.etag != etag
	a.st.etag, a.st.rejected = etag, rejected
	a.mu.Unlock()
	a.waiting.refused = true
	why := withoutDigits(err.Error())
	if !changed && why == a.waiting.why {
		return
	}
	a.waiting.why = why
	args := []any{"error", err}
	if r, ok := tuf.Rejection(err); ok {
		args = []any{"what", r.What, "reason", r.Reason, "key", r.Key, "expected", r.Expected, "got", r.Got}
	}
	a.log.Error("the target state is rejected; what runs keeps running", args...)
	a.logs.system(fmt.Sprintf("Could not move to new release: %v", err))
	poke(a.dirty)
}

// tell reports what became of the checks, when that is news.
func (a *Agent) tell(ctx context.Context) {
	if a.checks == nil {
		return
	}
	report := a.checks.Report()
	if a.waiting.told != nil && trust.Same(*a.waiting.told, report) {
		return
	}
	err := a.server.TrustReport(ctx, a.who.UUID, a.who.Key, report)
	var status *remote.StatusError
	if err == nil || errors.As(err, &status) && status.Status == http.StatusNotFound { // a server that does not want to know
		a.waiting.told = &report
		return
	}
	if ctx.Err() == nil {
		a.log.Warn("could not report the checks; will try again with the next poll", "error", err)
	}
}
