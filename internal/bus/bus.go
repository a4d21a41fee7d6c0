// Package bus carries what happens now from one part of the server to others, and keeps the last of it in rings: bounded
// streams with one ring a key. It is NATS with JetStream: inside the one process that uses it ([Open]), or in a process of its
// own ([Server]) to which several connect ([Connect]). What must never be lost is not here but in the database.
package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says where the bus of a single process keeps its rings.
type Config = ServerConfig

// Bus is one process' end of a bus.
type Bus struct {
	own    *Server // nil when the bus is another process
	dialer *dialer // nil when it is not
	conn   *nats.Conn
	js     jetstream.JetStream
	max    int64 // bytes of all rings
	node   int64 // see ConnectConfig.Node

	mu        sync.Mutex // covers followers
	followers map[*Follower]struct{}
}

// Open starts a bus inside this process. It listens on no socket: the only way in is this process.
func Open(cfg Config) (*Bus, error) {
	srv, err := NewServer(cfg)
	if err != nil {
		return nil, err
	}
	b := newBus(cfg.MaxBytes)
	b.own = srv
	if err := b.connect(srv.srv); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// ConnectConfig says how to reach a bus that is another process.
type ConnectConfig struct {
	// Dial makes a connection to a [Server]. It is asked again whenever the connection is lost.
	Dial func(ctx context.Context) (net.Conn, error)
	// Node tells the processes on one bus apart, 0 to 15: two of them never give the same id to entries of a ring.
	Node     int
	MaxBytes int64 // as the server's
	Log      *slog.Logger
}

// maxNodes is how many processes may share a bus.
const maxNodes = 16

// Connect reaches a bus that is another process. When that goes away, the connection is made again for as long as it takes.
func Connect(cfg ConnectConfig) (*Bus, error) {
	if cfg.Dial == nil {
		return nil, errors.New("bus: no way to it")
	}
	if cfg.Node < 0 || cfg.Node >= maxNodes {
		return nil, fmt.Errorf("bus: node %d is not 0 to %d", cfg.Node, maxNodes-1)
	}
	b := newBus(cfg.MaxBytes)
	b.node = int64(cfg.Node)
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b.dialer = &dialer{dial: cfg.Dial, ready: make(chan net.Conn, 1)}
	if err := b.dialer.first(); err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	err := b.connect(b.dialer,
		nats.ReconnectWait(100*time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.PingInterval(10*time.Second), nats.MaxPingsOutstanding(2), nats.Timeout(dialTime),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Warn("the bus is gone", "error", err) }),
		nats.ReconnectHandler(func(*nats.Conn) {
			log.Info("the bus is back")
			b.fillGaps()
		}))
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func newBus(maxBytes int64) *Bus {
	if maxBytes == 0 {
		maxBytes = defaultMaxBytes
	}
	return &Bus{max: maxBytes, followers: map[*Follower]struct{}{}}
}

// connect makes the NATS connection over whatever from hands out.
func (b *Bus) connect(from nats.InProcessConnProvider, opts ...nats.Option) (err error) {
	opts = append([]nats.Option{nats.InProcessServer(from), nats.Name("roadstead"), nats.MaxReconnects(-1)}, opts...)
	if b.conn, err = nats.Connect("", opts...); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	if b.js, err = jetstream.New(b.conn); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	return nil
}

// Close ends this process' part; a bus inside it stops once what was handed to it is written.
func (b *Bus) Close() error {
	if b.conn != nil {
		if b.conn.IsConnected() {
			_ = b.conn.FlushTimeout(2 * time.Second)
		}
		b.conn.Close()
	}
	if b.dialer != nil {
		b.dialer.close()
	}
	if b.own != nil {
		b.own.Close()
	}
	return nil
}

// Publish tells whoever listens now, in whichever process. A subject is a list of words joined by dots. While the bus is away,
// it is kept and told when the bus is back.
func (b *Bus) Publish(subject string, data []byte) error {
	if err := b.conn.Publish(subject, data); err != nil {
		return fmt.Errorf("bus: publish %s: %w", subject, err)
	}
	return nil
}

// Subscribe calls f, one message after the other, until stop is called. A subject may end in ">" for all that start so. What is
// published while the bus is away may be missed: who must not miss it looks for itself from time to time, too.
func (b *Bus) Subscribe(subject string, f func(subject string, data []byte)) (stop func(), err error) {
	sub, err := b.conn.Subscribe(subject, func(m *nats.Msg) { f(m.Subject, m.Data) })
	if err != nil {
		return nil, fmt.Errorf("bus: subscribe %s: %w", subject, err)
	}
	if err := b.conn.FlushTimeout(5 * time.Second); err != nil { // what is published from here on arrives
		return nil, errors.Join(fmt.Errorf("bus: subscribe %s: %w", subject, err), sub.Unsubscribe())
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

// Healthy says why the bus cannot be used, or nil.
func (b *Bus) Healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := b.conn.FlushWithContext(ctx); err != nil { // a round trip
		return fmt.Errorf("bus: %w", err)
	}
	return nil
}
