package gitserver

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

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// The files of the SSH host key in the role's directory.
const (
	KeyFile       = "ssh_host_ed25519_key"
	PublicKeyFile = "ssh_host_ed25519_key.pub"
)

// Prepare makes the host key, once, and what the role keeps its repositories in.
func Prepare(dir string) error {
	file := filepath.Join(dir, KeyFile)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := newKey(file); err != nil {
			return fmt.Errorf("SSH host key: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("SSH host key: %w", err)
	}
	signer, err := loadKey(dir)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, PublicKeyFile), ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o600)
}

func newKey(file string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "roadstead git")
	if err != nil {
		return err
	}
	return durable.WriteFile(file, pem.EncodeToMemory(block), 0o600)
}

func loadKey(dir string) (ssh.Signer, error) {
	data, err := os.ReadFile(filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("SSH host key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("SSH host key: %s: %w", filepath.Join(dir, KeyFile), err)
	}
	return signer, nil
}

// Public says how the role that keeps its files in dir is reached at an address, for people: "" is no SSH at all.
func Public(dir string, site api.Site, address string) (api.GitSite, error) {
	if address == "" {
		return api.GitSite{}, nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return api.GitSite{}, fmt.Errorf("address of the git role: %w", err)
	}
	line, err := os.ReadFile(filepath.Join(dir, PublicKeyFile))
	if err != nil {
		return api.GitSite{}, fmt.Errorf("SSH host key: %w", err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line) //nolint:dogsled // only the key counts
	if err != nil {
		return api.GitSite{}, fmt.Errorf("SSH host key: %w", err)
	}
	name := "git." + site.Domain
	known := name
	if n, err := strconv.Atoi(port); err == nil && n != 22 {
		known = "[" + name + "]:" + port
	}
	return api.GitSite{
		SSH: net.JoinHostPort(name, port), Fingerprint: ssh.FingerprintSHA256(key),
		KnownHosts: known + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))),
	}, nil
}
