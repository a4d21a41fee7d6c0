package apiserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// withChannel gives a server a control channel, and a signer.
func (s *server) withChannel() {
	s.Helper()
	s.site = api.ChannelSite{Host: "cloudlink.roadstead.test", Port: 443}
	s.withSigner()
}

// A device has its key certified, comes in with both, is connected, and is cut when it is deleted; what a real balenaOS is told of the channel.
func TestTheChannelOfADevice(t *testing.T) {
	s := newServer(t)
	var system struct {
		Services map[string]map[string]string
	}
	s.do("", "GET", "/os/v1/config", nil).want(http.StatusOK).into(&system)
	if system.Services["openvpn"]["config"] != "" {
		t.Errorf("a server without a channel gives %q", system.Services["openvpn"]["config"])
	}
	alice := s.user("alice")
	fleet := s.fleet(alice, "hello")
	dev := s.device(alice, fleet, api.DeviceUUID(strings.Repeat("a", 32)))
	s.do(dev.APIKey, "POST", "/device/v3/channel", api.ChannelCertify{PublicKey: "x"}).want(http.StatusNotFound)

	s.withChannel()
	s.do("", "GET", "/os/v1/config", nil).want(http.StatusOK).into(&system)
	config, ca := system.Services["openvpn"]["config"], system.Services["openvpn"]["ca"]
	for _, line := range []string{"remote cloudlink.roadstead.test 443", "proto tcp", "auth-user-pass /var/volatile/vpn-auth", "dev resin-vpn", "ca /etc/openvpn/ca.crt",
		"remote-cert-tls server", "verify-x509-name cloudlink.roadstead.test name", "tls-version-min 1.2"} {
		if !strings.Contains("\n"+config, "\n"+line+"\n") {
			t.Errorf("the configuration for balenaOS lacks %q", line)
		}
	}
	if !strings.Contains(ca, "BEGIN CERTIFICATE") || strings.Contains(config, "comp") {
		t.Errorf("ca %.40q, config\n%s", ca, config)
	}
	var born api.DeviceConfig
	s.do(alice, "GET", fmt.Sprintf("/download-config?version=2.100.0&appId=%d", fleet), nil).want(http.StatusOK).into(&born)
	if born.VPNEndpoint != "cloudlink.roadstead.test" || born.VPNPort != 443 {
		t.Errorf("config.json: %+v", born)
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	s.must(err)
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	s.do(alice, "POST", "/device/v3/channel", api.ChannelCertify{PublicKey: public}).want(http.StatusForbidden)
	var identity api.ChannelIdentity
	s.do(dev.APIKey, "POST", "/device/v3/channel", api.ChannelCertify{PublicKey: public}).want(http.StatusOK).into(&identity)
	block, _ := pem.Decode([]byte(identity.Certificate))
	cert, err := x509.ParseCertificate(block.Bytes)
	s.must(err)
	if cert.Subject.CommonName != string(dev.UUID) || !key.PublicKey.Equal(cert.PublicKey) || identity.Host != "cloudlink.roadstead.test" || identity.CA != ca {
		t.Errorf("certified: %s, %+v", cert.Subject, identity)
	}

	login := api.ChannelLogin{UUID: string(dev.UUID), Key: dev.APIKey, Certificate: fmt.Sprintf("%x", sha256.Sum256(block.Bytes)), From: "192.0.2.9", Instance: "0", Network: "10.240.0.0/16"}
	var in api.ChannelDevice
	s.role(api.RoleVPN, "POST", "/internal/channel/login", login).want(http.StatusOK).into(&in)
	alone := login
	alone.Certificate = ""
	refused := s.role(api.RoleVPN, "POST", "/internal/channel/login", alone).want(http.StatusUnauthorized).body
	alone.Key = "wrong"
	if body := s.role(api.RoleVPN, "POST", "/internal/channel/login", alone).want(http.StatusUnauthorized).body; body != refused {
		t.Errorf("two reasons, two answers: %s, %s", body, refused)
	}

	report := api.ChannelReport{Instance: "0", Boot: "b", Full: true, Up: []api.ChannelUp{{
		UUID: in.UUID, Session: "s", Address: in.Address, From: "192.0.2.9", Since: "2026-01-01T00:00:00Z", Identity: in.Identity, Key: in.Key,
	}}}
	s.role(api.RoleVPN, "POST", "/internal/channel/sessions", report).want(http.StatusOK)
	row := s.do(alice, "GET", "/v7/device?$select=is_online,is_connected_to_vpn,last_vpn_event,api_heartbeat_state,overall_status,channel_identity,channel_address", nil).rows()[0]
	if row["is_online"] != true || row["is_connected_to_vpn"] != true || row["last_vpn_event"] == nil || row["api_heartbeat_state"] != "unknown" ||
		row["channel_identity"] != "certificate" || row["channel_address"] != in.Address || row["overall_status"] != "reduced-functionality" {
		t.Errorf("a device that is connected: %v", row)
	}
	more := s.another() // of several processes any may be asked
	empty := api.ChannelReport{Instance: "0", Boot: "b"}
	if body := more.role(api.RoleVPN, "POST", "/internal/channel/sessions", empty).want(http.StatusOK).body; strings.TrimSpace(body) != `{"cut":[]}` {
		t.Errorf("nothing is to be cut, and the answer is %s", body)
	}
	s.do(alice, "DELETE", fmt.Sprintf("/v7/device(uuid='%s')", dev.UUID), nil).want(http.StatusOK)
	if body := more.role(api.RoleVPN, "POST", "/internal/channel/sessions", empty).want(http.StatusOK).body; strings.TrimSpace(body) != `{"cut":["s"]}` {
		t.Errorf("a deleted device is to be cut, and the answer is %s", body)
	}
	if body := more.role(api.RoleVPN, "POST", "/internal/channel/login", login).want(http.StatusUnauthorized).body; body != refused {
		t.Errorf("a deleted device is told %s", body)
	}
	if got := s.entries(alice, "act eq 'channel.certify'"); len(got) != 1 {
		t.Errorf("the certificate is not in the audit log: %v", got)
	}
	if got := s.entries(alice, "act eq 'channel.open'"); len(got) != 1 {
		t.Errorf("the refused login is not in the audit log, or more than once: %v", got)
	}
}
