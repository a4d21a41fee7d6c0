package shell

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/sshhost"
)

// Names in the permissions of a connection.
const (
	byGrant       = "grant"       // of the certificate
	byFingerprint = "fingerprint" // of the key
	asUser        = "user"
	mayForward    = "permit-port-forwarding"
	mayTerminal   = "permit-pty"
)

// errStranger is all that somebody learns who is not let in.
var errStranger = errors.New("this key does not open this device")

// sshConfig lets in by keys and certificates.
func (s *Shell) sshConfig(ctx context.Context) (*ssh.ServerConfig, error) {
	cfg := sshhost.Config(func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if s.cfg.Allowed != nil && !s.cfg.Allowed() {
			s.cfg.Log.WarnContext(ctx, "nobody may enter: the metadata of this device's fleet forbid it")
			return nil, errStranger
		}
		if cert, ok := key.(*ssh.Certificate); ok {
			return s.byCertificate(cert, time.Now())
		}
		return s.byKey(ctx, key)
	})
	cfg.AddHostKey(s.host)
	s.mu.Lock()
	cert := s.certificate
	s.mu.Unlock()
	if cert != nil {
		signer, err := ssh.NewCertSigner(cert, s.host)
		if err != nil {
			return nil, err
		}
		cfg.AddHostKey(signer)
	}
	return cfg, nil
}

// byCertificate lets in who has a certificate for this device and no other, of the authority that signs those of people.
func (s *Shell) byCertificate(cert *ssh.Certificate, now time.Time) (*ssh.Permissions, error) {
	s.mu.Lock()
	authority := s.authority
	s.mu.Unlock()
	// A certificate without a principal would be good for everything.
	if authority == nil || cert.CertType != ssh.UserCert || len(cert.ValidPrincipals) != 1 || string(cert.SignatureKey.Marshal()) != string(authority.Marshal()) {
		return nil, errStranger
	}
	if cert.ValidBefore-cert.ValidAfter > uint64((2 * api.SSHUserCertificateLife).Seconds()) {
		return nil, errStranger // none of ours lives that long
	}
	checker := ssh.CertChecker{Clock: func() time.Time { return now }}
	if err := checker.CheckCert(string(s.cfg.UUID), cert); err != nil {
		s.cfg.Log.Warn("an SSH certificate does not let in", "key_id", cert.KeyId, "error", err)
		return nil, errStranger
	}
	_, rest, ok := strings.Cut(cert.KeyId, ":")
	grant, user, named := strings.Cut(rest, ":")
	if !ok || !named {
		return nil, errStranger
	}
	got := &ssh.Permissions{Extensions: map[string]string{byGrant: grant, asUser: user}}
	for _, name := range []string{mayForward, mayTerminal} {
		if _, ok := cert.Extensions[name]; ok {
			got.Extensions[name] = ""
		}
	}
	return got, nil
}

// byKey lets in the owner of a key of whom the server says that they may enter this device, now.
func (s *Shell) byKey(ctx context.Context, key ssh.PublicKey) (*ssh.Permissions, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	fingerprint := ssh.FingerprintSHA256(key)
	answer, err := s.cfg.Server.SSHKey(ctx, s.cfg.Key(), api.SSHKeyAsk{Fingerprint: fingerprint})
	if err != nil {
		if !errors.Is(err, api.ErrNotFound) {
			s.cfg.Log.WarnContext(ctx, "an SSH key could not be asked about", "error", err)
		}
		return nil, errStranger
	}
	got := &ssh.Permissions{Extensions: map[string]string{byFingerprint: fingerprint, asUser: answer.User, mayTerminal: ""}}
	if answer.Forward {
		got.Extensions[mayForward] = ""
	}
	return got, nil
}
