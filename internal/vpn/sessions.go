package vpn

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// session is a device that is in.
type session struct {
	id       string // like no other one's
	uuid     string
	instance *instance
	client   int // openvpn's number of it
	port     int // of its flow
	address  string
	from     string
	identity string
	key      int64
	since    time.Time
	in       bool // openvpn has said that it is
	ended    bool

	conns map[net.Conn]bool // opened to it; they end with it
}

// note is what the next vpn role is told of a session, should this one die: it is kept with the connection, by the process around openvpn.
type note struct {
	ID       string    `json:"s"`
	UUID     string    `json:"u"`
	Address  string    `json:"a"`
	Identity string    `json:"i"`
	Key      int64     `json:"k"`
	Since    time.Time `json:"t"`
}

func (s *session) note() string {
	text, err := json.Marshal(note{s.id, s.uuid, s.address, s.identity, s.key, s.since})
	if err != nil {
		panic(err) // texts and numbers always marshal
	}
	return string(text)
}

func (s *session) report() api.ChannelUp {
	return api.ChannelUp{UUID: s.uuid, Session: s.id, Address: s.address, From: s.from, Since: s.since.UTC().Format(time.RFC3339Nano), Identity: s.identity, Key: s.key}
}

func newID() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

// begin takes a session in. The newest of a device wins: an older one ends. Called with the server's lock.
func (s *Server) begin(one *session) {
	one.in = true
	if old := s.devices[one.uuid]; old != nil && old != one {
		s.end(old)
		go old.instance.kill(old) // it outlives the event that it comes from
	}
	s.devices[one.uuid] = one
	one.instance.clients[one.client] = one
	delete(one.instance.knocks, one.port)
	one.instance.up = append(one.instance.up, one.report())
	one.instance.kick()
}

// end lets go of a session: of what was opened to the device, too. Called with the server's lock.
func (s *Server) end(one *session) {
	if one.ended {
		return
	}
	one.ended = true
	if one.instance.clients[one.client] == one {
		delete(one.instance.clients, one.client)
	}
	if s.devices[one.uuid] == one {
		delete(s.devices, one.uuid)
	}
	for c := range one.conns {
		_ = c.(*deviceConn).Conn.Close()
	}
	clear(one.conns)
	if one.in {
		one.instance.down = append(one.instance.down, api.ChannelDown{UUID: one.uuid, Session: one.id, At: time.Now().UTC().Format(time.RFC3339Nano)})
		one.instance.kick()
	}
}

// reportEvery is how often an instance reports while it has sessions, whatever happens.
const reportEvery = time.Second

// reportTime bounds one report.
const reportTime = 5 * time.Second

// reports tells the api role of the sessions of an instance: at once, and every second while there are any.
func (i *instance) reports(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-i.changed:
		case <-tick.C:
		}
		for again := true; again && ctx.Err() == nil; {
			var err error
			if again, err = i.report(ctx); err != nil && ctx.Err() == nil {
				i.server.log.WarnContext(ctx, "sessions could not be reported", "instance", i.number, "error", err)
				break // with the next tick
			}
		}
	}
}

// everything has all sessions told of from the beginning. Called with the server's lock.
func (i *instance) everything() { i.full, i.told = true, "" }

// toTell is the next report. Called with the server's lock.
func (i *instance) toTell() api.ChannelReport {
	r := api.ChannelReport{Instance: i.name(), Boot: i.server.boot, Full: i.full, Up: []api.ChannelUp{}, Down: []api.ChannelDown{}}
	if !i.full {
		up, down := min(len(i.up), api.MaxChannelReport), min(len(i.down), api.MaxChannelReport)
		r.Up, r.Down = append(r.Up, i.up[:up]...), append(r.Down, i.down[:down]...)
		i.up, i.down = i.up[up:], i.down[down:]
		return r
	}
	if r.After = i.told; r.After == "" {
		i.up, i.down = nil, nil // what comes from now on is told after the last part
	}
	for _, one := range i.clients {
		if one.in && one.id > r.After {
			r.Up = append(r.Up, one.report())
		}
	}
	slices.SortFunc(r.Up, func(a, b api.ChannelUp) int { return strings.Compare(a.Session, b.Session) })
	if i.full = len(r.Up) > api.MaxChannelReport; i.full {
		r.Up = r.Up[:api.MaxChannelReport]
		r.To = r.Up[len(r.Up)-1].Session
	}
	i.told = r.To
	return r
}

// report sends what there is to tell; again is true while there is more.
func (i *instance) report(ctx context.Context) (again bool, err error) {
	s := i.server
	s.mu.Lock()
	if !i.known { // what openvpn has is not known yet: nothing true can be said
		s.mu.Unlock()
		return false, nil
	}
	r := i.toTell()
	again = len(i.up)+len(i.down) > 0 || i.full
	idle := !r.Full && len(r.Up)+len(r.Down)+len(i.clients) == 0
	s.mu.Unlock()
	if idle {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	var answer api.ChannelAnswer
	if err := call(ctx, s.api, "/internal/channel/sessions", r, &answer); err != nil {
		s.mu.Lock()
		i.everything() // it may have heard it or not
		s.mu.Unlock()
		return false, err
	}
	s.mu.Lock()
	if answer.Again {
		i.everything()
		again = !r.Full || r.After != ""
	}
	var cut []*session
	for _, of := range s.instances { // it may have moved meanwhile
		for _, one := range of.clients {
			if slices.Contains(answer.Cut, one.id) || slices.Contains(answer.Cut, one.uuid) {
				cut = append(cut, one)
			}
		}
	}
	for _, one := range cut {
		s.end(one)
	}
	s.mu.Unlock()
	for _, one := range cut {
		go one.instance.kill(one) // the next report does not wait for it
	}
	return again, nil
}
