// Package clock says what certificates of servers are judged by on a device whose clock may never have been set. Such a clock begins in 1970 each time, in which
// no certificate is valid. What is known instead is what somebody has signed who is trusted: it is not earlier than that.
package clock

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"time"
)

// begun is earlier than any time at which this program can run: a clock before it was set by nobody.
var begun = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Clock is the time of one device.
type Clock struct {
	now    func() time.Time
	signed func() time.Time

	mu     sync.Mutex // covers what follows
	issued time.Time  // the newest certificate that was seen
}

// New makes a clock of the device's own one (nil: time.Now) and of the newest time that was signed for the fleet, zero where none was.
func New(now, signed func() time.Time) *Clock {
	if now == nil {
		now = time.Now
	}
	return &Clock{now: now, signed: signed}
}

// Time is the device's own, unless nobody has set that: then the newest that is vouched for. A clock that was set is believed, for whoever once had a fleet's
// keys may have signed for another year, and must not keep the device from the server for that.
func (c *Clock) Time() time.Time {
	now := c.now()
	if !now.Before(begun) {
		return now
	}
	c.mu.Lock()
	latest := c.issued
	c.mu.Unlock()
	for _, t := range []time.Time{c.signed(), now} {
		if t.After(latest) {
			latest = t
		}
	}
	return latest
}

// Watch lets a clock that nobody has set learn from the certificates of servers: one that its own authority signed was made after the time at which it begins to be valid.
// So a device that was off for longer than its server's certificate is old gets through at the second attempt. Nothing is taken for that which was not
// verified, and a certificate that has expired stays so.
func (c *Clock) Watch(through http.RoundTripper, roots *x509.CertPool) http.RoundTripper {
	return &watcher{RoundTripper: through, clock: c, roots: roots}
}

type watcher struct {
	http.RoundTripper
	clock *Clock
	roots *x509.CertPool
}

// CloseIdleConnections is for [http.Client.CloseIdleConnections].
func (w *watcher) CloseIdleConnections() {
	if t, ok := w.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

func (w *watcher) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := w.RoundTripper.RoundTrip(req)
	var unverified *tls.CertificateVerificationError
	if errors.As(err, &unverified) && w.clock.now().Before(begun) {
		w.clock.learn(unverified.UnverifiedCertificates, w.roots)
	}
	return res, err
}

func (c *Clock) learn(chain []*x509.Certificate, roots *x509.CertPool) {
	if len(chain) == 0 {
		return
	}
	issued, between := chain[0].NotBefore, x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
		if cert.NotBefore.After(issued) {
			issued = cert.NotBefore
		}
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: issued}); err != nil {
		return // nobody's who is trusted
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if issued.After(c.issued) {
		c.issued = issued
	}
}
