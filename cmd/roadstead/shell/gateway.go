package shell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

// Who enters a device with an uploaded key of their own goes through the server's gateway: support staff, and everybody where the device's SSH
// server is none of ours.

const maxKeyFile = 64 << 10

// defaultKeys are where ssh looks for keys, below ~/.ssh.
var defaultKeys = []string{"id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk"}

// gatewayPass is what ssh needs to go through the gateway.
func (a shell) gatewayPass(ctx context.Context, c *client.Client, d *client.Device, way api.SSHWay, file string) (p *pass, err error) {
	host, port, err := net.SplitHostPort(way.Gateway.Address)
	if err != nil {
		return nil, fmt.Errorf("enter device %s: only with an uploaded SSH key, through the server's SSH gateway, and this server has none (roadsteadd up --ssh-listen)", d.Name)
	}
	uploaded, err := client.Get[struct {
		PublicKey string `json:"public_key"`
	}](ctx, c, "user__has__public_key", client.Query{Select: "public_key"})
	if err != nil {
		return nil, fmt.Errorf("your SSH keys: %w", err)
	}
	var mine [][]byte
	for _, one := range uploaded {
		if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(one.PublicKey)); err == nil { //nolint:dogsled // only the key counts
			mine = append(mine, key.Marshal())
		}
	}
	home, _ := os.UserHomeDir() // without one there are no keys in it
	found, err := findKey(mine, file, os.Getenv("SSH_AUTH_SOCK"), home)
	if err != nil {
		return nil, fmt.Errorf("enter device %s: %w", d.Name, err)
	}
	dir, err := os.MkdirTemp("", "roadstead-ssh-") // for its owner alone
	if err != nil {
		return nil, err
	}
	p = &pass{uuid: api.DeviceUUID(d.UUID), dir: dir, gateway: host}
	known := "@cert-authority " + host + " " + way.Hosts + "\n"
	if _, key, ok := strings.Cut(way.Gateway.KnownHosts, " "); ok {
		known += host + " " + key + "\n"
	}
	files := map[string]string{"known_hosts": known}
	identity := found.file
	if identity == "" { // ssh finds the key itself where its public part says that it is
		identity = filepath.Join(dir, "id.pub")
		files["id.pub"] = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(found.key))) + "\n"
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			p.forget()
			return nil, err
		}
	}
	p.options = append([]string{"-F", "none"}, options(
		"HostName="+host, "Port="+port, "HostKeyAlias="+host, "IdentityFile="+strings.ReplaceAll(identity, "%", "%%"), "IdentitiesOnly=yes", "UserKnownHostsFile="+filepath.Join(dir, "known_hosts"),
		"GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes", "PreferredAuthentications=publickey", "ServerAliveInterval=15", "LogLevel=ERROR",
	)...)
	return p, nil
}

// options gives each the -o that ssh and scp want before it.
func options(list ...string) (out []string) {
	for _, one := range list {
		out = append(out, "-o", one)
	}
	return out
}

// askWay asks how one may enter a device. A server that does not know the question has one way.
func askWay(ctx context.Context, c *client.Client, d *client.Device) (way api.SSHWay, err error) {
	err = c.Do(ctx, http.MethodGet, "/ssh/v1/device/"+d.UUID+"/way", nil, &way)
	if errors.Is(err, api.ErrNotFound) {
		return api.SSHWay{Way: api.SSHByCertificate}, nil // which says no again if it was about the device
	}
	if err != nil {
		return way, fmt.Errorf("enter device %s: %w", d.Name, err)
	}
	return way, nil
}

// ownKey is a key at hand that was uploaded: in a file, or in ssh-agent when there is none.
type ownKey struct {
	key  ssh.PublicKey
	file string
}

// findKey looks for one of some keys, by their wire form: in the file that was named, or else in ssh-agent and where ssh looks for keys.
func findKey(uploaded [][]byte, file, socket, home string) (found ownKey, err error) {
	is := func(key ssh.PublicKey) bool {
		for _, one := range uploaded {
			if bytes.Equal(one, key.Marshal()) {
				return true
			}
		}
		return false
	}
	if file != "" {
		key, err := publicOf(file)
		if err != nil {
			return found, cmdline.Usagef("-i %s: %w", file, err)
		}
		if !is(key) {
			return found, fmt.Errorf("the key %s (%s) is none that you uploaded: `roadstead ssh-key add`", file, ssh.FingerprintSHA256(key))
		}
		return ownKey{key, file}, nil
	}
	for _, key := range agentKeys(socket) {
		if is(key) {
			return ownKey{key: key}, nil
		}
	}
	for _, name := range defaultKeys {
		path := filepath.Join(home, ".ssh", name)
		if key, err := publicOf(path); home != "" && err == nil && is(key) {
			return ownKey{key, path}, nil
		}
	}
	if len(uploaded) == 0 {
		return found, errors.New("it takes an SSH key that you uploaded, and you uploaded none: `roadstead ssh-key add TITLE FILE`")
	}
	return found, errors.New("it takes an SSH key that you uploaded, and none is at hand: neither in ssh-agent nor in ~/.ssh/id_*. Name its file with -i")
}

// agentKeys are those that ssh-agent holds; none where there is no agent.
func agentKeys(socket string) (keys []ssh.PublicKey) {
	if socket == "" {
		return nil
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "unix", socket)
	if err != nil {
		return nil
	}
	defer func() { _ = conn.Close() }()
	list, err := agent.NewClient(conn).List()
	if err != nil {
		return nil
	}
	for _, one := range list {
		if key, err := ssh.ParsePublicKey(one.Blob); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// publicOf is the public part of the key in a file: of the file beside it, or of what it says itself without its passphrase.
func publicOf(file string) (ssh.PublicKey, error) {
	private, err := readKey(file)
	if err != nil {
		if strings.HasSuffix(file, ".pub") || !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		private = nil // in ssh-agent, or on a token; ssh takes the name all the same
	}
	if text, err := readKey(strings.TrimSuffix(file, ".pub") + ".pub"); err == nil {
		key, _, _, _, err := ssh.ParseAuthorizedKey(text) //nolint:dogsled // only the key counts
		return key, err
	}
	if private == nil {
		return nil, os.ErrNotExist
	}
	signer, err := ssh.ParsePrivateKey(private)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked) && locked.PublicKey != nil:
		return locked.PublicKey, nil
	case errors.As(err, &locked):
		return nil, fmt.Errorf("its public part is not beside it, in %s.pub", file)
	case err != nil:
		return nil, err
	}
	return signer.PublicKey(), nil
}

func readKey(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, errors.New("that is no file of a key")
	}
	return os.ReadFile(file)
}
