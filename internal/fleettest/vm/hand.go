package vm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/fleettest/vm/guest"
)

// Hand is a test's hand in a machine: it runs programs there and plugs devices in. The machine runs [Hand.Run].
type Hand struct {
	t       *testing.T
	ln      net.Listener
	program string

	mu      sync.Mutex // covers what follows
	orders  net.Conn
	ready   chan struct{} // closed when there is orders
	last    int
	answers map[int]chan *answer
}

// answer is the connection that an order is answered by.
type answer struct {
	net.Conn
	*bufio.Reader // of the same
}

func (a *answer) Read(p []byte) (int, error) { return a.Reader.Read(p) }

// NewHand makes a hand for a machine that starts next.
func NewHand(t *testing.T) *Hand {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &Hand{t: t, ln: ln, program: filepath.Join(t.TempDir(), "hand"), ready: make(chan struct{}), answers: map[int]chan *answer{}}
	compile(t, h.program, "./internal/fleettest/vm/hand")
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(func() {
		_ = ln.Close()
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.orders != nil {
			_ = h.orders.Close()
		}
	})
	all.Go(h.accept)
	return h
}

// Into has a machine run the hand: with its files, and those of some programs of this machine with the libraries that they need.
func (h *Hand) Into(cfg Config, programs ...string) Config {
	h.t.Helper()
	files := map[string]string{"/bin/hand": h.program}
	for name, from := range cfg.Files {
		files[name] = from
	}
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			h.t.Fatalf("%v: scripts/install.sh test installs what tests need", err)
		}
		files["/bin/"+name] = path
		for _, library := range librariesOf(h.t, path) {
			files[library] = library
		}
	}
	_, port, _ := net.SplitHostPort(h.ln.Addr().String())
	cfg.Files, cfg.Run = files, []string{"/bin/hand", net.JoinHostPort(Host, port)}
	return cfg
}

// accept takes connections of the machine until the test ends: the first is for orders, and each other answers one.
func (h *Hand) accept() {
	for {
		conn, err := h.ln.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		first := h.orders == nil
		if first {
			h.orders = conn
			close(h.ready)
		}
		h.mu.Unlock()
		if first {
			continue
		}
		a := &answer{conn, bufio.NewReader(conn)}
		line, err := a.ReadString('\n')
		id, bad := strconv.Atoi(strings.TrimSpace(line))
		h.mu.Lock()
		to := h.answers[id]
		h.mu.Unlock()
		if err != nil || bad != nil || to == nil {
			_ = conn.Close() // whoever waits says so
			continue
		}
		to <- a
	}
}

// order gives an order, and waits until the machine begins to answer.
func (h *Hand) order(o guest.Order) *answer {
	h.t.Helper()
	select {
	case <-h.ready:
	case <-time.After(patience):
		h.t.Fatal("the machine does not ask what to do")
	}
	to := make(chan *answer, 1)
	h.mu.Lock()
	h.last++
	o.ID = h.last
	h.answers[o.ID] = to
	orders := h.orders
	h.mu.Unlock()
	text, err := json.Marshal(o)
	if err == nil {
		_, err = orders.Write(append(text, '\n'))
	}
	if err != nil {
		h.t.Fatalf("give the machine an order: %v", err)
	}
	select {
	case a := <-to:
		h.t.Cleanup(func() { _ = a.Close() })
		return a
	case <-time.After(patience):
		h.t.Fatalf("the machine does not answer to %s", text)
	}
	return nil
}

// Running is a program that runs in a machine.
type Running struct {
	t    *testing.T
	conn *answer
	what string

	mu     sync.Mutex // covers what follows
	said   strings.Builder
	ended  string        // how; empty: it runs
	change chan struct{} // closed and replaced when one of them changes
}

// Start starts a program, with more variables in its environment.
func (h *Hand) Start(what guest.Run) *Running {
	h.t.Helper()
	r := &Running{t: h.t, conn: h.order(guest.Order{Run: &what}), what: strings.Join(what.Args, " "), change: make(chan struct{})}
	go r.listen() // it ends with the connection, at the latest with the test
	return r
}

func (r *Running) listen() {
	d := json.NewDecoder(r.conn)
	for over := false; !over; {
		var said guest.Said
		if err := d.Decode(&said); err != nil {
			said.Ended = fmt.Sprintf("the machine says no more: %v", err)
		}
		over = said.Ended != ""
		r.mu.Lock()
		r.said.Write(said.Text)
		r.ended = said.Ended
		close(r.change)
		r.change = make(chan struct{})
		r.mu.Unlock()
	}
}

// Type types something on its terminal.
func (r *Running) Type(text string) {
	r.t.Helper()
	if _, err := io.WriteString(r.conn, text); err != nil {
		r.t.Fatalf("type to %s: %v", r.what, err)
	}
}

// Interrupt interrupts it, as ^C does.
func (r *Running) Interrupt() {
	r.t.Helper()
	if err := r.conn.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		r.t.Fatalf("interrupt %s: %v", r.what, err)
	}
}

// Says waits until the program has said something.
func (r *Running) Says(words string) {
	r.t.Helper()
	if said, _ := r.until(func(said, ended string) bool { return strings.Contains(said, words) || ended != "" }); !strings.Contains(said, words) {
		r.t.Fatalf("%s has ended and did not say %q:\n%s", r.what, words, said)
	}
}

// Ended waits until the program has ended, and gives all that it said, and how it ended: "ok", or an error's text.
func (r *Running) Ended() (said, how string) {
	r.t.Helper()
	return r.until(func(_, ended string) bool { return ended != "" })
}

// Said is all that the program has said.
func (r *Running) Said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.String()
}

// Runs says whether the program has not ended.
func (r *Running) Runs() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended == ""
}

func (r *Running) until(ok func(said, ended string) bool) (said, ended string) {
	r.t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		r.mu.Lock()
		said, ended, change := r.said.String(), r.ended, r.change
		r.mu.Unlock()
		if ok(said, ended) {
			return said, ended
		}
		select {
		case <-change:
		case <-end.C:
			r.t.Fatalf("%s takes too long; it said:\n%s", r.what, said)
		}
	}
}

// Plugged is a device that was plugged in.
type Plugged struct {
	Node string // its file in the machine

	t    *testing.T
	conn *answer
	done chan error
}

// Plug plugs a device in. Serve is the device: it takes and gives reports, until it is pulled out or the test ends.
func (h *Hand) Plug(what guest.Plug, serve func(io.ReadWriter) error) *Plugged {
	h.t.Helper()
	p := &Plugged{t: h.t, conn: h.order(guest.Order{Plug: &what}), done: make(chan error, 1)}
	node, err := p.conn.ReadString('\n')
	if err != nil {
		h.t.Fatalf("plug %s in: %v", what.Name, err)
	}
	p.Node = strings.TrimSpace(node)
	go func() { p.done <- serve(p.conn) }() // Pull waits for it, or the end of the connection ends it
	return p
}

// Pull pulls the device out, and waits until the machine has none.
func (p *Plugged) Pull() {
	p.t.Helper()
	if err := p.conn.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		p.t.Error(err)
	}
	select {
	case err := <-p.done:
		if err != nil {
			p.t.Errorf("the device %s: %v", p.Node, err)
		}
	case <-time.After(patience):
		p.t.Fatalf("the device %s does not go", p.Node)
	}
}

// compile builds a program for a machine.
func compile(t *testing.T, to, what string) {
	t.Helper()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, what)
	build.Dir, build.Env = fleettest.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", what, err, out)
	}
}
