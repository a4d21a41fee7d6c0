package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

const (
	askTime   = 15 * time.Second
	sweepTime = 20 * time.Second // how long a push waits until a blob that it wants has been deleted
	roomTime  = 5 * time.Second  // how long an answer about room is believed; what is kept is decided anew
	maxRooms  = 1000
	maxAnswer = 1 << 20
)

// ledger asks the api role, whose rows say what is kept. Without an api role (nil) everything is kept, and nothing collected.
type ledger struct {
	api *pki.Peer

	mu    sync.Mutex // covers rooms
	rooms map[string]room
}

type room struct {
	api.RegistryRoom
	until time.Time
}

// newLedger makes the way to the api role; without an address there is none.
func newLedger(id *pki.Identity, addr string) *ledger {
	if addr == "" {
		return nil
	}
	return &ledger{api: id.Client(api.RoleAPI, addr), rooms: map[string]room{}}
}

func (l *ledger) call(ctx context.Context, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("ask the api role: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.api.URL+"/internal/v1/registry/"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the api role: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header["Idempotency-Key"] = nil // to ask again is harmless: on a connection that turns out to be dead it is sent again
	res, err := l.api.HTTP.Do(req)
	if err != nil {
		return errors.Join(api.Errorf(api.Unavailable, "the api role does not answer; try again"), err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	switch {
	case err != nil:
		return errors.Join(api.Errorf(api.Unavailable, "the api role's answer was cut off; try again"), err)
	case res.StatusCode >= 300:
		why := ""
		if json.Unmarshal(text, &why) != nil {
			why = "the api role answered " + res.Status
		}
		return &api.Error{Code: api.CodeOf(res.StatusCode), Text: why}
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the api role's answer: %w", err)
	}
	return nil
}

// room is how large a blob may be that is pushed into a repository; -1: no bound but ours. fresh: the api role says it now.
func (l *ledger) room(ctx context.Context, repository string, fresh bool) (int64, error) {
	if l == nil {
		return -1, nil
	}
	l.mu.Lock()
	known, ok := l.rooms[repository]
	l.mu.Unlock()
	if ok && !fresh && time.Now().Before(known.until) {
		return known.Largest, nil
	}
	var r api.RegistryRoom
	if err := l.call(ctx, "room", api.RegistryPush{Repository: repository}, &r); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rooms) >= maxRooms {
		clear(l.rooms)
	}
	l.rooms[repository] = room{r, time.Now().Add(roomTime)}
	return r.Largest, nil
}

// link has the api role write down that a repository has a blob, which must be before it is kept. A blob that is just being
// deleted is waited for.
func (l *ledger) link(ctx context.Context, repository, digest string, size int64) error {
	if l == nil {
		return nil
	}
	return patiently(ctx, func() error {
		return l.call(ctx, "link", api.RegistryPush{Repository: repository, Digest: digest, Size: size}, nil)
	})
}

// patiently repeats what is unavailable for the moment.
func patiently(ctx context.Context, f func() error) error {
	late := time.NewTimer(sweepTime)
	defer late.Stop()
	for {
		err := f()
		if !errors.Is(err, api.ErrUnavailable) {
			return err
		}
		again := time.NewTimer(100 * time.Millisecond)
		select {
		case <-again.C:
		case <-late.C:
			again.Stop()
			return err
		case <-ctx.Done():
			again.Stop()
			return err
		}
	}
}

// refusal says to a pusher what the api role said.
func refusal(w http.ResponseWriter, err error) {
	e := api.AsError(err)
	text := e.Error()
	switch e.Code {
	case api.Forbidden:
		refuse(w, http.StatusForbidden, "DENIED", text)
	case api.TooLarge:
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", text)
	case api.NotFound, api.Conflict:
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", text)
	case api.Invalid:
		refuse(w, http.StatusBadRequest, "NAME_INVALID", text)
	default:
		refuse(w, http.StatusServiceUnavailable, "UNAVAILABLE", "the registry cannot find out whether this may be kept; try again")
	}
}
