package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/admission"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Admission bounds how much is worked on at once. Devices and people have places of their own, so that a fleet that comes back
// all at once does not keep anybody's page waiting. What is 0 has its default.
type Admission struct {
	// DeviceRequests is how many requests of devices are worked on at once, 64 by default. As many as 64 times that wait, at
	// most 5 s; who does not fit is answered 503 and told to come again after 5 to 30 s.
	DeviceRequests int `json:"device_requests"`
	// UserRequests is the same for people and everybody else, 64 by default. They wait at most 5 s and come again after 1 to 5 s.
	UserRequests int `json:"user_requests"`
	// CallerRequests is how many requests of one user, device or fleet's key, or of one address without a key, are worked on at
	// once, 8 by default. As many as 16 times that wait, at most 10 s; what does not fit is answered 429.
	CallerRequests int `json:"caller_requests"`
	// Streams is how many logs are written and followed at once, 20,000 by default.
	Streams int `json:"streams"`
	// IdleConnections is how many connections of clients stay open with nothing to do, 2,500 by default; each holds some 30 KiB. Of
	// more, those that have been idle for longest are closed.
	IdleConnections int `json:"idle_connections"`
	// Handshakes is how many TLS handshakes are computed at once, by default two for each processor.
	Handshakes int `json:"handshakes"`
}

// Validate names the field that is wrong.
func (a Admission) Validate() error {
	for name, n := range map[string]int{
		"device_requests": a.DeviceRequests, "user_requests": a.UserRequests, "caller_requests": a.CallerRequests,
		"streams": a.Streams, "handshakes": a.Handshakes, "idle_connections": a.IdleConnections,
	} {
		if n < 0 {
			return fmt.Errorf("admission.%s: %d is negative", name, n)
		}
	}
	return nil
}

// or is n, or its default.
func or(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// gates are the bounds in use.
type gates struct {
	devices, people, streams *admission.Gate
	proofs                   *admission.Gate // logins and the like: each costs a password's hash, of which two are computed at once
	callers                  *admission.Shares[callerKey]
	handshakes               *admission.Handshakes
	idle                     *admission.Idle
}

// callerKey is whose requests are counted together: all keys and sessions of a user are one.
type callerKey struct {
	kind    access.Kind
	id      int64
	address string // of who has no key
}

// handshakeWait is how long a client waits for its handshake to begin. Longer would be in vain: its own patience ends.
const handshakeWait = 10 * time.Second

func newGates(a Admission) *gates {
	between := func(from, to time.Duration) [2]time.Duration { return [2]time.Duration{from, to} }
	devices, people := or(a.DeviceRequests, 64), or(a.UserRequests, 64)
	each := or(a.CallerRequests, 8)
	return &gates{
		devices: admission.NewGate("requests of devices", admission.Limit{
			Running: devices, Waiting: 64 * devices, Wait: 5 * time.Second, Again: between(5*time.Second, 30*time.Second)}),
		people: admission.NewGate("requests", admission.Limit{
			Running: people, Waiting: 16 * people, Wait: 5 * time.Second, Again: between(time.Second, 5*time.Second)}),
		proofs: admission.NewGate("logins", admission.Limit{
			Running: 4, Waiting: 60, Wait: 5 * time.Second, Again: between(time.Second, 5*time.Second)}),
		streams: admission.NewGate("open logs", admission.Limit{
			Running: or(a.Streams, 20_000), Again: between(10*time.Second, 60*time.Second)}),
		callers: admission.NewShares[callerKey](admission.Limit{
			Running: each, Waiting: 16 * each, Wait: 10 * time.Second, Again: between(time.Second, 4*time.Second)}),
		handshakes: admission.NewHandshakes(or(a.Handshakes, 2*runtime.GOMAXPROCS(0)), handshakeWait),
		idle:       admission.NewIdle(or(a.IdleConnections, 2500)),
	}
}

// forDevices are the paths of devices; who is a device where both come (/v7/…) is known only once it has shown its key.
var forDevices = []string{"/device/", "/os/", "/auth/v1/token", "/auth/v1/public-keys/"}

// forProofs are the paths at which passwords are hashed, or the answer to another proof is looked at. A flood of them waits by itself: if
// they had the places of people's requests, all of these would wait behind it.
var forProofs = []string{"/login_", "/user/v1/password", "/user/v1/refresh-token", "/auth/totp/", "/auth/webauthn/"}

// place is what a request holds while it is worked on.
type place struct {
	gates      *gates
	gate       *admission.Gate // whose place it is; nil: none is needed
	leaveGate  func()
	leaveShare func()
}

// enter takes a place for a request before it is known who asks: finding that out is work, too. Other roles, and answers that
// cost nothing, need none.
func (g *gates) enter(rt route.Route, w http.ResponseWriter, r *http.Request) (*place, error) {
	p := &place{gates: g}
	if len(rt.Roles) > 0 || (rt.Method == http.MethodGet && slices.Equal(rt.Who, route.Anybody)) {
		return p, nil
	}
	if err := p.receive(rt, w, r); err != nil {
		return p, err
	}
	p.gate = g.people
	if r.Method != http.MethodGet && slices.ContainsFunc(forProofs, func(prefix string) bool { return strings.HasPrefix(r.URL.Path, prefix) }) {
		p.gate = g.proofs
	}
	if slices.ContainsFunc(forDevices, func(prefix string) bool { return strings.HasPrefix(r.URL.Path, prefix) }) {
		p.gate = g.devices
	}
	return p, p.take(r.Context())
}

func (p *place) take(ctx context.Context) (err error) {
	p.leaveGate, err = p.gate.Enter(ctx)
	return err
}

// received is how much of a body is read before a place is taken: nearly all bodies are shorter.
const received = 16 << 10

// receive reads a body, or its beginning, before a place is taken, and has the rest read without one: nobody keeps a place by
// sending slowly.
func (p *place) receive(rt route.Route, w http.ResponseWriter, r *http.Request) error {
	if rt.Stream || r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTime)) // not supported in some tests
	size := int64(received)
	if r.ContentLength >= 0 {
		size = min(size, r.ContentLength+1) // one more, to see the end
	}
	head, n := make([]byte, size), 0
	for n < len(head) {
		more, err := r.Body.Read(head[n:])
		n += more
		if errors.Is(err, io.EOF) {
			r.Body = body{bytes.NewReader(head[:n]), r.Body}
			return nil
		}
		if err != nil {
			return api.Errorf(api.Invalid, "the body ended early")
		}
	}
	r.Body = body{io.MultiReader(bytes.NewReader(head), &rest{place: p, ctx: r.Context(), from: r.Body}), r.Body}
	return nil
}

// body is a body whose beginning has been read.
type body struct {
	io.Reader
	io.Closer
}

// rest is the rest of a body. While it waits for the client, it holds no place. It belongs to the handler's goroutine.
type rest struct {
	place *place
	ctx   context.Context
	from  io.Reader
}

// Read implements io.Reader.
func (b *rest) Read(p []byte) (n int, err error) {
	if b.place.leaveGate == nil {
		return b.from.Read(p)
	}
	b.place.leaveGate()
	b.place.leaveGate = nil
	n, err = b.from.Read(p)
	leave, backErr := b.place.gate.Return(b.ctx)
	if backErr != nil {
		return n, backErr
	}
	b.place.leaveGate = leave
	return n, err
}

// leave gives up all that is held.
func (p *place) leave() {
	if p.leaveGate != nil {
		p.leaveGate()
	}
	if p.leaveShare != nil {
		p.leaveShare()
	}
	p.leaveGate, p.leaveShare = nil, nil
}

// become goes on as the caller that the request turned out to be of: among its kind, and within its share. A stream then gives
// both up and counts as one of the streams.
func (p *place) become(rt route.Route, r *http.Request, by access.Caller) error {
	if p.gate == nil {
		return nil
	}
	gate := p.gate
	switch by.Kind {
	case access.Device, access.FrozenDevice, access.Provisioning:
		gate = p.gates.devices
	}
	key, fits := keyOf(r, by), false
	if p.leaveShare, fits = p.gates.callers.TryEnter(key); !fits || gate != p.gate {
		p.leaveGate() // nobody waits for one thing with the other in hand
		p.leaveGate, p.gate = nil, gate
		var err error
		if !fits {
			if p.leaveShare, err = p.gates.callers.Enter(r.Context(), key); err != nil {
				return err
			}
		}
		if err := p.take(r.Context()); err != nil {
			return err
		}
	}
	if !rt.Stream {
		return nil
	}
	p.leave()
	p.gate = p.gates.streams
	return p.take(r.Context())
}

func keyOf(r *http.Request, by access.Caller) callerKey {
	k := callerKey{kind: by.Kind}
	switch {
	case by.User != 0:
		k.kind, k.id = access.User, by.User // whatever key it came with
	case by.Device != 0:
		k.id = by.Device
	case by.Fleet != 0:
		k.id = by.Fleet
	case by.Key != 0:
		k.id = by.Key
	default:
		k.address = route.From(r).Address
	}
	return k
}

// turnedAway says when to come again.
func turnedAway(w http.ResponseWriter, err error) error {
	var busy *admission.BusyError
	if errors.As(err, &busy) {
		w.Header().Set("Retry-After", strconv.FormatInt(busy.Seconds(), 10))
	}
	return err
}

// watchEvery is how often the log says that somebody was turned away.
const watchEvery = 10 * time.Second

// watchGates logs how many were turned away, and why, while there are any.
func (s *Server) watchGates(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	before := map[string]int64{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for name, g := range map[string]*admission.Gate{"devices": s.gates.devices, "people": s.gates.people, "logins": s.gates.proofs, "streams": s.gates.streams} {
			load := g.Load()
			if load.Refused > before[name] {
				s.log.WarnContext(ctx, "too much at once: requests were turned away", "class", name, "turned_away", load.Refused-before[name],
					"running", load.Running, "waiting", load.Waiting)
			}
			before[name] = load.Refused
		}
	}
}

// load is GET /internal/v1/load: how full the gates are.
func (s *Server) load(w http.ResponseWriter, _ *http.Request) error {
	return web.WriteJSON(w, http.StatusOK, map[string]any{
		"devices": s.gates.devices.Load(), "people": s.gates.people.Load(), "logins": s.gates.proofs.Load(), "streams": s.gates.streams.Load(),
		"callers": s.gates.callers.Callers(),
	})
}
