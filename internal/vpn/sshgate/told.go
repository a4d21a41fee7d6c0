package sshgate

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
)

// told is a session in a device whose SSH server is none of ours. Such a device tells of nobody, so the gateway does: that somebody is in, how much
// goes to and fro, and when it is over. Whoever may orders an end to it as to any other.
type told struct {
	v      *visit
	device api.DeviceUUID
	leave  *permit.Permit
	first  api.SSHProgress // what is known from the beginning
	over   context.Context // ends with the leave, or when an end was ordered
	cut    context.CancelCauseFunc
	watch  sync.WaitGroup
}

// tell begins to tell of a session. Nobody is let in of whom it cannot be told.
func (v *visit) tell(ctx context.Context, leave *permit.Permit, want wish, grant, asked string) (*told, error) {
	askCtx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var begun api.SSHBegun
	if err := permit.Call(askCtx, v.s.cfg.API, "/internal/ssh/begin", api.SSHGatewayBegin{Device: string(want.device), Grant: grant}, &begun); err != nil {
		return nil, err
	}
	t := &told{v: v, device: want.device, leave: leave, first: api.SSHProgress{Session: begun.Session, Token: begun.Token, Kind: "shell", Target: "host"}}
	switch {
	case want.files:
		t.first.Kind = "sftp"
	case asked != "":
		t.first.Kind, t.first.Commands, t.first.CommandCount = "exec", []string{asked[:min(len(asked), api.MaxSSHCommand)]}, 1
	}
	if want.inside != "" {
		t.first.Target = want.inside
	}
	t.over, t.cut = context.WithCancelCause(leave.Context())
	t.watch.Go(func() { t.ask(ctx) })
	return t, nil
}

// progress is how far it has got. What it was asked to run is told once, and at its end.
func (t *told) progress(all bool) api.SSHProgress {
	now := t.first
	now.BytesIn, now.BytesOut = t.leave.Carried()
	if !all {
		now.Commands, now.CommandCount = nil, 0
	}
	return now
}

// ask asks now and then whether it may go on, until it is over. When nobody can be asked the leave ends by itself.
func (t *told) ask(ctx context.Context) {
	tick := time.NewTicker(t.v.s.cfg.Every)
	defer tick.Stop()
	for first := true; ; first = false {
		askCtx, cancel := context.WithTimeout(ctx, askTime)
		stop := context.AfterFunc(t.over, cancel)
		var answer api.SSHStill
		err := permit.Call(askCtx, t.v.s.cfg.API, "/internal/ssh/still", api.SSHGatewayStill{Device: string(t.device), SSHProgress: t.progress(first)}, &answer)
		stop()
		cancel()
		if err == nil && len(answer.End) > 0 {
			why := answer.Why[t.first.Session]
			if why == "" {
				why = permit.ErrOver.Error()
			}
			t.cut(errors.New(why))
		}
		select {
		case <-t.over.Done():
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// end says that it is over. What is not heard of it the api role finds out by itself, a minute later.
func (t *told) end(ctx context.Context, why string, exit *int) {
	t.cut(nil)
	t.watch.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	last := t.progress(true)
	last.Why, last.Exit = why, exit
	if err := permit.Call(ctx, t.v.s.cfg.API, "/internal/ssh/end", last, nil); err != nil {
		t.v.s.cfg.Log.WarnContext(ctx, "the end of an SSH session was not told", "device", t.device, "session", last.Session, "error", err)
	}
}
