package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/fromurl"
	"github.com/roadstead-io/roadstead/internal/builder/queue"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// options is what a pusher asks for in the query.
type options struct {
	slug       string // organization/fleet
	dockerfile string // path in the source, "" for the usual search
	noCache    bool
	headless   bool // answer at once, build on
	foreign    bool // although no worker runs programs of the fleet's devices; or images come built
	draft      bool
	gitCommit  string // the commit that was pushed, and to which branch; only the git role says so
	gitRef     string
	gitURL     string // the repository that it was fetched from; "" when it was pushed to us
}

func parseOptions(r *http.Request) (options, error) {
	q := r.URL.Query()
	o := options{slug: q.Get("slug"), dockerfile: q.Get("dockerfilePath")}
	if o.slug == "" {
		return o, api.Errorf(api.Invalid, `the query names no fleet: "slug" is missing`)
	}
	if o.dockerfile != "" {
		if !filepath.IsLocal(o.dockerfile) {
			return o, api.Errorf(api.Invalid, "dockerfilePath %q must be a file inside the source", o.dockerfile)
		}
		o.dockerfile = path.Clean(o.dockerfile)
	}
	if pki.PeerRole(r) == api.RoleGit { // whoever signs the statement looks at their form
		o.gitCommit, o.gitRef, o.gitURL = q.Get("gitCommit"), q.Get("gitRef"), q.Get("gitUrl")
	}
	// "emulated" is accepted and means nothing: how foreign steps run is the build service's business.
	for name, into := range map[string]*bool{"nocache": &o.noCache, "headless": &o.headless, "isdraft": &o.draft, "foreign": &o.foreign, "emulated": new(bool)} {
		text := q.Get(name)
		if text == "" {
			continue
		}
		v, err := strconv.ParseBool(text)
		if err != nil {
			return o, api.Errorf(api.Invalid, "%s must be true or false, not %q", name, text)
		}
		*into = v
	}
	return o, nil
}

// headlessAnswer is the answer to a detached push.
type headlessAnswer struct {
	Started   bool  `json:"started"`
	ReleaseID int64 `json:"releaseId"`
}

// build takes a project's source, opens a release for it and builds it. What is wrong before the build begins is an HTTP error
// in plain text, as balena's client prints it; afterwards everything is an event of the stream.
func (s *Server) build(w http.ResponseWriter, r *http.Request) error {
	ticket, err := s.enter()
	if err != nil {
		return s.refuse(w, r, err)
	}
	b, err := s.receive(http.NewResponseController(w), r, ticket)
	if err != nil {
		s.leave(ticket)
		return s.refuse(w, r, err)
	}
	if b.opt.headless {
		b.detach()
		go func() {
			defer s.leave(ticket)
			b.run()
		}()
		return web.WriteJSON(w, http.StatusOK, headlessAnswer{Started: true, ReleaseID: b.info.ID})
	}
	defer s.leave(ticket)
	b.stream = newStream(w)
	defer b.stream.close()
	b.run()
	return nil
}

// receive opens a build and unpacks its source. A build that it opened and cannot go on with is finished as failed.
func (s *Server) receive(rc *http.ResponseController, r *http.Request, ticket *queue.Ticket) (*build, error) {
	b, err := s.openFor(r, ticket)
	if err != nil {
		return nil, err
	}
	b.attach(r.Context())
	if archive, ok := r.Body.(*fromurl.Body); ok { // only now: who may not push has nothing fetched
		archive.Fetch(b.ctx, s.cfg.Sources, s.cfg.Limits.SourceBytes)
	}
	if err := b.unpack(rc, r); err != nil {
		b.say("The source cannot be used: %s", b.words(err))
		b.end(err)
		return nil, err
	}
	return b, nil
}

// openFor opens the build that a request asks for.
func (s *Server) openFor(r *http.Request, ticket *queue.Ticket) (*build, error) {
	opt, err := parseOptions(r)
	if err != nil {
		return nil, err
	}
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		return nil, api.Errorf(api.Unauthorized, "log in first: the request carries no token")
	}
	info, err := s.openBuild(r.Context(), behalf{authorization, r.Header.Get("X-Forwarded-For")}, api.BuildRequest{Slug: opt.slug, Draft: opt.draft})
	if err != nil {
		return nil, err
	}
	why := "the builder has no room for the build"
	if err := ticket.Belong(info.Fleet.Organization); err != nil {
		why = fmt.Sprintf("the organization has %d builds waiting or at work already (limit organization_queue=%d); try again later",
			s.cfg.Limits.OrganizationQueue, s.cfg.Limits.OrganizationQueue)
		return nil, errors.Join(api.Errorf(api.RateLimited, "%s", why), s.giveUp(r.Context(), info.ID, why))
	}
	if err := s.canBuild(r.Context(), info, opt); err != nil {
		return nil, errors.Join(err, s.giveUp(r.Context(), info.ID, api.AsError(err).Text))
	}
	b, err := s.newBuild(web.RequestID(r.Context()), opt, info, ticket, 0)
	if err != nil {
		return nil, errors.Join(err, s.giveUp(r.Context(), info.ID, why))
	}
	return b, nil
}

// giveUp ends a build that was opened and will not be made.
func (s *Server) giveUp(ctx context.Context, id int64, why string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishGrace)
	defer cancel()
	_, err := s.finish(ctx, id, api.BuildResult{Status: api.StatusFailed, Error: why})
	return err
}

// refuse answers with an error in plain text. It first takes some of a body that is still coming, or the client would see its
// connection break instead of the answer.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) error {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(10 * time.Second)) // not every connection can; then the client's own patience counts
	_, _ = io.CopyN(io.Discard, r.Body, 64<<20)
	e := api.AsError(err)
	text := e.Text
	switch {
	case e.Code == api.Internal:
		s.log.ErrorContext(r.Context(), "build request failed", "request", web.RequestID(r.Context()), "error", err)
		text = "internal error; the server's log has it under request " + web.RequestID(r.Context())
	case text == "":
		text = http.StatusText(e.Code.Status())
	}
	if e.Code == api.RateLimited || e.Code == api.Unavailable {
		w.Header().Set("Retry-After", "5")
	}
	return web.WriteText(w, e.Code.Status(), text+"\n")
}

// attach ends a build when its pusher goes away, until detach.
func (b *build) attach(ctx context.Context) {
	b.detachFn = context.AfterFunc(ctx, func() { b.cancel(errGone) })
}

func (b *build) detach() {
	if b.detachFn != nil {
		b.detachFn()
	}
}

var (
	errGone      = errors.New("the pusher's connection was lost, so the build was cancelled")
	errCancelled = errors.New("the build was cancelled")
)
