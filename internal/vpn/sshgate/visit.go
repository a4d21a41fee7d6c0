package sshgate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/sshentry"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/road"
)

const maxRequests = 64 // of a session before its command

// visit is one session of somebody in a device.
type visit struct {
	s                       *Service
	fingerprint, user, from string
	login                   string // the user name that they gave
}

// session reads what a session wants, and carries it to the device.
func (v *visit) session(ctx context.Context, fresh ssh.NewChannel) {
	ch, requests, err := fresh.Accept()
	if err != nil {
		return
	}
	defer func() { _ = ch.Close() }()
	silent := time.AfterFunc(graceTime, func() { _ = ch.Close() })
	defer silent.Stop()
	var before []*ssh.Request // what comes along: the terminal and the environment
	for r := range requests {
		switch r.Type {
		case "env", "pty-req":
			if len(before) >= maxRequests {
				return
			}
			before = append(before, &ssh.Request{Type: r.Type, Payload: r.Payload})
			reply(r, true)
			continue
		case "exec", "shell", "subsystem":
		default:
			reply(r, false)
			continue
		}
		silent.Stop()
		var ask struct{ Text string } // the command, or the subsystem
		if r.Type != "shell" && ssh.Unmarshal(r.Payload, &ask) != nil || r.Type == "subsystem" && ask.Text != "sftp" {
			reply(r, false)
			return
		}
		reply(r, true)
		var want wish
		if r.Type == "subsystem" {
			want, err = files(v.login)
		} else {
			want, err = parse(ask.Text)
		}
		if err == nil {
			err = v.enter(ctx, want, ch, requests, before)
		}
		if err != nil {
			v.fail(ctx, ch, want, err)
			go ssh.DiscardRequests(requests) // ends with the channel
		}
		return
	}
}

func reply(r *ssh.Request, ok bool) {
	if r.WantReply {
		_ = r.Reply(ok, nil)
	}
}

// fail tells why nothing came of it. Nothing of it is more than text to a terminal.
func (v *visit) fail(ctx context.Context, ch ssh.Channel, want wish, err error) {
	text := err.Error()
	switch e := api.AsError(err); {
	case errors.Is(err, road.ErrOffline):
		text = "device " + string(want.device) + " is not connected"
	case errors.Is(err, road.ErrRefused):
		text = "device " + string(want.device) + " has no SSH server on its tunnel"
	case errors.Is(err, api.ErrNotFound):
		text = "there is no device " + string(want.device) + " that you may enter"
	case errors.Is(err, api.ErrUnauthorized):
		text = "your key is not known any more"
	case e.Code != api.Internal && e.Text != "":
		text = e.Text
	case want.device != "" && e.Code == api.Internal && !errors.As(err, new(*plain)):
		v.s.cfg.Log.ErrorContext(ctx, "SSH into a device failed", "user", v.user, "device", want.device, "error", err)
		text = "the device could not be entered; the server's log says more"
	}
	_, _ = fmt.Fprintf(ch.Stderr(), "%s\r\n", strings.ReplaceAll(printable(text), "\n", "\r\n"))
	exit(ch, 255)
}

// plain is an error whose text is for whoever came.
type plain struct{ text string }

func (e *plain) Error() string { return e.text }

func exit(ch ssh.Channel, code uint32) {
	_ = ch.CloseWrite()
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{code}))
}

// enter asks for leave, enters the device and carries the session there, until it ends or the leave does. An error is one from before.
func (v *visit) enter(ctx context.Context, want wish, ch ssh.Channel, requests <-chan *ssh.Request, before []*ssh.Request) error {
	leave, err := v.s.cfg.Permits.Ask(ctx, api.ReachRequest{
		Kind: api.ReachSSH, Fingerprint: v.fingerprint, UUID: want.device, Port: api.PortSSH, From: v.from,
		PerUser: v.s.cfg.Limits.PerUser, PerDevice: v.s.cfg.Limits.PerDevice, Detail: map[string]string{"enters": want.what},
	})
	if err != nil {
		return err
	}
	why := "failed"
	defer func() { leave.End(why) }()
	tty := slices.ContainsFunc(before, func(r *ssh.Request) bool { return r.Type == "pty-req" })
	asked := want.command
	there, want, grant, err := v.connect(ctx, want, tty)
	if err != nil {
		return err
	}
	defer func() { _ = there.Close() }()
	over, code := leave.Context(), (*int)(nil)
	if want.own { // a device of ours tells of it itself
		if asked != "" {
			leave.Tell("command", printable(asked[:min(len(asked), api.MaxSSHCommand)]))
		}
		told, err := v.tell(ctx, leave, want, grant, asked)
		if err != nil {
			return err
		}
		defer func() { told.end(ctx, why, code) }()
		over = told.over
	}
	far, answers, err := there.OpenChannel("session", nil)
	if err != nil {
		return &plain{"the device did not let you in: " + reason(err)}
	}
	for _, r := range before {
		if ok, err := far.SendRequest(r.Type, true, r.Payload); r.Type == "pty-req" && (err != nil || !ok) {
			return &plain{"the device gives no terminal"}
		}
	}
	kind, payload := "shell", []byte(nil)
	if want.command != "" {
		kind, payload = "exec", ssh.Marshal(struct{ Command string }{want.command})
	}
	if want.files {
		kind, payload = "subsystem", ssh.Marshal(struct{ Name string }{"sftp"})
	}
	if ok, err := far.SendRequest(kind, true, payload); err != nil || !ok {
		return &plain{"the device starts no program"}
	}
	hangUp := func() { _ = far.Close() }
	if want.own { // OpenSSH's server would wait for the program. With the connection it ends it, if that has a terminal
		hangUp = func() { _ = there.Close() }
	}
	why, code = v.carry(ctx, over, leave, ch, requests, far, answers, hangUp)
	return nil
}

func reason(err error) string {
	var no *ssh.OpenChannelError
	if errors.As(err, &no) {
		return no.Message
	}
	return "the connection broke"
}

// connect makes the SSH connection to the device, with a key and a certificate that are for this session alone. What is to be asked there may be
// another thing than what was asked here: see [ownCommand]. grant names the permission where the device tells of no session.
func (v *visit) connect(ctx context.Context, want wish, tty bool) (there *ssh.Client, now wish, grant string, err error) {
	key, err := sshentry.NewKey()
	if err != nil {
		return nil, want, "", err
	}
	ask := api.SSHGatewayAsk{Fingerprint: v.fingerprint, Device: string(want.device), From: v.from, PublicKey: key.Public()}
	var made api.SSHCertificate
	askCtx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if err := permit.Call(askCtx, v.s.cfg.API, "/internal/ssh/certificate", ask, &made); err != nil {
		return nil, want, "", err
	}
	var conf *ssh.ClientConfig
	if made.Own != nil {
		grant, conf = made.Own.Grant, v.own(ctx, made.Own, key, want.device)
		want, err = ownCommand(want, tty)
	} else {
		conf, err = key.Client(want.device, want.user, made)
	}
	if err != nil {
		return nil, want, "", err
	}
	dialCtx, cancelDial := context.WithTimeout(ctx, dialTime)
	defer cancelDial()
	raw, err := v.s.cfg.Dial.Dial(dialCtx, string(want.device), api.PortSSH)
	if err != nil {
		return nil, want, "", err
	}
	_ = raw.SetDeadline(time.Now().Add(graceTime))
	conn, channels, requests, err := ssh.NewClientConn(raw, string(want.device), conf)
	var other *otherHost
	if errors.As(err, &other) {
		_ = raw.Close()
		return nil, want, "", &plain{other.Error()}
	}
	if err != nil {
		_ = raw.Close()
		v.s.cfg.Log.WarnContext(ctx, "a device's SSH server was not agreed with", "device", want.device, "error", err)
		return nil, want, "", &plain{"the device's SSH server was not agreed with: it is not one that this server vouches for, or it lets nobody in"}
	}
	_ = raw.SetDeadline(time.Time{})
	return ssh.NewClient(conn, channels, requests), want, grant, nil
}

// carry takes bytes and requests both ways until it is over, and says why it ended and with which code. hangUp ends what runs on the device.
func (v *visit) carry(ctx, over context.Context, leave *permit.Permit, ch ssh.Channel, requests <-chan *ssh.Request, far ssh.Channel, answers <-chan *ssh.Request, hangUp func()) (why string, code *int) {
	why = permit.WhyClosed
	ended := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Go(func() {
		cause := "the server stops"
		select {
		case <-ended:
			return
		case <-over.Done():
			cause = context.Cause(over).Error()
		case <-ctx.Done():
		}
		why = cause
		_, _ = fmt.Fprintf(ch.Stderr(), "\r\nroadstead: the session was ended: %s\r\n", printable(cause))
		exit(ch, 255)
		_ = ch.Close()
		hangUp()
	})
	var in, out sync.WaitGroup
	in.Go(func() { // until the channel is closed
		_, _ = io.Copy(countedWriter{far, func(n int) { leave.Count(int64(n), 0) }}, ch)
		_ = far.CloseWrite()
	})
	in.Go(func() {
		for r := range requests {
			switch r.Type {
			case "window-change", "signal":
				_, _ = far.SendRequest(r.Type, false, r.Payload)
			}
			reply(r, false)
		}
		hangUp() // the client went away
	})
	counted := func(n int) { leave.Count(0, int64(n)) }
	out.Go(func() { _, _ = io.Copy(countedWriter{ch, counted}, far) })
	out.Go(func() { _, _ = io.Copy(countedWriter{ch.Stderr(), counted}, far.Stderr()) })
	var last *ssh.Request
	for r := range answers { // until the device closes the session
		if r.Type == "exit-status" || r.Type == "exit-signal" {
			last = r
		}
		reply(r, false)
	}
	out.Wait()
	close(ended)
	cutting.Wait()
	var status struct{ Code uint32 }
	if last != nil && last.Type == "exit-status" && ssh.Unmarshal(last.Payload, &status) == nil {
		n := int(status.Code)
		code = &n
	}
	if last != nil {
		_ = ch.CloseWrite()
		_, _ = ch.SendRequest(last.Type, false, last.Payload)
	}
	_ = ch.Close()
	in.Wait()
	return why, code
}

type countedWriter struct {
	io.Writer
	count func(int)
}

func (w countedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.count(n)
	return n, err
}
