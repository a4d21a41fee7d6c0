package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/journal"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	linesAtOnce = 100              // are read from the journal for one who follows
	quietTime   = 15 * time.Second // after which an empty line is sent
)

// asked finds out who asks for a build, and whether they may.
func (s *Server) asked(r *http.Request) (id int64, watch api.BuildWatch, err error) {
	id, err = strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		return 0, watch, api.Errorf(api.Invalid, "a build is named by the number of its release, not by %.50q", r.PathValue("id"))
	}
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		return 0, watch, api.Errorf(api.Unauthorized, "log in first: the request carries no token")
	}
	by := behalf{authorization, r.Header.Get("X-Forwarded-For")}
	err = s.api.call(r.Context(), fmt.Sprintf("/internal/v1/builds/%d/watch", id), by, struct{}{}, &watch)
	return id, watch, err
}

// notHere says that nothing is known of a build; its release may say more.
func notHere(id int64) error {
	return api.Errorf(api.NotFound, "build %d is not under way here: its release says how it ended", id)
}

// state tells where a build stands.
func (s *Server) state(w http.ResponseWriter, r *http.Request) error {
	id, _, err := s.asked(r)
	if err != nil {
		return s.refuse(w, r, err)
	}
	b, _ := s.live.find(id)
	if b == nil {
		return s.refuse(w, r, notHere(id))
	}
	out := api.BuildState{ID: id, Phase: api.PhaseBuild}
	if o := b.sending.Load(); o != nil && len(o.lacks()) > 0 {
		out.Phase = api.PhaseUpload
	} else if p, ok := b.ticket.Place(); ok {
		out.Phase, out.Place, out.Of, out.Wait = api.PhaseWaiting, p.Number, p.Of, int64(p.Wait.Seconds())
	}
	return web.WriteJSON(w, http.StatusOK, out)
}

// events hands on what a build says from a number on, as it is said: one JSON object a line. It ends with the build, with the
// right to follow it, or with the reader's patience; for a reader that is slow, nothing is kept but its place.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	after, err := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	if err != nil && r.URL.Query().Get("after") != "" {
		return s.refuse(w, r, api.Errorf(api.Invalid, "after must be the number of a line, not %.50q", r.URL.Query().Get("after")))
	}
	follow := r.URL.Query().Get("follow") != "false"
	id, watch, err := s.asked(r)
	if err != nil {
		return s.refuse(w, r, err)
	}
	b, j := s.live.find(id)
	if j == nil {
		return s.refuse(w, r, notHere(id))
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	if b != nil {
		remove, ok := b.followers.add(watch.Follower, s.cfg.Limits.Followers, cancel)
		if !ok {
			return s.refuse(w, r, api.Errorf(api.RateLimited, "%d follow build %d already (limit followers_of_build=%d)",
				s.cfg.Limits.Followers, id, s.cfg.Limits.Followers))
		}
		defer remove()
	}
	w.Header().Set("Content-Type", "application/x-ndjson; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	out := &lines{w: w, rc: http.NewResponseController(w)}
	defer context.AfterFunc(ctx, out.cut)() // a write that waits for its reader
	out.follow(ctx, j, after, follow)
	return nil
}

// lines writes lines to one who follows.
type lines struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// cut ends a write that waits.
func (l *lines) cut() { _ = l.rc.SetWriteDeadline(time.Unix(1, 0)) }

func (l *lines) follow(ctx context.Context, j *journal.Journal, after int64, stay bool) {
	quiet := time.NewTicker(quietTime)
	defer quiet.Stop()
	if !l.write(ctx, []byte("\n")) { // the head goes out before there is anything to say
		return
	}
	for {
		batch, ended, more := j.Read(after, linesAtOnce)
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		for _, line := range batch {
			_ = enc.Encode(line) // into memory, of values that are ours
			after = line.Seq
		}
		if text.Len() > 0 && !l.write(ctx, text.Bytes()) {
			return
		}
		if ended || len(batch) == 0 && !stay {
			return
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-more:
		case <-quiet.C:
			if !l.write(ctx, []byte("\n")) {
				return
			}
		}
	}
}

func (l *lines) write(ctx context.Context, p []byte) bool {
	_ = l.rc.SetWriteDeadline(time.Now().Add(writeTime)) // not every writer can; then there is no deadline
	if ctx.Err() != nil {                                // and not after cut, which would be undone
		return false
	}
	if _, err := l.w.Write(p); err != nil {
		return false
	}
	return l.rc.Flush() == nil
}
