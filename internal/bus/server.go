package bus

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// ServerConfig says where a bus keeps its rings.
type ServerConfig struct {
	Dir      string // created when missing; holds nothing but the bus
	MaxBytes int64  // all rings together; 0 means 8 GiB
	Log      *slog.Logger
}

// defaultMaxBytes is what all rings together may take on the disk.
const defaultMaxBytes = 8 << 30

// Protocol is the name under which two roles agree, in their TLS handshake, to speak as the bus does.
const Protocol = "roadstead-bus"

// Server is the middle of a bus: NATS with JetStream. It listens on no socket of its own; who may use it is decided by whoever
// calls Serve.
type Server struct {
	srv *server.Server

	mu     sync.Mutex // covers what follows
	open   map[net.Conn]struct{}
	closed bool

	served sync.WaitGroup // of connections
	close  sync.Once
}

// NewServer starts the middle of a bus. It must be closed.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("bus: no directory")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = defaultMaxBytes
	}
	srv, err := server.NewServer(&server.Options{
		ServerName:         "roadstead",
		DontListen:         true,
		NoSigs:             true,
		NoSystemAccount:    true,
		JetStream:          true,
		StoreDir:           dir,
		JetStreamMaxMemory: 16 << 20,
		JetStreamMaxStore:  cfg.MaxBytes,
		SyncInterval:       10 * time.Second, // a line is on the disk that long after it came; a killed process loses none
		MaxPayload:         maxPayload,
		MaxPending:         64 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	if cfg.Log != nil {
		srv.SetLoggerV2(logger{cfg.Log}, false, false, false)
	}
	s := &Server{srv: srv, open: map[net.Conn]struct{}{}}
	srv.Start()
	if !srv.ReadyForConnections(20 * time.Second) {
		s.Close()
		return nil, errors.New("bus: did not start within 20 s")
	}
	return s, nil
}

// maxPayload bounds one message.
const maxPayload = 1 << 20

// Serve lets the other end of a connection use the bus until that connection or the server ends, and closes it. Whoever calls it
// has made sure of who is there: on the bus, everybody may do everything.
func (s *Server) Serve(conn net.Conn) error {
	defer func() { _ = conn.Close() }()
	inside, err := s.srv.InProcessConn()
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	defer func() { _ = inside.Close() }()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.New("bus: it is closed")
	}
	s.open[conn] = struct{}{}
	s.served.Add(1)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.open, conn)
		s.mu.Unlock()
		s.served.Done()
	}()
	var out sync.WaitGroup
	out.Go(func() {
		_, _ = io.Copy(conn, inside)
		_ = conn.Close() // ends the copy below
	})
	_, _ = io.Copy(inside, conn)
	_ = inside.Close() // ends the copy above
	out.Wait()
	return nil
}

// Close ends every connection and stops the server once what was handed to it is written.
func (s *Server) Close() { s.close.Do(s.shutdown) }

func (s *Server) shutdown() {
	s.mu.Lock()
	s.closed = true
	for conn := range s.open {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.served.Wait()
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

// Connections is how many are being served.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// Healthy says why the server cannot be used, or nil.
func (s *Server) Healthy() error {
	if !s.srv.Running() || !s.srv.JetStreamEnabled() {
		return errors.New("bus: its store does not work")
	}
	return nil
}

// logger hands the embedded server's words to slog. Its notices are of no interest to an operator of ours.
type logger struct{ log *slog.Logger }

func (l logger) Noticef(string, ...any) {}
func (l logger) Debugf(string, ...any)  {}
func (l logger) Tracef(string, ...any)  {}
func (l logger) Warnf(format string, a ...any) {
	l.log.Warn("bus: " + fmt.Sprintf(format, a...))
}
func (l logger) Fatalf(format string, a ...any) {
	l.log.Error("bus: " + fmt.Sprintf(format, a...))
}
func (l logger) Errorf(format string, a ...any) {
	l.log.Error("bus: " + fmt.Sprintf(format, a...))
}
