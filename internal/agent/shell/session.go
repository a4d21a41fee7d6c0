package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Bounds of one session before its program.
const (
	maxRequests = 64
	maxCommand  = 64 << 10
	maxSide     = 1000 // rows and columns of a terminal
)

// size is that of a terminal.
type size struct{ cols, rows uint32 }

func (s size) sane() size {
	if s.cols == 0 || s.rows == 0 { // a client without a terminal of its own
		return size{80, 24}
	}
	return size{min(s.cols, maxSide), min(s.rows, maxSide)}
}

// wish is what a session asks for before its program.
type wish struct {
	tty     bool
	term    string
	size    size
	env     []string
	command string // "" is a shell
}

// program is something that runs for a session.
type program interface {
	// run gives the program's input and output a way, and returns its code, or the name of the signal that ended it, when it has ended.
	run(ctx context.Context, in io.Reader, out, errs io.Writer) (code int, signal string, err error)
	resize(size)
	signal(name string)
}

// envName is what of a client's environment comes along: its language, and how colourful its terminal is.
var envName = pattern.New(`^(LANG|LC_[A-Z]+|COLORTERM|NO_COLOR)$`)

var envValue = pattern.New(`^[A-Za-z0-9_.@:+-]{0,64}$`)

// target is where somebody wants to be: "" is the device itself. The name of whoever logs in, and root, are the device; every other is a
// service's. service/NAME is always a service.
func (c *connection) target() string {
	user := c.conn.User()
	if name, ok := strings.CutPrefix(user, api.SSHServicePrefix); ok {
		return name
	}
	if slices.Contains([]string{"", "root", "host", c.begun.User}, user) {
		return ""
	}
	return user
}

// session reads what a session asks for and does it.
func (c *connection) session(fresh ssh.NewChannel) {
	raw, requests, err := fresh.Accept()
	if err != nil {
		return
	}
	defer func() { _ = raw.Close() }()
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(errClosed)
	var want wish
	n := 0
	for r := range requests {
		if n++; n > maxRequests {
			return
		}
		switch r.Type {
		case "env":
			var v struct{ Name, Value string }
			ok := ssh.Unmarshal(r.Payload, &v) == nil && envName.MatchString(v.Name) && envValue.MatchString(v.Value)
			if ok {
				want.env = append(want.env, v.Name+"="+v.Value)
			}
			reply(r, ok)
		case "pty-req":
			reply(r, c.terminal(r, &want))
		case "shell", "exec", "subsystem":
			var v struct{ Text string }
			if r.Type != "shell" && (ssh.Unmarshal(r.Payload, &v) != nil || len(v.Text) > maxCommand || v.Text == "") {
				reply(r, false)
				return
			}
			if r.Type == "subsystem" {
				if v.Text != "sftp" {
					reply(r, false)
					continue
				}
				reply(r, true)
				go ssh.DiscardRequests(requests) // ends with the channel
				c.files(ctx, raw)
				return
			}
			reply(r, true)
			want.command = v.Text
			c.program(ctx, cancel, raw, requests, r.Type, want)
			return
		default: // agents, X11: there is no such thing here
			reply(r, false)
		}
	}
}

func reply(r *ssh.Request, ok bool) {
	if r.WantReply {
		_ = r.Reply(ok, nil)
	}
}

func (c *connection) terminal(r *ssh.Request, want *wish) bool {
	var v struct {
		Term                      string
		Cols, Rows, Width, Height uint32
		Modes                     string
	}
	if _, may := c.conn.Permissions.Extensions[mayTerminal]; !may || ssh.Unmarshal(r.Payload, &v) != nil {
		return false
	}
	want.tty, want.size, want.term = true, size{v.Cols, v.Rows}.sane(), "xterm"
	if envValue.MatchString(v.Term) && v.Term != "" {
		want.term = v.Term
	}
	return true
}

// program runs what a session wants.
func (c *connection) program(ctx context.Context, cancel context.CancelCauseFunc, raw ssh.Channel, requests <-chan *ssh.Request, kind string, want wish) {
	ch := counted{raw, c}
	errs := io.Writer(countedErrors{ch})
	out := io.Writer(ch)
	if kind == "exec" {
		c.did("exec", "")
		c.command(want.command)
	} else {
		c.did("shell", "")
	}
	if c.log != nil {
		c.log.head(want.size.cols, want.size.rows)
		out, errs = io.MultiWriter(ch, c.log), io.MultiWriter(errs, c.log)
	}
	cut := sync.OnceValue(func() bool {
		cause := context.Cause(c.ctx)
		if cause == nil || errors.Is(cause, errClosed) || errors.Is(cause, context.Canceled) {
			return false
		}
		_, _ = fmt.Fprintf(raw.Stderr(), "\r\nroadstead: the session was ended: %s\r\n", cause)
		return true
	})
	defer context.AfterFunc(c.ctx, func() { cut() })() // at once: the program may take its time to end, and the connection does not wait for it
	p, err := c.prepare(ctx, want)
	if err != nil {
		_, _ = fmt.Fprintf(errs, "%s\r\n", printable(err.Error()))
		exited(raw, 1, "")
		c.ended(1)
		return
	}
	var all sync.WaitGroup
	all.Go(func() { // until the channel is closed, by the client or by us
		for r := range requests {
			obey(p, r)
		}
		cancel(errClosed)
	})
	code, signal, err := p.run(ctx, ch, out, errs)
	if c.ctx.Err() != nil && cut() {
		code = 255
	} else if err != nil {
		_, _ = fmt.Fprintf(errs, "%s\r\n", printable(err.Error()))
	}
	c.ended(code)
	_ = raw.CloseWrite()
	exited(raw, code, signal)
	_ = raw.Close()
	all.Wait()
}

func (c *connection) ended(code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exit = &code
}

// obey does what a client asks of a program that runs.
func obey(p program, r *ssh.Request) {
	switch r.Type {
	case "window-change":
		var v struct{ Cols, Rows, Width, Height uint32 }
		if ssh.Unmarshal(r.Payload, &v) == nil {
			p.resize(size{v.Cols, v.Rows}.sane())
		}
	case "signal":
		var v struct{ Name string }
		if ssh.Unmarshal(r.Payload, &v) == nil {
			p.signal(v.Name)
		}
	}
	reply(r, false)
}

// exited says how a program ended.
func exited(ch ssh.Channel, code int, signal string) {
	if signal != "" {
		_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Signal     string
			CoreDumped bool
			Text, Lang string
		}{signal, false, "", ""}))
		return
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(code)})) //nolint:gosec // of a process, 0 to 255
}

// prepare finds what a session wants to be in.
func (c *connection) prepare(ctx context.Context, want wish) (program, error) {
	name := c.target()
	if name == "" {
		c.did("", "host")
		return c.s.hostProgram(want)
	}
	one, err := c.s.find(ctx, name)
	if err != nil {
		return nil, err
	}
	c.did("", serviceOf(one))
	return &inContainer{s: c.s, id: one.ID, want: want}, nil
}

// unclosed stays open for the code with which SFTP ended.
type unclosed struct{ counted }

func (unclosed) Close() error { return nil }

// files serves SFTP, of the device or of a container.
func (c *connection) files(ctx context.Context, raw ssh.Channel) {
	root, where, err := c.s.rootOf(ctx, c.target())
	if err != nil {
		_, _ = fmt.Fprintf(raw.Stderr(), "%s\r\n", printable(err.Error()))
		exited(raw, 1, "")
		c.ended(1)
		return
	}
	defer func() { _ = root.Close() }()
	c.did("sftp", where)
	t := &tree{root: root}
	server := sftp.NewRequestServer(unclosed{counted{raw, c}}, sftp.Handlers{FileGet: t, FilePut: t, FileCmd: t, FileList: t})
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	code := 0
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		code = 1
	}
	_ = server.Close()
	c.ended(code)
	exited(raw, code, "")
}
