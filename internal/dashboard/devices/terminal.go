package devices

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/sshentry"
)

// Bounds of a terminal.
const (
	openTime  = 20 * time.Second // to reach the device and be let in
	pingTime  = 20 * time.Second
	tellTime  = 2 * time.Second
	sendTime  = 30 * time.Second // for a browser to take what it is sent
	maxInput  = 16 << 10         // of one message
	inputs    = 64               // messages that wait for the device
	maxUnseen = 256 << 10        // bytes that a browser was sent and has not shown
	chunk     = 16 << 10         // of what it is sent at once
	maxSide   = 1000             // columns or rows
)

// terminalData is what the terminal's page is made from.
type terminalData struct {
	summaryData
	Service string // that was asked for
}

// terminal is the page around a terminal.
func (p *Part) terminal(v *Visit) error {
	d := terminalData{Service: v.R.URL.Query().Get("service")}
	var err error
	if d.Device, err = v.device("id,uuid,device_name", "image_install($select=id,status;$filter=status ne 'deleted';"+
		"$expand=installs__image($select=id;$expand=is_a_build_of__service($select=id,service_name)))"); err != nil {
		return err
	}
	switch err := v.Call(http.MethodGet, "/ssh/v1/device/"+d.Device.UUID+"/sessions", nil, nil); {
	case refused(err):
		return api.Errorf(api.Forbidden, "You may not enter this device.")
	case err != nil:
		return err
	}
	if err := v.Call(http.MethodGet, "/channel/v1/device/"+d.Device.UUID, nil, &d.Channel); err != nil {
		return err
	}
	d.Reached, d.Services = d.Channel.Connected && p.cfg.Tunnel, servicesOf(d.Device.Installs)
	h := v.W.Header()
	h.Set("Content-Security-Policy", h.Get("Content-Security-Policy")+"; connect-src 'self' "+strings.Replace(p.cfg.Origin, "https:", "wss:", 1))
	return v.Show(http.StatusOK, "terminal", Page{Title: "Terminal: " + d.Device.Name, Data: d})
}

var serviceForm = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// size is how large a terminal is.
type size struct{ cols, rows int }

func (s size) good() bool { return s.cols > 0 && s.cols <= maxSide && s.rows > 0 && s.rows <= maxSide }

// socket carries a terminal between a browser and a device. What is refused before it is open is answered as the API says; a request that
// is for no WebSocket hears that as text, for browsers tell scripts nothing of a WebSocket that was refused.
func (p *Part) socket(v *Visit) error {
	wanted := strings.EqualFold(v.R.Header.Get("Upgrade"), "websocket")
	err := p.open(v, wanted)
	if e := api.AsError(err); err != nil && !wanted && e.Code != api.Internal && e.Text != "" {
		v.W.Header().Set("Content-Type", "text/plain; charset=utf-8")
		v.W.WriteHeader(e.Code.Status())
		_, _ = io.WriteString(v.W, e.Text) // a browser that went away is its own business
		return nil
	}
	return err
}

func (p *Part) open(v *Visit, wanted bool) error {
	uuid, err := v.uuid()
	if err != nil {
		return err
	}
	q := v.R.URL.Query()
	user, service := "root", q.Get("service")
	if service != "" {
		if !serviceForm.MatchString(service) {
			return api.Errorf(api.Invalid, "service: %.100q is not the name of a service.", service)
		}
		user = api.SSHServicePrefix + service
	}
	var s size
	s.cols, _ = strconv.Atoi(q.Get("cols")) // 0 is none
	s.rows, _ = strconv.Atoi(q.Get("rows"))
	switch {
	case !fromUs(v.R, wanted, p.cfg.Origin):
		return api.Errorf(api.Forbidden, "A terminal is opened from the dashboard's own page.")
	case !s.good():
		return api.Errorf(api.Invalid, "cols, rows: not 1 to %d.", maxSide)
	case !p.cfg.Tunnel:
		return api.Errorf(api.Unavailable, "This server has no control channel.")
	}
	leave, err := p.terminals.enter(v.User)
	if err != nil {
		return err
	}
	defer leave()
	key, err := sshentry.NewKey()
	if err != nil {
		return err
	}
	var made api.SSHCertificate
	if err := v.Call(http.MethodPost, "/ssh/v1/certificate", api.SSHCertificateAsk{Device: uuid, PublicKey: key.Public()}, &made); err != nil {
		return why(err)
	}
	config, err := key.Client(uuid, user, made)
	if err != nil {
		return err
	}
	if !wanted {
		return api.Errorf(api.Invalid, "There was no connection. Try again.")
	}
	conn, err := websocket.Accept(v.W, v.R, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil //nolint:nilerr // it has answered
	}
	// The WebSocket has a context of its own, for its end is told when all else is over.
	page, closed := context.WithCancel(context.WithoutCancel(p.terminals.life))
	defer closed()
	ctx, cancel := context.WithCancel(p.terminals.life)
	defer cancel()
	t := &terminal{
		conn: conn, page: page, idle: time.Duration(p.cfg.Terminals.IdleSeconds) * time.Second, ping: time.Duration(p.cfg.Terminals.PingSeconds) * time.Second, room: make(chan struct{}, 1), moved: make(chan struct{}, 1), gone: make(chan struct{}),
		keys: make(chan []byte, inputs), sizes: make(chan size, 1),
	}
	go func() { // ends with the WebSocket, see below
		t.said = t.read()
		close(t.gone)
		cancel()
	}()
	t.tell(map[string]string{"end": t.carry(ctx, v, uuid, config, s)})
	if p.terminals.life.Err() == nil {
		_ = conn.Close(websocket.StatusNormalClosure, "")
	}
	_ = conn.CloseNow()
	closed()
	<-t.gone
	return nil
}

// fromUs says whether a request comes from a page of the dashboard's. Browsers name the origin of every WebSocket; of what a page asks for in its own
// origin, that it is so.
func fromUs(r *http.Request, socket bool, origin string) bool {
	if socket {
		return r.Header.Get("Origin") == origin
	}
	return r.Header.Get("Sec-Fetch-Site") == "same-origin"
}

// why gives a refusal of the API's words where it has none.
func why(err error) error {
	e := api.AsError(err)
	switch {
	case e.Text != "":
		return err
	case e.Code == api.NotFound:
		return api.Errorf(api.NotFound, "There is no such device.")
	case e.Code == api.Forbidden:
		return api.Errorf(api.Forbidden, "You may not enter this device.")
	}
	return err
}

// terminal is one that is open.
type terminal struct {
	conn  *websocket.Conn
	page  context.Context // of the WebSocket
	idle  time.Duration
	ping  time.Duration
	moved chan struct{} // something was typed, or shown
	keys  chan []byte
	sizes chan size
	gone  chan struct{} // closed when nothing more comes from the page
	said  string        // then, what was wrong; "": it was closed

	flow
	room chan struct{} // there may be room in unseen
}

// carry opens the terminal, and carries it until it ends; it says how that was.
func (t *terminal) carry(ctx context.Context, v *Visit, uuid api.DeviceUUID, config *ssh.ClientConfig, s size) string {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	there, session, stdin, err := t.enter(ctx, v, uuid, config, s)
	if err != nil {
		return entering(err)
	}
	defer func() { _ = there.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = there.Close() })
	defer stop()
	t.tell(map[string]bool{"open": true})
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }() // ends with the connection, and what is on its way to the page
	typed := make(chan error, 1)
	go func() { typed <- write(ctx, stdin, t.keys) }() // ends with ctx or the connection
	defer func() {
		cancel()
		_ = there.Close()
		<-typed //nolint:errcheck // the page's end is none of ours
	}()

	alive := make(chan struct{})
	asked := make(chan struct{})
	go func() { // ends with the connection
		defer close(asked)
		for err := error(nil); err == nil; {
			select {
			case <-alive:
				_, _, err = there.SendRequest("keepalive@openssh.com", true, nil) // any answer is one
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() { cancel(); _ = there.Close(); <-asked }()
	ping := time.NewTicker(t.ping)
	defer ping.Stop()
	idle := time.NewTimer(t.idle)
	defer idle.Stop()
	for {
		select {
		case err := <-ended:
			return ending(err)
		case now := <-t.sizes:
			_ = session.WindowChange(now.rows, now.cols) // a session that is over says so by itself
		case <-t.moved:
			idle.Reset(t.idle)
		case <-idle.C:
			return "Nothing was typed or shown for " + t.idle.String() + "."
		case <-ping.C:
			pinging, done := context.WithTimeout(t.page, pingTime)
			err := t.conn.Ping(pinging)
			done()
			if err != nil {
				return "The browser does not answer."
			}
			select {
			case alive <- struct{}{}:
			default:
				return "The device does not answer." // not since the last time
			}
		case <-ctx.Done():
			select {
			case <-t.gone:
				return cmp.Or(t.said, "The page was closed.")
			default:
				return "The dashboard stops."
			}
		}
	}
}

// enter connects to the device, and starts a shell there.
func (t *terminal) enter(ctx context.Context, v *Visit, uuid api.DeviceUUID, config *ssh.ClientConfig, s size) (*ssh.Client, *ssh.Session, io.WriteCloser, error) {
	opening, done := context.WithTimeout(ctx, openTime)
	defer done()
	raw, err := v.Tunnel(opening, uuid, api.PortSSH)
	if err != nil {
		return nil, nil, nil, err
	}
	stop := context.AfterFunc(opening, func() { _ = raw.Close() })
	defer stop()
	conn, channels, requests, err := ssh.NewClientConn(raw, string(uuid), config)
	if err != nil {
		_ = raw.Close()
		return nil, nil, nil, api.Errorf(api.Unavailable, "The device's SSH server was not agreed with: it is not one that this server vouches for, or it lets nobody in.")
	}
	there := ssh.NewClient(conn, channels, requests)
	session, stdin, err := t.shell(ctx, there, s)
	if err != nil {
		_ = there.Close()
		return nil, nil, nil, err
	}
	return there, session, stdin, nil
}

func (t *terminal) shell(ctx context.Context, there *ssh.Client, s size) (*ssh.Session, io.WriteCloser, error) {
	session, err := there.NewSession()
	if err != nil {
		return nil, nil, err
	}
	stdin, err := session.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out := &screen{t, ctx}
	session.Stdout, session.Stderr = out, out
	if err := session.RequestPty("xterm-256color", s.rows, s.cols, ssh.TerminalModes{}); err != nil {
		return nil, nil, api.Errorf(api.Unavailable, "The device gives no terminal.")
	}
	if err := session.Shell(); err != nil {
		return nil, nil, api.Errorf(api.Unavailable, "The device starts no shell.")
	}
	return session, stdin, nil
}

// entering says why there is no terminal.
func entering(err error) string {
	var no *ssh.OpenChannelError
	e := api.AsError(err)
	switch {
	case errors.Is(err, client.ErrOffline):
		return "The device is offline: its control channel is not up."
	case errors.As(err, &no):
		return "The device did not let you in: " + no.Message
	case e.Code == api.NotFound:
		return "There is no such device, or your session has ended."
	case e.Text != "":
		return e.Text
	}
	return "The device could not be entered."
}

// ending says how a session was over.
func ending(err error) string {
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return "The program has ended."
	case errors.As(err, &exit) && exit.Signal() != "":
		return "The program was ended by a signal."
	case errors.As(err, &exit):
		return fmt.Sprintf("The program has ended with code %d.", exit.ExitStatus())
	}
	return "The session was ended: the device is gone, or the right to be in it."
}

// read takes what the browser sends: keys as bytes, and everything else as JSON. It says what was wrong, if that is why it ends.
func (t *terminal) read() string {
	t.conn.SetReadLimit(maxInput)
	for {
		kind, data, err := t.conn.Read(t.page)
		if err != nil {
			return ""
		}
		if kind == websocket.MessageBinary {
			t.touch()
			select {
			case t.keys <- data:
				continue
			default:
				return "The program takes no more input."
			}
		}
		var told struct{ Cols, Rows, Seen int }
		if json.Unmarshal(data, &told) != nil {
			return "The page sent what is no message."
		}
		if told.Seen > 0 {
			t.seen(told.Seen)
		}
		if now := (size{told.Cols, told.Rows}); now.good() {
			select { // only the latest counts
			case <-t.sizes:
			default:
			}
			t.sizes <- now
		}
	}
}

// write hands the program what is typed.
func write(ctx context.Context, stdin io.Writer, keys <-chan []byte) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case data := <-keys:
			if _, err := stdin.Write(data); err != nil {
				return err
			}
		}
	}
}

func (t *terminal) touch() {
	select {
	case t.moved <- struct{}{}:
	default:
	}
}

// tell sends the page something that is no output.
func (t *terminal) tell(what any) {
	data, err := json.Marshal(what)
	if err != nil {
		return
	}
	ctx, done := context.WithTimeout(t.page, tellTime)
	defer done()
	_ = t.conn.Write(ctx, websocket.MessageText, data) // a page that is gone hears nothing
}

// screen is where a program's output goes. It takes no more than the browser shows: what is beyond waits on the device.
type screen struct {
	t   *terminal
	ctx context.Context
}

// Write implements io.Writer.
func (s *screen) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), chunk)]
		for !s.t.take(len(part)) {
			select {
			case <-s.t.room:
			case <-s.ctx.Done():
				return n, s.ctx.Err()
			}
		}
		s.t.touch()
		sending, done := context.WithTimeout(s.t.page, sendTime)
		err := s.t.conn.Write(sending, websocket.MessageBinary, part)
		done()
		if err != nil {
			return n, err
		}
		n, p = n+len(part), p[len(part):]
	}
	return n, nil
}
