package signer

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/web"
)

// The keys of the two SSH authorities, in the role's directory. What the one signs, nobody takes from the other: a certificate of a person
// makes no host, and a host's lets nobody in.
const (
	SSHUsersKeyFile = "ssh-users.key"
	SSHHostsKeyFile = "ssh-hosts.key"
)

var (
	deviceUUID = pattern.New(`^[0-9a-f]{32}$`)
	// wordOfKeyID is what may stand in a key id: it comes into the logs of devices.
	wordOfKeyID = pattern.New(`^[A-Za-z0-9_.@-]{1,128}$`)
)

// sshAuthorities sign certificates.
type sshAuthorities struct{ users, hosts ssh.Signer }

func openSSHAuthorities(dir string) (a sshAuthorities, err error) {
	if a.users, err = openSSHKey(filepath.Join(dir, SSHUsersKeyFile), "SSH authority of users"); err != nil {
		return a, err
	}
	a.hosts, err = openSSHKey(filepath.Join(dir, SSHHostsKeyFile), "SSH authority of hosts")
	return a, err
}

// openSSHKey loads a key, or makes it: a server of before there was SSH into devices has none.
func openSSHKey(file, name string) (ssh.Signer, error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := newEd25519Key(file, name); err != nil {
			return nil, err
		}
	}
	key, err := loadEd25519Key(file, name)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return signer, nil
}

func authorizedLine(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func (a sshAuthorities) public() api.SSHAuthorities {
	return api.SSHAuthorities{Users: authorizedLine(a.users.PublicKey()), Hosts: authorizedLine(a.hosts.PublicKey())}
}

// sshPublicKeys is GET /v1/ssh-authorities.
func (s *Server) sshPublicKeys(w http.ResponseWriter, _ *http.Request) error {
	return web.WriteJSON(w, http.StatusOK, s.ssh.public())
}

// parseSSHKey takes a plain public key of a kind that is not weak.
func parseSSHKey(text string) (ssh.PublicKey, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return nil, api.Errorf(api.Invalid, "public_key: is no SSH public key")
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return key, nil
	}
	return nil, api.Errorf(api.Invalid, "public_key: a certificate is given to an ed25519 or ecdsa key, not to %.40q", key.Type())
}

// userCertificate is POST /v1/ssh-user-certificate: into one device, for some minutes, for what the api role has decided.
func (s *Server) userCertificate(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHUserAsk
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	key, err := parseSSHKey(ask.PublicKey)
	if err != nil {
		return err
	}
	now := time.Now()
	switch {
	case !deviceUUID.MatchString(ask.Device):
		return api.Errorf(api.Invalid, "device: %.60q is no device's uuid", ask.Device)
	case !wordOfKeyID.MatchString(ask.Grant) || !wordOfKeyID.MatchString(ask.User):
		return api.Errorf(api.Invalid, "grant, user: say for whom")
	case !ask.Until.After(now):
		return api.Errorf(api.Invalid, "until: %s is over", ask.Until.UTC().Format(time.RFC3339))
	case ask.Until.After(now.Add(api.SSHUserCertificateLife + clockSkew)):
		return api.Errorf(api.Invalid, "until: a certificate of a user lives for at most %s", api.SSHUserCertificateLife)
	}
	cert := &ssh.Certificate{
		Key: key, CertType: ssh.UserCert, KeyId: "roadstead:" + ask.Grant + ":" + ask.User, ValidPrincipals: []string{ask.Device},
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": ""}},
	}
	if ask.Forward {
		cert.Extensions["permit-port-forwarding"] = ""
	}
	return s.certify(w, r, cert, s.ssh.users, now, ask.Until)
}

// hostCertificate is POST /v1/ssh-host-certificate: for a device that the api role knows, or for the gateway into them.
func (s *Server) hostCertificate(w http.ResponseWriter, r *http.Request) error {
	var ask api.SSHHostAsk
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	key, err := parseSSHKey(ask.PublicKey)
	if err != nil {
		return err
	}
	var names []string
	switch {
	case ask.Gateway && ask.Device == "":
		names = []string{"ssh.devices." + s.cfg.Site.Domain, "ssh." + s.cfg.Site.Domain}
	case !ask.Gateway && deviceUUID.MatchString(ask.Device):
		names = []string{ask.Device, ask.Device + ".roadstead", ask.Device + ".balena"}
	default:
		return api.Errorf(api.Invalid, "device: %.60q is no device's uuid", ask.Device)
	}
	now := time.Now()
	cert := &ssh.Certificate{Key: key, CertType: ssh.HostCert, KeyId: "roadstead:" + names[0], ValidPrincipals: names}
	return s.certify(w, r, cert, s.ssh.hosts, now, now.Add(api.SSHHostCertificateLife))
}

// certify signs a certificate, answers with it and leaves a line in the log.
func (s *Server) certify(w http.ResponseWriter, r *http.Request, cert *ssh.Certificate, by ssh.Signer, now, until time.Time) error {
	cert.ValidAfter = uint64(now.Add(-time.Minute).Unix()) //nolint:gosec // clocks of devices are not exact; the time is after 1970
	cert.ValidBefore = uint64(until.Unix())                //nolint:gosec // after now
	if err := cert.SignCert(rand.Reader, by); err != nil {
		return fmt.Errorf("sign SSH certificate: %w", err)
	}
	s.log.InfoContext(r.Context(), "signed", "for", pki.PeerRole(r), "ssh", cert.KeyId, "principals", cert.ValidPrincipals,
		"until", until.UTC().Format(time.RFC3339), "request", web.RequestID(r.Context()))
	return web.WriteJSON(w, http.StatusOK, api.SSHCertificate{Certificate: authorizedLine(cert), Until: until.UTC(), SSHAuthorities: s.ssh.public()})
}
