package bench_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/signer"
)

// newAPIRole is a world whose api role is in this process. Requests go to its handler as the edge sends them, authentication
// and transactions included, TLS and the network not; only the signer is asked over a socket, as always.
func newAPIRole(tb testing.TB, devices int) *world {
	tb.Helper()
	w := &world{tb: tb, size: devices}
	handler, chain := openAPIRole(tb, "")
	w.send = func(role string, r request) (answer, error) {
		req := httptest.NewRequest(r.method, strings.ReplaceAll(r.path, " ", "%20"), bytes.NewReader(r.body))
		req.TLS, req.Header = chain[role], r.header.Clone()
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, req)
		return answer{rec.Code, rec.Header(), rec.Body.Bytes()}, nil
	}
	w.into(w.do(api.RoleParent, "POST", "/internal/v1/bootstrap", "", nil, 200), &w.admin)
	w.fill()
	return w
}

// openAPIRole runs an api role and a signer in this process. It gives the api role's handler, and what a request carries that
// comes from another role's connection.
func openAPIRole(tb testing.TB, sql string) (http.Handler, map[string]*tls.ConnectionState) {
	tb.Helper()
	w := &world{tb: tb}
	dir, chain := tb.TempDir(), map[string]*tls.ConnectionState{}
	roles := []string{api.RoleAPI, api.RoleEdge, api.RoleBuilder, api.RoleParent, api.RoleSigner}
	w.must(pki.NewTestIdentities(dir, roles...))
	w.must(os.WriteFile(filepath.Join(dir, api.RoleAPI, "pepper"), bytes.Repeat([]byte("p"), 32), 0o600))
	w.must(signer.NewKey(filepath.Join(dir, api.RoleSigner, signer.KeyFile)))
	w.must(signer.NewAuditKey(filepath.Join(dir, api.RoleSigner, signer.AuditKeyFile)))
	w.must(signer.NewStatementKey(filepath.Join(dir, api.RoleSigner, signer.StatementKeyFile)))
	w.must(signer.NewTrustKey(filepath.Join(dir, api.RoleSigner, signer.TrustKeyFile)))
	w.must(signer.NewChannelAuthority(filepath.Join(dir, api.RoleSigner, signer.ChannelCAFile)))
	for _, role := range roles {
		data, err := os.ReadFile(filepath.Join(dir, role, "cert.pem"))
		w.must(err)
		block, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(block.Bytes)
		w.must(err)
		chain[role] = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
	}
	log, site := slog.New(slog.NewTextHandler(io.Discard, nil)), api.Site{Domain: benchDomain, Port: 443}
	apiLn, signerLn := listen(tb), listen(tb)
	peers := map[string]string{api.RoleAPI: apiLn.Addr().String(), api.RoleSigner: signerLn.Addr().String()}
	sign, err := signer.New(signer.Config{Dir: filepath.Join(dir, api.RoleSigner), Site: site, Peers: peers}, log)
	w.must(err)
	serve(tb, signerLn, sign.Run)
	srv, err := apiserver.New(apiserver.Config{Dir: filepath.Join(dir, api.RoleAPI), Site: site, Peers: peers, PollInterval: time.Minute, SQL: sql}, log)
	w.must(err)
	serve(tb, apiLn, func(ctx context.Context, ln net.Listener) error { return srv.Run(ctx, ln) })
	return srv.Handler(), chain
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return ln
}

// serve runs a role until the benchmark is over.
func serve(tb testing.TB, ln net.Listener, run func(context.Context, net.Listener) error) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, ln) }()
	tb.Cleanup(func() { cancel(); <-done })
}

// cpu is what this process has used so far.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkHandler is the CPU time of the api role's handler for each hot request, one after the other, garbage collection and
// background work included; so is what the benchmark itself does to ask, some tens of microseconds.
func BenchmarkHandler(b *testing.B) {
	w := newAPIRole(b, 1000)
	for _, h := range w.hotPaths() {
		n := 0
		b.Run(h.name, func(b *testing.B) {
			begin, from := cpu(b), n
			for b.Loop() {
				if _, err := w.try(api.RoleEdge, h.ask(n), h.want); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.ReportMetric(float64((cpu(b)-begin).Microseconds())/1000/float64(n-from), "CPU-ms/op")
		})
	}
}
