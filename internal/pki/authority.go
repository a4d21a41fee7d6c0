package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"

	"github.com/roadstead-io/roadstead/internal/durable"
)

// Lifetimes. A leaf is renewed by the parent when less than a third of its life is left.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
)

// Authority signs certificates. There are two in a server: one for the names that the public sees, one for the roles.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority in memory. With domains given, a certificate of any other name that it signs is worthless
// to everybody who checks: clients trust this root for that domain and nothing else.
func NewAuthority(name string, domains ...string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("authority %s: %w", name, err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name, Organization: []string{"Roadstead"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:            x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PermittedDNSDomains: domains, PermittedDNSDomainsCritical: len(domains) > 0,
	}
	cert, err := sign(tmpl, tmpl, key, key)
	if err != nil {
		return nil, fmt.Errorf("authority %s: %w", name, err)
	}
	return &Authority{cert: cert, key: key}, nil
}

// LoadAuthority reads an authority that Save wrote.
func LoadAuthority(certFile, keyFile string) (*Authority, error) {
	cert, err := readCert(certFile)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("authority: %s: no PEM block", keyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("authority: %s: %w", keyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("authority: %s does not belong to %s", keyFile, certFile)
	}
	return &Authority{cert: cert, key: key}, nil
}

// Save writes the authority's certificate and key; the key first, so that a certificate on disk always has its key.
func (a *Authority) Save(certFile, keyFile string) error {
	key, err := encodeKey(a.key)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(keyFile, key, 0o600); err != nil {
		return err
	}
	return durable.WriteFile(certFile, a.PEM(), 0o644)
}

// PEM is the authority's own certificate.
func (a *Authority) PEM() []byte { return encodeCert(a.cert) }

// Leaf is a fresh certificate with its key, both in PEM.
type Leaf struct{ Cert, Key []byte }

// IssueServer signs a certificate for public host names.
func (a *Authority) IssueServer(names ...string) (Leaf, error) {
	if len(names) == 0 {
		return Leaf{}, errors.New("issue: no names")
	}
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// IssueRole signs the identity of a role, for both ends of a connection.
func (a *Authority) IssueRole(role string) (Leaf, error) {
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: role}, DNSNames: []string{roleName(role)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// IssueClient signs the identity of somebody who calls roles and is never called: the parent, the operator.
func (a *Authority) IssueClient(role string) (Leaf, error) {
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: role}, DNSNames: []string{roleName(role)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// CertifyClient signs that whoever has the private half of a key is called so, for connections that they open, and says until when.
func (a *Authority) CertifyClient(name string, key any, life time.Duration) (cert []byte, until time.Time, err error) {
	now := time.Now()
	until = now.Add(life).Truncate(time.Second)
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key, a.key)
	if err != nil {
		return nil, until, fmt.Errorf("certify %s: %w", name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), until, nil
}

func (a *Authority) issue(tmpl *x509.Certificate) (Leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Leaf{}, fmt.Errorf("issue: %w", err)
	}
	now := time.Now()
	tmpl.SerialNumber = serial()
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-time.Hour), now.Add(leafLife)
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.BasicConstraintsValid = true
	cert, err := sign(tmpl, a.cert, key, a.key)
	if err != nil {
		return Leaf{}, fmt.Errorf("issue %s: %w", tmpl.Subject.CommonName, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Leaf{}, err
	}
	return Leaf{Cert: encodeCert(cert), Key: keyPEM}, nil
}

// Good reports whether the certificate in a file was signed by this authority for exactly these names and has more than a
// third of its life left. A missing or broken file is not good.
func (a *Authority) Good(certFile string, names ...string) bool {
	cert, err := readCert(certFile)
	if err != nil || cert.CheckSignatureFrom(a.cert) != nil {
		return false
	}
	if len(cert.DNSNames) != len(names) || time.Until(cert.NotAfter) < cert.NotAfter.Sub(cert.NotBefore)/3 {
		return false
	}
	for i, n := range names {
		if cert.DNSNames[i] != n {
			return false
		}
	}
	return true
}

// GoodRole is Good for the identity of a role.
func (a *Authority) GoodRole(certFile, role string) bool { return a.Good(certFile, roleName(role)) }

func sign(tmpl, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	b[0] &= 0x7f        // positive
	return new(big.Int).SetBytes(b)
}

func encodeCert(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func encodeKey(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func readCert(file string) (*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("certificate: %s: no certificate in PEM", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate: %s: %w", file, err)
	}
	return cert, nil
}
