package tunnel_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/road"
	"github.com/roadstead-io/roadstead/internal/vpn/tunnel"
)

const (
	mine    = "0123456789abcdef0123456789abcdef"
	foreign = "fedcba9876543210fedcba9876543210"
	absent  = "99999999999999999999999999999999"
	away    = "11111111111111111111111111111111"
	token   = "rsu_good"
)

// world is the service between an api role that knows one token and one device, and that device, whose port 80 greets and then echoes.
type world struct {
	*testing.T
	addr   string
	roots  *x509.CertPool
	dialed atomic.Int64 // how often a device was dialled
	over   atomic.Bool  // what is open must end
	device net.Listener
}

// Dial is the road: it knows one device by its uuid, and resolves nothing.
func (w *world) Dial(ctx context.Context, device string, port int) (net.Conn, error) {
	w.dialed.Add(1)
	switch {
	case device == away:
		return nil, road.ErrOffline
	case device != mine:
		w.Errorf("dialled %q", device)
		return nil, errors.New("no such device")
	case port != 80:
		return nil, road.ErrRefused
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", w.device.Addr().String())
}

func newWorld(t *testing.T, limits permit.Limits) *world {
	w := &world{T: t}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /internal/reach/permit", func(rw http.ResponseWriter, r *http.Request) {
		var ask api.ReachRequest
		_ = json.NewDecoder(r.Body).Decode(&ask)
		switch {
		case ask.Credential != token:
			rw.WriteHeader(http.StatusUnauthorized)
		case ask.UUID != mine && ask.UUID != away:
			rw.WriteHeader(http.StatusNotFound)
		case ask.Port == 48484:
			rw.WriteHeader(http.StatusForbidden)
			_, _ = rw.Write([]byte(`"this needs the verb actions on the fleet"`))
		case ask.Port == 7:
			rw.WriteHeader(http.StatusTooManyRequests)
		default:
			_ = json.NewEncoder(rw).Encode(api.ReachPermit{Permit: fmt.Sprint(w.dialed.Load()), UUID: ask.UUID})
		}
	})
	mux.HandleFunc("POST /internal/reach/still", func(rw http.ResponseWriter, r *http.Request) {
		var ask api.ReachStill
		_ = json.NewDecoder(r.Body).Decode(&ask)
		answer := api.ReachEnd{}
		for _, one := range ask.Permits {
			if w.over.Load() {
				answer.End = append(answer.End, api.ReachOver{Permit: one, Why: "the key was deleted"})
			}
		}
		_ = json.NewEncoder(rw).Encode(answer)
	})
	role := httptest.NewServer(mux)
	t.Cleanup(role.Close)

	ca, err := pki.NewAuthority("test", "roadstead.test")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueServer("tunnel.roadstead.test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(leaf.Cert, leaf.Key)
	if err != nil {
		t.Fatal(err)
	}
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(ca.PEM())
	w.device = w.listen()
	go w.echo()
	ln := w.listen()
	w.addr = ln.Addr().String()
	permits := permit.New(permit.Config{API: &pki.Peer{URL: role.URL, HTTP: role.Client()}, Every: 50 * time.Millisecond})
	s := tunnel.New(tunnel.Config{
		Permits: permits, Dial: w, TLS: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, Limits: limits, Patience: 2 * time.Second,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- permits.Run(ctx) }()
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

func (w *world) listen() net.Listener {
	w.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = ln.Close() })
	return ln
}

func (w *world) echo() {
	for {
		conn, err := w.device.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			_, _ = conn.Write([]byte("SSH-2.0-device\r\n"))
			_, _ = io.Copy(conn, conn)
		}()
	}
}

func (w *world) connect() *tls.Conn {
	w.Helper()
	conn, err := tls.Dial("tcp", w.addr, &tls.Config{RootCAs: w.roots, ServerName: "tunnel.roadstead.test"})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
	return conn
}

// ask sends a text and gives all that comes back.
func (w *world) ask(text string) string {
	w.Helper()
	conn := w.connect()
	if _, err := conn.Write([]byte(text)); err != nil {
		w.Fatal(err)
	}
	answer, _ := io.ReadAll(conn) // a reset after the answer says no more
	return string(answer)
}

func basic(token string) string {
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("root:"+token)) + "\r\n"
}

// What is asked for, and how it is answered: nothing but a device that the token may reach is ever dialled.
func TestWhatIsRefused(t *testing.T) {
	w := newWorld(t, permit.Limits{})
	with := func(target, headers string) string { return "CONNECT " + target + " HTTP/1.0\r\n" + headers + "\r\n" }
	nobody := w.ask(with(mine+".balena:80", ""))
	for what, tt := range map[string]struct{ ask, want string }{
		"no token":               {with(mine+".balena:80", ""), "407 Proxy Authentication Required"},
		"a wrong token":          {with(mine+".balena:80", basic("rsu_bad")), nobody},
		"another's device":       {with(foreign+".balena:80", basic(token)), nobody},
		"no such device":         {with(absent+".balena:80", basic(token)), nobody},
		"a port that takes more": {with(mine+".balena:48484", basic(token)), "407 Proxy Authentication Required.*this needs the verb actions"},
		"too many":               {with(mine+".balena:7", basic(token)), "429 "},
		"127.0.0.1":              {with("127.0.0.1:80", basic(token)), "403 Forbidden"},
		"localhost":              {with("localhost:22", basic(token)), "403 Forbidden"},
		"IPv6":                   {with("[::1]:80", basic(token)), "403 Forbidden"},
		"a name":                 {with("example.com:443", basic(token)), "403 Forbidden"},
		"a device's address":     {with("10.240.0.2:48484", basic(token)), "403 Forbidden"},
		"the metadata address":   {with("169.254.169.254:80", basic(token)), "403 Forbidden"},
		"a uuid and a name":      {with(mine+".balena.example.com:80", basic(token)), "403 Forbidden"},
		"a name before it":       {with("a."+mine+".balena:80", basic(token)), "403 Forbidden"},
		"a short uuid":           {with(mine[:7]+".balena:80", basic(token)), "403 Forbidden"},
		"capitals":               {with(strings.ToUpper(mine)+".balena:80", basic(token)), "403 Forbidden"},
		"a user in the target":   {with("x@"+mine+".balena:80", basic(token)), "403 Forbidden"},
		"port 0":                 {with(mine+".balena:0", basic(token)), "403 Forbidden"},
		"port 65616":             {with(mine+".balena:65616", basic(token)), "403 Forbidden"},
		"a negative port":        {with(mine+".balena:-80", basic(token)), "403 Forbidden"},
		"GET":                    {"GET http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\n" + basic(token) + "\r\n", "400 Only CONNECT"},
		"no HTTP":                {"hello\r\n\r\n", "400 Bad Request"},
		"a body by length":       {with(mine+".balena:80", basic(token)+"Content-Length: 5\r\n") + "hello", "400 Bad Request"},
		"a body by chunks":       {with(mine+".balena:80", basic(token)+"Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", "400 Bad Request"},
		"a folded header":        {with(mine+".balena:80", "X: a\r\n "+basic(token)), "400 Bad Request"},
		"a bare line feed":       {with(mine+".balena:80", "X: a\n"+basic(token)), "400 Bad Request"},
		"a space before a colon": {with(mine+".balena:80", "Proxy-Authorization : Bearer "+token+"\r\n"), "400 Bad Request"},
		"two tokens":             {with(mine+".balena:80", basic("rsu_bad")+basic(token)), "400 Bad Request"},
		"a zero byte":            {with(mine+".balena:80", "X: a\x00b\r\n"+basic(token)), "400 Bad Request"},
		"more on the line":       {with(mine+".balena:80 HTTP/1.1", basic(token)), "400 Bad Request"},
		"endless headers":        {"CONNECT " + mine + ".balena:80 HTTP/1.1\r\nX: " + strings.Repeat("a", 8<<10), "400 Bad Request"},
	} {
		got := w.ask(tt.ask)
		if tt.want == nobody && got != nobody || !regexp.MustCompile(`(?s)^HTTP/1\.1 `+tt.want).MatchString(got) && tt.want != nobody {
			t.Errorf("%s: got %q, want %q", what, got, tt.want)
		}
	}
	if n := w.dialed.Load(); n != 0 {
		t.Errorf("a device was dialled %d times", n)
	}
	for what, tt := range map[string]struct{ ask, want string }{
		"offline":         {with(away+".balena:80", basic(token)), "503 The device is offline"},
		"nothing listens": {with(mine+".balena:81", basic(token)), "500 Nothing listens on port 81 of the device"},
	} {
		if got := w.ask(tt.ask); !strings.HasPrefix(got, "HTTP/1.1 "+tt.want+"\r\n") {
			t.Errorf("%s: got %q, want %q", what, got, tt.want)
		}
	}
}

// A tunnel is opened for each name and each form of the token. The head of the answer comes in a record of its own: balena's command line
// throws away what is beside it. What a client sent too early goes to the device.
func TestATunnel(t *testing.T) {
	w := newWorld(t, permit.Limits{})
	for _, ask := range []string{
		"CONNECT " + mine + ".balena:80 HTTP/1.0\r\n" + basic(token) + "\r\n",
		"CONNECT " + mine + ".resin HTTP/1.1\r\nHost: x\r\n" + basic(token) + "\r\n",
		"CONNECT " + mine + ".roadstead:80 HTTP/1.1\r\nproxy-authorization: bearer " + token + "\r\n\r\nearly",
	} {
		conn := w.connect()
		if _, err := conn.Write([]byte(ask)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if head := string(buf[:n]); err != nil || !strings.HasPrefix(head, "HTTP/1.1 200 ") || !strings.HasSuffix(head, "\r\n\r\n") {
			t.Fatalf("the first record of the answer is %q, %v", head, err)
		}
		const greeting = "SSH-2.0-device\r\n"
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		want := greeting + "hello"
		if strings.HasSuffix(ask, "early") {
			want = greeting + "earlyhello"
		}
		if _, err := io.ReadFull(conn, buf[:len(want)]); err != nil || string(buf[:len(want)]) != want {
			t.Errorf("the device said %q, %v", buf[:len(want)], err)
		}
	}
	// Our own client, at the address of the service.
	_, port, _ := net.SplitHostPort(w.addr)
	c, err := client.New(client.Config{URL: "https://api.roadstead.test:" + port, Token: token, CA: w.roots})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tunnel(t.Context(), mine, 80); err == nil {
		t.Error("a name that nobody resolves is reached") // and so it is not done here: the end-to-end tests do
	}

	// Revoked while it is open: both ends are closed.
	conn := w.connect()
	_, _ = conn.Write([]byte("CONNECT " + mine + ".balena:80 HTTP/1.0\r\n" + basic(token) + "\r\n"))
	if _, err := io.ReadFull(conn, make([]byte, 50)); err != nil {
		t.Fatal(err)
	}
	w.over.Store(true)
	began := time.Now()
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it was not cut within %s", time.Since(began))
	}
}

// Who says nothing, or says it slowly, is not waited for, and does not keep others out.
func TestSlowClients(t *testing.T) {
	w := newWorld(t, permit.Limits{WaitingPerAddress: 3})
	silent, err := net.Dial("tcp", w.addr) // no handshake
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	dripping := w.connect()
	stop := make(chan struct{})
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for _, b := range []byte("CONNECT " + mine + ".balena:80 HTTP/1.0\r\nX: " + strings.Repeat("a", 4000)) {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if _, err := dripping.Write([]byte{b}); err != nil {
				return
			}
		}
	}()
	defer close(stop)
	idle := w.connect()
	// A fourth of the same address is one too many.
	conn, err := tls.Dial("tcp", w.addr, &tls.Config{RootCAs: w.roots, ServerName: "tunnel.roadstead.test"})
	if err == nil {
		_ = conn.Close()
		t.Error("a fourth connection was taken")
	}
	began := time.Now()
	_ = silent.SetDeadline(began.Add(3 * time.Minute))
	for what, conn := range map[string]net.Conn{"silent": silent, "dripping": dripping, "idle": idle} {
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: still open after %s", what, time.Since(began))
		}
	}
	if got := w.ask("CONNECT " + mine + ".balena:81 HTTP/1.0\r\n" + basic(token) + "\r\n"); !strings.Contains(got, "Nothing listens") {
		t.Errorf("afterwards: %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("CONNECT " + mine + ".balena:80 HTTP/1.0\r\n" + basic(token))
	f.Add("CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: x")
	f.Fuzz(func(t *testing.T, head string) {
		uuid, port, _, err := tunnel.Parse(head)
		if err != nil {
			return
		}
		if !api.DeviceUUID(uuid).Valid() || port < 1 || port > 65535 || strings.Contains(strings.ToLower(head), "\ncontent-length:") {
			t.Errorf("%q leads to %q, port %d", head, uuid, port)
		}
	})
}
