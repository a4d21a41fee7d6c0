package fleettest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// balena is what a device with balenaOS does with the channel: a real openvpn with the configuration that the server gives.
type balena struct {
	*testing.T
	srv   *fleettest.Server
	owner *client.Client
	made  api.Registered
	dir   string
	more  []string // of the configuration: the certificate, which such a device has none of
}

// opened is one run of openvpn.
type opened struct {
	t    *testing.T
	log  *roletest.Log
	done chan struct{}
	stop func()
}

func newBalena(t *testing.T, srv *fleettest.Server, fleet int64) *balena {
	t.Helper()
	b := &balena{T: t, srv: srv, owner: srv.Client(), dir: t.TempDir()}
	key, err := b.owner.CreateProvisioningKey(t.Context(), fleet, api.NewKey{})
	b.must(err)
	b.must(srv.ClientAs(key).Do(t.Context(), "POST", "/device/register", api.Register{
		Application: fleet, DeviceType: "generic-amd64", UUID: api.DeviceUUID(newUUID()),
	}, &b.made))
	return b
}

func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

func (b *balena) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// connect starts openvpn, with what the server says that it shall do. The device of the tunnel is none, for there may be others here.
func (b *balena) connect() *opened {
	b.Helper()
	var system struct {
		Services map[string]map[string]string `json:"services"`
	}
	b.must(b.srv.ClientAs("").Do(b.Context(), "GET", "/os/v1/config", nil, &system))
	ca, auth := filepath.Join(b.dir, "ca.crt"), filepath.Join(b.dir, "vpn-auth")
	b.must(os.WriteFile(ca, []byte(system.Services["openvpn"]["ca"]), 0o600))
	b.must(os.WriteFile(auth, []byte(string(b.made.UUID)+"\n"+b.made.APIKey+"\n"), 0o600))
	var config []string
	for line := range strings.Lines(system.Services["openvpn"]["config"]) {
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "ca":
			line = "ca " + ca
		case "auth-user-pass":
			line = "auth-user-pass " + auth
		case "dev":
			line = "dev null"
		case "dev-type", "up", "down", "up-restart", "script-security", "user", "group":
			continue
		}
		config = append(config, strings.TrimSpace(line))
	}
	config = append(append(config, "connect-retry 1 2", `pull-filter ignore "ifconfig"`, "ifconfig-noexec"), b.more...)
	file := filepath.Join(b.dir, "openvpn.conf")
	b.must(os.WriteFile(file, []byte(strings.Join(config, "\n")+"\n"), 0o600))
	cmd := exec.Command("openvpn", "--config", file)
	o := &opened{t: b.T, log: &roletest.Log{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = o.log, o.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	b.must(cmd.Start())
	go func() { defer close(o.done); _ = cmd.Wait() }()
	o.stop = func() { _ = cmd.Process.Kill(); <-o.done }
	b.Cleanup(func() {
		o.stop()
		if b.Failed() {
			b.Logf("openvpn of %s:\n%s", b.made.UUID, o.log)
		}
	})
	return o
}

// until waits until the openvpn has said something, or with nothing to say until it has ended.
func (o *opened) until(text string) {
	o.t.Helper()
	fleettest.Eventually(o.t, time.Minute, func() error {
		select {
		case <-o.done:
			if text == "" || strings.Contains(o.log.String(), text) {
				return nil
			}
			o.t.Fatalf("openvpn has ended and did not say %q", text)
		default:
		}
		if text == "" || !strings.Contains(o.log.String(), text) {
			return fmt.Errorf("openvpn does not say %q, or goes on", text)
		}
		return nil
	})
}

// is waits until the API says of the device what is wanted, and gives how long that took.
func (b *balena) is(connected bool, identity string) (s api.ChannelStatus, took time.Duration) {
	b.Helper()
	began := time.Now()
	fleettest.Eventually(b.T, time.Minute, func() error {
		s = api.ChannelStatus{}
		if err := b.owner.Do(b.Context(), "GET", "/channel/v1/device/"+string(b.made.UUID), nil, &s); err != nil {
			return err
		}
		if s.Connected != connected || s.Identity != identity {
			return fmt.Errorf("the channel is %+v", s)
		}
		return nil
	})
	return s, time.Since(began)
}

// certify makes the device one like ours, which has a key for the channel.
func (b *balena) certify() {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	b.must(err)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	b.must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	b.must(err)
	var made api.ChannelIdentity
	b.must(b.srv.ClientAs(b.made.APIKey).Do(b.Context(), "POST", "/device/v3/channel",
		api.ChannelCertify{PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))}, &made))
	cert, keyFile := filepath.Join(b.dir, "cert.pem"), filepath.Join(b.dir, "key.pem")
	b.must(os.WriteFile(cert, []byte(made.Certificate), 0o600))
	b.must(os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	b.more = []string{"cert " + cert, "key " + keyFile}
}

func (b *balena) flip(mode string) {
	b.Helper()
	b.must(b.owner.Do(b.Context(), "PUT", "/channel/v1/device/"+string(b.made.UUID), api.ChannelSwitch{Mode: mode}, nil))
}

// kill ends a process of the server without a warning, and waits until it is back.
func (b *balena) kill(role string) {
	b.Helper()
	of := func() (supervise.RoleStatus, error) {
		status, err := supervise.Ask(b.Context(), supervise.Layout(b.srv.Dir))
		for _, r := range status.Roles {
			if r.Role == role {
				return r, err
			}
		}
		return supervise.RoleStatus{}, errors.Join(err, fmt.Errorf("there is no role %s", role))
	}
	before, err := of()
	b.must(err)
	b.must(syscall.Kill(before.PID, syscall.SIGKILL))
	fleettest.Eventually(b.T, time.Minute, func() error {
		now, err := of()
		if err == nil && (now.PID == before.PID || now.State != supervise.Healthy) {
			err = fmt.Errorf("%s is %s %s", role, now.State, now.Why)
		}
		return err
	})
}

const inside = "Initialization Sequence Completed"

// The channel as a whole: the server's processes, and openvpn as devices have it.
func TestTheControlChannel(t *testing.T) {
	srv := fleettest.NewServerWith(t, fleettest.Options{VPN: true})
	c := srv.Client()
	var fleet struct{ ID int64 }
	orgs, err := client.Get[client.Organization](t.Context(), c, "organization", client.Query{Select: "id"})
	if err != nil {
		t.Fatal(err)
	}
	types, err := client.Get[client.DeviceType](t.Context(), c, "device_type", client.Query{Select: "id", Filter: "slug eq 'generic-amd64'"})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Do(t.Context(), "POST", "/v7/application", map[string]any{"app_name": "harbour", "organization": orgs[0].ID, "is_for__device_type": types[0].ID}, &fleet)
	if err != nil {
		t.Fatal(err)
	}
	gone, ours := newBalena(t, srv, fleet.ID), newBalena(t, srv, fleet.ID)

	// By its key alone, as real devices come; deleted, it is cut, and told no more than a stranger.
	vpn := gone.connect()
	vpn.until(inside)
	s, took := gone.is(true, api.IdentityKey)
	t.Logf("online in the API %s after openvpn was", took)
	if s.Address == "" || s.From != "127.0.0.1" || s.Certified {
		t.Errorf("a device that came by its key: %+v", s)
	}
	began := time.Now()
	gone.must(c.Do(t.Context(), "DELETE", "/v7/device(uuid='"+string(gone.made.UUID)+"')", nil, nil))
	vpn.until("AUTH_FAILED")
	t.Logf("cut, and refused anew, %s after it was deleted", time.Since(began))
	vpn.until("")

	// With a certificate; without it, or with another device's, it does not get in any more.
	ours.certify()
	vpn = ours.connect()
	vpn.until(inside)
	if s, _ := ours.is(true, api.IdentityCertificate); !s.Certified {
		t.Errorf("a device that came with its certificate: %+v", s)
	}
	stranger, own := newBalena(t, srv, fleet.ID), ours.more
	stranger.certify()
	for what, with := range map[string][]string{"alone": nil, "with another device's certificate": stranger.more} {
		ours.more = with
		refused := ours.connect()
		refused.until("AUTH_FAILED")
		if strings.Contains(refused.log.String(), inside) {
			t.Errorf("its key %s lets it in", what)
		}
		refused.stop()
	}
	ours.more = own
	ours.is(true, api.IdentityCertificate) // the one that is in was not disturbed

	// Switched off, it is cut at once; and the vpn role that was killed before hears of it as well.
	ours.kill("vpn")
	ours.is(true, api.IdentityCertificate)
	ours.flip(api.ChannelOff)
	vpn.until("AUTH_FAILED")
	ours.is(false, "")
	ours.flip(api.ChannelOn)
	vpn = ours.connect()
	vpn.until(inside)
	address, _ := ours.is(true, api.IdentityCertificate)

	// Without openvpn there is no connection, and with it the device is back, at its address.
	ours.kill("openvpn")
	fleettest.Eventually(t, time.Minute, func() error {
		if strings.Count(vpn.log.String(), inside) < 2 {
			return errors.New("the device does not come back")
		}
		return nil
	})
	if s, _ := ours.is(true, api.IdentityCertificate); s.Address != address.Address {
		t.Errorf("its address was %s, is %s", address.Address, s.Address)
	}
	vpn.stop()
	ours.is(false, "")
}
