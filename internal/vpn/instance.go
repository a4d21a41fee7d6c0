package vpn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/vpn/line"
	"github.com/roadstead-io/roadstead/internal/vpn/management"
)

// instance is one openvpn process, as the vpn role sees it. The server's lock covers all of it but what never changes.
type instance struct {
	server  *Server
	number  int
	network netip.Prefix
	gateway netip.Addr
	changed chan struct{}

	conn    *management.Conn // nil while there is none
	known   bool             // who is in, is known
	knocks  map[int]*knock   // on their way in, by port
	clients map[int]*session // admitted, by openvpn's number
	up      []api.ChannelUp  // to be reported
	down    []api.ChannelDown
	full    bool   // everything is to be told
	told    string // and is, up to the session of this name
}

func newInstance(s *Server, of line.Instance) (*instance, error) {
	network, err1 := netip.ParsePrefix(of.Network)
	gateway, err2 := netip.ParseAddr(of.Server)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return &instance{
		server: s, number: of.Number, network: network, gateway: gateway, changed: make(chan struct{}, 1), full: true,
		knocks: map[int]*knock{}, clients: map[int]*session{},
	}, nil
}

// name is what the api role calls it.
func (i *instance) name() string { return "vpn-" + strconv.Itoa(i.number) }

func (i *instance) kick() {
	select {
	case i.changed <- struct{}{}:
	default:
	}
}

// again is how soon openvpn's management is tried again.
const again = 200 * time.Millisecond

// attend listens to openvpn until the context ends, whatever dies meanwhile.
func (i *instance) attend(ctx context.Context) {
	for said := ""; ctx.Err() == nil; {
		err := i.once(ctx)
		i.lost()
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			i.server.log.WarnContext(ctx, "openvpn is away", "instance", i.number, "error", err)
		}
		pause(ctx, again)
	}
}

func (i *instance) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := i.server.line.Management(ctx, i.number)
	if err != nil {
		return err
	}
	fresh := map[int]bool{} // asked to be let in since we listen
	m := management.New(conn, func(e management.Event) {
		if e.Kind == management.Connect {
			i.server.mu.Lock()
			fresh[e.Client] = true
			i.server.mu.Unlock()
		}
		i.heard(ctx, e)
	})
	i.server.mu.Lock()
	i.conn = m
	i.server.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	if err := i.findOut(ctx, m, fresh); err != nil {
		cancel()
		return errors.Join(err, <-done)
	}
	return <-done
}

// findOut lets openvpn begin, if it has just been started, and finds out who is in, if it has not.
func (i *instance) findOut(ctx context.Context, m *management.Conn, fresh map[int]bool) error {
	if err := m.Release(ctx); err != nil && !errors.Is(err, management.ErrFailed) {
		return err
	}
	var clients []management.Client
	var err error
	for n := 0; ; n++ { // it does not know right after its start
		if clients, err = m.Clients(ctx); err == nil || n == 50 || !errors.Is(err, management.ErrFailed) {
			break
		}
		pause(ctx, 50*time.Millisecond)
	}
	if err != nil {
		return err
	}
	flows, err := i.server.line.Flows(ctx, i.number)
	if err != nil {
		return err
	}
	at := map[int]line.Flow{}
	for _, f := range flows {
		at[f.Port] = f
	}
	s := i.server
	s.mu.Lock()
	var strangers []int
	for _, c := range clients {
		if fresh[c.ID] || i.clients[c.ID] != nil {
			continue
		}
		one := restored(i, c, at)
		if one == nil {
			strangers = append(strangers, c.ID)
			continue
		}
		s.begin(one)
	}
	i.known = true
	i.everything()
	s.mu.Unlock()
	i.kick()
	for _, id := range strangers { // they come again, and are asked about
		if err := m.Kill(ctx, id); err != nil && !errors.Is(err, management.ErrFailed) {
			return err
		}
	}
	return nil
}

// restored is the session of a client that an earlier vpn role let in; nil when it is not known to be one.
func restored(i *instance, c management.Client, at map[int]line.Flow) *session {
	port := portOf(c.Real)
	f, ok := at[port]
	var n note
	if !ok || f.Note == "" || json.Unmarshal([]byte(f.Note), &n) != nil || n.UUID != c.Name || n.Address != c.Address {
		return nil
	}
	return &session{
		id: n.ID, uuid: n.UUID, instance: i, client: c.ID, port: port, address: n.Address, from: f.From, identity: n.Identity, key: n.Key, since: n.Since,
		conns: map[net.Conn]bool{},
	}
}

func portOf(real string) int {
	_, port, err := net.SplitHostPort(real)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	return n
}

// lost forgets what openvpn had: it has ended, or cannot be asked. What is still there is found again.
func (i *instance) lost() {
	s := i.server
	s.mu.Lock()
	defer s.mu.Unlock()
	i.conn, i.known = nil, false
	for _, one := range i.clients {
		s.end(one)
	}
	clear(i.clients)
	clear(i.knocks)
}

// heard takes what openvpn tells. It does not wait for anything.
func (i *instance) heard(ctx context.Context, e management.Event) {
	s := i.server
	switch e.Kind {
	case management.Connect, management.Reauth:
		s.work.Go(func() { i.decide(ctx, e) })
	case management.Established:
		s.mu.Lock()
		if one := i.clients[e.Client]; one != nil && !one.in && !one.ended {
			s.begin(one)
		}
		s.mu.Unlock()
	case management.Disconnect:
		s.mu.Lock()
		if one := i.clients[e.Client]; one != nil {
			s.end(one)
		}
		s.mu.Unlock()
	}
}

// kill ends a client in openvpn.
func (i *instance) kill(one *session) {
	s := i.server
	s.mu.Lock()
	m := i.conn
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.life, 5*time.Second)
	defer cancel()
	if m != nil {
		if err := m.Kill(ctx, one.client); err == nil || errors.Is(err, management.ErrFailed) { // it may be gone by itself
			return
		}
	}
	_ = s.line.Drop(ctx, i.number, one.port)
}

// Times of a decision: openvpn gives a client up after half a minute.
const (
	decideTime = 28 * time.Second
	loginTime  = 10 * time.Second
	loginAgain = time.Second
)

// decide finds out whether a client may come in.
func (i *instance) decide(ctx context.Context, e management.Event) {
	s := i.server
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	one, reason, err := i.judge(ctx, e)
	s.mu.Lock()
	m := i.conn
	s.mu.Unlock()
	if m == nil || ctx.Err() != nil {
		return
	}
	if err == nil && reason == "" {
		err = i.admit(ctx, m, e, one)
	}
	if err != nil {
		s.log.WarnContext(ctx, "a device could not be let in", "device", one.uuid, "error", err)
		reason = "the server cannot say who you are; come again"
	}
	if reason == "" {
		return
	}
	if err := m.Deny(ctx, e.Client, e.Key, reason, reason); err != nil && !errors.Is(err, management.ErrFailed) && ctx.Err() == nil {
		s.log.WarnContext(ctx, "a device could not be turned away", "error", err)
	}
	if e.Kind == management.Reauth {
		s.mu.Lock()
		if in := i.clients[e.Client]; in != nil {
			s.end(in)
			go i.kill(in) // it outlives the event that it comes from
		}
		s.mu.Unlock()
	}
}

// judge asks the api role about a client. reason is why it stays outside, in words for it.
func (i *instance) judge(ctx context.Context, e management.Event) (one *session, reason string, err error) {
	s := i.server
	one = &session{id: newID(), instance: i, client: e.Client, since: time.Now(), conns: map[net.Conn]bool{}}
	one.port, _ = strconv.Atoi(first(e.Env["untrusted_port"], e.Env["trusted_port"]))
	s.mu.Lock()
	switch k, in := i.knocks[one.port], i.clients[e.Client]; {
	case in != nil:
		one.from, one.id, one.since = in.from, in.id, in.since
	case k != nil:
		one.from = k.from
	}
	s.mu.Unlock()
	const no = "wrong user name or password"
	uuid := e.Env["username"]
	if e.Cut || len(uuid) != 32 && len(uuid) != 62 || !api.DeviceUUID(uuid).Valid() || e.Env["password"] == "" {
		return one, no, nil
	}
	one.uuid = uuid
	if one.from == "" { // it came to a vpn role before this one, or was quicker than the word that it was handed on
		if f, ok := s.line.Flow(ctx, i.number, one.port); ok {
			one.from = f.From
		}
	}
	if one.from == "" {
		return one, "come again", nil
	}
	login := api.ChannelLogin{UUID: uuid, Key: e.Env["password"], From: one.from, Instance: i.name(), Network: i.network.String(), Certificate: fingerprint(e)}
	if name := e.Env["X509_0_CN"]; login.Certificate != "" && name != uuid {
		return one, no, nil // it is another device's certificate
	}
	var device api.ChannelDevice
	for {
		err = i.login(ctx, login, &device)
		if !errors.Is(err, api.ErrUnavailable) || ctx.Err() != nil {
			break
		}
		pause(ctx, loginAgain) // the api role is being restarted; the device waits
	}
	switch {
	case errors.Is(err, api.ErrUnauthorized), errors.Is(err, api.ErrForbidden), errors.Is(err, api.ErrNotFound), errors.Is(err, api.ErrInvalid):
		return one, no, nil
	case err != nil:
		return one, "", err
	}
	address, err := netip.ParseAddr(device.Address)
	if err != nil || !i.network.Contains(address) || address == i.network.Addr() || address == i.network.Addr().Next() || device.UUID != uuid {
		return one, "", fmt.Errorf("the api role gave %s the address %q, which is none of %s", device.UUID, device.Address, i.network)
	}
	one.address, one.identity, one.key = device.Address, device.Identity, device.Key
	return one, "", nil
}

func (i *instance) login(ctx context.Context, login api.ChannelLogin, device *api.ChannelDevice) error {
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	return call(ctx, i.server.api, "/internal/channel/login", login, device)
}

// fingerprint is that of the certificate that a client showed, which openvpn has verified; "" when it showed none.
func fingerprint(e management.Event) string {
	var hex []byte
	for _, c := range []byte(e.Env["tls_digest_sha256_0"]) {
		if c != ':' {
			hex = append(hex, c)
		}
	}
	if len(hex) == 0 && e.Env["X509_0_CN"] != "" {
		return "unknown" // there is one: it must not pass for none
	}
	return string(hex)
}

// admit lets a client in.
func (i *instance) admit(ctx context.Context, m *management.Conn, e management.Event, one *session) error {
	s := i.server
	if err := s.line.Note(ctx, i.number, one.port, one.note()); err != nil {
		return err
	}
	s.mu.Lock()
	if in := i.clients[e.Client]; in != nil { // it is in already, and has proved once more who it is
		one.in = in.in
		if in.uuid != one.uuid || in.address != one.address {
			s.mu.Unlock()
			return errors.New("it says that it is another device")
		}
	} else {
		i.clients[e.Client] = one
	}
	s.mu.Unlock()
	err := m.Admit(ctx, e.Client, e.Key, "ifconfig-push "+one.address+" "+i.gateway.String())
	if errors.Is(err, management.ErrFailed) { // it has gone meanwhile
		s.mu.Lock()
		s.end(one)
		s.mu.Unlock()
		return nil
	}
	return err
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
