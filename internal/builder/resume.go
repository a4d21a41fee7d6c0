package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/source"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// job is a build on disk whose source is there as well: a builder that starts goes on with it. It holds what the pusher sent along
// and is gone with the build.
type job struct {
	Query    string            `json:"query"`
	Build    api.Build         `json:"build"`
	Tries    int               `json:"tries"`
	Manifest []api.SourceEntry `json:"manifest"`
}

const (
	jobsDir = "jobs"
	// maxTries is how often a build is begun: one that takes the builder down with it must not do so for ever.
	maxTries = 3
	// seqsOfTry are the numbers of lines that each try has: those of a later one are higher.
	seqsOfTry = 1 << 32
)

func (s *Server) jobFile(id int64) string {
	return filepath.Join(s.cfg.Dir, jobsDir, fmt.Sprintf("%d.json", id))
}

// remember puts a build on disk whose source is all there. One that cannot be is lost with the role, as others are.
func (o *sending) remember() {
	b := o.b
	if slices.ContainsFunc(o.manifest.Entries(), mayBeSecret) {
		return // secrets of a build are on no disk for longer than it takes to read them
	}
	text, err := json.Marshal(job{Query: o.query, Build: b.info, Tries: o.tries + 1, Manifest: o.manifest.Entries()})
	if err == nil {
		err = durable.WriteFile(b.s.jobFile(b.info.ID), text, 0o600)
	}
	if err != nil {
		b.s.log.WarnContext(b.ctx, "a build would not survive the role's restart", "build", b.info.ID, "error", err)
		return
	}
	b.resumable = true
}

// mayBeSecret tells what came with a manifest and is no plain description of the build.
func mayBeSecret(e api.SourceEntry) bool {
	return len(e.Data) > 0 && e.Path != ".balena/balena.yml" && e.Path != ".balena/balena.yaml"
}

// forget removes it, unless the role stops and is to go on with it.
func (o *sending) forget() {
	b := o.b
	if b.resumable && errors.Is(context.Cause(b.ctx), errStopped) {
		return
	}
	if err := os.Remove(b.s.jobFile(b.info.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.s.log.Warn("a build that has ended would be begun again", "build", b.info.ID, "error", err)
	}
}

// resume goes on with the builds that an earlier run left.
func (s *Server) resume(ctx context.Context) {
	entries, err := os.ReadDir(filepath.Join(s.cfg.Dir, jobsDir))
	if err != nil {
		s.log.Warn("builds of before cannot be gone on with", "error", err)
		return
	}
	for _, e := range entries {
		file := filepath.Join(s.cfg.Dir, jobsDir, e.Name())
		if !strings.HasSuffix(e.Name(), ".json") {
			_ = os.Remove(file) // of a write that was cut off
			continue
		}
		var j job
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &j)
		}
		if err == nil && j.Build.Fleet == nil {
			err = errors.New("it names no build")
		}
		if err != nil {
			s.log.Warn("a build of before cannot be gone on with", "file", file, "error", errors.Join(err, os.Remove(file)))
			continue
		}
		if why := s.again(j); why != "" {
			s.log.Warn("a build of before ends", "build", j.Build.ID, "why", why,
				"error", errors.Join(os.Remove(file), s.giveUp(ctx, j.Build.ID, why)))
		}
	}
}

// again begins a build anew, or says why not.
func (s *Server) again(j job) string {
	if j.Tries >= maxTries {
		return fmt.Sprintf("interrupted: the builder was restarted %d times under this build; push again", j.Tries)
	}
	opt, err := parseOptions(&http.Request{URL: &url.URL{RawQuery: j.Query}})
	if err != nil {
		return "interrupted: the builder was restarted, and its new version does not understand the options; push again"
	}
	m := source.NewManifest(s.sourceLimits())
	for _, e := range j.Manifest {
		if err := m.Add(e); err != nil {
			return "interrupted: the builder was restarted, and the source is beyond its limits now; push again"
		}
	}
	ticket, err := s.enter()
	if err != nil {
		return "interrupted: the builder was restarted, and its queue is full; push again"
	}
	if err := ticket.Belong(j.Build.Fleet.Organization); err != nil {
		s.leave(ticket)
		return "interrupted: the builder was restarted, and the organization's share of its queue is full; push again"
	}
	b, err := s.newBuild(fmt.Sprintf("resume-%d", j.Build.ID), opt, j.Build, ticket, int64(j.Tries)*seqsOfTry)
	if err != nil {
		s.leave(ticket)
		return "interrupted: the builder was restarted and has no room; push again"
	}
	b.say("The builder was restarted; going on with the build from its beginning")
	o := s.newSending(b, j.Query, m)
	o.tries = j.Tries
	if n := len(o.incoming.Lacks()); n > 0 {
		why := fmt.Errorf("interrupted: the builder was restarted, and %d files of the source are gone; push again", n)
		b.cancel(why)
	}
	go o.life()
	return ""
}
