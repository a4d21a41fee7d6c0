// Package sshhost is what all our SSH servers have in common: a host key that is made once and kept in a file, how people know it, and the algorithms
// that we speak.
package sshhost

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/sshentry"
)

// The files of a host key, in its server's directory.
const (
	KeyFile       = "ssh_host_ed25519_key"
	publicKeyFile = KeyFile + ".pub"
)

const maxTries = 10 // keys that one connection offers

// Keep is how a key is written in its file: what it answers for the key's text, and the other way round.
type Keep struct {
	Protect func(text string) string
	Reveal  func(text string) (string, error)
}

// plain writes it as it is.
var plain = Keep{Protect: func(text string) string { return text }, Reveal: func(text string) (string, error) { return text, nil }}

// Key reads the host key in a directory; when there is none it makes one, with a comment.
func Key(dir, comment string) (ssh.Signer, error) { return kept(dir, comment, plain) }

// Kept is [Key] for a key that is kept in another way.
func Kept(dir string, as Keep) (ssh.Signer, error) { return kept(dir, "", as) }

func kept(dir, comment string, as Keep) (ssh.Signer, error) {
	key, err := load(dir, as)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("SSH host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, fmt.Errorf("SSH host key: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, KeyFile), []byte(as.Protect(string(pem.EncodeToMemory(block)))), 0o600); err != nil {
		return nil, fmt.Errorf("SSH host key: %w", err)
	}
	return load(dir, as)
}

// Load reads the host key in a directory.
func Load(dir string) (ssh.Signer, error) { return load(dir, plain) }

func load(dir string, as Keep) (ssh.Signer, error) {
	file := filepath.Join(dir, KeyFile)
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("SSH host key: %w", err)
	}
	text, err := as.Reveal(string(data))
	if err != nil {
		return nil, fmt.Errorf("SSH host key: %w", err)
	}
	key, err := ssh.ParsePrivateKey([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("SSH host key: %s: %w", file, err)
	}
	return key, nil
}

// Prepare makes the host key in a directory, once, and keeps its public half beside it, for [Known].
func Prepare(dir, comment string) error {
	key, err := Key(dir, comment)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, publicKeyFile), ssh.MarshalAuthorizedKey(key.PublicKey()), 0o600)
}

// Site is how people reach a server and know it.
type Site struct {
	Address     string // host:port
	Fingerprint string
	KnownHosts  string // a line for a known_hosts file
}

// Known says it of the server that keeps its key in dir, listens on an address and is called name.
func Known(dir, name, address string) (Site, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return Site{}, fmt.Errorf("address of %s: %w", name, err)
	}
	line, err := os.ReadFile(filepath.Join(dir, publicKeyFile))
	if err != nil {
		return Site{}, fmt.Errorf("SSH host key: %w", err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line) //nolint:dogsled // only the key counts
	if err != nil {
		return Site{}, fmt.Errorf("SSH host key: %w", err)
	}
	known := name
	if n, err := strconv.Atoi(port); err == nil && n != 22 {
		known = "[" + name + "]:" + port
	}
	return Site{
		Address: net.JoinHostPort(name, port), Fingerprint: ssh.FingerprintSHA256(key),
		KnownHosts: known + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))),
	}, nil
}

// Config is what our servers speak: keys and certificates alone let in, and nothing weak is agreed on.
func Config(whose func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error)) *ssh.ServerConfig {
	return &ssh.ServerConfig{
		Config: ssh.Config{
			KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519, "curve25519-sha256@libssh.org", ssh.KeyExchangeECDHP256,
				ssh.KeyExchangeECDHP384, ssh.KeyExchangeECDHP521},
			Ciphers: []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES128GCM, ssh.CipherAES256GCM},
			MACs:    []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
		},
		PublicKeyAuthAlgorithms: []string{
			ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256,
			ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512,
		},
		MaxAuthTries: maxTries, ServerVersion: sshentry.Version, PublicKeyCallback: whose,
	}
}
