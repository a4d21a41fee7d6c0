package signer_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/signer"
)

// What devices show on the control channel is certified for the api role alone, for a device alone, and is good for nothing else.
func TestCertificatesOfDevices(t *testing.T) {
	b := start(t)
	key, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	const path, uuid = "/v1/channel-certificate", "4f0c1aa0c1aa4f0c1aa0c1aa4f0c1aa0"
	good := api.ChannelCertificateRequest{UUID: uuid, PublicKey: public}
	for _, role := range []string{"builder", "edge", "registry", "parent", "admin"} {
		if status, body := b.post(t, role, path, good); status != 403 || !strings.Contains(body, role) {
			t.Errorf("the %s role: %d %s", role, status, body)
		}
	}
	for what, ask := range map[string]api.ChannelCertificateRequest{
		"a host name": {UUID: "api.roadstead.test", PublicKey: public}, "nobody": {PublicKey: public}, "no key": {UUID: uuid},
		"a broken key": {UUID: uuid, PublicKey: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"},
	} {
		if status, body := b.post(t, "api", path, ask); status != 400 {
			t.Errorf("%s: %d %s", what, status, body)
		}
	}
	status, body := b.post(t, "api", path, good)
	var made api.ChannelCertificate
	if err := json.Unmarshal([]byte(body), &made); status != 200 || err != nil {
		t.Fatalf("%d %s", status, body)
	}
	block, _ := pem.Decode([]byte(made.Certificate))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(b.dir, "signer", signer.ChannelCAFile))
	if err != nil {
		t.Fatal(err)
	}
	roots.AppendCertsFromPEM(ca)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("Verify as a client: %v", err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a device may be a server")
	}
	if cert.Subject.CommonName != uuid || cert.IsCA || len(cert.DNSNames) != 0 || time.Until(cert.NotAfter) > signer.ChannelLife || !key.Equal(cert.PublicKey) {
		t.Errorf("certified: %v, authority %v, names %v, until %v", cert.Subject, cert.IsCA, cert.DNSNames, cert.NotAfter)
	}
}
