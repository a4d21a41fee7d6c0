package signer_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/signer"
)

func sshLine(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// The SSH authorities sign for the api role alone, into one device, for minutes, and one never what is the other's.
func TestSSHCertificates(t *testing.T) {
	b := start(t)
	uuid := strings.Repeat("a", 32)
	user := api.SSHUserAsk{PublicKey: sshLine(t), Device: uuid, Grant: "g1", User: "ann", Until: time.Now().Add(time.Minute)}
	sign := func(path string, ask any) (got api.SSHCertificate, cert *ssh.Certificate) {
		t.Helper()
		status, body := b.post(t, "api", path, ask)
		if status != 200 {
			t.Fatalf("%s: %d %s", path, status, body)
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(got.Certificate))
		if err != nil {
			t.Fatal(err)
		}
		return got, key.(*ssh.Certificate)
	}
	got, cert := sign("/v1/ssh-user-certificate", user)
	if cert.CertType != ssh.UserCert || !slices.Equal(cert.ValidPrincipals, []string{uuid}) || cert.KeyId != "roadstead:g1:ann" ||
		cert.ValidBefore != uint64(user.Until.Unix()) || strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert.SignatureKey))) != got.Users {
		t.Errorf("%+v", cert)
	}
	if _, ok := cert.Extensions["permit-port-forwarding"]; ok || len(cert.Extensions) != 1 {
		t.Errorf("it permits %v", cert.Extensions)
	}
	host, hostCert := sign("/v1/ssh-host-certificate", api.SSHHostAsk{PublicKey: sshLine(t), Device: uuid})
	if hostCert.CertType != ssh.HostCert || !slices.Contains(hostCert.ValidPrincipals, uuid) ||
		strings.TrimSpace(string(ssh.MarshalAuthorizedKey(hostCert.SignatureKey))) != host.Hosts || host.Hosts == host.Users {
		t.Errorf("%+v", hostCert)
	}
	if _, gate := sign("/v1/ssh-host-certificate", api.SSHHostAsk{PublicKey: sshLine(t), Gateway: true}); gate.ValidPrincipals[0] != "ssh.devices."+site.Domain {
		t.Errorf("%v", gate.ValidPrincipals)
	}
	for name, change := range map[string]func(*api.SSHUserAsk){
		"a day":          func(a *api.SSHUserAsk) { a.Until = time.Now().Add(24 * time.Hour) },
		"over":           func(a *api.SSHUserAsk) { a.Until = time.Now().Add(-time.Second) },
		"every device":   func(a *api.SSHUserAsk) { a.Device = "" },
		"two devices":    func(a *api.SSHUserAsk) { a.Device += "," + a.Device },
		"escapes":        func(a *api.SSHUserAsk) { a.User = "ann\x1b]0;x\a" },
		"a certificate":  func(a *api.SSHUserAsk) { a.PublicKey = got.Certificate },
		"key and option": func(a *api.SSHUserAsk) { a.PublicKey = `command="x" ` + a.PublicKey },
	} {
		ask := user
		change(&ask)
		if status, body := b.post(t, "api", "/v1/ssh-user-certificate", ask); status != 400 {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, _ := b.post(t, "api", "/v1/ssh-host-certificate", api.SSHHostAsk{PublicKey: sshLine(t), Device: uuid, Gateway: true}); status != 400 {
		t.Errorf("a device that is the gateway: %d", status)
	}
	for _, role := range []string{"builder", "edge", "registry", "parent", "admin", "signer"} {
		for _, path := range []string{"/v1/ssh-user-certificate", "/v1/ssh-host-certificate"} {
			if status, _ := b.post(t, role, path, user); status != 403 {
				t.Errorf("%s asks %s: %d", role, path, status)
			}
		}
	}
	for _, name := range []string{signer.SSHUsersKeyFile, signer.SSHHostsKeyFile} {
		if info, err := os.Stat(filepath.Join(b.dir, "signer", name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	b.run(t, "127.0.0.1:1") // another process with the same directory has the same authorities
	if again, _ := sign("/v1/ssh-user-certificate", user); again.SSHAuthorities != got.SSHAuthorities {
		t.Error("the authorities are others after a restart")
	}
}
