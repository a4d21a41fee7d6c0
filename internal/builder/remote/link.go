package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/roadstead-io/roadstead/api"
)

const (
	firstPause  = 500 * time.Millisecond
	lastPause   = 30 * time.Second
	steady      = time.Minute      // after a connection that lasted so long, earlier failures are forgotten
	refusedWait = 30 * time.Second // while the server does not know us
)

// LinkConfig is the configuration of the process of a worker that connects to the server.
type LinkConfig struct {
	Dir     string `json:"dir"`     // has the worker's key, and ServerFile
	Manager string `json:"manager"` // socket of the build service on this machine
	Version string `json:"version"`
}

// Link is that process: it keeps a connection to the server open and hands each stream that the server opens on to the build service. It
// holds the worker's key, and runs as another user than builds do.
type Link struct {
	cfg    LinkConfig
	log    *slog.Logger
	key    tls.Certificate
	server joined

	mu  sync.Mutex // covers what follows
	at  string     // the address it is connected to
	why error      // why it is not
}

// NewLink reads the key and which server was joined; Run starts it.
func NewLink(cfg LinkConfig, log *slog.Logger) (*Link, error) {
	if !filepath.IsAbs(cfg.Dir) || !filepath.IsAbs(cfg.Manager) {
		return nil, errors.New("dir and manager: must be absolute paths")
	}
	server, err := readJoined(cfg.Dir)
	if err != nil {
		return nil, err
	}
	key, err := loadKey(filepath.Join(cfg.Dir, KeyFile))
	if err != nil {
		return nil, err
	}
	return &Link{cfg: cfg, log: log, key: key, server: server, why: errors.New("it is connecting")}, nil
}

// Healthy reports whether the server can be reached, and if not, why.
func (l *Link) Healthy(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

// Tells is what there is to know of it.
func (l *Link) Tells() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("connected to %s as worker %s", l.at, l.server.Name)
}

func (l *Link) set(at string, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.why = at, why
}

// Run keeps connected until the context ends.
func (l *Link) Run(ctx context.Context) error {
	pause := firstPause
	for n := 0; ctx.Err() == nil; n++ {
		address := l.server.Addresses[n%len(l.server.Addresses)]
		began := time.Now()
		err := l.once(ctx, address)
		if ctx.Err() != nil {
			break
		}
		if l.Healthy(ctx) == nil { // it was connected: the same address may well work again
			n--
			if time.Since(began) > steady {
				pause = firstPause
			}
		}
		l.set("", err)
		wait := pause/2 + rand.N(pause) // not all workers of a server at once
		if errors.Is(err, api.ErrUnauthorized) {
			wait = refusedWait + rand.N(refusedWait)
		}
		l.log.WarnContext(ctx, "not connected to the server", "address", address, "error", err, "again_in", wait.Round(time.Millisecond))
		pause = min(pause*2, lastPause)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// once connects, and serves the connection until it ends.
func (l *Link) once(ctx context.Context, address string) error {
	conn, err := dial(ctx, address, l.server.Server, l.key)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	req := request(ctx, "/v1/connect", l.cfg.Version, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgrade)
	res, from, err := exchange(ctx, conn, req)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		err := readAnswer(res, new(joining))
		return errors.Join(errors.New("the server refused the connection"), err)
	}
	_ = res.Body.Close() // it is empty
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	mux, err := yamux.Server(&buffered{conn, from}, muxed(l.log, maxStreams))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = mux.Close() })()
	l.set(address, nil)
	l.log.InfoContext(ctx, "connected to the server", "address", address, "worker", l.server.Name)
	return l.serve(ctx, mux)
}

// serve hands every stream on until the connection ends.
func (l *Link) serve(ctx context.Context, mux *yamux.Session) error {
	var streams sync.WaitGroup
	places := make(chan struct{}, maxStreams)
	defer streams.Wait()
	defer func() { _ = mux.Close() }()
	for {
		stream, err := mux.Accept()
		if err != nil {
			return fmt.Errorf("the connection to the server ended: %w", err)
		}
		select {
		case places <- struct{}{}:
		default:
			_ = stream.Close()
			continue
		}
		streams.Go(func() {
			defer func() { <-places }()
			l.hand(ctx, stream)
		})
	}
}

func (l *Link) hand(ctx context.Context, stream net.Conn) {
	d := net.Dialer{Timeout: time.Second}
	manager, err := d.DialContext(ctx, "unix", l.cfg.Manager)
	if err != nil {
		l.log.WarnContext(ctx, "the build service of this machine does not answer", "error", err)
		_ = stream.Close()
		return
	}
	splice(stream, manager)
}

// buffered is a connection of which a little was read already.
type buffered struct {
	net.Conn
	from interface{ Read(p []byte) (int, error) }
}

func (b *buffered) Read(p []byte) (int, error) { return b.from.Read(p) }
