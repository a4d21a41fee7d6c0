package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
)

// connection is one that somebody was let in by.
type connection struct {
	s     *Shell
	conn  *ssh.ServerConn
	begun api.SSHBegun
	log   *recorder // nil: what is shown is not recorded

	ctx    context.Context
	cancel context.CancelCauseFunc
	idle   *time.Timer

	in, out atomic.Int64

	mu      sync.Mutex // covers what follows
	kinds   []string
	targets []string
	ran     []string // commands, the first of them
	count   int      // of commands
	told    int      // of commands, of which the server has heard
	exit    *int
}

// errClosed is why a connection ends that its client ends.
var errClosed = errors.New("closed")

// connection serves one.
func (s *Shell) connection(ctx context.Context, raw net.Conn) {
	life := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer life()
	_ = raw.SetDeadline(time.Now().Add(graceTime))
	cfg, err := s.sshConfig(ctx)
	if err != nil {
		s.cfg.Log.ErrorContext(ctx, "serve SSH", "error", err)
		return
	}
	conn, channels, requests, err := ssh.NewServerConn(raw, cfg)
	if err != nil {
		return
	}
	_ = raw.SetDeadline(time.Time{})
	defer func() { _ = conn.Close() }()
	c := &connection{s: s, conn: conn}
	if c.begun, err = s.begin(ctx, conn); err != nil {
		s.cfg.Log.WarnContext(ctx, "somebody was not let in after all", "error", err)
		go ssh.DiscardRequests(requests) // ends with the connection
		refuse(channels)
		return
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	defer c.cancel(errClosed)
	c.idle = time.AfterFunc(s.cfg.Idle, func() { c.cut("nothing went over it for " + s.cfg.Idle.String()) })
	defer c.idle.Stop()
	if c.begun.Record {
		c.log = newRecorder(s.cfg.StateDir, c.begun.Session, s.cfg.Log)
	}
	if !c.begun.Until.IsZero() {
		end := time.AfterFunc(time.Until(c.begun.Until), func() { c.cut("the permission ended") })
		defer end.Stop()
	}
	s.enter(c)
	defer s.leave(ctx, c)
	s.cfg.Log.InfoContext(ctx, "SSH session", "session", c.begun.Session, "user", c.begun.User)
	c.serve(channels, requests)
}

// begin tells the server that somebody was let in; it may still say no.
func (s *Shell) begin(ctx context.Context, conn *ssh.ServerConn) (api.SSHBegun, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	has := conn.Permissions.Extensions
	return s.cfg.Server.SSHBegin(ctx, s.cfg.Key(), api.SSHBegin{Grant: has[byGrant], Fingerprint: has[byFingerprint]})
}

// refuse says no to the first thing that is asked for.
func refuse(channels <-chan ssh.NewChannel) {
	select {
	case ch, ok := <-channels:
		if ok {
			_ = ch.Reject(ssh.Prohibited, errStranger.Error())
		}
	case <-time.After(askTime):
	}
}

func (s *Shell) enter(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) == 0 {
		s.answered = time.Now()
	}
	s.open[c.begun.Session] = c
}

// leave tells of the end, for as long as it takes within reason, without keeping whoever left.
func (s *Shell) leave(ctx context.Context, c *connection) {
	s.mu.Lock()
	delete(s.open, c.begun.Session)
	s.mu.Unlock()
	c.cancel(errClosed)
	told := c.progress(true)
	told.Exit = c.exit
	told.Why = context.Cause(c.ctx).Error()
	if errors.Is(context.Cause(c.ctx), context.Canceled) {
		told.Why = "the channel was closed"
	}
	data := c.log.finish()
	s.reports.Go(func() { s.tell(ctx, told, data) })
}

// tell reports the end of a session and sends what it showed. When the server of shells ends, there is a moment for it and no more: what
// is not told the server finds out by itself.
func (s *Shell) tell(ctx context.Context, told api.SSHProgress, data []byte) {
	life, over := context.WithCancel(context.WithoutCancel(ctx))
	defer over()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, over) })
	defer stop()
	for pause := 500 * time.Millisecond; ; pause *= 2 {
		ctx, cancel := context.WithTimeout(life, askTime)
		err := s.cfg.Server.SSHEnd(ctx, told)
		if err == nil && data != nil {
			err = s.cfg.Server.SSHRecording(ctx, told.Session, told.Token, data)
		}
		cancel()
		if err == nil {
			return
		}
		if pause > 8*time.Second || life.Err() != nil || errors.Is(err, api.ErrNotFound) || errors.Is(err, api.ErrForbidden) {
			s.cfg.Log.Warn("the end of an SSH session could not be told", "session", told.Session, "error", err)
			return
		}
		select {
		case <-life.Done():
		case <-time.After(pause):
		}
	}
}

// progress is what there is to tell of it: all of its commands, or none if the server has heard of them.
func (c *connection) progress(all bool) api.SSHProgress {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := api.SSHProgress{
		Session: c.begun.Session, Token: c.begun.Token, Kind: strings.Join(c.kinds, ","), Target: strings.Join(c.targets, ","),
		BytesIn: c.in.Load(), BytesOut: c.out.Load(), CommandCount: c.count,
	}
	if all || c.told < c.count {
		told.Commands = slices.Clone(c.ran)
	}
	return told
}

// command remembers what the connection was asked to run.
func (c *connection) command(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count++; len(c.ran) < api.MaxSSHCommands {
		c.ran = append(c.ran, strings.ToValidUTF8(text[:min(len(text), api.MaxSSHCommand)], ""))
	}
}

// heard remembers that the server has heard of so many commands.
func (c *connection) heard(count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = max(c.told, count)
}

// did remembers what was done on the connection.
func (c *connection) did(kind, target string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kind != "" && !slices.Contains(c.kinds, kind) {
		c.kinds = append(c.kinds, kind)
	}
	if target != "" && !slices.Contains(c.targets, target) && len(c.targets) < 8 {
		c.targets = append(c.targets, target)
	}
}

// cut ends the connection, and lets those who are in know why.
func (c *connection) cut(why string) {
	c.cancel(errors.New(why))
	time.AfterFunc(hangUp/4, func() { _ = c.conn.Close() }) // once they were told
}

// serve takes what the client asks for until the connection ends.
func (c *connection) serve(channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	var all sync.WaitGroup
	defer all.Wait()
	defer c.cancel(errClosed)
	all.Go(func() { ssh.DiscardRequests(requests) }) // among them those to listen here for others: no
	stop := context.AfterFunc(c.ctx, func() { time.AfterFunc(hangUp, func() { _ = c.conn.Close() }) })
	defer stop()
	room := make(chan struct{}, maxChannels)
	for fresh := range channels {
		select {
		case room <- struct{}{}:
		default:
			_ = fresh.Reject(ssh.ResourceShortage, "too much at once on one connection")
			continue
		}
		all.Go(func() {
			defer func() { <-room }()
			switch fresh.ChannelType() {
			case "session":
				c.session(fresh)
			case "direct-tcpip":
				c.forward(fresh)
			default:
				_ = fresh.Reject(ssh.Prohibited, "there is no such thing here")
			}
		})
	}
}

// counted is a channel whose bytes are counted, and which keeps the connection from being idle.
type counted struct {
	ssh.Channel
	c *connection
}

func (w counted) Read(p []byte) (int, error) {
	n, err := w.Channel.Read(p)
	w.c.in.Add(int64(n))
	w.c.idle.Reset(w.c.s.cfg.Idle)
	return n, err
}

func (w counted) Write(p []byte) (int, error) {
	n, err := w.Channel.Write(p)
	w.c.out.Add(int64(n))
	w.c.idle.Reset(w.c.s.cfg.Idle)
	return n, err
}

// errors of programs go the same way.
type countedErrors struct{ counted }

func (w countedErrors) Write(p []byte) (int, error) {
	n, err := w.Channel.Stderr().Write(p)
	w.c.out.Add(int64(n))
	w.c.idle.Reset(w.c.s.cfg.Idle)
	return n, err
}

// forward connects a client to a port of the device's own loopback, or of a container: of nothing behind the device.
func (c *connection) forward(fresh ssh.NewChannel) {
	var ask struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if ssh.Unmarshal(fresh.ExtraData(), &ask) != nil || ask.Port == 0 || ask.Port > 65535 {
		_ = fresh.Reject(ssh.ConnectionFailed, "that is no port")
		return
	}
	if _, ok := c.conn.Permissions.Extensions[mayForward]; !ok {
		_ = fresh.Reject(ssh.Prohibited, "ports are not forwarded for you")
		return
	}
	host, err := c.s.within(c.ctx, ask.Host)
	if err != nil {
		_ = fresh.Reject(ssh.Prohibited, printable(err.Error()))
		return
	}
	dialer := net.Dialer{Timeout: askTime}
	conn, err := dialer.DialContext(c.ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(ask.Port)))
	if err != nil {
		_ = fresh.Reject(ssh.ConnectionFailed, fmt.Sprintf("nothing answers on port %d", ask.Port))
		return
	}
	defer func() { _ = conn.Close() }()
	raw, requests, err := fresh.Accept()
	if err != nil {
		return
	}
	c.did("forward", "")
	ch := counted{raw, c}
	stop := context.AfterFunc(c.ctx, func() { _ = conn.Close(); _ = raw.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	defer func() { _ = raw.Close() }()
	all.Go(func() { ssh.DiscardRequests(requests) })
	all.Go(func() {
		_, _ = io.Copy(conn, ch) // what breaks ends both ways
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	})
	_, _ = io.Copy(ch, conn)
	_ = raw.CloseWrite()
}

// within says which address a name means: the device's loopback, or a container of ours.
func (s *Shell) within(ctx context.Context, host string) (string, error) {
	ip := net.ParseIP(host)
	if host == "localhost" || ip != nil && ip.IsLoopback() {
		if ip == nil {
			return "127.0.0.1", nil
		}
		return ip.String(), nil
	}
	list, err := s.cfg.Engine.Containers(ctx)
	if err != nil {
		return "", errors.New("the container engine does not answer")
	}
	for _, one := range list {
		if one.State != "running" || ip == nil && !is(one, host) {
			continue
		}
		_, addresses, err := s.cfg.Engine.Inside(ctx, one.ID)
		if err != nil {
			continue
		}
		for _, a := range addresses {
			if ip == nil || ip.Equal(net.ParseIP(a)) {
				return a, nil
			}
		}
	}
	return "", fmt.Errorf("%q is neither the device itself nor a container on it", host)
}

// printable keeps what came from outside from being more than text on somebody's terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}
