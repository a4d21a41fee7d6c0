package deviceapi

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// routes is the whole API.
func (s *Server) routes() []route {
	return []route{
		{pattern: "GET /ping", open: true, do: (*request).ok},
		{pattern: "GET /v1/healthy", open: true, do: s.healthy},
		{pattern: "POST /v1/blink", do: s.blink},
		{pattern: "POST /v1/update", changes: api.ActUpdate, do: s.update},
		{pattern: "POST /v1/reboot", changes: api.ActReboot, do: func(q *request) error { return q.power(s.acts.Reboot(q.r.Context(), q.force())) }},
		{pattern: "POST /v1/shutdown", changes: api.ActShutdown, do: func(q *request) error { return q.power(s.acts.Shutdown(q.r.Context(), q.force())) }},
		{pattern: "POST /v1/restart", changes: api.ActRestart, do: s.restartApp},
		{pattern: "POST /v1/purge", changes: api.ActPurge, do: s.purge},
		{pattern: "POST /v1/apps/{app}/stop", changes: api.ActStopService, do: s.onlyService(Stop)},
		{pattern: "POST /v1/apps/{app}/start", changes: api.ActStartService, do: s.onlyService(Start)},
		{pattern: "GET /v1/apps/{app}", do: s.app},
		{pattern: "POST /v1/regenerate-api-key", changes: api.ActRenewKey, do: s.renewKey},
		{pattern: "GET /v1/device", do: s.device},
		{pattern: "GET /v1/device/host-config", do: s.hostConfig},
		{pattern: "PATCH /v1/device/host-config", changes: api.ActHostConfig, do: s.setHostConfig},
		{pattern: "POST /v2/applications/{app}/restart-service", changes: api.ActRestartService, do: s.service(Restart)},
		{pattern: "POST /v2/applications/{app}/stop-service", changes: api.ActStopService, do: s.service(Stop)},
		{pattern: "POST /v2/applications/{app}/start-service", changes: api.ActStartService, do: s.service(Start)},
		{pattern: "POST /v2/applications/{app}/restart", changes: api.ActRestart, do: s.restartApp},
		{pattern: "POST /v2/applications/{app}/purge", changes: api.ActPurge, do: s.purge},
		{pattern: "GET /v2/applications/state", do: s.states},
		{pattern: "GET /v2/applications/{app}/state", do: s.appState},
		{pattern: "GET /v2/state/status", do: s.status},
		{pattern: "GET /v2/containerId", do: s.containerIDs},
		{pattern: "GET /v2/version", do: func(q *request) error { return q.success("version", q.state.AgentVersion) }},
		{pattern: "GET /v2/device/name", do: func(q *request) error { return q.success("deviceName", q.state.Name) }},
		{pattern: "GET /v2/device/vpn", do: func(q *request) error {
			return q.success("vpn", map[string]bool{"enabled": q.state.Channel.Enabled, "connected": q.state.Channel.Connected})
		}},
		{pattern: "GET /v2/local/device-info", do: func(q *request) error {
			return q.success("info", map[string]string{"arch": q.state.Arch, "deviceType": q.state.Type})
		}},
		{pattern: "POST /v2/journal-logs", do: s.journal},
		{pattern: "GET /v2/device/tags", do: s.tags},
		{pattern: "PATCH /v2/device/tags", do: s.setTags},
		{pattern: "GET /v2/cleanup-volumes", changes: api.ActCleanVolumes, do: s.cleanVolumes},
		{pattern: "GET /v2/local/target-state", do: noLocalMode},
		{pattern: "POST /v2/local/target-state", do: noLocalMode},
		{pattern: "GET /v2/local/logs", do: noLocalMode},
	}
}

func (q *request) failed(status int, why string) error {
	q.json(status, map[string]string{"status": "failed", "message": why})
	return nil
}

func (q *request) success(name string, val any) error {
	q.json(http.StatusOK, map[string]any{"status": "success", name: val})
	return nil
}

func (s *Server) healthy(q *request) error {
	if err := s.acts.Healthy(q.r.Context()); err != nil {
		http.Error(q.w, "Unhealthy", http.StatusInternalServerError)
		return nil
	}
	return q.ok()
}

func (s *Server) blink(q *request) error {
	if err := s.acts.Blink(q.r.Context()); err != nil {
		return err
	}
	return q.ok()
}

func (s *Server) update(q *request) error {
	accepted, err := s.acts.Update(q.r.Context(), q.force(), truthy(q.body["cancel"]))
	if err != nil {
		return err
	}
	if accepted {
		q.w.WriteHeader(http.StatusNoContent)
	} else {
		q.w.WriteHeader(http.StatusAccepted)
	}
	return nil
}

// answer is how version 1 of the API puts it.
type answer struct {
	Data  string `json:"Data"`
	Error any    `json:"Error"`
}

func (q *request) power(err error) error {
	switch {
	case errors.Is(err, ErrLocked):
		q.json(http.StatusLocked, answer{"", err.Error()})
	case err != nil:
		q.json(http.StatusInternalServerError, answer{"", err.Error()})
	default:
		q.json(http.StatusAccepted, answer{"OK", nil})
	}
	return nil
}

func (s *Server) restartApp(q *request) error {
	f, err := q.fleet()
	if err == nil {
		err = s.acts.RestartApp(q.r.Context(), f.App, q.force())
	}
	if err != nil {
		return err
	}
	return q.ok()
}

func (s *Server) purge(q *request) error {
	f, err := q.fleet()
	if err == nil {
		err = s.acts.Purge(q.r.Context(), f.App, q.force())
	}
	if err != nil {
		return err
	}
	if q.r.PathValue("app") == "" {
		q.json(http.StatusOK, answer{"OK", ""})
		return nil
	}
	return q.ok()
}

// onlyService does something to the service of a fleet that has one only.
func (s *Server) onlyService(verb Verb) func(*request) error {
	return func(q *request) error {
		f, err := q.only()
		if err != nil {
			return err
		}
		if err := q.commanded(f.Services[0].Name); err != nil {
			return err
		}
		if err := s.acts.Service(q.r.Context(), f.App, f.Services[0].Service, verb, q.force()); err != nil {
			return err
		}
		q.json(http.StatusOK, map[string]string{"containerId": f.Services[0].ContainerID})
		return nil
	}
}

func (q *request) only() (*FleetState, error) {
	f, err := q.fleet()
	if err != nil {
		return nil, err
	}
	if len(f.Services) != 1 {
		return nil, fmt.Errorf("%w: version 1 of this API is for apps with one service only", ErrInvalid)
	}
	return f, nil
}

func (s *Server) app(q *request) error {
	f, err := q.only()
	if err != nil {
		return err
	}
	svc := f.Services[0]
	q.json(http.StatusOK, map[string]any{
		"appId": f.ID, "commit": f.Commit, "containerId": svc.ContainerID, "env": svc.Environment, "imageId": svc.ImageID, "releaseId": f.ReleaseID,
	})
	return nil
}

func (s *Server) renewKey(q *request) error {
	key, err := s.acts.RenewKey(q.r.Context(), q.scope.Fleet)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprint(q.w, key) // who asked may be gone
	return nil
}

func (s *Server) device(q *request) error {
	out := map[string]any{
		"api_port": Port, "ip_address": q.state.IPAddress, "mac_address": q.state.MACAddress, "os_version": q.state.OSVersion,
		"supervisor_version": q.state.AgentVersion, "update_pending": !q.state.Applied, "update_failed": q.state.Failed, "update_downloaded": false,
		"status": "Idle", "download_progress": nil,
	}
	downloaded := !q.state.Applied
	for _, f := range q.state.Fleets {
		if f.Commit != "" && out["commit"] == nil && q.sees(f) {
			out["commit"] = f.Commit
		}
		for _, svc := range f.Services {
			if svc.DownloadProgress != nil {
				out["status"], out["download_progress"], downloaded = "Downloading", *svc.DownloadProgress, false
			}
		}
	}
	out["update_downloaded"] = downloaded
	q.json(http.StatusOK, out)
	return nil
}

func (s *Server) service(verb Verb) func(*request) error {
	return func(q *request) error {
		f, err := q.fleet()
		if err != nil {
			return err
		}
		which := Service{ImageID: number(q.body["imageId"])}
		which.Name, _ = q.body["serviceName"].(string)
		if which == (Service{}) && len(f.Services) > 1 {
			return fmt.Errorf("%w: missing serviceName or imageId", ErrInvalid)
		}
		if err := q.commanded(f.named(which)); err != nil {
			return err
		}
		if err := s.acts.Service(q.r.Context(), f.App, which, verb, q.force()); err != nil {
			return err
		}
		return q.ok()
	}
}

// named is the name of a service that a request names somehow; the only one needs no name.
func (f *FleetState) named(which Service) string {
	for _, svc := range f.Services {
		if which.Name != "" && svc.Name == which.Name || which.Name == "" && which.ImageID != 0 && svc.ImageID == which.ImageID ||
			which == (Service{}) && len(f.Services) == 1 {
			return svc.Name
		}
	}
	return which.Name
}

func (s *Server) journal(q *request) error {
	if !q.alone() {
		return errUnauthorized // the journal has lines of other fleets, too
	}
	what := Journal{All: truthy(q.body["all"]), Follow: truthy(q.body["follow"]), Count: int(number(q.body["count"]))}
	for name, into := range map[string]*string{
		"unit": &what.Unit, "format": &what.Format, "containerId": &what.ContainerID, "since": &what.Since, "until": &what.Until,
	} {
		*into, _ = q.body[name].(string)
	}
	ctl := http.NewResponseController(q.w)
	_, _ = ctl.SetReadDeadline(time.Time{}), ctl.SetWriteDeadline(time.Time{}) // it may take long
	return s.acts.Journal(q.r.Context(), what, flusher{q.w})
}

// flusher sends what it is given at once.
type flusher struct{ http.ResponseWriter }

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	if err == nil {
		err = http.NewResponseController(f.ResponseWriter).Flush()
	}
	return n, err
}
