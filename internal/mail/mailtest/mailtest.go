// Package mailtest is a mail server for tests: it speaks SMTP over TLS, asks for a password, and keeps what it is given.
package mailtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// What the server wants to hear.
const (
	User     = "roadstead"
	Password = "correct horse battery staple"
)

// Options say how the server behaves.
type Options struct {
	STARTTLS bool // TLS on request; otherwise from the first byte
	Clear    bool // no TLS at all, and no password
}

// Server keeps letters.
type Server struct {
	Addr   string
	URL    string // what --smtp takes
	RootCA string // PEM

	srv *smtp.Server

	mu      sync.Mutex // covers what follows
	letters []Letter
	refuse  func(to string) error
	changed chan struct{} // closed when a letter comes
}

// Letter is one that came.
type Letter struct {
	From, To string // of the envelope
	Header   mail.Header
	Raw      string // as it came
	Body     string // decoded
}

// Start starts a server that ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{changed: make(chan struct{})}
	conf := s.certificate(t)
	s.srv = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{s: s, clear: o.Clear}, nil }))
	s.srv.Domain, s.srv.ReadTimeout, s.srv.WriteTimeout = "mail.test", 10*time.Second, 10*time.Second
	s.srv.MaxMessageBytes, s.srv.AllowInsecureAuth = 1<<20, false
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = ln.Addr().String()
	s.URL = "smtps://" + User + "@" + s.Addr
	switch {
	case o.Clear:
		s.URL = "smtp://" + s.Addr
	case o.STARTTLS:
		s.srv.TLSConfig = conf
		s.URL = "smtp://" + User + "@" + s.Addr
	default:
		ln = tls.NewListener(ln, conf)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.srv.Serve(ln) }()
	t.Cleanup(func() { _ = s.srv.Close(); <-done })
	return s
}

func (s *Server) certificate(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s.RootCA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// Refuse has the server answer letters to whom f gives an error for with that error; nil takes all again.
func (s *Server) Refuse(f func(to string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

// Letters gives what has come so far.
func (s *Server) Letters() []Letter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Letter(nil), s.letters...)
}

// Wait waits for letter number n, from 1, to an address.
func (s *Server) Wait(t testing.TB, to string, n int) Letter {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		changed, count := s.changed, 0
		for _, l := range s.letters {
			if l.To != to {
				continue
			}
			if count++; count == n {
				s.mu.Unlock()
				return l
			}
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatalf("letter %d to %s did not come; there are %d to it", n, to, count)
		}
	}
}

// session is one connection.
type session struct {
	s        *Server
	clear    bool
	in       bool
	from, to string
}

func (s *session) AuthMechanisms() []string {
	if s.clear {
		return nil
	}
	return []string{sasl.Plain}
}

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != User || password != Password {
			return errors.New("wrong password")
		}
		s.in = true
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if !s.in && !s.clear {
		return smtp.ErrAuthRequired
	}
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	s.to = to
	if s.s.refuse != nil {
		return s.s.refuse(to)
	}
	return nil
}

func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	l, err := read(string(raw))
	if err != nil {
		return err
	}
	l.From, l.To = s.from, s.to
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	s.s.letters = append(s.s.letters, l)
	close(s.s.changed)
	s.s.changed = make(chan struct{})
	return nil
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

func read(raw string) (Letter, error) {
	m, err := mail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		return Letter{}, err
	}
	body := m.Body
	if strings.EqualFold(m.Header.Get("Content-Transfer-Encoding"), "quoted-printable") {
		body = quotedprintable.NewReader(m.Body)
	}
	text, err := io.ReadAll(body)
	return Letter{Header: m.Header, Raw: raw, Body: strings.ReplaceAll(string(text), "\r\n", "\n")}, err
}
