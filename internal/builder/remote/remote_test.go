package remote_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/pool"
	"github.com/roadstead-io/roadstead/internal/builder/remote"
)

// A machine joins with a token once, is known by its key from then on, builds what it says it builds for, and is gone at once when it is
// removed.
func TestAWorkerJoinsAndIsRemoved(t *testing.T) {
	w := newWorld(t)
	socket := manager(t, statusOnly())
	m := w.machine("arm-1", socket)
	await(t, "it is in the pool", func() bool { _, ok := w.member("arm-1"); return ok })
	await(t, "the operator sees it", func() bool { return w.row("arm-1").State == api.WorkerConnected && w.row("arm-1").Why == "" })
	if k := w.row("arm-1"); k.Version != "1.2.3" || k.BuildKit != "v0.33.1" || k.Address != "127.0.0.1" || fmt.Sprint(k.Platforms) != "[{linux/arm64 true}]" {
		t.Errorf("%+v", k)
	}
	l, err := w.pool.Choose(t.Context(), pool.Wish{Domain: "org-1", Platform: "linux/arm64"})
	if err != nil || l.Name != "arm-1" || !l.Native {
		t.Fatalf("%+v %v", l, err)
	}
	l.Leave()

	m.stop()
	await(t, "it is away", func() bool { return w.row("arm-1").State == api.WorkerAway })
	m.start(socket) // without a token
	await(t, "it is back", func() bool { _, ok := w.member("arm-1"); return ok })

	began := time.Now()
	w.remove("arm-1")
	await(t, "it is cut off", func() bool { return m.link.Healthy(t.Context()) != nil })
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it was cut off after %s", took)
	}
	if _, ok := w.member("arm-1"); ok {
		t.Error("it is in the pool still")
	}
	await(t, "it is told why it may not come back", func() bool {
		err := m.link.Healthy(t.Context())
		return errors.Is(err, api.ErrUnauthorized) && strings.Contains(err.Error(), "was removed")
	})
}

// Tokens that do not hold, each with words that say what to do.
func TestJoinsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	elsewhere := newWorld(t)
	good := w.invite("arm-1")
	used := t.TempDir()
	if _, err := remote.Join(t.Context(), used, good.String(), "1"); err != nil {
		t.Fatal(err)
	}
	if name, err := remote.Join(t.Context(), used, good.String(), "1"); err != nil || name != "arm-1" {
		t.Errorf("the same machine again: %q %v", name, err)
	}
	if name, err := remote.Join(t.Context(), used, "", "1"); err != nil || name != "arm-1" {
		t.Errorf("without a token: %q %v", name, err)
	}
	wrong, other := w.invite("arm-2"), w.invite("arm-3")
	wrong.Secret = "invented"
	other.Addresses = []string{elsewhere.at}
	closed := w.invite("arm-4")
	closed.Addresses = []string{"127.0.0.1:1"}
	for _, c := range []struct{ what, token, want string }{
		{"none", "", "--join TOKEN"},
		{"used", good.String(), "was used already, for worker arm-1"},
		{"wrong", wrong.String(), "does not know this token"},
		{"another server's", other.String(), "proved another key than the one of the server"},
		{"nobody there", closed.String(), "cannot be reached at 127.0.0.1:1"},
		{"cut", good.String()[:40], "a part of the token is missing"},
		{"an API key", "rsu_abc", "begins with rsw_"},
	} {
		dir := t.TempDir()
		if _, err := remote.Join(t.Context(), dir, c.token, "1"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want …%s…", c.what, err, c.want)
		}
		if _, err := os.Stat(filepath.Join(dir, remote.ServerFile)); err == nil {
			t.Errorf("%s: it believes to have joined", c.what)
		}
	}
}

// A machine that was cut off between the server's yes and its own note of it joins with the same token.
func TestAJoinThatWasCutShort(t *testing.T) {
	w := newWorld(t)
	dir, token := t.TempDir(), w.invite("arm-1").String()
	if _, err := remote.Join(t.Context(), dir, token, "1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, remote.ServerFile)); err != nil {
		t.Fatal(err)
	}
	if name, err := remote.Join(t.Context(), dir, token, "1"); err != nil || name != "arm-1" {
		t.Errorf("%q %v", name, err)
	}
}

// Who guesses is soon not asked about any more, and whoever is known is let in all the same.
func TestGuessesAreThrottled(t *testing.T) {
	w := newWorld(t)
	socket := manager(t, statusOnly())
	m := w.machine("arm-1", socket)
	await(t, "it is in the pool", func() bool { _, ok := w.member("arm-1"); return ok })
	wrong := w.invite("arm-2")
	wrong.Secret = "invented"
	refused := 0
	for range 8 {
		if _, err := remote.Join(t.Context(), t.TempDir(), wrong.String(), "1"); errors.Is(err, api.ErrRateLimited) {
			refused++
		}
	}
	if refused < 2 {
		t.Errorf("%d of 8 guesses were refused without a look", refused)
	}
	good := w.invite("arm-3")
	if _, err := remote.Join(t.Context(), t.TempDir(), good.String(), "1"); !errors.Is(err, api.ErrRateLimited) {
		t.Errorf("from the network that guesses: %v", err)
	}
	m.stop()
	await(t, "it is gone", func() bool { _, ok := w.member("arm-1"); return !ok })
	m.start(socket)
	await(t, "a known machine of that network is back", func() bool { _, ok := w.member("arm-1"); return ok })
}

// What a worker says of itself is shown to people, and steers no terminal.
func TestAHostileStatus(t *testing.T) {
	w := newWorld(t)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(res http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(res, `{"platforms":[{"platform":"linux/arm64"},{"platform":"linux/\u001b[2J"}],"version":"v1\u001b]0;x\u0007",`+
			`"missing":[{"platform":"linux/arm/v7","why":"\u001b[31m`+strings.Repeat("x", 1000)+`"},{"platform":"\u001b[2J","why":""}]}`)
	})
	w.machine("bad", manager(t, mux))
	await(t, "it is in the pool", func() bool { _, ok := w.member("bad"); return ok })
	m, _ := w.member("bad")
	text := fmt.Sprintf("%+v", m.Status)
	if strings.ContainsAny(text, "\x1b\a") || len(text) > 1000 || len(m.Status.Platforms) != 1 || len(m.Status.Missing) != 1 {
		t.Errorf("%d bytes: %q", len(text), text)
	}
}

// The newest connection of a worker is the one that counts.
func TestTheNewestConnectionWins(t *testing.T) {
	w := newWorld(t)
	old := w.machine("arm-1", manager(t, statusOnly()))
	await(t, "it is in the pool", func() bool { _, ok := w.member("arm-1"); return ok })
	began := make(chan struct{})
	conn := w.raw(old.dir) // the same key
	go func() { defer close(began); _, _ = io.Copy(io.Discard, conn) }()
	await(t, "the older connection ends", func() bool { return old.link.Healthy(t.Context()) != nil })
	old.stop()
	_ = conn.Close()
	<-began
}

// raw connects as a machine whose directory is given, and speaks for itself.
func (w *world) raw(dir string) net.Conn {
	w.t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, remote.KeyFile), filepath.Join(dir, remote.KeyFile))
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", w.at, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "POST /v1/connect HTTP/1.1\r\nHost: workers\r\nConnection: Upgrade\r\nUpgrade: roadstead-worker\r\nContent-Length: 0\r\n\r\n"); err != nil {
		w.t.Fatal(err)
	}
	line, err := bufio.NewReaderSize(onlyOne{conn}, 16).ReadString('\n')
	if err != nil || !strings.Contains(line, "101") {
		w.t.Fatalf("%q %v", line, err)
	}
	for end := ""; !strings.HasSuffix(end, "\r\n\r\n"); { // to the end of the head, and no byte further
		var b [1]byte
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			w.t.Fatal(err)
		}
		end += string(b[:])
	}
	return conn
}

// onlyOne reads a byte at a time, so that nobody reads ahead.
type onlyOne struct{ io.Reader }

func (o onlyOne) Read(p []byte) (int, error) { return o.Reader.Read(p[:min(len(p), 1)]) }

// hostile joins a machine that then speaks for itself.
func (w *world) hostile(name string) *yamux.Session {
	w.t.Helper()
	dir := w.t.TempDir()
	if _, err := remote.Join(w.t.Context(), dir, w.invite(name).String(), "1"); err != nil {
		w.t.Fatal(err)
	}
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	mux, err := yamux.Server(w.raw(dir), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = mux.Close() })
	return mux
}

// A worker asks for nothing: one that opens a stream to the server is cut off.
func TestAWorkerThatAsksIsCutOff(t *testing.T) {
	w := newWorld(t)
	mux := w.hostile("bad")
	if _, err := mux.Open(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-mux.CloseChan():
	case <-time.After(10 * time.Second):
		t.Fatal("it was not cut off")
	}
}

// A worker that accepts streams and says nothing, or far too much, costs whoever asks no more than their patience.
func TestAWorkerThatHangs(t *testing.T) {
	w := newWorld(t)
	mux := w.hostile("bad")
	await(t, "it is in the pool", func() bool { return len(w.pool.Members(short(t))) == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := w.pool.Choose(ctx, pool.Wish{Domain: "org-1", Platform: "linux/arm64"}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a worker that is silent was chosen: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	go func() { // an answer without an end
		for {
			conn, err := mux.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\"")
				for err := error(nil); err == nil; {
					_, err = conn.Write(make([]byte, 64<<10))
				}
			}()
		}
	}()
	await(t, "an endless answer is given up", func() bool {
		k := w.row("bad")
		return k.State == api.WorkerConnected && k.Why != "" && k.Why != "it has not answered yet"
	})
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// Connections that say nothing do not keep a worker out, and one without a key gets nothing.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	w := newWorld(t)
	for range 400 {
		conn, err := net.Dial("tcp", w.at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	w.machine("arm-1", manager(t, statusOnly()))
	await(t, "it is in the pool", func() bool { _, ok := w.member("arm-1"); return ok })
	conn, err := tls.Dial("tcp", w.at, &tls.Config{InsecureSkipVerify: true})
	if err == nil { // with TLS 1.3 the refusal comes after the handshake
		_, _ = io.WriteString(conn, "POST /v1/join HTTP/1.1\r\nHost: workers\r\n\r\n")
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if err == nil {
		t.Error("without a key it was answered")
	}
}

// An api role that is away for a moment, and a builder that is started again, cost no worker its place.
func TestTheServerIsStartedAgain(t *testing.T) {
	w := newWorld(t)
	w.machine("arm-1", manager(t, statusOnly()))
	await(t, "it is in the pool", func() bool { _, ok := w.member("arm-1"); return ok })
	w.down.Store(true)
	began := time.Now()
	await(t, "two looks of the builder", func() bool { return time.Since(began) > 2500*time.Millisecond })
	if _, ok := w.member("arm-1"); !ok {
		t.Error("it was cut off because the api role did not answer")
	}
	w.down.Store(false)
	w.stop()
	w.start(w.at)
	await(t, "it is back", func() bool { _, ok := w.member("arm-1"); return ok })
}

// A server whose key was replaced is not the one that the worker joined.
func TestAReplacedKey(t *testing.T) {
	w := newWorld(t)
	m := w.machine("arm-1", manager(t, statusOnly()))
	await(t, "it is in the pool", func() bool { _, ok := w.member("arm-1"); return ok })
	w.stop()
	if err := remote.NewKey(filepath.Join(w.dir, remote.KeyFile)); err != nil {
		t.Fatal(err)
	}
	w.start(w.at)
	await(t, "the worker says so", func() bool {
		err := m.link.Healthy(t.Context())
		return err != nil && strings.Contains(err.Error(), "proved another key")
	})
}

// What a stream carries arrives whole, and in both directions at once, whatever its size.
func TestAStreamCarriesMuch(t *testing.T) {
	w := newWorld(t)
	const size = 64 << 20
	mux := http.NewServeMux()
	mux.Handle("GET /v1/status", statusOnly())
	mux.HandleFunc("POST /v1/domains/{d}/connect", func(res http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(res).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: buildkit\r\n\r\n")
		_, _ = io.CopyN(conn, conn, size) // an echo
	})
	w.machine("arm-1", manager(t, mux))
	await(t, "it is in the pool", func() bool { _, ok := w.member("arm-1"); return ok })
	l, err := w.pool.Choose(t.Context(), pool.Wish{Domain: "org-1", Platform: "linux/arm64"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Leave()
	conn, err := l.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	go func() {
		block := make([]byte, 1<<20)
		for n := range size / len(block) {
			block[0] = byte(n)
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}()
	block := make([]byte, 1<<20)
	for n := range size / len(block) {
		if _, err := io.ReadFull(conn, block); err != nil || block[0] != byte(n) {
			t.Fatalf("block %d: %d %v", n, block[0], err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	good := remote.Token{Addresses: []string{"build.example.com:7443"}, Server: strings.Repeat("a", 64), Secret: "s"}.String()
	f.Add(good)
	f.Add(good[:20])
	f.Add("rsw_")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := remote.ParseToken(text)
		if err != nil {
			return
		}
		if again, err := remote.ParseToken(got.String()); err != nil || again.Server != got.Server || again.Secret != got.Secret {
			t.Errorf("%q: %+v %v", text, again, err)
		}
	})
}
