package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/journal"
	"github.com/roadstead-io/roadstead/internal/builder/queue"
	"github.com/roadstead-io/roadstead/internal/builder/source"
	"github.com/roadstead-io/roadstead/internal/builder/target"
	"github.com/roadstead-io/roadstead/internal/compose"
	"github.com/roadstead-io/roadstead/internal/web"
)

// build is one release in the making.
type build struct {
	s         *Server
	opt       options
	info      api.Build
	targets   []target.Target // what the fleet's devices are
	dir       string          // private, removed at the end
	log       logbook
	stream    *stream          // nil for a detached build
	detachFn  func() bool      // nil: nobody's going away ends the build
	ticket    *queue.Ticket    // nil for a promotion, which waits for no build
	journal   *journal.Journal // of what it says, for those who follow it
	followers journal.Followers
	sending   atomic.Pointer[sending] // nil: the source came as an archive
	resumable bool                    // it is on disk, and the next run of the role goes on with it
	promotion *api.Promotion          // what a client pushed, when there is nothing to build; see promote.go

	ctx    context.Context // ends with the build, the role, or the wish of the pusher
	cancel context.CancelCauseFunc
	heart  sync.WaitGroup // the heartbeat
	still  chan struct{}  // closed to stop it

	resultMu sync.Mutex // covers results and proof.images
	results  []api.BuildImageResult

	upstream fetches // images of other registries
	asked    asked   // which secrets

	proof evidence // of where the release comes from; its images are covered by resultMu
}

const (
	heartbeatEvery = time.Second // so that a build ends within two after its maker's right has
	keepAliveEvery = 30 * time.Second
	finishTime     = 15 * time.Minute // for an api role that is away
	finishGrace    = 3 * time.Second  // the same, when this role is stopping
)

func (s *Server) newBuild(request string, opt options, info api.Build, ticket *queue.Ticket, after int64) (*build, error) {
	dir, err := os.MkdirTemp(filepath.Join(s.cfg.Dir, workDir), fmt.Sprintf("%d-", info.ID))
	if err != nil {
		return nil, fmt.Errorf("make room for build %d: %w", info.ID, err)
	}
	b := &build{s: s, opt: opt, info: info, targets: target.Of(info.Fleet), dir: dir, ticket: ticket, still: make(chan struct{}),
		journal: journal.New(s.cfg.Limits.EventBytes, after)}
	b.ctx, b.cancel = context.WithCancelCause(web.WithRequestID(s.life, request))
	s.live.add(b)
	b.heart.Go(b.beat)
	return b, nil
}

// beat tells the api role that the build lives, and stops the build when it is not wanted any more. An api role that does not
// answer is no reason to stop: it may be back in a moment.
func (b *build) beat() {
	t := time.NewTicker(heartbeatEvery)
	defer t.Stop()
	alive := time.NewTicker(keepAliveEvery)
	defer alive.Stop()
	for {
		select {
		case <-b.still:
			return
		case <-alive.C:
			if b.stream != nil && !b.stream.beat() {
				b.cancel(errGone)
			}
		case <-t.C:
			now, err := b.s.heartbeat(context.WithoutCancel(b.ctx), b.info.ID, api.BuildBeat{Followers: b.followers.List()})
			b.followers.Revoke(now.Gone)
			switch {
			case err == nil && now.Status == api.StatusInterrupted:
				b.cancel(errors.New("the build was given up: the server did not hear of it for too long; push again"))
			case err == nil && now.Status != api.StatusRunning, errors.Is(err, api.ErrNotFound):
				b.cancel(errCancelled)
			}
		}
	}
}

// unpack takes the source in, for as long as the build is wanted: a pusher that stops sending holds no place for ever.
func (b *build) unpack(rc *http.ResponseController, r *http.Request) error {
	defer b.uploadTimer().Stop()
	stop := context.AfterFunc(b.ctx, func() { _ = rc.SetReadDeadline(time.Now()) }) // ends a read that waits
	defer stop()
	src := b.source()
	if err := os.Mkdir(src, 0o700); err != nil {
		return fmt.Errorf("make room for the source: %w", err)
	}
	body := http.MaxBytesReader(nil, r.Body, b.s.cfg.Limits.SourceBytes)
	if _, err := source.Extract(src, body, b.s.sourceLimits()); err != nil {
		switch cause := context.Cause(b.ctx); {
		case errors.Is(cause, errStopped):
			return api.Errorf(api.Unavailable, "%v", cause)
		case cause != nil:
			return api.Errorf(api.Invalid, "%v", cause)
		}
		return err
	}
	// The server notices that a client goes away only once the body was read to its end.
	if _, err := io.Copy(io.Discard, body); err != nil {
		return api.Errorf(api.Invalid, "the source archive is followed by too much, or ended early: %v", err)
	}
	return nil
}

// uploadTimer ends a build whose source takes too long to arrive.
func (b *build) uploadTimer() *time.Timer {
	n := b.s.cfg.Limits.UploadMinutes
	return time.AfterFunc(time.Duration(n)*time.Minute, func() {
		b.cancel(fmt.Errorf("the source did not arrive within %d minutes (limit upload_minutes=%d)", n, n))
	})
}

func (b *build) source() string { return filepath.Join(b.dir, "source") }

// say adds a line to the log and the stream.
func (b *build) say(format string, args ...any) {
	b.tell(api.BuildEvent{Message: fmt.Sprintf(format, args...)})
}

func (b *build) tell(e api.BuildEvent) {
	if e.Message != "" {
		e.Message = b.log.clean(e.Message)
		b.log.line(e.Message)
	}
	if !b.emit(e) {
		b.cancel(errGone)
	}
}

// emit hands an event to those who listen. It reports false when the pusher listens no more.
func (b *build) emit(e api.BuildEvent) bool {
	b.journal.Add(e)
	return b.stream == nil || b.stream.event(e)
}

// run does the build and records how it went.
func (b *build) run() {
	defer func() {
		if p := recover(); p != nil {
			b.s.log.ErrorContext(b.ctx, "panic in a build", "build", b.info.ID, "panic", p)
			b.end(fmt.Errorf("panic: %v", p))
		}
	}()
	b.tell(api.BuildEvent{Type: "metadata", Resource: "buildLogId", Value: b.info.ID})
	began := time.Now()
	err := b.work()
	if err == nil {
		b.say("Built in %s", time.Since(began).Round(100*time.Millisecond))
	}
	if context.Cause(b.ctx) == nil && b.ticket != nil {
		b.ticket.Done()
	}
	b.end(err)
}

// end finishes the release, tells the pusher, and removes what is on disk. It is called once.
func (b *build) end(err error) {
	defer b.close()
	if b.abandoned() {
		b.journal.End("")
		return
	}
	result := api.BuildResult{Status: api.StatusSuccess}
	cause := context.Cause(b.ctx)
	if b.resumable && errors.Is(cause, errStopped) {
		b.journal.End("") // those who follow come back for the rest
		return
	}
	switch {
	case err == nil:
	case errors.Is(cause, errCancelled), errors.Is(cause, errGone):
		result.Status, result.Error = api.StatusCancelled, cause.Error()
	case cause != nil:
		result.Status, result.Error = api.StatusFailed, cause.Error()
	default:
		result.Status, result.Error = api.StatusFailed, b.words(err)
	}
	if result.Error = b.log.clean(result.Error); result.Error != "" {
		b.log.line("ERROR: " + result.Error)
	}
	for i := range b.results {
		b.results[i].Error = b.log.clean(b.results[i].Error)
	}
	result.Log, result.Images = b.log.String(), b.results
	if result.Status == api.StatusSuccess {
		result.Statement = b.proof.signed
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), finishTime)
	defer cancel()
	defer context.AfterFunc(b.s.life, func() { time.AfterFunc(finishGrace, cancel) })()
	now, finishErr := b.s.finish(ctx, b.info.ID, result)
	b.s.log.InfoContext(b.ctx, "build ended", "build", b.info.ID, "fleet", b.info.Fleet.Slug, "status", result.Status,
		"error", b.log.cleanError(err), "finish_error", finishErr, "request", web.RequestID(b.ctx))
	if finishErr == nil && now.Status == api.StatusCancelled && result.Status == api.StatusFailed {
		result.Status, result.Error = now.Status, errCancelled.Error() // what failed is only what a cancelled build may not do any more
	}
	switch {
	case result.Status != api.StatusSuccess:
		b.emit(api.BuildEvent{Message: "ERROR: " + result.Error, IsError: true})
	case finishErr != nil:
		b.emit(api.BuildEvent{Message: "ERROR: the images are built, but the release could not be recorded: " +
			b.words(finishErr), IsError: true})
		result.Status = api.StatusFailed
	case now.Status != api.StatusSuccess:
		b.emit(api.BuildEvent{Message: "ERROR: the release is " + now.Status, IsError: true})
		result.Status = now.Status
	default:
		b.emit(api.BuildEvent{Message: fmt.Sprintf("Release %s of %s is ready (id %d)", b.info.Commit, b.info.Fleet.Slug, b.info.ID)})
	}
	b.journal.End(result.Status)
}

func (b *build) close() {
	close(b.still)
	b.heart.Wait()
	b.detach()
	b.cancel(nil)
	b.upstream.close()
	b.s.live.end(b)
	if err := removeAll(b.dir); err != nil {
		b.s.log.Error("the work directory of a build stays behind", "dir", b.dir, "error", err)
	}
}

// removeAll removes a tree whatever modes it has.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// words is what people get to read of an error. What has no code is ours to know, and theirs to report.
func (b *build) words(err error) string {
	e := api.AsError(err)
	if e.Code != api.Internal {
		return e.Error()
	}
	b.s.log.ErrorContext(b.ctx, "build failed", "build", b.info.ID, "error", b.log.cleanError(err), "request", web.RequestID(b.ctx))
	if e.Text != "" {
		return e.Text
	}
	return "internal error; the server's log has it under request " + web.RequestID(b.ctx)
}

// work is the build itself.
func (b *build) work() error {
	if b.promotion != nil {
		return b.promoteAll()
	}
	release, err := b.slot()
	if err != nil {
		return err
	}
	defer release()
	limit := b.s.cfg.Limits.Minutes
	late := time.AfterFunc(time.Duration(limit)*time.Minute, func() {
		b.cancel(fmt.Errorf("the build took longer than %d minutes (limit minutes=%d)", limit, limit))
	})
	defer late.Stop()

	b.say("Building release %s of %s for %s", b.info.Commit, b.info.Fleet.Slug, b.machines())
	pre, err := b.takeAside()
	if err != nil {
		return err
	}
	b.log.conceal(pre.secretTexts())
	for _, name := range pre.open() {
		b.say("Note: the secret %s is too short to be kept out of the log", name)
	}
	root, err := os.OpenRoot(b.source())
	if err != nil {
		return fmt.Errorf("open the source: %w", err)
	}
	defer func() { _ = root.Close() }()
	b.proof.began, b.proof.source = time.Now(), sumSource(b.ctx, root)
	defer func() { _, _ = b.proof.source() }() // before the source is closed
	project, err := b.project(root, pre)
	if err != nil {
		return err
	}
	for _, w := range project.Warnings {
		b.say("Note: %s", w)
	}
	if err := pre.check(project.Services); err != nil {
		return err
	}
	for _, name := range pre.settings.Strangers(project.Services) {
		b.say("Note: %s speaks of a service %q, which the project does not have", pre.settings.File, name)
	}
	contract, err := compose.Contract(root)
	if err != nil {
		return err
	}
	images, err := b.images(project, contract)
	if err != nil {
		return err
	}
	if err := b.services(root, project, images, pre); err != nil {
		return err
	}
	b.tellUnused(pre, project.Services)
	return b.attest()
}

// machines says for what the fleet is built.
func (b *build) machines() string {
	text := fmt.Sprintf("%s (%s)", b.info.Fleet.DeviceType, b.info.Fleet.Arch)
	for _, a := range b.info.Fleet.Also {
		text += ", " + a.Arch
	}
	return text
}

// slot waits until one of the few places for builds at work is free.
func (b *build) slot() (release func(), err error) {
	err = b.ticket.Wait(b.ctx, func(p queue.Place) { b.say("%s", waitingLine(p)) })
	if err != nil {
		return nil, err
	}
	b.s.enterStore()
	return b.s.leaveStore, nil
}

// waitingLine tells where a build stands. How long it may take is said only when the last builds give a reason to.
func waitingLine(p queue.Place) string {
	if p.Wait == 0 {
		return fmt.Sprintf("Waiting for other builds to end: you are %s of %d", ordinal(p.Number), p.Of)
	}
	return fmt.Sprintf("Waiting for other builds to end: you are %s of %d; about %d min", ordinal(p.Number), p.Of,
		int((p.Wait+time.Minute-1)/time.Minute))
}

func ordinal(n int) string {
	suffix := "th"
	if n/10%10 != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s", n, suffix)
}

// project finds out what the source wants to be.
func (b *build) project(root *os.Root, pre *aside) (*compose.Project, error) {
	if file := compose.Find(root); file != "" {
		if b.opt.dockerfile != "" {
			b.say("Note: the Dockerfile path %q is ignored: %s says how services are built", b.opt.dockerfile, file)
		}
		return compose.Load(b.ctx, root, file)
	}
	if b.opt.dockerfile == "" && pre.has(compose.MainService) {
		return compose.Prebuilt(), nil
	}
	if _, _, err := findDockerfile(root, ".", b.opt.dockerfile, b.info.Fleet); err != nil {
		return nil, err
	}
	return compose.Single(b.opt.dockerfile), nil
}

// images has the api role make a row for every service, and the release be what the project's contract says.
func (b *build) images(project *compose.Project, contract json.RawMessage) (map[string]api.BuildImage, error) {
	b.proof.composition = project.Composition
	ask := api.BuildImagesRequest{Composition: project.Composition, Contract: contract}
	for _, svc := range project.Services {
		ask.Services = append(ask.Services, svc.Name)
	}
	list, err := b.s.addImages(b.ctx, b.info.ID, ask)
	if err != nil {
		return nil, fmt.Errorf("record the images: %w", err)
	}
	images := map[string]api.BuildImage{}
	for _, image := range list {
		images[image.Service] = image
	}
	for _, name := range ask.Services {
		if images[name].Repository == "" {
			return nil, fmt.Errorf("record the images: the api role made none for service %s", name)
		}
	}
	return images, nil
}

// services builds and pushes every service, some at once. The first that fails stops the others.
func (b *build) services(root *os.Root, project *compose.Project, images map[string]api.BuildImage, pre *aside) error {
	var products []*product // all of them before the first is begun: what is wrong with one is no reason to stop another's work
	for _, svc := range project.Services {
		targets, err := target.Only(b.targets, svc.Platforms)
		if err != nil {
			return fmt.Errorf("service %s: %w", svc.Name, err)
		}
		p := &product{build: b, svc: svc, image: images[svc.Name]}
		for _, t := range targets {
			p.parts = append(p.parts, &making{build: b, root: root, pre: pre, svc: svc, target: t, several: len(targets) > 1})
		}
		products = append(products, p)
	}
	group, ctx := errgroup.WithContext(b.ctx)
	group.SetLimit(b.s.cfg.Limits.Services)
	for _, p := range products {
		group.Go(func() error {
			result, err := p.do(ctx)
			return b.note(ctx, p, result, err)
		})
	}
	return group.Wait()
}

// note records what became of a service. err comes back.
func (b *build) note(ctx context.Context, p *product, result api.BuildImageResult, err error) error {
	result.ID, result.Status = p.image.ID, api.StatusSuccess
	if err != nil {
		result.Status = api.StatusCancelled // another service failed, or the whole build is not wanted
		if ctx.Err() == nil {
			result.Status, result.Error = api.StatusFailed, b.words(err)
		}
	}
	b.resultMu.Lock()
	defer b.resultMu.Unlock()
	b.results = append(b.results, result)
	return err
}
