package shell_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/sshtest"
)

// Whoever has a certificate for this device, or a key that the server vouches for, is in; everybody else is a stranger.
func TestWhoIsLetIn(t *testing.T) {
	w := newWorld(t)
	if r := w.certified().ssh("root@127.0.0.1", "id -u; exit 7"); r.code != 7 || r.out != "0\n" {
		t.Errorf("with a certificate: %+v", r)
	}
	told := w.last()
	if told.Kind != "exec" || told.Target != "host" || told.Exit == nil || *told.Exit != 7 || told.BytesOut != 2 || told.Why != "closed" {
		t.Errorf("told: %+v", told)
	}
	if len(told.Commands) != 1 || told.Commands[0] != "id -u; exit 7" || told.CommandCount != 1 {
		t.Errorf("told of the command: %q", told.Commands)
	}
	client := w.certified().dial("root")
	for i := range 12 {
		session, err := client.NewSession()
		w.must(err)
		w.must(session.Run(fmt.Sprint("true ", i, " ", strings.Repeat("é", api.MaxSSHCommand))))
	}
	w.must(client.Close())
	if told = w.last(); len(told.Commands) != api.MaxSSHCommands || told.CommandCount != 12 || len(told.Commands[9]) > api.MaxSSHCommand || !strings.HasPrefix(told.Commands[9], "true 9 é") {
		t.Errorf("told of many commands: %d %q", told.CommandCount, told.Commands)
	}
	owner := w.person()
	w.locked(func() { w.keys[ssh.FingerprintSHA256(owner.key.PublicKey())] = api.SSHKeyAnswer{User: "ann"} })
	if r := owner.ssh("ann@127.0.0.1", "echo in"); r.out != "in\n" {
		t.Errorf("with a key: %+v", r)
	}
	foreign := newSigner(t)
	for name, p := range map[string]*person{
		"a key of nobody's":              w.person(),
		"another device's certificate":   w.certified(func(c *ssh.Certificate) { c.ValidPrincipals = []string{strings.Repeat("f", 32)} }),
		"every device's certificate":     w.certified(func(c *ssh.Certificate) { c.ValidPrincipals = nil }),
		"two devices' certificate":       w.certified(func(c *ssh.Certificate) { c.ValidPrincipals = append(c.ValidPrincipals, "x") }),
		"an expired certificate":         w.certified(func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Second).Unix()) }),
		"a certificate of tomorrow":      w.certified(func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Add(time.Minute).Unix()) }),
		"a certificate for ever":         w.certified(func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity }),
		"a certificate with a condition": w.certified(func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "192.0.2.1"} }),
		"a host certificate":             w.certified(func(c *ssh.Certificate) { c.CertType = ssh.HostCert }),
		"the hosts' authority":           w.certifiedBy(w.hosts),
		"a foreign authority":            w.certifiedBy(foreign),
		"a permission that is gone":      w.certified(func(c *ssh.Certificate) { c.KeyId = "roadstead:g2:ann" }),
	} {
		if r := p.ssh("root@127.0.0.1", "echo in"); r.out != "" || r.code != 255 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// There are no passwords, whoever asks.
	_, err := ssh.Dial("tcp", w.addr, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.Password(""), ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil })},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // it must not come to that
	})
	if err == nil || !strings.Contains(err.Error(), "attempted methods [none]") {
		t.Errorf("a password: %v", err)
	}
	// A host that the authority of users vouches for is none.
	p := w.certified()
	w.must(os.WriteFile(filepath.Join(p.dir, "known"), []byte("@cert-authority "+uuid+" "+sshtest.Line(w.users.PublicKey())+"\n"), 0o600))
	if r := p.ssh("root@127.0.0.1", "echo in"); r.out != "" || !strings.Contains(r.err, "host key") && !strings.Contains(r.err, "Host key") {
		t.Errorf("a client that trusts another authority: %+v", r)
	}
}
