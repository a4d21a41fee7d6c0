// Package management speaks with openvpn over its management interface: who wants in, who is in, and what is to become of them. What clients
// say of themselves comes through here as well: nothing of it is believed to be short, to be text, or to be on one line.
package management

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of what openvpn says.
const (
	maxLine = 64 << 10 // a longer line is cut there, and what is in it is not used
	maxEnv  = 512      // variables of one client
	maxList = 1 << 20  // lines of one answer
)

// answerTime is how long openvpn may take for an answer.
const answerTime = 10 * time.Second

// Kind is what happens to a client.
type Kind string

// The kinds.
const (
	Connect     Kind = "CONNECT"     // it wants in
	Reauth      Kind = "REAUTH"      // it is in and has made new keys
	Established Kind = "ESTABLISHED" // it is in
	Disconnect  Kind = "DISCONNECT"
)

// Event is what openvpn tells of a client.
type Event struct {
	Kind   Kind
	Client int               // CID
	Key    int               // KID, of Connect and Reauth
	Env    map[string]string // what it knows; what clients say is cut and cleaned by openvpn, not by us
	Cut    bool              // some of it was too much and is not there
}

// Client is one line of the list of those who are in or on their way.
type Client struct {
	ID      int
	Name    string // "UNDEF" while it is on its way
	Real    string // address and port
	Address string // in the tunnel, "" before it has one
	Since   time.Time
}

// Conn is a connection to a management interface.
type Conn struct {
	conn   net.Conn
	events func(Event)

	asking sync.Mutex // one command at a time
	lines  chan string
	done   chan struct{}
}

// ErrFailed is an answer of openvpn that it did not do what it was told.
var ErrFailed = errors.New("openvpn refuses")

// New uses a connection. events is called for each event in its order, by Run; it must not ask anything of the connection.
func New(conn net.Conn, events func(Event)) *Conn {
	return &Conn{conn: conn, events: events, lines: make(chan string, 64), done: make(chan struct{})}
}

// Run reads what openvpn says until the context ends or the connection does.
func (c *Conn) Run(ctx context.Context) error {
	defer close(c.done)
	stop := context.AfterFunc(ctx, func() { _ = c.conn.Close() })
	defer stop()
	defer func() { _ = c.conn.Close() }()
	p := parser{events: c.events, answer: func(line string) {
		select {
		case c.lines <- line:
		case <-ctx.Done():
		case <-time.After(answerTime): // nobody asked
		}
	}}
	err := p.read(bufio.NewReaderSize(c.conn, maxLine))
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("management: %w", err)
}

// parser takes lines apart.
type parser struct {
	events func(Event)
	answer func(string)
	event  *Event // being told
}

func (p *parser) read(from *bufio.Reader) error {
	for {
		line, err := from.ReadSlice('\n')
		cut := false
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line without an end
			cut = true
			_, err = from.ReadSlice('\n')
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("openvpn has closed the connection")
			}
			return err
		}
		if cut {
			if p.event != nil {
				p.event.Cut = true
			}
			continue
		}
		p.line(string(bytes.TrimRight(line, "\r\n")))
	}
}

func (p *parser) line(line string) {
	if !strings.HasPrefix(line, ">") {
		if p.event != nil { // within what is told of a client there is no answer: somebody's line break
			p.event.Cut = true
			return
		}
		if line != "" {
			p.answer(line)
		}
		return
	}
	rest, ours := strings.CutPrefix(line, ">CLIENT:")
	if !ours {
		return // news of no use here
	}
	if env, ok := strings.CutPrefix(rest, "ENV,"); ok {
		p.env(env)
		return
	}
	kind, numbers, _ := strings.Cut(rest, ",")
	switch Kind(kind) {
	case Connect, Reauth, Established, Disconnect:
	default:
		return // such as ADDRESS, which is one line
	}
	fields := strings.Split(numbers, ",")
	client, err := strconv.Atoi(fields[0])
	if err != nil || p.event != nil {
		if p.event != nil { // within another one: it is what a client said
			p.event.Cut = true
		}
		return
	}
	p.event = &Event{Kind: Kind(kind), Client: client, Env: map[string]string{}}
	if len(fields) > 1 {
		if p.event.Key, err = strconv.Atoi(fields[1]); err != nil {
			p.event.Cut = true
		}
	}
}

func (p *parser) env(env string) {
	if p.event == nil {
		return
	}
	if env == "END" {
		event := *p.event
		p.event = nil
		p.events(event)
		return
	}
	name, value, ok := strings.Cut(env, "=")
	if _, twice := p.event.Env[name]; !ok || twice || len(p.event.Env) >= maxEnv {
		p.event.Cut = p.event.Cut || !ok || twice || !strings.HasPrefix(name, "IV_")
		return
	}
	p.event.Env[name] = value
}

// ask sends a command and gives the first line of its answer; with a list, the lines before END too.
func (c *Conn) ask(ctx context.Context, command string, list bool) (lines []string, err error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	_ = c.conn.SetWriteDeadline(time.Now().Add(answerTime))
	if _, err := io.WriteString(c.conn, command+"\n"); err != nil {
		return nil, fmt.Errorf("management: %w", err)
	}
	for {
		select {
		case line := <-c.lines:
			switch {
			case strings.HasPrefix(line, "ERROR:"):
				return nil, fmt.Errorf("%w: %s", ErrFailed, strings.TrimSpace(line[len("ERROR:"):]))
			case !list || line == "END":
				return lines, nil
			case len(lines) >= maxList:
				_ = c.conn.Close()
				return nil, errors.New("management: the answer has no end")
			}
			lines = append(lines, line)
		case <-c.done:
			return nil, errors.New("management: the connection has ended")
		case <-ctx.Done():
			_ = c.conn.Close() // whatever comes now would be taken for the next answer
			return nil, fmt.Errorf("management: openvpn does not answer: %w", ctx.Err())
		}
	}
}

// Release lets openvpn begin, which waits for it after every start.
func (c *Conn) Release(ctx context.Context) error {
	_, err := c.ask(ctx, "hold release", false)
	return err
}

// Admit lets a client in, with lines of configuration for it.
func (c *Conn) Admit(ctx context.Context, client, key int, config ...string) error {
	for _, line := range config {
		if strings.ContainsAny(line, "\r\n") || line == "END" {
			return fmt.Errorf("management: %q is not one line", line)
		}
	}
	text := fmt.Sprintf("client-auth %d %d\n", client, key)
	for _, line := range config {
		text += line + "\n"
	}
	_, err := c.ask(ctx, text+"END", false)
	return err
}

// Deny turns a client away. The reasons are the server's own words, without quotes: one for its log, one for the client.
func (c *Conn) Deny(ctx context.Context, client, key int, reason, told string) error {
	_, err := c.ask(ctx, fmt.Sprintf("client-deny %d %d %q %q", client, key, words(reason), words(told)), false)
	return err
}

// words leaves what needs no escape.
func words(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '"' || r == '\\' || r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s[:min(len(s), 200)])
}

// Kill ends a client. It comes again at once, and asks to be let in.
func (c *Conn) Kill(ctx context.Context, client int) error {
	_, err := c.ask(ctx, fmt.Sprintf("client-kill %d", client), false)
	return err
}

// Clients lists who is in or on the way.
func (c *Conn) Clients(ctx context.Context) ([]Client, error) {
	lines, err := c.ask(ctx, "status 3", true)
	if err != nil {
		return nil, err
	}
	return parseStatus(lines), nil
}

// parseStatus reads the answer to "status 3": a line of names, and lines of values, all with tabs between.
func parseStatus(lines []string) (list []Client) {
	columns := map[string]int{}
	for _, line := range lines {
		fields := strings.Split(line, "\t")
		if len(fields) > 2 && fields[0] == "HEADER" && fields[1] == "CLIENT_LIST" {
			for i, name := range fields[2:] {
				columns[name] = i + 1
			}
		}
		if fields[0] != "CLIENT_LIST" || len(columns) == 0 || len(fields) != len(columns)+1 {
			continue
		}
		field := func(name string) string {
			if i, ok := columns[name]; ok {
				return fields[i]
			}
			return ""
		}
		id, err := strconv.Atoi(field("Client ID"))
		if err != nil {
			continue
		}
		since, _ := strconv.ParseInt(field("Connected Since (time_t)"), 10, 64)
		list = append(list, Client{ID: id, Name: field("Common Name"), Real: field("Real Address"), Address: field("Virtual Address"), Since: time.Unix(since, 0)})
	}
	return list
}
