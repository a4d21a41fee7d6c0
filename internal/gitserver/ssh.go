package gitserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/admission"
	"github.com/roadstead-io/roadstead/internal/sshhost"
)

// Names in the permissions of a connection: they are those of the key that signed, whatever other keys were offered.
const (
	keyFingerprint = "fingerprint"
	keyUser        = "user"
)

// Bounds of one connection.
const (
	maxSessions = 4  // at a time
	maxRequests = 32 // of a session before its command
	lookupTime  = 10 * time.Second
	commandTime = 10 * time.Second // for a session to say what it wants
	maxOpen     = 1024             // connections that have said who they are
)

// sshConfig lets in by keys alone.
func (s *Server) sshConfig() *ssh.ServerConfig {
	cfg := sshhost.Config(s.whose)
	cfg.AddHostKey(s.key)
	return cfg
}

// whose finds out whose key a client offers. The user name of the connection means nothing: the key says who somebody is.
func (s *Server) whose(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	if _, ok := key.(*ssh.Certificate); ok {
		return nil, errors.New("certificates let nobody in")
	}
	ctx, cancel := context.WithTimeout(s.life, lookupTime)
	defer cancel()
	fingerprint := ssh.FingerprintSHA256(key)
	found, err := ask[api.GitKey](ctx, s.api, "/internal/v1/git/key", credentials{}, api.GitKey{Fingerprint: fingerprint})
	if err != nil {
		if !errors.Is(err, api.ErrNotFound) {
			s.log.WarnContext(ctx, "an SSH key could not be looked up", "error", err)
		}
		return nil, errors.New("this key is nobody's")
	}
	return &ssh.Permissions{Extensions: map[string]string{keyFingerprint: fingerprint, keyUser: found.User}}, nil
}

// serveSSH takes connections until the context ends, and waits for them.
func (s *Server) serveSSH(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	cfg := s.sshConfig()
	waiting := admission.NewLobby(s.cfg.Limits.Undecided)
	open := make(chan struct{}, maxOpen)
	var all sync.WaitGroup
	defer all.Wait()
	for pause := time.Millisecond; ; {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("git: accept: %w", err)
			}
			s.log.WarnContext(ctx, "a connection could not be accepted", "error", err, "again_in", pause)
			select { // out of files, most likely: others must end first
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = time.Millisecond
		waiting.Enter(conn)
		all.Go(func() {
			defer func() { _ = conn.Close() }()
			s.connection(ctx, conn, cfg, waiting, open)
		})
	}
}

// connection serves one connection.
func (s *Server) connection(ctx context.Context, conn net.Conn, cfg *ssh.ServerConfig, waiting *admission.Lobby, open chan struct{}) {
	defer waiting.Leave(conn)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() { stop() }()
	_ = conn.SetDeadline(time.Now().Add(time.Duration(s.cfg.Limits.GraceSecs) * time.Second))
	secure, channels, requests, err := ssh.NewServerConn(conn, cfg)
	if err != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{})
	waiting.Leave(conn)
	select {
	case open <- struct{}{}:
		defer func() { <-open }()
	default:
		return
	}
	// From here on a stop ends the sessions first, which still tell why.
	stop()
	c := &connection{s: s, conn: secure, sessions: make(chan struct{}, maxSessions)}
	c.address, _, _ = net.SplitHostPort(conn.RemoteAddr().String())
	var ctx2 context.Context
	ctx2, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	defer c.cancel(errGone)
	go ssh.DiscardRequests(requests) // no forwarding, whoever asks; ends with the connection
	c.idle = time.AfterFunc(time.Duration(s.cfg.Limits.IdleSecs)*time.Second, c.close)
	defer c.idle.Stop()
	stop = context.AfterFunc(ctx, c.stopping)
	var all sync.WaitGroup
	all.Go(func() { c.alive(ctx2) })
	for ch := range channels {
		if ch.ChannelType() != "session" {
			_ = ch.Reject(ssh.Prohibited, "this server forwards nothing")
			continue
		}
		select {
		case c.sessions <- struct{}{}:
		default:
			_ = ch.Reject(ssh.ResourceShortage, "too many sessions on one connection")
			continue
		}
		c.busy(1)
		all.Go(func() {
			defer func() { <-c.sessions; c.busy(-1) }()
			c.session(ctx2, ch)
		})
	}
	c.cancel(errGone)
	all.Wait()
}

// connection is one that has said who it is.
type connection struct {
	s        *Server
	conn     *ssh.ServerConn
	address  string
	cancel   context.CancelCauseFunc
	sessions chan struct{}
	idle     *time.Timer

	mu     sync.Mutex // covers what follows
	active int
	ending bool
}

func (c *connection) close() { _ = c.conn.Close() }

// busy counts sessions; without one the connection ends after a while.
func (c *connection) busy(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active += n
	switch {
	case c.active > 0:
		c.idle.Stop()
	case c.ending:
		c.close()
	default:
		c.idle.Reset(time.Duration(c.s.cfg.Limits.IdleSecs) * time.Second)
	}
}

// stopping ends the connection when its sessions have ended, which the stop of the role makes them do.
func (c *connection) stopping() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = true
	if c.active == 0 {
		c.close()
		return
	}
	c.idle.Reset(stopGrace)
}

// alive asks the client now and then whether it is there, and ends the connection of one that is not.
func (c *connection) alive(ctx context.Context) {
	every := time.Duration(c.s.cfg.Limits.KeepAlive) * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		late := time.AfterFunc(every, c.close)
		_, _, err := c.conn.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
		if err != nil {
			return
		}
	}
}

// session reads what a session asks for and does it.
func (c *connection) session(ctx context.Context, fresh ssh.NewChannel) {
	ch, requests, err := fresh.Accept()
	if err != nil {
		return
	}
	defer func() { _ = ch.Close() }()
	silent := time.AfterFunc(commandTime, func() { _ = ch.Close() })
	defer silent.Stop()
	n := 0
	for r := range requests {
		if n++; n > maxRequests {
			return
		}
		if r.Type != "exec" && r.Type != "shell" {
			// Environment, terminals, agents, subsystems: there is no such thing here.
			reply(r, false)
			continue
		}
		silent.Stop()
		var want struct{ Command string }
		if r.Type == "exec" && ssh.Unmarshal(r.Payload, &want) != nil {
			reply(r, false)
			return
		}
		reply(r, true)
		var drained sync.WaitGroup
		drained.Go(func() { ssh.DiscardRequests(requests) })
		ctx, gone := context.WithCancelCause(ctx)
		code, wait := 0, func() {}
		if r.Type == "shell" {
			_, _ = fmt.Fprintf(ch.Stderr(), "Hello %s. %s\n", c.conn.Permissions.Extensions[keyUser], onlyGit)
			code = 1
		} else {
			// A client that goes away closes the channel, and with it its requests.
			go func() { drained.Wait(); gone(errGone) }() // ends with the channel, which this function closes
			code, wait = c.run(ctx, ch, want.Command)
		}
		_ = ch.CloseWrite()
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(code)})) //nolint:gosec // of a process, and not negative
		_ = ch.Close()
		wait()
		drained.Wait()
		gone(nil)
		return
	}
}

func reply(r *ssh.Request, ok bool) {
	if r.WantReply {
		_ = r.Reply(ok, nil)
	}
}

// run does what a command asks for.
func (c *connection) run(ctx context.Context, ch ssh.Channel, command string) (code int, wait func()) {
	s := c.s
	fail := func(err error) {
		text, ours := words(err)
		switch cause := context.Cause(ctx); {
		case errors.Is(err, errRevoked), errors.Is(err, errStopped), errors.Is(err, errSlow), errors.Is(err, errGone):
			text = err.Error()
		case cause != nil:
			text = cause.Error()
		case ours:
			s.log.ErrorContext(ctx, "git request failed", "command", clean(command), "address", c.address, "error", err)
		}
		_, _ = fmt.Fprintf(ch.Stderr(), "ERROR: %s\n", clean(text))
	}
	what, slug, err := parseCommand(command)
	if err != nil {
		fail(err)
		return 1, func() {}
	}
	x, err := s.open(ctx, what, credentials{}, api.GitOpenRequest{Fingerprint: c.conn.Permissions.Extensions[keyFingerprint], Address: c.address, Path: slug})
	if err != nil {
		if errors.Is(err, api.ErrUnauthorized) {
			err = errRevoked
		}
		fail(err)
		return 1, func() {}
	}
	defer s.leave(x)
	do := s.upload
	if what == push {
		do = s.receive
	}
	code, wait, err = do(x, streams{in: ch, out: ch, messages: ch.Stderr()})
	if err != nil {
		fail(err)
		if errors.Is(err, errRevoked) { // nothing more comes of this connection
			go c.afterwards()
		}
	}
	return code, wait
}

// afterwards ends a connection once its session has had time to tell why it ended.
func (c *connection) afterwards() {
	t := time.AfterFunc(time.Second, c.close)
	defer t.Stop()
	_ = c.conn.Wait()
}
