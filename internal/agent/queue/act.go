package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
)

// act has the device do one thing.
func (q *Queue) act(ctx context.Context, a api.QueuedAction) (result json.RawMessage, words string, err error) {
	acts, app, service := q.cfg.Acts, deviceapi.App{ID: a.Fleet}, deviceapi.Service{Name: a.Service}
	switch a.Verb {
	case api.ActPing:
		return nil, "", nil
	case api.ActIdentify:
		return nil, "", acts.Blink(ctx)
	case api.ActReboot:
		return nil, "", acts.Reboot(ctx, a.Force)
	case api.ActShutdown:
		return nil, "the device switches off", acts.Shutdown(ctx, a.Force)
	case api.ActRestart:
		return nil, "", acts.RestartApp(ctx, app, a.Force)
	case api.ActRestartService:
		return nil, "", acts.Service(ctx, app, service, deviceapi.Restart, a.Force)
	case api.ActStopService:
		return nil, "", acts.Service(ctx, app, service, deviceapi.Stop, a.Force)
	case api.ActStartService:
		return nil, "", acts.Service(ctx, app, service, deviceapi.Start, a.Force)
	case api.ActPurge:
		return nil, "", acts.Purge(ctx, app, a.Force)
	case api.ActUpdate:
		did, err := acts.Update(ctx, a.Force, false)
		if err == nil && !did {
			words = "the device has instant updates switched off: it looks when it is time"
		}
		return nil, words, err
	case api.ActJournal:
		result, err = q.journal(ctx, a.Lines)
		return result, "", err
	case api.ActState:
		result, err = q.state(ctx)
		return result, "", err
	case api.ActHostConfig:
		return nil, "", q.hostConfig(ctx, a)
	case api.ActRenewKey: // the new one goes to the server in the agent's report, and to nobody else
		_, err = acts.RenewKey(ctx, "")
		return nil, "", err
	case api.ActCleanVolumes:
		return nil, "", acts.CleanVolumes(ctx, "")
	}
	return nil, "", errors.New("this version of the agent does not know it")
}

// hostConfig sets the host name, the proxy, or both.
func (q *Queue) hostConfig(ctx context.Context, a api.QueuedAction) error {
	network, err := network(a)
	if err != nil {
		return err
	}
	change, err := deviceapi.ReadHostChange(network)
	if err != nil {
		return err
	}
	return q.cfg.Acts.SetHostConfig(ctx, change, a.Force)
}

// network is what an action sets.
func network(a api.QueuedAction) (val any, err error) {
	if err := json.Unmarshal(a.Network, &val); err != nil {
		return nil, errors.New("network: it cannot be read")
	}
	return val, nil
}

const (
	journalTime  = 30 * time.Second
	journalBytes = api.MaxActionResult / 2 // what needs no escaping fits twice
)

// tail keeps the end of what is written to it.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if over := t.Len() + n - journalBytes; over > 0 {
		if t.Next(over); n > journalBytes {
			p = p[n-journalBytes:]
		}
	}
	_, err := t.Buffer.Write(p)
	return n, err
}

// journal gives the last lines of the system's journal, as a JSON string.
func (q *Queue) journal(ctx context.Context, lines int) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, journalTime)
	defer cancel()
	var text tail
	if err := q.cfg.Acts.Journal(ctx, deviceapi.Journal{Count: lines, Format: "short"}, &text); err != nil {
		return nil, err
	}
	for s := strings.ToValidUTF8(text.String(), "\uFFFD"); ; s = s[len(s)/2:] {
		quoted, err := json.Marshal(strings.ToValidUTF8(s, ""))
		if err != nil || len(quoted) <= api.MaxActionResult {
			return quoted, err
		}
	}
}

// state tells how the device is, in the form of the device API's GET /v2/state/status.
func (q *Queue) state(ctx context.Context) (json.RawMessage, error) {
	s, err := q.cfg.Acts.State(ctx)
	if err != nil {
		return nil, err
	}
	type container struct {
		AppID     int64  `json:"appId"`
		Service   string `json:"serviceName"`
		Container string `json:"containerId"`
		Status    string `json:"status"`
	}
	out := struct {
		Status     string      `json:"status"`
		AppState   string      `json:"appState"`
		Release    string      `json:"release"`
		Containers []container `json:"containers"`
	}{Status: "success", AppState: "applying", Containers: []container{}}
	if s.Applied {
		out.AppState = "applied"
	}
	for _, f := range s.Fleets {
		out.Release = f.Commit
		for _, svc := range f.Services {
			out.Containers = append(out.Containers, container{f.ID, svc.Name, svc.ContainerID, svc.Status})
		}
	}
	text, err := json.Marshal(out)
	if err == nil && len(text) > api.MaxActionResult {
		err = fmt.Errorf("its state has %d bytes, more than a result may", len(text))
	}
	return text, err
}
