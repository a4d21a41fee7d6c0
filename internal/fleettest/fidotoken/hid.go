package fidotoken

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Report is the size of what goes over the wire at a time, in both directions.
const Report = 64

// Descriptor is that of a FIDO device (CTAP 2.1, 11.2.8): usage page F1D0, reports of 64 bytes in and out.
var Descriptor = []byte{
	0x06, 0xd0, 0xf1, 0x09, 0x01, 0xa1, 0x01,
	0x09, 0x20, 0x15, 0x00, 0x26, 0xff, 0x00, 0x75, 0x08, 0x95, Report, 0x81, 0x02,
	0x09, 0x21, 0x15, 0x00, 0x26, 0xff, 0x00, 0x75, 0x08, 0x95, Report, 0x91, 0x02,
	0xc0,
}

// Commands of CTAPHID (11.2.9), with the bit that marks the first report of a message.
const (
	hidPing      = 0x81
	hidInit      = 0x86
	hidCBOR      = 0x90
	hidCancel    = 0x91
	hidKeepalive = 0xbb
	hidError     = 0xbf
)

// Errors of CTAPHID.
const (
	hidInvalidCommand = 0x01
	hidInvalidLength  = 0x03
	hidInvalidSeq     = 0x04
	hidChannelBusy    = 0x06
	hidInvalidChannel = 0x0b
)

// What a keepalive says.
const (
	processing = 1
	needsTouch = 2
)

const (
	broadcast = 0xffffffff
	between   = 100 * time.Millisecond // keepalives
	maxData   = Report - 7 + 128*(Report-5)

	capabilityCBOR  = 0x04
	capabilityNoMSG = 0x08 // it does not speak U2F
)

// message is one that arrives in several reports.
type message struct {
	channel uint32
	command byte
	length  int
	seq     byte
	data    []byte
}

// session is a token that is plugged in.
type session struct {
	*Token
	conn io.ReadWriter
	work sync.WaitGroup // of commands
	does atomic.Int32   // what it is at, as a keepalive has it
	pins pins           // used by one command at a time

	sending sync.Mutex // covers writing a message

	mu      sync.Mutex // covers what follows
	busy    bool
	channel uint32 // whose command it is at
	cancel  context.CancelFunc
}

// Serve is the token, plugged in: it takes and gives reports until the connection ends.
func (k *Token) Serve(ctx context.Context, conn io.ReadWriter) error {
	ctx, unplug := context.WithCancel(ctx)
	s := &session{Token: k, conn: conn}
	defer s.work.Wait()
	defer unplug()
	s.pins.fresh()
	var report [Report]byte
	var m *message
	channels := uint32(0) // those that were given, from one on
	for {
		if _, err := io.ReadFull(conn, report[:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		channel, first := binary.BigEndian.Uint32(report[:]), report[4]
		switch {
		case channel == 0 || channel > channels && channel != broadcast:
			s.fail(channel, hidInvalidChannel)
		case first&0x80 != 0:
			length := int(binary.BigEndian.Uint16(report[5:]))
			if length > maxData {
				s.fail(channel, hidInvalidLength)
				break
			}
			m = &message{channel: channel, command: first, length: length, data: append([]byte(nil), report[7:7+min(length, Report-7)]...)}
		case m == nil || m.channel != channel: // of a message that is over: not for us
		case m.seq != first:
			m = nil
			s.fail(channel, hidInvalidSeq)
		default:
			m.seq++
			m.data = append(m.data, report[5:5+min(m.length-len(m.data), Report-5)]...)
		}
		if m != nil && len(m.data) == m.length {
			if m.command == hidInit && m.channel == broadcast {
				channels++
			}
			s.take(ctx, m, channels)
			m = nil
		}
	}
}

// take does what a message asks for.
func (s *session) take(ctx context.Context, m *message, newest uint32) {
	switch {
	case m.command == hidInit && m.length == 8:
		given := m.channel
		if given == broadcast {
			given = newest
		} else {
			s.end(given)
		}
		answer := binary.BigEndian.AppendUint32(append([]byte(nil), m.data...), given)
		s.send(m.channel, hidInit, append(answer, 2, 1, 0, 0, capabilityCBOR|capabilityNoMSG))
	case m.command == hidInit || m.channel == broadcast:
		s.fail(m.channel, hidInvalidLength)
	case m.command == hidPing:
		s.send(m.channel, hidPing, m.data)
	case m.command == hidCancel:
		s.end(m.channel)
	case m.command == hidCBOR && m.length > 0:
		ctx, ok := s.begin(ctx, m.channel)
		if !ok {
			s.fail(m.channel, hidChannelBusy)
			return
		}
		s.work.Go(func() { s.run(ctx, m) })
	default:
		s.fail(m.channel, hidInvalidCommand)
	}
}

// begin takes a command of a channel, unless there is one already.
func (s *session) begin(ctx context.Context, channel uint32) (context.Context, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy {
		return nil, false
	}
	s.busy, s.channel = true, channel
	ctx, s.cancel = context.WithCancel(ctx)
	return ctx, true
}

// end cancels what a channel has asked for.
func (s *session) end(channel uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy && s.channel == channel {
		s.cancel()
	}
}

// run runs a command, and says meanwhile that it is at it.
func (s *session) run(ctx context.Context, m *message) {
	s.does.Store(processing)
	done := make(chan []byte, 1)
	go func() { done <- s.command(ctx, m.data) }() // it ends when the context does, and run waits for it
	tick := time.NewTicker(between)
	defer tick.Stop()
	for {
		select {
		case answer := <-done:
			s.mu.Lock()
			s.busy = false
			s.cancel()
			s.mu.Unlock()
			s.send(m.channel, hidCBOR, answer)
			return
		case <-tick.C:
			does := byte(s.does.Load())
			s.send(m.channel, hidKeepalive, []byte{does})
			if does == needsTouch {
				s.waited.Add(1)
			}
		}
	}
}

func (s *session) fail(channel uint32, code byte) { s.send(channel, hidError, []byte{code}) }

// send sends a message. What cannot be sent is no matter: reading ends then, too.
func (s *session) send(channel uint32, command byte, data []byte) {
	s.sending.Lock()
	defer s.sending.Unlock()
	var report [Report]byte
	binary.BigEndian.PutUint32(report[:], channel)
	report[4] = command
	binary.BigEndian.PutUint16(report[5:], uint16(len(data)))
	n := copy(report[7:], data)
	for seq := byte(0); ; seq++ {
		if _, err := s.conn.Write(report[:]); err != nil {
			return
		}
		if data = data[n:]; len(data) == 0 {
			return
		}
		clear(report[4:])
		report[4] = seq
		n = copy(report[5:], data)
	}
}
