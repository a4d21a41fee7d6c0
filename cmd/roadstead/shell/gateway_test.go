package shell_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/cmd/roadstead/shell"
)

// newKey writes a key as ssh-keygen does, locked with a passphrase if there is one, and gives its public part.
func newKey(t *testing.T, file, passphrase string) ssh.PublicKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer.PublicKey()
}

// startAgent runs a real ssh-agent with keys in it, and gives its socket.
func startAgent(t *testing.T, keys ...string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(time.Minute); ; {
		add := exec.Command("ssh-add", append([]string{"-q"}, keys...)...)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		out, err := add.CombinedOutput()
		if err == nil {
			return socket
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("ssh-add: %v: %s", err, out)
		}
	}
}

// Which key at hand is shown to the gateway: one that was uploaded, wherever ssh would find it, and no other.
func TestAnUploadedKeyIsFound(t *testing.T) {
	home, elsewhere := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	atHome := newKey(t, filepath.Join(home, ".ssh", "id_ed25519"), "")
	locked := newKey(t, filepath.Join(elsewhere, "locked"), "a passphrase")
	inAgent := newKey(t, filepath.Join(elsewhere, "held"), "")
	socket := startAgent(t, filepath.Join(elsewhere, "held"))
	token := newKey(t, filepath.Join(elsewhere, "token"), "") // of which only the public part lies here
	if err := os.Remove(filepath.Join(elsewhere, "token")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(elsewhere, "token.pub"), ssh.MarshalAuthorizedKey(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(elsewhere, "text"), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := []ssh.PublicKey{atHome, locked, inAgent, token}
	for name, tt := range map[string]struct {
		uploaded []ssh.PublicKey
		file     string
		socket   string
		key      ssh.PublicKey
		where    string // "" is the agent
		says     string
	}{
		"at home":            {uploaded: []ssh.PublicKey{atHome}, socket: socket, key: atHome, where: filepath.Join(home, ".ssh", "id_ed25519")},
		"in the agent":       {uploaded: []ssh.PublicKey{inAgent}, socket: socket, key: inAgent},
		"the agent first":    {uploaded: all, socket: socket, key: inAgent},
		"without an agent":   {uploaded: all, socket: filepath.Join(home, "none"), key: atHome, where: filepath.Join(home, ".ssh", "id_ed25519")},
		"named":              {uploaded: all, socket: socket, file: filepath.Join(elsewhere, "locked"), key: locked, where: filepath.Join(elsewhere, "locked")},
		"a public part":      {uploaded: all, file: filepath.Join(elsewhere, "token.pub"), key: token, where: filepath.Join(elsewhere, "token.pub")},
		"of a token":         {uploaded: all, file: filepath.Join(elsewhere, "token"), key: token, where: filepath.Join(elsewhere, "token")},
		"named, not theirs":  {uploaded: []ssh.PublicKey{atHome}, file: filepath.Join(elsewhere, "locked"), says: "none that you uploaded"},
		"named, not there":   {uploaded: all, file: filepath.Join(elsewhere, "nothing"), says: "does not exist"},
		"named, no key":      {uploaded: all, file: filepath.Join(elsewhere, "text"), says: "no key found"},
		"named, a directory": {uploaded: all, file: elsewhere, says: "no file of a key"},
		"none at hand":       {uploaded: []ssh.PublicKey{locked}, socket: socket, says: "none is at hand"},
		"none uploaded":      {socket: socket, says: "you uploaded none"},
	} {
		var wire [][]byte
		for _, key := range tt.uploaded {
			wire = append(wire, key.Marshal())
		}
		key, file, err := shell.FindKey(wire, tt.file, tt.socket, home)
		if tt.says != "" {
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || string(key.Marshal()) != string(tt.key.Marshal()) || file != tt.where {
			t.Errorf("%s: got %v in %q, %v", name, key, file, err)
		}
	}
}
