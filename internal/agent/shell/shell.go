// Package shell is the SSH server in the agent. It serves on the device's tunnel address, which it is given as a listener, and lets in
// whom the server vouches for: the holder of a certificate for this one device, or of a key whose owner may enter it. There are no
// passwords and no keys of its own; nobody is let in whom the server does not know of, and who may enter no longer is put out.
package shell

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/channel"
	"github.com/roadstead-io/roadstead/internal/agent/seal"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/sshhost"
)

// Names of what is kept, in the state directory.
const (
	certificateFile = "ssh_host_ed25519_key-cert.pub"
	authorityFile   = "ssh_user_ca.pub"
	recordings      = "ssh-recordings"
)

// Bounds that nobody sets.
const (
	maxConnections = 32               // at a time, with those that have not said who they are
	maxChannels    = 16               // of one connection
	graceTime      = 20 * time.Second // to say who one is
	askTime        = 10 * time.Second
	hangUp         = 2 * time.Second // between asking a program to end and ending it
	lastWords      = 5 * time.Second // for what is to be told when everything ends
)

// Server is who knows whom to let in. [remote.Client] is one, with the device's key.
type Server interface {
	SSHKey(ctx context.Context, key string, ask api.SSHKeyAsk) (api.SSHKeyAnswer, error)
	SSHBegin(ctx context.Context, key string, ask api.SSHBegin) (api.SSHBegun, error)
	SSHStill(ctx context.Context, key string, ask api.SSHStill) (api.SSHStill, error)
	SSHEnd(ctx context.Context, told api.SSHProgress) error
	SSHRecording(ctx context.Context, session int64, token string, data []byte) error
}

// Config says what the server of shells works with. Zero durations have the default that their comment gives.
type Config struct {
	StateDir string      // host key, its certificate, the authority, recordings
	Vault    *seal.Vault // keeps the host key
	RunDir   string      // what a session finds on its path
	UUID     api.DeviceUUID
	Key      func() string // the device's key for the server
	Server   Server
	Engine   *engine.Client
	Docker   string // address of the engine for programs of a session, unix:///…; "" means the engine's own default
	Log      *slog.Logger
	Allowed  func() bool // whether the server may say who comes in; nil: it may

	Idle  time.Duration // a connection over which nothing goes is ended: 30 min
	Every time.Duration // between questions whether who is in may stay: 1 s
	Away  time.Duration // for how long nobody may answer that until everybody is put out: 10 s
}

// Shell is the SSH server.
type Shell struct {
	cfg  Config
	host ssh.Signer

	mu          sync.Mutex // covers what follows; nothing is waited for under it
	authority   ssh.PublicKey
	certificate *ssh.Certificate
	open        map[int64]*connection
	answered    time.Time // when it was last said who may stay
	reports     sync.WaitGroup
}

// New makes the host key, once. Nothing listens yet.
func New(cfg Config) (*Shell, error) {
	for _, d := range []struct {
		p *time.Duration
		d time.Duration
	}{{&cfg.Idle, 30 * time.Minute}, {&cfg.Every, time.Second}, {&cfg.Away, 10 * time.Second}} {
		if *d.p == 0 {
			*d.p = d.d
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Shell{cfg: cfg, open: map[int64]*connection{}}
	var err error
	if s.host, err = sshhost.Kept(cfg.StateDir, cfg.Vault.Keep(seal.SSHHostKey)); err != nil {
		return nil, err
	}
	s.recall()
	return s, nil
}

// HostKey is the public host key, a line of authorized_keys, which the server certifies when the channel is registered.
func (s *Shell) HostKey() string {
	if s == nil { // nobody enters this device
		return ""
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.host.PublicKey())))
}

// Trust takes what the server answers to that: whose certificates let in, and the certificate of the host key. They are remembered.
func (s *Shell) Trust(users, certificate string) error {
	authority, cert, err := s.parse(users, certificate)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(s.cfg.StateDir, authorityFile), []byte(users+"\n"), 0o600); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(s.cfg.StateDir, certificateFile), []byte(certificate+"\n"), 0o600); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authority, s.certificate = authority, cert
	return nil
}

// Certified is [Shell.Trust] of what the server answers to the registration of the channel.
func (s *Shell) Certified(answer api.ChannelIdentity) {
	if s == nil || answer.SSHUserCA == "" {
		return
	}
	if err := s.Trust(answer.SSHUserCA, answer.SSHHostCertificate); err != nil {
		s.cfg.Log.Error("the server's word on SSH cannot be taken", "error", err)
	}
}

// recall takes what was remembered, if there is anything.
func (s *Shell) recall() {
	users, err := os.ReadFile(filepath.Join(s.cfg.StateDir, authorityFile))
	if err != nil {
		return
	}
	certificate, err := os.ReadFile(filepath.Join(s.cfg.StateDir, certificateFile))
	if err != nil {
		return
	}
	authority, cert, err := s.parse(string(users), string(certificate))
	if err != nil {
		s.cfg.Log.Warn("what was remembered of SSH cannot be used; the server will say it again", "error", err)
		return
	}
	s.authority, s.certificate = authority, cert
}

func (s *Shell) parse(users, certificate string) (ssh.PublicKey, *ssh.Certificate, error) {
	authority, _, _, _, err := ssh.ParseAuthorizedKey([]byte(users)) //nolint:dogsled // only the key counts
	if err != nil {
		return nil, nil, fmt.Errorf("SSH authority of users: %w", err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(certificate)) //nolint:dogsled // only the key counts
	if err != nil {
		return nil, nil, fmt.Errorf("SSH host certificate: %w", err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok || cert.CertType != ssh.HostCert || string(cert.Key.Marshal()) != string(s.host.PublicKey().Marshal()) {
		return nil, nil, errors.New("SSH host certificate: it is not one of this device's key")
	}
	return authority, cert, nil
}

// Service is what the device offers on its tunnel address.
func (s *Shell) Service() channel.Service {
	return channel.Service{Port: api.DeviceSSHPort, Serve: s.Serve}
}

// Serve takes connections until the context ends, and waits for them and for what is to be told of them.
func (s *Shell) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	if err := s.shims(); err != nil {
		return fmt.Errorf("SSH: %w", err)
	}
	if signal.Ignored(syscall.SIGHUP) { // as under nohup: what is started here would ignore it, too, and not hear that its session ends
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	_ = os.RemoveAll(filepath.Join(s.cfg.StateDir, recordings)) // of sessions that a stop cut off: there is nobody to send them for
	var all sync.WaitGroup
	defer s.reports.Wait()
	defer all.Wait()
	all.Go(func() { s.watch(ctx) })
	room := make(chan struct{}, maxConnections)
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("SSH: accept: %w", err)
		}
		select {
		case room <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-room }()
			defer func() { _ = conn.Close() }()
			s.connection(ctx, conn)
		})
	}
}

// watch asks who may stay, while somebody is in.
func (s *Shell) watch(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.ask(ctx)
		}
	}
}

// ask asks once.
func (s *Shell) ask(ctx context.Context) {
	var told api.SSHStill
	s.mu.Lock()
	for _, c := range s.open {
		told.Sessions = append(told.Sessions, c.progress(false))
	}
	s.mu.Unlock()
	if len(told.Sessions) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, max(s.cfg.Every, s.cfg.Away/3))
	defer cancel()
	answer, err := s.cfg.Server.SSHStill(ctx, s.cfg.Key(), told)
	allowed := s.cfg.Allowed == nil || s.cfg.Allowed()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !allowed:
		for _, c := range s.open {
			c.cut("the metadata of this device's fleet forbid it")
		}
	case err == nil:
		s.answered = time.Now()
		for _, one := range told.Sessions {
			if c := s.open[one.Session]; c != nil {
				c.heard(one.CommandCount)
			}
		}
		for _, id := range answer.End {
			if c := s.open[id]; c != nil {
				why := "the right to be here ended"
				if told := answer.Why[id]; told != "" {
					why = printable(told)
				}
				c.cut(why)
			}
		}
	case errors.Is(err, api.ErrUnauthorized) || errors.Is(err, api.ErrForbidden) || errors.Is(err, api.ErrNotFound):
		for _, c := range s.open { // the device itself is not known any more
			c.cut("the server does not know this device any more")
		}
	case time.Since(s.answered) >= s.cfg.Away:
		s.cfg.Log.Warn("the server cannot be asked who may stay; SSH sessions are ended", "error", err)
		for _, c := range s.open {
			c.cut("the server cannot be asked whether this may go on")
		}
	}
}

// shims puts what people and their programs expect on a device onto a session's path, where it is not there: clients call the engine by
// the names that it has on balenaOS.
func (s *Shell) shims() error {
	dir := s.shimDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"balena-engine", "balena"} {
		if err := durable.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nexec docker \"$@\"\n"), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (s *Shell) shimDir() string { return filepath.Join(s.cfg.RunDir, "ssh-bin") }
