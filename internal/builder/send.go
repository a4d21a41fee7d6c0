package builder

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/queue"
	"github.com/roadstead-io/roadstead/internal/builder/source"
	"github.com/roadstead-io/roadstead/internal/builder/upload"
	"github.com/roadstead-io/roadstead/internal/web"
)

// sending is the source of a build that comes file by file: first a manifest, then the contents that the builder lacks. Such a
// build does not end with its pusher's connection.
type sending struct {
	b        *build
	query    string // what was asked for
	manifest *source.Manifest
	shelf    *upload.Shelf
	incoming *upload.Incoming
	tries    int // how often the build was begun before
}

// idleUpload is how long an upload may be without a request that brings contents.
const idleUpload = 2 * time.Minute

// openSending takes a manifest, opens the build and says what the builder lacks. The build begins by itself when it lacks nothing.
func (s *Server) openSending(w http.ResponseWriter, r *http.Request) error {
	ticket, err := s.enter()
	if err != nil {
		return s.refuse(w, r, err)
	}
	o, err := s.receiveManifest(http.NewResponseController(w), r, ticket)
	if err != nil {
		s.leave(ticket)
		return s.refuse(w, r, err)
	}
	opened := o.opened()
	go o.life()
	return web.WriteJSON(w, http.StatusCreated, opened)
}

// receiveManifest opens a build for a request and reads what its source is. A build that it opened and cannot go on with has ended.
func (s *Server) receiveManifest(rc *http.ResponseController, r *http.Request, ticket *queue.Ticket) (*sending, error) {
	b, err := s.openFor(r, ticket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(b.ctx, func() { _ = rc.SetReadDeadline(time.Now()) }) // ends a read that waits
	late := b.uploadTimer()
	m, err := upload.ReadManifest(r.Body, b.s.sourceLimits())
	late.Stop()
	stop()
	if err != nil {
		if cause := context.Cause(b.ctx); cause != nil {
			err = api.Errorf(api.Invalid, "%v", cause)
		}
		b.say("The source cannot be used: %s", b.words(err))
		b.end(err)
		return nil, err
	}
	o := s.newSending(b, r.URL.RawQuery, m)
	return o, nil
}

func (s *Server) newSending(b *build, query string, m *source.Manifest) *sending {
	o := &sending{b: b, query: query, manifest: m, shelf: s.uploads.Shelf(b.info.Fleet.Organization, b.info.Fleet.ID)}
	o.incoming = o.shelf.Expect(m, idleUpload, func() {
		b.cancel(fmt.Errorf("the source did not arrive: nothing came for %s", idleUpload))
	})
	b.sending.Store(o)
	return o
}

func (o *sending) opened() api.BuildOpened {
	return api.BuildOpened{ID: o.b.info.ID, Commit: o.b.info.Commit, Missing: o.incoming.Lacks()}
}

// life is the build, from the manifest to its end.
func (o *sending) life() {
	b := o.b
	defer b.s.leave(b.ticket)
	defer o.incoming.Release()
	defer o.forget()
	late := b.uploadTimer()
	select {
	case <-o.incoming.Arrived():
	case <-b.ctx.Done():
	}
	late.Stop()
	if cause := context.Cause(b.ctx); cause != nil {
		b.end(cause)
		return
	}
	o.remember()
	if err := o.place(); err != nil {
		b.say("The source cannot be used: %s", b.words(err))
		b.end(err)
		return
	}
	b.run()
}

// place lays the source out.
func (o *sending) place() error {
	dir := o.b.source()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make room for the source: %w", err)
	}
	return o.manifest.Place(dir, func(root *os.Root, e api.SourceEntry) error { return o.shelf.Lay(root, dir, e) })
}

// mine finds the build that a request brings a source for.
func (s *Server) mine(r *http.Request) (*sending, error) {
	id, watch, err := s.asked(r)
	if err != nil {
		return nil, err
	}
	b, _ := s.live.find(id)
	if b == nil {
		return nil, notHere(id)
	}
	if !watch.MaySend {
		return nil, api.Errorf(api.Forbidden, "build %d is somebody else's: only they send its source", id)
	}
	o := b.sending.Load()
	if o == nil {
		return nil, api.Errorf(api.Conflict, "the source of build %d did not come as a manifest", id)
	}
	return o, nil
}

func (s *Server) missing(w http.ResponseWriter, r *http.Request) error {
	o, err := s.mine(r)
	if err != nil {
		return s.refuse(w, r, err)
	}
	return web.WriteJSON(w, http.StatusOK, o.opened())
}

// blobs takes contents; those that came whole are kept when the connection breaks.
func (s *Server) blobs(w http.ResponseWriter, r *http.Request) error {
	o, err := s.mine(r)
	if err != nil {
		return s.refuse(w, r, err)
	}
	rc := http.NewResponseController(w)
	defer context.AfterFunc(o.b.ctx, func() { _ = rc.SetReadDeadline(time.Now()) })() // ends a read that waits
	if err := o.incoming.Take(r.Body); err != nil {
		if cause := context.Cause(o.b.ctx); cause != nil {
			err = api.Errorf(api.Invalid, "%v", cause)
		}
		return s.refuse(w, r, err)
	}
	return web.WriteJSON(w, http.StatusOK, o.opened())
}
