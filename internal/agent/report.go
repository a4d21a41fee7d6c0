package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/composition"
	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/host"
	"github.com/roadstead-io/roadstead/internal/agent/plan"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/engine"
)

// status is what the parts of the agent know of each other.
type status struct {
	want        *desired
	etag        string
	rejected    map[string]string // fleet → commit of a target state that could not be used
	applied     map[string]string // fleet → commit of the release last applied in full
	update      string            // downloading, applying changes or done
	busy        time.Time         // when the update last moved
	containers  []engine.Container
	images      map[string]bool
	pulls       map[string]int    // image → per cent of a download that runs or failed
	doing       map[string]string // fleet/service → what is being done to it
	restarts    map[string]restart
	lives       map[string]life
	cancelPulls func()
	omitOld     bool            // the server does not know the release that still runs
	epoch       int             // how often somebody acted, or wants the applier to look anew
	stopped     map[string]bool // fleet/service → somebody stopped it
	force       bool            // the next update goes through whatever is locked
	forcePoll   bool            // and the next poll is to say what that update is
	failed      bool            // the last attempt to apply the target state
	polled      time.Time       // when the server was last reached, or the agent started
}

func newStatus() status {
	return status{
		pulls: map[string]int{}, doing: map[string]string{}, restarts: map[string]restart{}, lives: map[string]life{},
		images: map[string]bool{}, stopped: map[string]bool{}, polled: time.Now(),
	}
}

// describe is the whole report; the reporter sends what changed of it.
func (a *Agent) describe(metrics *host.Metrics) *api.DeviceReport {
	macs, ips := host.Addresses()
	empty, idle := "", "Idle"
	r := &api.DeviceReport{
		Status: &idle, ProvisioningState: &empty, OSVersion: &a.osName, SupervisorVersion: &a.cfg.Version,
		IPAddress: &ips, MACAddress: &macs,
	}
	if a.osKind != "" {
		r.OSVariant = &a.osKind
	}
	if id := a.meter.Host.CPUID(); id != "" {
		r.CPUID = &id
	}
	if a.channel != nil {
		port, secret, s := deviceapi.Port, a.keys.Device(), a.channel.Status()
		r.APIPort, r.APISecret, r.Channel = &port, &secret, &api.DeviceChannel{State: s.State, Reason: s.Reason}
	}
	kept := api.KeyInFile
	if a.vault.Sealed() {
		kept = api.KeyInTPM
	}
	r.KeyProtection = &kept
	if m := metrics; m != nil {
		r.MemoryUsage, r.MemoryTotal, r.StorageUsage, r.StorageTotal = m.MemoryUsage, m.MemoryTotal, m.StorageUsage, m.StorageTotal
		r.CPUUsage, r.CPUTemp = m.CPUUsage, m.CPUTemp
		if m.StorageDevice != "" {
			r.StorageBlockDevice = &m.StorageDevice
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.st.want != nil {
		r.UnsupportedFeatures = leftOutNames(a.st.want.leftOut)
		r.Apps = a.st.apps(time.Now(), a.cfg.Timing.Steady)
	} else if len(a.st.rejected) > 0 { // the first one that it was given
		r.Apps = map[string]*api.AppReport{}
	}
	for app, commit := range a.st.rejected {
		if r.Apps[app] == nil { // what is wanted knows nothing of the fleet
			r.Apps[app] = &api.AppReport{Releases: map[string]*api.ReleaseReport{commit: {UpdateStatus: "rejected", Services: map[string]*api.ServiceReport{}}}}
		}
	}
	return r
}

// leftOutNames is never nil: an empty list tells the server that nothing is left out any more.
func leftOutNames(list []composition.LeftOut) []string {
	names := []string{}
	for _, l := range list {
		if len(names) < 100 {
			names = append(names, l.Field)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// apps is the part of the report about fleets. The server forgets what is not listed, so it is always complete.
func (s *status) apps(now time.Time, steady time.Duration) map[string]*api.AppReport {
	out := map[string]*api.AppReport{}
	for app := range s.want.target.Apps {
		rep := &api.AppReport{ReleaseUUID: s.applied[app], Releases: map[string]*api.ReleaseReport{}}
		out[app] = rep
		commit := s.want.commits[app]
		if commit != "" {
			rep.Releases[commit] = &api.ReleaseReport{UpdateStatus: s.update, Services: map[string]*api.ServiceReport{}}
		} else {
			rep.ReleaseUUID = ""
		}
		if bad := s.rejected[app]; bad != "" && bad == commit { // it was changed since it was accepted
			rep.Releases[bad].UpdateStatus = "rejected"
		} else if bad != "" {
			rep.Releases[bad] = &api.ReleaseReport{UpdateStatus: "rejected", Services: map[string]*api.ServiceReport{}}
		}
		for _, svc := range s.want.target.Services {
			if svc.App.UUID == app {
				rep.Releases[commit].Services[svc.Name] = s.service(svc, now, steady)
			}
		}
		if !s.omitOld {
			s.addOld(rep, app, commit, now, steady)
		}
	}
	return out
}

// service reports one that the target wants: its container if there is one, else how far its image is.
func (s *status) service(svc plan.Service, now time.Time, steady time.Duration) *api.ServiceReport {
	rep := &api.ServiceReport{Image: svc.Image()}
	for _, c := range s.containers {
		if c.Labels[composition.LabelAppUUID] == svc.App.UUID && c.Labels[composition.LabelServiceName] == svc.Name &&
			c.Labels[composition.LabelConfig] == svc.Spec.Config.Labels[composition.LabelConfig] {
			rep.Status = s.containerStatus(c, now, steady)
		}
	}
	if what := s.doing[svc.App.UUID+"/"+svc.Name]; what != "" {
		rep.Status = what
	}
	if rep.Status != "" {
		return rep
	}
	if s.images[svc.Image()] {
		rep.Status = "Downloaded"
		return rep
	}
	percent := s.pulls[svc.Image()]
	rep.Status, rep.DownloadProgress = "Downloading", &percent
	return rep
}

// addOld reports containers of other releases than the wanted one.
func (s *status) addOld(rep *api.AppReport, app, commit string, now time.Time, steady time.Duration) {
	for _, c := range s.containers {
		old, name := composition.ReleaseOf(c.Name), c.Labels[composition.LabelServiceName]
		if c.Labels[composition.LabelAppUUID] != app || old == commit || name == "" || !imageRule.MatchString(c.Image) {
			continue
		}
		current := slices.ContainsFunc(s.want.target.Services, func(svc plan.Service) bool {
			return c.Labels[composition.LabelConfig] == svc.Spec.Config.Labels[composition.LabelConfig]
		})
		if current {
			continue // unchanged by the new release; about to be renamed
		}
		if rep.Releases[old] == nil {
			rep.Releases[old] = &api.ReleaseReport{UpdateStatus: "done", Services: map[string]*api.ServiceReport{}}
		}
		rep.Releases[old].Services[name] = &api.ServiceReport{Image: c.Image, Status: s.containerStatus(c, now, steady)}
	}
}

// containerStatus says in the server's words how a container is. One that keeps ending counts as exited until it has run for
// a while.
func (s *status) containerStatus(c engine.Container, now time.Time, steady time.Duration) string {
	switch c.State {
	case "running":
		if l := s.lives[c.ID]; l.ended && now.Sub(l.started) < steady {
			return "exited"
		}
		return "Running"
	case "created":
		return "Installed"
	case "restarting", "exited":
		return "exited"
	case "dead":
		return "Dead"
	}
	return c.State // paused, removing
}

// reporter remembers what the server has accepted. It is not kept on disk: a device that starts tells all, so that nothing
// it believes to have told can be wrong.
type reporter struct {
	accepted   map[string]json.RawMessage
	metrics    *host.Metrics
	metricsDue bool
}

// report tells the server what changed.
func (a *Agent) report(ctx context.Context) error {
	t := a.cfg.Timing
	r := &reporter{metricsDue: true}
	retry := remote.Backoff{Min: t.ReportRetry}
	tick := time.NewTicker(t.Metrics)
	defer tick.Stop()
	var sent time.Time
	poke(a.dirty)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.metricsDue = true
		case <-a.dirty:
		}
		a.awaitTurn(ctx, sent)
		for {
			err := a.sendReport(ctx, r)
			sent = time.Now()
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				retry.Reset()
				break
			}
			retry.Max = max(a.interval(), 10*time.Second)
			wait := remote.Wait(retry.Next(), err)
			a.log.Warn("could not report", "error", err, "again_in", wait.Round(time.Millisecond))
			if remote.Sleep(ctx, wait) != nil {
				return nil
			}
		}
	}
}

// awaitTurn waits until the next report may go. An update that begins meanwhile shortens the wait.
func (a *Agent) awaitTurn(ctx context.Context, sent time.Time) {
	for {
		a.mu.Lock()
		gap := a.cfg.Timing.ReportIdle
		if time.Since(a.st.busy) < gap {
			gap = a.cfg.Timing.ReportBusy
		}
		a.mu.Unlock()
		t := time.NewTimer(time.Until(sent.Add(gap)))
		select {
		case <-t.C:
			return
		case <-ctx.Done():
			t.Stop()
			return
		case <-a.dirty:
			t.Stop()
		}
	}
}

// sendReport sends one report, unless nothing changed.
func (a *Agent) sendReport(ctx context.Context, r *reporter) error {
	if r.metricsDue && setting(a.wanted(), "SUPERVISOR_HARDWARE_METRICS") != "false" {
		m := a.meter.Take()
		r.metrics = &m
	}
	fields, err := toFields(a.describe(r.metrics))
	if err != nil {
		return err
	}
	diff := map[string]json.RawMessage{}
	for name, val := range fields {
		if !bytes.Equal(r.accepted[name], val) {
			diff[name] = val
		}
	}
	if len(diff) == 0 {
		r.metricsDue = false
		return nil
	}
	err = a.server.Report(ctx, a.who.UUID, a.who.Key, diff)
	if remote.StatusOf(err) == http.StatusUnauthorized && a.leaveOldOut() {
		// The server refuses a report as a whole when it does not know a release in it, such as one deleted meanwhile.
		return a.sendReport(ctx, r)
	}
	if err != nil {
		return err
	}
	r.metricsDue = false
	if r.accepted == nil {
		r.accepted = map[string]json.RawMessage{}
	}
	maps.Copy(r.accepted, diff)
	return nil
}

func (a *Agent) wanted() *desired {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.st.want
}

// leaveOldOut keeps releases other than the wanted ones out of reports until there is a new target. It answers whether that
// changes anything.
func (a *Agent) leaveOldOut() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.st.omitOld || a.st.want == nil {
		return false
	}
	for _, app := range a.st.apps(time.Now(), 0) {
		if len(app.Releases) > 1 {
			a.st.omitOld = true
		}
	}
	return a.st.omitOld
}

// toFields splits a report by its top-level fields.
func toFields(r *api.DeviceReport) (map[string]json.RawMessage, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	return fields, json.Unmarshal(text, &fields)
}
