package fidotoken_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/roadstead-io/roadstead/internal/fleettest/fidotoken"
)

// host is a machine's end of the cable. What it asks for in CBOR stands here byte by byte, so that the token is not read by what writes it.
type host struct {
	t    *testing.T
	conn net.Conn
}

func plug(t *testing.T, k *fidotoken.Token) *host {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- k.Serve(t.Context(), theirs) }()
	t.Cleanup(func() {
		_ = ours.Close()
		if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the token: %v", err)
		}
	})
	return &host{t, ours}
}

func (h *host) write(report []byte) {
	h.t.Helper()
	if _, err := h.conn.Write(append(report, make([]byte, fidotoken.Report-len(report))...)); err != nil {
		h.t.Fatal(err)
	}
}

// send sends a message in as many reports as it takes.
func (h *host) send(channel uint32, command byte, data []byte) {
	h.t.Helper()
	first := binary.BigEndian.AppendUint16(append(binary.BigEndian.AppendUint32(nil, channel), command), uint16(len(data)))
	n := min(len(data), fidotoken.Report-len(first))
	h.write(append(first, data[:n]...))
	seq := byte(0)
	for rest := range slices.Chunk(data[n:], fidotoken.Report-5) {
		h.write(append(append(binary.BigEndian.AppendUint32(nil, channel), seq), rest...))
		seq++
	}
}

// receive gives the next message.
func (h *host) receive() (channel uint32, command byte, data []byte) {
	h.t.Helper()
	report := make([]byte, fidotoken.Report)
	read := func() {
		if _, err := io.ReadFull(h.conn, report); err != nil {
			h.t.Fatal(err)
		}
	}
	read()
	channel, command = binary.BigEndian.Uint32(report), report[4]
	length := int(binary.BigEndian.Uint16(report[5:]))
	data = append(data, report[7:]...)
	for seq := byte(0); len(data) < length; seq++ {
		read()
		if binary.BigEndian.Uint32(report) != channel || report[4] != seq {
			h.t.Fatalf("a report of another message: % x", report[:5])
		}
		data = append(data, report[5:]...)
	}
	return channel, command, data[:length]
}

// answers expects a message, of any length when want is nil.
func (h *host) answers(channel uint32, command byte, want []byte) []byte {
	h.t.Helper()
	c, cmd, data := h.receive()
	if c != channel || cmd != command || want != nil && !bytes.Equal(data, want) {
		h.t.Fatalf("it answers %x on channel %x with % x, want %x on %x with % x", cmd, c, data, command, channel, want)
	}
	return data
}

const (
	everybody = 0xffffffff
	ping      = 0x81
	initial   = 0x86
	cbor      = 0x90
	cancel    = 0x91
	keepalive = 0xbb
	wrong     = 0xbf
)

func (h *host) open() (channel uint32) {
	h.t.Helper()
	nonce := []byte("a nonce!")
	h.send(everybody, initial, nonce)
	got := h.answers(everybody, initial, nil)
	if len(got) != 17 || !bytes.Equal(got[:8], nonce) || got[12] != 2 || got[16]&4 == 0 {
		h.t.Fatalf("it opens a channel with % x", got)
	}
	return binary.BigEndian.Uint32(got[8:])
}

// credential asks to make a credential: {1: hash, 2: {"id": "p"}, 3: {"id": "u", "name": "u"}, 4: [{"alg": -7, "type": "public-key"}]}
var credential = slices.Concat([]byte{0x01, 0xa4, 0x01, 0x58, 0x20}, make([]byte, 32), []byte{0x02, 0xa1, 0x62}, []byte("id"), []byte{0x61, 'p'},
	[]byte{0x03, 0xa2, 0x62}, []byte("id"), []byte{0x41, 'u', 0x64}, []byte("name"), []byte{0x61, 'u'},
	[]byte{0x04, 0x81, 0xa2, 0x63}, []byte("alg"), []byte{0x26, 0x64}, []byte("type"), []byte{0x6a}, []byte("public-key"))

func TestMessages(t *testing.T) {
	h := plug(t, fidotoken.New())
	one, two := h.open(), h.open()
	if one == two || one == 0 || one == everybody {
		t.Fatalf("channels %x and %x", one, two)
	}
	long := bytes.Repeat([]byte("0123456789"), 700)
	h.send(one, ping, long)
	h.answers(one, ping, long)

	// One message at a time: the one that is interrupted is over, and its rest is not for us.
	h.write(append(binary.BigEndian.AppendUint32(nil, one), ping, 0, 100))
	h.send(two, ping, []byte("two"))
	h.answers(two, ping, []byte("two"))
	h.write(append(binary.BigEndian.AppendUint32(nil, one), 0))
	h.write(append(binary.BigEndian.AppendUint32(nil, one), ping, 0, 100))
	h.write(append(binary.BigEndian.AppendUint32(nil, one), 1))
	h.answers(one, wrong, []byte{0x04})
	for _, bad := range []struct {
		channel uint32
		command byte
		data    []byte
		code    byte
	}{{two + 1, ping, nil, 0x0b}, {0, ping, nil, 0x0b}, {one, 0x83, []byte{1}, 0x01}, {one, cbor, nil, 0x01}, {everybody, initial, []byte("short"), 0x03}} {
		h.send(bad.channel, bad.command, bad.data)
		h.answers(bad.channel, wrong, []byte{bad.code})
	}
	h.write(append(binary.BigEndian.AppendUint32(nil, one), ping, 0xff, 0xff))
	h.answers(one, wrong, []byte{0x03})

	for what, ask := range map[string]struct {
		request []byte
		status  byte
	}{
		"no such command":          {[]byte{0x40, 0xa0}, 0x01},
		"no CBOR":                  {[]byte{0x01, 0xff}, 0x12},
		"more than a value":        {[]byte{0x01, 0xa0, 0x00}, 0x12},
		"no map":                   {[]byte{0x01, 0x80}, 0x11},
		"nothing that it needs":    {[]byte{0x02, 0xa0}, 0x14},
		"a text in a hash's place": {[]byte{0x01, 0xa1, 0x01, 0x60}, 0x11},
		"an unknown algorithm":     {bytes.Replace(credential, []byte{'a', 'l', 'g', 0x26}, []byte{'a', 'l', 'g', 0x27}, 1), 0x26},
		"no credential":            {slices.Concat([]byte{0x02, 0xa2, 0x01, 0x61, 'p', 0x02, 0x58, 0x20}, make([]byte, 32)), 0x2e},
		"no PIN to ask for":        {[]byte{0x06, 0xa2, 0x01, 0x01, 0x02, 0x05}, 0x35},
	} {
		h.send(one, cbor, ask.request)
		if got := h.answers(one, cbor, nil); len(got) != 1 || got[0] != ask.status {
			t.Errorf("%s: % x, want %x", what, got, ask.status)
		}
	}
}

// waits takes what it says while it works, until it says that it waits to be touched.
func (h *host) waits(channel uint32) {
	h.t.Helper()
	for {
		c, command, data := h.receive()
		if c != channel || command != keepalive {
			h.t.Fatalf("it does not wait: %x % x on %x", command, data, c)
		}
		if data[0] == 2 {
			return
		}
	}
}

// It waits to be touched, says so, does nothing else meanwhile, and can be told to wait no longer.
func TestTouch(t *testing.T) {
	k := fidotoken.New()
	asked, answer := make(chan string), make(chan fidotoken.Answer)
	k.Person = func(ctx context.Context, what string) fidotoken.Answer {
		asked <- what
		select {
		case a := <-answer:
			return a
		case <-ctx.Done():
			return fidotoken.TooLate
		}
	}
	h := plug(t, k)
	one, two := h.open(), h.open()
	for _, c := range []struct {
		answer fidotoken.Answer
		status byte
	}{{fidotoken.Refused, 0x27}, {fidotoken.TooLate, 0x2f}, {fidotoken.Touched, 0}} {
		h.send(one, cbor, credential)
		if what := <-asked; what != "make a credential for p" {
			t.Errorf("it is to be touched to %s", what)
		}
		before := k.Waited()
		h.waits(one)
		h.waits(one)
		if k.Waited() == before {
			t.Error("nobody counts how often it waits")
		}
		go func() { answer <- c.answer }()
		for {
			_, command, data := h.receive()
			if command == keepalive {
				continue
			}
			if command != cbor || data[0] != c.status || (c.status == 0) != (len(data) > 100) {
				t.Errorf("answered by %d: %x % x", c.answer, command, data)
			}
			break
		}
	}
	h.send(one, cbor, credential)
	<-asked
	h.send(two, cbor, []byte{0x04})
	for channel, command, data := h.receive(); command != wrong; channel, command, data = h.receive() {
		if channel != one || command != keepalive {
			t.Fatalf("at work for one it says %x % x on %x", command, data, channel)
		}
	}
	h.send(two, cancel, nil) // whose it is not
	h.waits(one)
	h.send(one, cancel, nil)
	for {
		if _, command, data := h.receive(); command == cbor {
			if !bytes.Equal(data, []byte{0x2d}) {
				t.Errorf("cancelled: % x", data)
			}
			break
		}
	}
	h.send(two, cbor, []byte{0x04})
	if got := h.answers(two, cbor, nil); got[0] != 0 || !bytes.Contains(got, []byte("hmac-secret")) {
		t.Errorf("what it is: %q", got)
	}
}
