package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/engine"
)

// Tags asks the server for the device's tags.
func (a *Agent) Tags(ctx context.Context) ([]api.Tag, error) {
	return a.server.Tags(ctx, a.who.UUID, a.who.Key)
}

// Bounds of the tags that wait for the server: it takes a hundred at once.
const (
	maxTagsWaiting = 500
	maxTagsSent    = 100
)

// SetTags keeps tags in the state file until the server has taken them, or refused them for good.
func (a *Agent) SetTags(_ context.Context, tags map[string]string) error {
	full := false
	err := a.store.change(func(m *memory) {
		all := maps.Clone(m.Tags)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, tags)
		if full = len(all) > maxTagsWaiting; !full {
			m.Tags = all
		}
	})
	if full {
		return fmt.Errorf("%w: more than %d tags wait for the server", deviceapi.ErrInvalid, maxTagsWaiting)
	}
	poke(a.tags)
	return err
}

// sendTags sends what waits, also what waited when the agent ended.
func (a *Agent) sendTags(ctx context.Context) error {
	retry := remote.Backoff{Min: a.cfg.Timing.ReportRetry}
	for {
		some := a.store.get().Tags
		for _, key := range slices.Sorted(maps.Keys(some))[min(len(some), maxTagsSent):] {
			delete(some, key)
		}
		if len(some) == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-a.tags:
			}
			continue
		}
		err := a.server.SetTags(ctx, a.who.UUID, a.who.Key, some)
		if ctx.Err() != nil {
			return nil
		}
		if status := remote.StatusOf(err); status == http.StatusBadRequest || status == http.StatusForbidden || status == http.StatusRequestEntityTooLarge {
			a.log.Error("the server does not take this device's tags; they are dropped", "error", err)
			a.logs.system(fmt.Sprintf("Could not set tags: %v", err))
			err = nil
		}
		if err == nil {
			err = a.store.change(func(m *memory) {
				maps.DeleteFunc(m.Tags, func(key, val string) bool { sent, was := some[key]; return was && sent == val })
			})
		}
		if err == nil {
			retry.Reset()
			continue
		}
		retry.Max = a.interval()
		wait := remote.Wait(retry.Next(), err)
		a.log.Warn("could not send tags", "error", err, "again_in", wait)
		if remote.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// CleanVolumes removes what no wanted release names. What a container has stays, whatever release it is of.
func (a *Agent) CleanVolumes(ctx context.Context, fleet string) error {
	release, err := a.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	want := a.wanted()
	if want == nil {
		return fmt.Errorf("%w: no target state is known yet", deviceapi.ErrNotFound)
	}
	named := map[string]bool{}
	for _, v := range want.target.Volumes {
		named[v.Name] = true
	}
	volumes, err := a.cfg.Engine.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if of := v.Labels[composition.LabelAppUUID]; named[v.Name] || fleet != "" && of != fleet {
			continue
		}
		err := a.cfg.Engine.RemoveVolume(ctx, v.Name)
		if errors.Is(err, engine.ErrInUse) {
			continue
		}
		if err != nil {
			return err
		}
		a.log.Info("removed a volume that nothing names", "volume", v.Name)
	}
	return nil
}
