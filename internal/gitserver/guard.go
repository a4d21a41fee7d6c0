package gitserver

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"strconv"

	"github.com/roadstead-io/roadstead/api"
)

// Bounds of what comes before the pack.
const (
	maxCommands     = 64
	maxCommandBytes = 1 << 20
	maxPacketLine   = 65520
)

// guard passes on what a client sends to git-receive-pack, and stops it where it asks for too much: a list of commands without an end, or
// more objects or bytes than one push may have. git counts the bytes too.
type guard struct {
	from    *bufio.Reader
	objects int
	most    int64 // bytes of the pack

	ready    bytes.Buffer // read, checked, and not passed on yet
	commands int
	bytes    int
	flushed  bool // the list has ended: a pack may follow …
	passed   bool // … and has begun: what follows passes
	packed   int64
	err      error
}

func newGuard(r io.Reader, objects int, most int64) *guard {
	return &guard{from: bufio.NewReaderSize(r, 64<<10), objects: objects, most: most}
}

// Read implements io.Reader.
func (g *guard) Read(p []byte) (int, error) {
	for g.ready.Len() == 0 {
		if g.err != nil {
			return 0, g.err
		}
		if g.passed {
			n, err := g.from.Read(p)
			if g.packed += int64(n); g.packed > g.most {
				g.err = api.Errorf(api.TooLarge, "the push is larger than %s (limit push_bytes)", amount(g.most))
				return 0, g.err
			}
			return n, err
		}
		if g.flushed { // only now: git must see the end of the list, for without a pack nothing more comes until it has answered
			g.err = g.pack()
			continue
		}
		g.err = g.next()
	}
	return g.ready.Read(p)
}

// next reads one packet line, or after the last one the head of the pack.
func (g *guard) next() error {
	var head [4]byte
	if n, err := io.ReadFull(g.from, head[:]); err != nil {
		g.ready.Write(head[:n])
		return io.EOF // git says what is missing
	}
	length, err := strconv.ParseUint(string(head[:]), 16, 16)
	if err != nil || length > maxPacketLine {
		return api.Errorf(api.Invalid, "what the client sends is no list of branches")
	}
	g.ready.Write(head[:])
	if length == 0 {
		g.flushed = true
		return nil
	}
	if length < 4 {
		return nil
	}
	if g.bytes += int(length); g.bytes > maxCommandBytes {
		return api.Errorf(api.TooLarge, "the push is about too much at once")
	}
	line := make([]byte, length-4)
	n, err := io.ReadFull(g.from, line)
	g.ready.Write(line[:n])
	if err != nil {
		return io.EOF
	}
	if !bytes.HasPrefix(line, []byte("shallow ")) {
		if g.commands++; g.commands > maxCommands {
			return api.Errorf(api.TooLarge, "the push is about more than %d branches", maxCommands)
		}
	}
	return nil
}

// pack looks at the head of the pack, which says how many objects follow.
func (g *guard) pack() error {
	g.passed = true
	head, err := g.from.Peek(12)
	if err != nil || !bytes.HasPrefix(head, []byte("PACK")) {
		return nil //nolint:nilerr // no pack, or none that git will take
	}
	if n := binary.BigEndian.Uint32(head[8:]); int64(n) > int64(g.objects) {
		g.passed = false
		return api.Errorf(api.TooLarge, "the push has %d objects; at most %d are taken (limit push_objects)", n, g.objects)
	}
	return nil
}
