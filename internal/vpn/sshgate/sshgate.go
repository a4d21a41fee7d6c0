// Package sshgate is the gateway for SSH into devices with nothing but ssh: `ssh NAME@ssh.devices.DOMAIN host UUID`. Who somebody is their
// uploaded key says; whether they may enter the device the api role decides, for each connection. The gateway enters with a certificate
// that was signed for that one session, and lets no host pass for the device that the authority of hosts does not vouch for.
package sshgate

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/sshentry"
	"github.com/roadstead-io/roadstead/internal/sshhost"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/road"
)

const (
	maxSessions = 8 // of one connection at a time
	graceTime   = 20 * time.Second
	askTime     = 10 * time.Second
	dialTime    = 10 * time.Second
	aliveEvery  = 30 * time.Second
	renewBefore = api.SSHHostCertificateLife / 3
	nameEnding  = "ssh.devices."
	keyFinger   = "fingerprint"
	keyUser     = "user"
)

// Prepare makes the host key, once.
func Prepare(dir string) error { return sshhost.Prepare(dir, "roadstead ssh gateway") }

// Public says how the gateway that keeps its key in dir is reached at an address, for people: "" is not at all.
func Public(dir string, site api.Site, address string) (api.SSHSite, error) {
	if address == "" {
		return api.SSHSite{}, nil
	}
	known, err := sshhost.Known(dir, nameEnding+site.Domain, address)
	return api.SSHSite(known), err
}

// Config is what the gateway works with.
type Config struct {
	Dir     string // of the role: the host key
	Permits *permit.Permits
	API     *pki.Peer
	Dial    road.Dialer
	Log     *slog.Logger
	Limits  permit.Limits
	Every   time.Duration // how often it is asked whether a session may go on of which the device does not tell; 0: 1 s
}

// Service is the gateway.
type Service struct {
	cfg Config
	key ssh.Signer

	mu        sync.Mutex // covers what follows
	certified ssh.Signer // nil: not yet
	until     time.Time
}

// New reads the host key; it starts nothing.
func New(cfg Config) (*Service, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.Limits.Defaults()
	if cfg.Every <= 0 {
		cfg.Every = time.Second
	}
	key, err := sshhost.Load(cfg.Dir)
	if err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, key: key}, nil
}

// Serve takes connections until the context ends; then it ends those that it has.
func (s *Service) Serve(ctx context.Context, ln net.Listener) error {
	return permit.Serve(ctx, ln, s.cfg.Limits.Waiting, s.cfg.Limits.WaitingPerAddress, s.connection)
}

// certificate is the host key with a certificate, nil when the api role gives none just now: the key itself is known by its fingerprint.
func (s *Service) certificate(ctx context.Context) ssh.Signer {
	s.mu.Lock()
	have, until := s.certified, s.until
	s.mu.Unlock()
	if have != nil && time.Until(until) > renewBefore {
		return have
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var made api.SSHCertificate
	ask := api.SSHHostAsk{PublicKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.key.PublicKey()))), Gateway: true}
	if err := permit.Call(ctx, s.cfg.API, "/internal/ssh/host", ask, &made); err != nil {
		s.cfg.Log.WarnContext(ctx, "the SSH gateway's host key is not certified", "error", err)
		return have
	}
	signer, err := sshentry.Certified(made.Certificate, s.key)
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "the SSH gateway's host key is not certified", "error", err)
		return have
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.certified, s.until = signer, made.Until
	return signer
}

// sshConfig lets in by keys alone.
func (s *Service) sshConfig(ctx context.Context) *ssh.ServerConfig {
	cfg := sshhost.Config(func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) { return s.whose(ctx, key) })
	cfg.AddHostKey(s.key)
	if certified := s.certificate(ctx); certified != nil {
		cfg.AddHostKey(certified)
	}
	return cfg
}

// whose finds out whose key a client offers. The user name of the connection means nothing: the key says who somebody is.
func (s *Service) whose(ctx context.Context, key ssh.PublicKey) (*ssh.Permissions, error) {
	if _, ok := key.(*ssh.Certificate); ok {
		return nil, errors.New("certificates let nobody in here")
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	found := api.SSHGatewayKey{}
	ask := api.SSHGatewayKey{Fingerprint: ssh.FingerprintSHA256(key)}
	if err := permit.Call(ctx, s.cfg.API, "/internal/ssh/key", ask, &found); err != nil {
		if !errors.Is(err, api.ErrNotFound) {
			s.cfg.Log.WarnContext(ctx, "an SSH key could not be looked up", "error", err)
		}
		return nil, errors.New("this key is nobody's")
	}
	return &ssh.Permissions{Extensions: map[string]string{keyFinger: ask.Fingerprint, keyUser: found.User}}, nil
}

// connection serves one.
func (s *Service) connection(ctx context.Context, raw net.Conn, admitted func()) {
	defer func() { _ = raw.Close() }()
	_ = raw.SetDeadline(time.Now().Add(graceTime))
	conn, channels, requests, err := ssh.NewServerConn(raw, s.sshConfig(ctx))
	if err != nil {
		return
	}
	_ = raw.SetDeadline(time.Time{})
	admitted()
	from, _, _ := net.SplitHostPort(raw.RemoteAddr().String())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	defer func() { _ = conn.Close() }()
	all.Go(func() { ssh.DiscardRequests(requests) }) // no forwarding, whoever asks
	all.Go(func() { alive(ctx, conn) })
	idle := time.AfterFunc(graceTime, func() { _ = conn.Close() }) // a connection without a session
	defer idle.Stop()
	room := make(chan struct{}, maxSessions)
	for fresh := range channels {
		if fresh.ChannelType() != "session" {
			_ = fresh.Reject(ssh.Prohibited, "this gateway forwards no ports; `roadstead device tunnel` does")
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			_ = fresh.Reject(ssh.ResourceShortage, "too many sessions on one connection")
			continue
		}
		idle.Stop()
		all.Go(func() {
			defer func() {
				<-room
				if len(room) == 0 {
					idle.Reset(graceTime)
				}
			}()
			v := &visit{s: s, fingerprint: conn.Permissions.Extensions[keyFinger], user: conn.Permissions.Extensions[keyUser], from: from, login: conn.User()}
			v.session(ctx, fresh)
		})
	}
	cancel()
}

// alive asks the client now and then whether it is there, and ends the connection of one that is not.
func alive(ctx context.Context, conn ssh.Conn) {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		late := time.AfterFunc(aliveEvery, func() { _ = conn.Close() })
		_, _, err := conn.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
		if err != nil {
			return
		}
	}
}
