package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// liar stands between a device and the server, with the server's own TLS key: it reads and changes what it likes of target states, metadata and what the registry
// answers. What it is not told to change passes as it is.
type liar struct {
	address string
	names   string // what is written into the device's hosts
	out     *http.Transport

	mu      sync.Mutex // covers what follows
	lie     lie
	polls   int               // target states that were asked for
	told    *api.TargetState  // the server's last one
	bundle  *api.TrustBundle  // the server's whole answer to the last question
	reports []api.TrustReport // of the device
}

// lie is what is changed. Its functions are called without a lock.
type lie struct {
	state    func(mine *api.DeviceTarget)
	answer   func(uuid api.DeviceUUID, have api.TrustHave, b *api.TrustBundle) // b has all files, whatever the device has
	about    string                                                            // the commit that the server answers about when it is called
	flood    bool                                                              // answers a question for metadata with 100 MB
	registry func(path string, body []byte) []byte
}

// newLiar listens at an address of its own, port 443, as the server does at another.
func newLiar(t *testing.T) *liar {
	t.Helper()
	l := &liar{address: strings.Replace(p.address, "10.213.255.", "10.213.254.", 1)}
	must(t, "ip", "address", "replace", l.address+"/32", "dev", "lo")
	t.Cleanup(func() { _ = exec.Command("ip", "address", "delete", l.address+"/32", "dev", "lo").Run() })
	l.names = l.address + " api." + p.domain + " registry2." + p.domain
	pair, err := tls.LoadX509KeyPair(stolen("edge", "tls.pem"), stolen("edge", "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	// The names lead to the server, whatever is looked up: so the server's own answer has its certificate.
	l.out = &http.Transport{
		TLSClientConfig: p.http.Transport.(*http.Transport).TLSClientConfig.Clone(), MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, p.address+":443")
		},
	}
	ln, err := tls.Listen("tcp", l.address+":443", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: l.handler(), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close() // devices are gone, or will be told by the cut
		<-done
		l.out.CloseIdleConnections()
	})
	return l
}

// stolen is a file of a role of the server.
func stolen(role, name string) string { return filepath.Join(p.data, "roles", role, name) }

func (l *liar) handler() http.Handler {
	onward := &httputil.ReverseProxy{
		Transport: l.out, FlushInterval: -1, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "https", r.In.Host },
	}
	mux := http.NewServeMux()
	mux.Handle("/", onward)
	mux.HandleFunc("GET api."+p.domain+"/device/v3/{uuid}/state", l.states)
	mux.HandleFunc("POST api."+p.domain+"/trust/v1/device/{uuid}/bundle", l.bundles)
	mux.HandleFunc("POST api."+p.domain+"/trust/v1/device/{uuid}/report", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var report api.TrustReport
		if err == nil && json.Unmarshal(body, &report) == nil {
			l.mu.Lock()
			l.reports = append(l.reports, report)
			l.mu.Unlock()
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		onward.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET registry2."+p.domain+"/v2/", func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		change := l.lie.registry
		l.mu.Unlock()
		if change == nil {
			onward.ServeHTTP(w, r)
			return
		}
		res, body, err := l.ask(r, nil)
		if err == nil && res.StatusCode == http.StatusOK {
			body = change(r.URL.Path, body)
		}
		l.pass(w, res, body, err)
	})
	return mux
}

// ask asks the server what the device asks, with another body unless it is nil.
func (l *liar) ask(r *http.Request, body []byte) (*http.Response, []byte, error) {
	out := r.Clone(r.Context())
	out.RequestURI, out.URL = "", &url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	out.Header.Del("Accept-Encoding") // what is packed cannot be changed
	if body != nil {
		out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	res, err := l.out.RoundTrip(out)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res, text, err
}

func (l *liar) pass(w http.ResponseWriter, res *http.Response, body []byte, err error) {
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	maps.Copy(w.Header(), res.Header)
	if len(body) > 0 {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	}
	w.WriteHeader(res.StatusCode)
	_, _ = w.Write(body) // the device may be gone
}

// states passes target states, under the server's own tag whatever they say.
func (l *liar) states(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	change := l.lie.state
	l.mu.Unlock()
	if change != nil {
		r.Header.Del("If-None-Match")
	}
	res, body, err := l.ask(r, nil)
	if err == nil && res.StatusCode == http.StatusOK {
		var all, before api.TargetState
		uuid := api.DeviceUUID(r.PathValue("uuid"))
		if err = json.Unmarshal(body, &all); err == nil {
			err = json.Unmarshal(body, &before)
		}
		if err == nil && change != nil && all[uuid] != nil {
			change(all[uuid])
			body, err = json.Marshal(all)
		}
		l.mu.Lock()
		l.told = &before
		l.mu.Unlock()
	}
	l.mu.Lock()
	l.polls++
	l.mu.Unlock()
	l.pass(w, res, body, err)
}

// bundles passes metadata.
func (l *liar) bundles(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	lie := l.lie
	l.mu.Unlock()
	question, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if lie.flood {
		chunk := append([]byte(`{"fleet":"`), bytes.Repeat([]byte("A"), 1<<20)...)
		for n := 0; n < 100<<20; n += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
			chunk = chunk[len(chunk)-1<<20:]
		}
		return
	}
	res, body, err := l.ask(r, question)
	var have api.TrustHave
	var b api.TrustBundle
	if err == nil && res.StatusCode == http.StatusOK && json.Unmarshal(question, &have) == nil {
		uuid := api.DeviceUUID(r.PathValue("uuid"))
		all := have // as a device that has the root only: all files come
		all.Versions, all.Counter = map[string]int64{api.TrustRoot: have.Versions[api.TrustRoot]}, 0
		whole, err := json.Marshal(all)
		if err == nil {
			res, text, e := l.ask(r, whole)
			if e == nil && res.StatusCode == http.StatusOK && json.Unmarshal(text, &b) == nil {
				kept := clone(&b)
				l.mu.Lock()
				l.bundle = kept
				l.mu.Unlock()
				if said, err := tuf.ReadDirector(b.Director); err == nil && lie.answer != nil && said.Commit == lie.about {
					lie.answer(uuid, have, &b)
					body, _ = json.Marshal(b) // it was made from JSON
				}
			}
		}
	}
	l.pass(w, res, body, err)
}

// clone is a deep copy.
func clone[T any](v *T) *T {
	text, err := json.Marshal(v)
	out := new(T)
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		panic(err) // of a test's own making
	}
	return out
}

// tell changes what the liar does, and gives how many reports and polls there were before.
func (l *liar) tell(next lie) (reports, polls int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lie = next
	return len(l.reports), l.polls
}

// said is the device's last report after the first so many.
func (l *liar) said(after int) (r api.TrustReport, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.reports) <= after {
		return r, false
	}
	return l.reports[len(l.reports)-1], true
}

// truth is what the server told and answered last.
func (l *liar) truth() (told *api.TargetState, bundle *api.TrustBundle) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return clone(l.told), clone(l.bundle)
}
