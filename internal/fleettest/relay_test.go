package fleettest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// relay passes connections of machines on to the server, which has another address and the same port, and counts them. While it stands between, it ends their TLS with a certificate that is valid in every
// year, of an authority of its own; then it hears what the server answers, and can say it again another day.
type relay struct {
	root  []byte // its authority, in PEM
	heard atomic.Int64

	between atomic.Bool
	clock   atomic.Pointer[time.Time] // by which the server's own certificate is judged; nil: the time

	mu     sync.Mutex // covers what follows
	kept   map[string]answer
	old    map[string]answer // instead of what the server answers
	replay int               // how often that was said
}

// answer is what the server said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// behind is the address of a server behind a relay: machines reach 127.0.0.1 only.
const behind = "127.0.0.2"

// newRelay listens for machines.
func newRelay(t *testing.T, srv *fleettest.Server) *relay {
	t.Helper()
	host, port, err := net.SplitHostPort(srv.Addr)
	if err != nil || host != behind {
		t.Fatalf("the server listens at %s, not at %s", srv.Addr, behind)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{kept: map[string]answer{}}
	pair, err := r.certify("api."+srv.Domain, "registry2."+srv.Domain)
	if err != nil {
		t.Fatal(err)
	}
	inside := &handed{address: ln.Addr(), next: make(chan net.Conn), ended: make(chan struct{})}
	out := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: authorities(t, srv.CA), MinVersion: tls.VersionTLS12, Time: r.time},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, srv.Addr)
		},
	}
	web := &http.Server{Handler: r.handler(out), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	var all sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		_ = web.Close() // inside ends with it
		all.Wait()
		out.CloseIdleConnections()
	})
	all.Go(func() { _ = web.Serve(inside) }) // until it is closed
	all.Go(func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			r.heard.Add(1)
			if r.between.Load() {
				all.Go(func() {
					inside.take(tls.Server(from, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}))
				})
				continue
			}
			all.Go(func() { pass(from, srv.Addr, &all) })
		}
	})
	return r
}

// pass joins a connection with another one to an address, until either is gone.
func pass(from net.Conn, to string, all *sync.WaitGroup) {
	up, err := net.Dial("tcp", to)
	if err != nil {
		_ = from.Close()
		return
	}
	half := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // until either end is gone
		_ = to.Close()
	}
	all.Go(func() { half(up, from) })
	half(from, up)
}

func (r *relay) time() time.Time {
	if t := r.clock.Load(); t != nil {
		return *t
	}
	return time.Now()
}

// certify makes the relay's authority, and a certificate of it.
func (r *relay) certify(names ...string) (pair tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority for a hundred years"}, DNSNames: names, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	r.root = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func authorities(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(file)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatalf("%s: %v", file, err)
	}
	return pool
}

// handler passes requests on. What the server answers about states and metadata is kept, the first of each.
func (r *relay) handler(out *http.Transport) http.Handler {
	onward := &httputil.ReverseProxy{
		Transport: out, FlushInterval: -1, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "https", p.In.Host
			if told(p.In) {
				p.Out.Header.Del("Accept-Encoding") // what is kept is plain
			}
		},
		ModifyResponse: func(res *http.Response) error {
			if !told(res.Request) || res.StatusCode != http.StatusOK {
				return nil
			}
			body, err := io.ReadAll(res.Body)
			if err != nil {
				return err
			}
			_ = res.Body.Close()
			res.Body = io.NopCloser(strings.NewReader(string(body)))
			r.mu.Lock()
			r.kept[res.Request.URL.Path] = answer{res.StatusCode, res.Header.Clone(), body}
			r.mu.Unlock()
			return nil
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		a, again := r.old[req.URL.Path]
		if again {
			r.replay++
		}
		r.mu.Unlock()
		if !again {
			onward.ServeHTTP(w, req)
			return
		}
		maps.Copy(w.Header(), a.header)
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body) // the device may be gone
	})
}

// told says what a device is told of what it should run.
func told(req *http.Request) bool {
	return strings.HasPrefix(req.URL.Path, "/device/v3/") && strings.HasSuffix(req.URL.Path, "/state") && req.Method == http.MethodGet ||
		strings.HasPrefix(req.URL.Path, "/trust/v1/device/") && strings.HasSuffix(req.URL.Path, "/bundle")
}

// heardSoFar is what the server said last about states and metadata.
func (r *relay) heardSoFar() map[string]answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.kept)
}

// say answers with what was heard on another day; nil: with what the server says.
func (r *relay) say(old map[string]answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.old, r.replay = old, 0
}

// said is how often something of another day was said since say.
func (r *relay) said() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.replay
}

// handed is a listener of connections that somebody else has accepted.
type handed struct {
	address net.Addr
	next    chan net.Conn
	once    sync.Once
	ended   chan struct{}
}

func (h *handed) take(c net.Conn) {
	select {
	case h.next <- c:
	case <-h.ended:
		_ = c.Close()
	}
}

func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.next:
		return c, nil
	case <-h.ended:
		return nil, net.ErrClosed
	}
}

func (h *handed) Close() error   { h.once.Do(func() { close(h.ended) }); return nil }
func (h *handed) Addr() net.Addr { return h.address }
