package clock_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/agent/clock"
)

var (
	in1970 = time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC)
	then   = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	later  = time.Date(2027, 12, 1, 0, 0, 0, 0, time.UTC)
)

const day = 24 * time.Hour

type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.issue(&x509.Certificate{NotBefore: then, NotAfter: then.Add(3650 * day), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) issue(tmpl *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl.SerialNumber, tmpl.Subject = big.NewInt(1), pkix.Name{CommonName: "x"}
	parent, by := tmpl, key
	if a.cert != nil {
		parent, by = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// server has a certificate of this authority.
func (a *authority) server(from, until time.Time) *httptest.Server {
	a.t.Helper()
	cert, key := a.issue(&x509.Certificate{NotBefore: from, NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	a.t.Cleanup(srv.Close)
	return srv
}

// device asks servers in turn, by the clock that it has, and says which of them it talked to.
func device(t *testing.T, a *authority, now, signed time.Time, servers ...*httptest.Server) (talked []bool, told time.Time) {
	t.Helper()
	c := clock.New(func() time.Time { return now }, func() time.Time { return signed })
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	through := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Time: c.Time}}
	web := &http.Client{Transport: c.Watch(through, roots)}
	defer web.CloseIdleConnections()
	for _, srv := range servers {
		res, err := web.Get(srv.URL)
		if err == nil {
			_ = res.Body.Close()
		}
		talked = append(talked, err == nil)
	}
	return talked, c.Time()
}

// What a device with a clock that nobody has set learns from certificates lets it through to a server whose certificate is newer than all it knew, and to nobody else.
func TestACertificateTellsTheTime(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	renewed := ours.server(later, later.Add(365*day))
	old := ours.server(then, then.Add(365*day))
	foreign := theirs.server(later, later.Add(365*day))
	for name, tt := range map[string]struct {
		now, signed time.Time
		servers     []*httptest.Server
		talks       []bool
		told        time.Time
	}{
		"the second attempt":                {in1970, then, []*httptest.Server{renewed, renewed}, []bool{false, true}, later},
		"nothing was signed yet":            {in1970, time.Time{}, []*httptest.Server{renewed, renewed}, []bool{false, true}, later},
		"what is signed is newer":           {in1970, later.Add(day), []*httptest.Server{renewed}, []bool{true}, later.Add(day)},
		"somebody else's tells nothing":     {in1970, then.Add(day), []*httptest.Server{foreign, foreign, old}, []bool{false, false, true}, then.Add(day)},
		"what has expired stays so":         {in1970, then.Add(day), []*httptest.Server{old, renewed, renewed, old}, []bool{true, false, true, false}, later},
		"an expired one tells nothing":      {in1970, then.Add(500 * day), []*httptest.Server{old, old}, []bool{false, false}, then.Add(500 * day)},
		"a clock that was set is believed":  {then.Add(day), later, []*httptest.Server{renewed, renewed, old}, []bool{false, false, true}, then.Add(day)},
		"a clock that is ahead is believed": {time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC), later, []*httptest.Server{renewed, old}, []bool{false, false}, time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			talked, told := device(t, ours, tt.now, tt.signed, tt.servers...)
			for i, want := range tt.talks {
				if talked[i] != want {
					t.Errorf("attempt %d: talked %v, want %v", i+1, talked[i], want)
				}
			}
			if !told.Equal(tt.told) {
				t.Errorf("it takes the time for %s, want %s", told, tt.told)
			}
		})
	}
}
