package line

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// patience is how long an answer may take; a dial may take longer, as its context says.
const patience = 5 * time.Second

// Client is the vpn role's end: it asks.
type Client struct {
	end  *end
	name string // of this client; begins the numbers of its requests

	mu      sync.Mutex // covers what follows
	last    uint64
	waiting map[string]chan reply
}

type reply struct {
	answer Answer
	file   *os.File
}

// NewClient uses an end of the channel. Run must run for anything to be answered.
func NewClient(f *os.File) (*Client, error) {
	e, err := open(f)
	if err != nil {
		return nil, err
	}
	name := make([]byte, 8)
	_, _ = rand.Read(name) // never fails, see crypto/rand
	return &Client{end: e, name: hex.EncodeToString(name), waiting: map[string]chan reply{}}, nil
}

// Run hands answers out until the context ends.
func (c *Client) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = c.end.conn.Close() })
	defer stop()
	for {
		var a Answer
		f, err := c.end.receive(&a)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("line: %w", err)
		}
		c.mu.Lock()
		waiting := c.waiting[a.ID]
		delete(c.waiting, a.ID)
		c.mu.Unlock()
		if waiting == nil {
			if f != nil {
				_ = f.Close() // nobody waits for it any more, or it was another process that asked
			}
			continue
		}
		waiting <- reply{a, f} // there is room for it
	}
}

// ask sends a request and waits for its answer.
func (c *Client) ask(ctx context.Context, r Request, beside syscall.Conn) (Answer, *os.File, error) {
	if r.Verb != VerbDial {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	waiting := make(chan reply, 1)
	c.mu.Lock()
	c.last++
	r.ID, r.At = c.name+"-"+strconv.FormatUint(c.last, 10), now()
	c.waiting[r.ID] = waiting
	c.mu.Unlock()
	forget := func() {
		c.mu.Lock()
		delete(c.waiting, r.ID)
		c.mu.Unlock()
		select {
		case late := <-waiting:
			if late.file != nil {
				_ = late.file.Close()
			}
		default:
		}
	}
	if err := c.end.send(r, beside); err != nil {
		forget()
		return Answer{}, nil, errors.Join(ErrSilent, err)
	}
	select {
	case got := <-waiting:
		if got.answer.Error == "" {
			return got.answer, got.file, nil
		}
		if got.file != nil {
			_ = got.file.Close()
		}
		if known := codes[got.answer.Code]; known != nil {
			return got.answer, nil, known
		}
		return got.answer, nil, errors.New(got.answer.Error)
	case <-ctx.Done():
		forget()
		return Answer{}, nil, errors.Join(ErrSilent, ctx.Err())
	}
}

// conn makes a connection of what came beside an answer.
func conn(f *os.File) (net.Conn, error) {
	if f == nil {
		return nil, errors.New("line: the answer came without a connection")
	}
	c, err := net.FileConn(f)
	return c, errors.Join(err, f.Close())
}

// Hello asks how the other process is.
func (c *Client) Hello(ctx context.Context) (Hello, error) {
	a, f, err := c.ask(ctx, Request{Verb: VerbHello}, nil)
	if f != nil {
		_ = f.Close()
	}
	if err != nil {
		return Hello{}, err
	}
	if a.Hello == nil {
		return Hello{}, errors.New("line: an answer without its content")
	}
	return *a.Hello, nil
}

// Management connects to the management interface of an instance.
func (c *Client) Management(ctx context.Context, instance int) (net.Conn, error) {
	_, f, err := c.ask(ctx, Request{Verb: VerbManagement, Instance: instance}, nil)
	if err != nil {
		return nil, err
	}
	return conn(f)
}

// Dial connects to a device's tunnel address through the instance that has it.
func (c *Client) Dial(ctx context.Context, instance int, address string, port int) (net.Conn, error) {
	_, f, err := c.ask(ctx, Request{Verb: VerbDial, Instance: instance, Address: address, Port: port}, nil)
	if err != nil {
		return nil, err
	}
	return conn(f)
}

// Take gives a connection of the public to an instance, with what was read from it. It answers with the port by which openvpn knows it. The
// caller's copy is to be closed, whatever the answer.
func (c *Client) Take(ctx context.Context, instance int, from string, read []byte, public syscall.Conn) (port int, err error) {
	if len(read) > MaxRead {
		return 0, fmt.Errorf("line: %d bytes were read, more than %d", len(read), MaxRead)
	}
	a, _, err := c.ask(ctx, Request{Verb: VerbTake, Instance: instance, From: from, Read: read}, public)
	return a.Port, err
}

// Flows lists the connections that an instance has.
func (c *Client) Flows(ctx context.Context, instance int) (all []Flow, err error) {
	for after := 0; ; {
		a, _, err := c.ask(ctx, Request{Verb: VerbFlows, Instance: instance, After: after}, nil)
		if err != nil {
			return nil, err
		}
		all = append(all, a.Flows...)
		if len(a.Flows) < FlowsAtOnce {
			return all, nil
		}
		after = a.Flows[len(a.Flows)-1].Port
	}
}

// Flow finds one of them by its port.
func (c *Client) Flow(ctx context.Context, instance, port int) (Flow, bool) {
	a, _, err := c.ask(ctx, Request{Verb: VerbFlows, Instance: instance, After: port - 1}, nil)
	if err != nil || len(a.Flows) == 0 || a.Flows[0].Port != port {
		return Flow{}, false
	}
	return a.Flows[0], true
}

// Note writes on a connection what the next vpn role is to know of it.
func (c *Client) Note(ctx context.Context, instance, port int, note string) error {
	_, _, err := c.ask(ctx, Request{Verb: VerbNote, Instance: instance, Port: port, Note: note}, nil)
	return err
}

// Drop ends a connection.
func (c *Client) Drop(ctx context.Context, instance, port int) error {
	_, _, err := c.ask(ctx, Request{Verb: VerbDrop, Instance: instance, Port: port}, nil)
	return err
}
