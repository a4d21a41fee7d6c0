// Package sshentry is what one session into a device over SSH needs: a key that is made for it alone, the certificate that the api role has
// signed for that key, and the check that what answers is the device.
package sshentry

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
)

// Version is what we say that we are.
const Version = "SSH-2.0-Roadstead"

// Key is the key of one session.
type Key struct {
	private ed25519.PrivateKey
	signer  ssh.Signer
}

// NewKey makes one.
func NewKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return nil, err
	}
	return &Key{private, signer}, nil
}

// Public is the public key, a line of authorized_keys.
func (k *Key) Public() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.signer.PublicKey())))
}

// Auth shows the key itself, to a server that knows no certificates.
func (k *Key) Auth() ssh.AuthMethod { return ssh.PublicKeys(k.signer) }

// PEM is the private key as OpenSSH reads it.
func (k *Key) PEM() ([]byte, error) {
	block, err := ssh.MarshalPrivateKey(k.private, "")
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// Client is how a device is entered as user with the certificate that was made for the key.
func (k *Key) Client(uuid api.DeviceUUID, user string, made api.SSHCertificate) (*ssh.ClientConfig, error) {
	certified, err := Certified(made.Certificate, k.signer)
	if err != nil {
		return nil, err
	}
	hosts, _, _, _, err := ssh.ParseAuthorizedKey([]byte(made.Hosts)) //nolint:dogsled // only the key counts
	if err != nil {
		return nil, fmt.Errorf("SSH authority of hosts: %w", err)
	}
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(certified)}, ClientVersion: Version,
		HostKeyCallback:   isDevice(hosts, string(uuid)),
		HostKeyAlgorithms: []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01},
	}, nil
}

// Certified is a key with its certificate, a line as it stands in a -cert.pub file.
func Certified(line string, key ssh.Signer) (ssh.Signer, error) {
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)) //nolint:dogsled // only the key counts
	if err != nil {
		return nil, fmt.Errorf("SSH certificate: %w", err)
	}
	cert, ok := parsed.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("SSH certificate: it is none")
	}
	return ssh.NewCertSigner(cert, key)
}

// isDevice lets nothing pass for a device but what has a certificate for its uuid, of the authority of hosts.
func isDevice(hosts ssh.PublicKey, uuid string) ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		cert, ok := key.(*ssh.Certificate)
		if !ok || cert.CertType != ssh.HostCert || len(cert.ValidPrincipals) == 0 || string(cert.SignatureKey.Marshal()) != string(hosts.Marshal()) {
			return errors.New("it is not certified as this device")
		}
		checker := ssh.CertChecker{}
		return checker.CheckCert(uuid, cert)
	}
}
