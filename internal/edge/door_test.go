package edge_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/edge"
	"github.com/roadstead-io/roadstead/internal/handover"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// doorstep is an edge that hands the connections of some names over, and what takes them.
type doorstep struct {
	*house
	ends map[string]*os.File // for takers, by the name's first label
}

func openDoor(t *testing.T, roles map[string]http.Handler) *doorstep {
	t.Helper()
	d := &doorstep{ends: map[string]*os.File{}}
	givers := map[string]*handover.Giver{}
	for _, label := range []string{"api", "dashboard", "openvpn", "devices"} {
		giver, taker, err := handover.Pair()
		if err != nil {
			t.Fatal(err)
		}
		if givers[label], err = handover.NewGiver(giver); err != nil {
			t.Fatal(err)
		}
		d.ends[label] = taker
	}
	d.house = openWith(t, roles, func(s *edge.Server) {
		for label, g := range givers {
			s.HandOver(label, g)
		}
	})
	return d
}

// takes serves the api role's name on the connections that the edge hands over.
func (d *doorstep) takes(t *testing.T, h http.Handler) {
	t.Helper()
	d.takesFor(t, "api", h)
}

// takesFor serves a name on the connections that the edge hands over.
func (d *doorstep) takesFor(t *testing.T, label string, h http.Handler) {
	t.Helper()
	k, err := handover.NewTaker(d.ends[label])
	if err != nil {
		t.Fatal(err)
	}
	pair, err := pki.LoadKeyPair(filepath.Join(d.dir, "edge", "tls.pem"), filepath.Join(d.dir, "edge", "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, TLSConfig: pair.PublicTLS("http/1.1"), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(k, "", "") }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestTheAPIsConnectionsAreHandedOver(t *testing.T) {
	d := openDoor(t, map[string]http.Handler{
		"api":      http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was forwarded to the api role") }),
		"registry": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "registry") }),
	})
	d.takes(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "api for "+r.RemoteAddr) }))
	for _, h2 := range []bool{false, true} { // the client offers HTTP/2 too
		c := d.client(t, h2)
		code, body := get(t, c, "https://api."+domain+"/ping")
		if code != 200 || !strings.HasPrefix(body, "api for 127.0.0.1:") {
			t.Errorf("api.: %d %q", code, body)
		}
		if code, body := get(t, c, "https://API."+domain+"/ping"); code != 200 || !strings.HasPrefix(body, "api for ") {
			t.Errorf("API.: %d %q", code, body)
		}
		if code, body := get(t, c, "https://registry2."+domain+"/"); code != 200 || body != "registry" {
			t.Errorf("registry2.: %d %q", code, body)
		}
		if code, _ := get(t, c, "https://nothing."+domain+"/"); code != http.StatusNotFound {
			t.Errorf("nothing.: %d", code)
		}
	}
}

// Each name's connections go to its own role, and what people type on the dashboard's pages is read by nobody before it.
func TestTheDashboardsConnectionsAreHandedOver(t *testing.T) {
	d := openDoor(t, map[string]http.Handler{
		"api":       http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was forwarded to the api role") }),
		"dashboard": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was forwarded to the dashboard") }),
	})
	d.takes(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "api") }))
	c := d.client(t, true)
	if code, body := get(t, c, "https://api."+domain+"/ping"); code != 200 || body != "api" {
		t.Errorf("api.: %d %q", code, body)
	}
	// While the dashboard is being started, others are served, and its own visitors wait.
	answered := make(chan string, 1)
	go func() {
		res, err := c.Get("https://dashboard." + domain + "/login")
		if err != nil {
			answered <- err.Error()
			return
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		answered <- string(body)
	}()
	if code, body := get(t, d.client(t, false), "https://api."+domain+"/ping"); code != 200 || body != "api" {
		t.Errorf("api., while the dashboard is away: %d %q", code, body)
	}
	d.takesFor(t, "dashboard", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a page") }))
	if got := <-answered; got != "a page" {
		t.Errorf("dashboard.: %q", got)
	}
}

// A client that made its connection for another name must not get its token, or its password, read here.
func TestAHandedOverNameOnAnotherNamesConnection(t *testing.T) {
	d := openDoor(t, map[string]http.Handler{"api": http.HandlerFunc(echo), "dashboard": http.HandlerFunc(echo)})
	for _, host := range []string{"api." + domain, "dashboard." + domain, "DASHBOARD." + domain + ":8443"} {
		for _, name := range []string{"registry2." + domain, domain, ""} {
			conn, err := tls.Dial("tcp", d.addr, &tls.Config{ServerName: name, InsecureSkipVerify: true}) //nolint:gosec // what is asked for is the point
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, "GET /ping HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
			answer, err := io.ReadAll(conn)
			_ = conn.Close()
			if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 421 ") {
				t.Errorf("SNI %q, Host %s: %q, %v", name, host, answer, err)
			}
		}
	}
}

// While no api process is there, clients wait; when it takes too long they are told so, and their requests stay sealed.
func TestNobodyTakesTheConnection(t *testing.T) {
	d := openDoor(t, nil)
	const token = "rsu_a_token_that_nobody_reads"
	tap := &tapped{}
	c := d.client(t, false)
	transport := c.Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, d.addr)
		return &tappedConn{conn, tap}, err
	}
	req, err := http.NewRequest(http.MethodGet, "https://api."+domain+"/user/v1/whoami", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	began := time.Now()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if took := time.Since(began); took < 4*time.Second || took > 8*time.Second {
		t.Errorf("the answer took %s, want 5 s", took)
	}
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || !strings.Contains(string(body), "the api role") {
		t.Errorf("%d %s %s", res.StatusCode, res.Header, body)
	}
	if !bytes.Contains(tap.bytes(), []byte{0x17, 0x03, 0x03}) { // a record of application data: the request did go out
		t.Error("the client did not send its request; this test shows nothing")
	}
	// The next one finds an api role.
	d.takes(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "back") }))
	if code, text := get(t, c, "https://api."+domain+"/ping"); code != 200 || text != "back" {
		t.Errorf("afterwards: %d %q", code, text)
	}
}

func TestClientsThatWaitAreServedByTheNextAPIProcess(t *testing.T) {
	d := openDoor(t, nil)
	answers := make(chan string, 3)
	for range cap(answers) {
		c := d.client(t, false)
		go func() {
			res, err := c.Get("https://api." + domain + "/ping")
			if err != nil {
				answers <- err.Error()
				return
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			answers <- string(body)
		}()
	}
	select {
	case a := <-answers:
		t.Fatalf("nobody is there, but the answer was %q", a)
	case <-time.After(500 * time.Millisecond): // the role is being started
	}
	d.takes(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	for range cap(answers) {
		if a := <-answers; a != "here" {
			t.Errorf("a client that waited got %q", a)
		}
	}
}

func TestOddFirstMessages(t *testing.T) {
	d := openDoor(t, nil)
	d.takes(t, http.HandlerFunc(echo))
	hello := func() []byte { // of a real client, for the api role
		a, b := net.Pipe()
		go func() {
			_ = tls.Client(a, &tls.Config{ServerName: "api." + domain}).HandshakeContext(t.Context())
			_ = a.Close()
		}()
		buf := make([]byte, 16<<10)
		n, _ := b.Read(buf)
		_ = b.Close()
		return buf[:n]
	}()
	for name, c := range map[string]struct {
		send string
		want string // how the answer begins; "" for none
	}{
		"plain HTTP":         {"GET / HTTP/1.1\r\nHost: api." + domain + "\r\n\r\n", "HTTP/1.0 400"},
		"half a message":     {string(hello[:len(hello)/2]), ""},
		"a record too long":  {"\x16\x03\x01\xff\xff" + strings.Repeat("\x01", 20<<10), "\x15"},
		"a message too long": {strings.Repeat("\x16\x03\x01\x40\x00\x01\x00\xff\xff"+strings.Repeat("\x00", 16<<10-4), 2), ""},
		"nothing":            {"", ""},
	} {
		conn, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, c.send)
		_ = conn.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(conn)
		_ = conn.Close()
		if (c.want == "" && len(answer) > 0 && answer[0] != 0x15) || !strings.HasPrefix(string(answer), c.want) {
			t.Errorf("%s: answered %.40q, want %q", name, answer, c.want)
		}
	}
	// A message in many small pieces is a message all the same.
	conn, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	secure := tls.Client(&dripping{conn}, &tls.Config{ServerName: "api." + domain, RootCAs: d.pool})
	if err := secure.HandshakeContext(t.Context()); err != nil {
		t.Errorf("a hello in pieces: %v", err)
	}
}

func TestTheEdgeStopsWithClientsAtTheDoor(t *testing.T) {
	giver, taker, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taker.Close() }()
	g, err := handover.NewGiver(giver)
	if err != nil {
		t.Fatal(err)
	}
	h := prepare(t)
	s, err := edge.New(edge.Config{Dir: filepath.Join(h.dir, "edge"), Site: api.Site{Domain: domain, Port: 8443}}, h.log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	s.HandOver("api", g)
	pub, internal := roletest.Listen(t), roletest.Listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, pub, internal) }()
	silent, err := net.Dial("tcp", pub.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	waiting, err := net.Dial("tcp", pub.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	handshake := make(chan error, 1)
	go func() {
		handshake <- tls.Client(waiting, &tls.Config{ServerName: "api." + domain, RootCAs: h.pool}).HandshakeContext(t.Context())
	}()
	select {
	case err := <-handshake:
		t.Fatalf("nobody is there, but the handshake ended: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the edge does not stop")
	}
	_ = taker.Close() // the server is gone altogether: what waited in the channel ends
	if err := <-handshake; err == nil {
		t.Error("the client that waited was served")
	}
}

// tapped collects what a client sends.
type tapped struct {
	mu  sync.Mutex // covers all
	all bytes.Buffer
}

func (t *tapped) write(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all.Write(p)
}

func (t *tapped) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.all.Bytes())
}

type tappedConn struct {
	net.Conn
	tap *tapped
}

func (c *tappedConn) Write(p []byte) (int, error) {
	c.tap.write(p)
	return c.Conn.Write(p)
}

// dripping sends what it is given in pieces of seven bytes.
type dripping struct{ net.Conn }

func (d *dripping) Write(p []byte) (int, error) {
	for i := 0; i < len(p); i += 7 {
		if _, err := d.Conn.Write(p[i:min(i+7, len(p))]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// A connection that begins as OpenVPN is handed over as it is, however its first bytes arrive; one that only looks a little like it is not.
func TestOpenVPNIsToldFromTLS(t *testing.T) {
	d := openDoor(t, nil)
	k, err := handover.NewTaker(d.ends["openvpn"])
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan []byte, 8)
	go func() {
		for {
			c, err := k.Accept()
			if err != nil {
				close(taken)
				return
			}
			b := make([]byte, 16)
			n, _ := io.ReadFull(c, b)
			_ = c.Close()
			taken <- b[:n]
		}
	}()
	defer func() { _ = k.Close() }()
	reset := []byte{0, 14, 7 << 3, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0}
	v3 := append([]byte{1, 44, 10 << 3}, make([]byte, 300)...)
	for name, parts := range map[string][][]byte{
		"at once": {reset}, "in drops": {reset[:1], reset[1:2], reset[2:5], reset[5:]}, "version 3": {v3},
	} {
		c, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		all := bytes.Join(parts, nil)
		for _, p := range parts {
			if _, err := c.Write(p); err != nil {
				t.Fatal(err)
			}
			<-time.After(20 * time.Millisecond) // so that it is a packet of its own
		}
		if got := <-taken; !bytes.Equal(got, all[:16]) {
			t.Errorf("%s: %x was handed over", name, got)
		}
		_ = c.Close()
	}
	for name, first := range map[string][]byte{
		"another opcode": {0, 14, 4 << 3, 1}, "another key": {0, 14, 7<<3 | 1, 1}, "too short": {0, 3, 7 << 3, 1}, "too long": {0x20, 0, 7 << 3, 1}, "HTTP": []byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		c, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(first)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c) // until the edge has had enough of it
		_ = c.Close()
		select {
		case got := <-taken:
			t.Errorf("%s was handed over: %x", name, got)
		default:
		}
	}
	// The devices' own names go to the same place as the name above them.
	named, err := handover.NewTaker(d.ends["devices"])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = named.Close() }()
	for _, name := range []string{"devices.", "0123456789abcdef0123456789abcdef.devices."} {
		c, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_ = tls.Client(c, &tls.Config{ServerName: name + domain, RootCAs: d.pool}).HandshakeContext(t.Context())
		}()
		got, err := named.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = got.Close(), c.Close()
	}
}
