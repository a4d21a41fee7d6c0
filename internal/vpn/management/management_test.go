package management_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/vpn/management"
)

// talk runs a connection whose other side the test plays.
func talk(t *testing.T) (*management.Conn, net.Conn, chan management.Event) {
	t.Helper()
	ours, theirs := net.Pipe()
	events := make(chan management.Event, 16)
	c := management.New(ours, func(e management.Event) { events <- e })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; _ = theirs.Close() })
	return c, theirs, events
}

// What a client says of itself may try to be an event, an answer or the end of the line; it never becomes one.
func TestHostileWordsOfClients(t *testing.T) {
	_, openvpn, events := talk(t)
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(openvpn, text); err != nil {
			t.Fatal(err)
		}
	}
	say(">INFO:hello\r\n>CLIENT:CONNECT,1,2\r\n>CLIENT:ENV,username=a\"b'c/../d=e,f\r\n>CLIENT:ENV,password=x=y\"\r\n>CLIENT:ENV,END\r\n")
	if e := <-events; e.Kind != management.Connect || e.Client != 1 || e.Key != 2 || e.Cut || e.Env["username"] != `a"b'c/../d=e,f` || e.Env["password"] != `x=y"` {
		t.Errorf("quotes, slashes and equals: %+v", e)
	}
	say(">CLIENT:CONNECT,3,0\n>CLIENT:ENV,username=" + strings.Repeat("u", 10<<10) + "\n>CLIENT:ENV,password=" + strings.Repeat("p", 100<<10) + "\n>CLIENT:ENV,END\n")
	if e := <-events; e.Client != 3 || !e.Cut || len(e.Env["username"]) != 10<<10 || e.Env["password"] != "" {
		t.Errorf("10 KB and 100 KB: %+v", e)
	}
	// Line breaks within: another event, an answer, a second value of the same name. openvpn lets none through; we need not believe it.
	for n, inside := range []string{">CLIENT:ESTABLISHED,9\n", "SUCCESS: x\n", ">CLIENT:ENV,username=other\n", "END\n"} {
		say(fmt.Sprintf(">CLIENT:CONNECT,%d,0\n>CLIENT:ENV,username=first\n%s>CLIENT:ENV,END\n", 10+n, inside))
		if e := <-events; e.Client != 10+n || e.Kind != management.Connect || e.Env["username"] != "first" || !e.Cut {
			t.Errorf("%q within: %+v", inside, e)
		}
	}
	say(">CLIENT:ENV,END\n>CLIENT:nonsense\n>CLIENT:CONNECT,x\n>CLIENT:ADDRESS,1,10.0.0.1,1\n>CLIENT:DISCONNECT,7\n>CLIENT:ENV,END\n")
	if e := <-events; e.Kind != management.Disconnect || e.Client != 7 || e.Cut {
		t.Errorf("after nonsense: %+v", e)
	}
}

func TestCommands(t *testing.T) {
	c, openvpn, _ := talk(t)
	heard := bufio.NewReader(openvpn)
	answer := func(lines int, text string) chan string {
		got := make(chan string, 1)
		go func() {
			var all strings.Builder
			for range lines {
				line, err := heard.ReadString('\n')
				if err != nil {
					break
				}
				all.WriteString(line)
			}
			got <- all.String()
			_, _ = io.WriteString(openvpn, text)
		}()
		return got
	}
	got := answer(3, "SUCCESS: client-auth command succeeded\r\n")
	if err := c.Admit(t.Context(), 4, 5, "ifconfig-push 10.0.0.2 10.0.0.1"); err != nil {
		t.Error(err)
	}
	if want := "client-auth 4 5\nifconfig-push 10.0.0.2 10.0.0.1\nEND\n"; <-got != want {
		t.Errorf("not %q was sent", want)
	}
	if err := c.Admit(t.Context(), 4, 5, "a\nEND\nkill x"); err == nil {
		t.Error("a line of two was sent")
	}
	got = answer(1, ">LOG:1,,x\nERROR: client-deny command failed\r\n")
	if err := c.Deny(t.Context(), 1, 0, "no \"quotes\"\n", "go\\away"); !errors.Is(err, management.ErrFailed) {
		t.Errorf("Deny: %v, want %v", err, management.ErrFailed)
	}
	if want := "client-deny 1 0 \"no quotes\" \"goaway\"\n"; <-got != want {
		t.Errorf("not %q was sent", want)
	}
	got = answer(1, "TITLE\tOpenVPN\nHEADER\tCLIENT_LIST\tCommon Name\tReal Address\tVirtual Address\tConnected Since (time_t)\tClient ID\n"+
		"CLIENT_LIST\tabc\t127.0.0.1:4000\t10.0.0.2\t1700000000\t8\nCLIENT_LIST\tshort\nCLIENT_LIST\tUNDEF\t127.0.0.1:4001\t\t1700000001\t9\nGLOBAL_STATS\tx\t0\nEND\n")
	list, err := c.Clients(t.Context())
	<-got
	if err != nil || len(list) != 2 || list[0].ID != 8 || list[0].Name != "abc" || list[0].Real != "127.0.0.1:4000" || list[1].Name != "UNDEF" || list[0].Since.Unix() != 1700000000 {
		t.Errorf("Clients: %+v, %v", list, err)
	}
}

func FuzzEvents(f *testing.F) {
	f.Add(">CLIENT:CONNECT,1,2\n>CLIENT:ENV,a=b\n>CLIENT:ENV,END\nSUCCESS: x\n")
	f.Add(">CLIENT:ENV,END\n>CLIENT:CONNECT,1\n>CLIENT:CONNECT,2\n")
	f.Fuzz(func(t *testing.T, text string) {
		ours, theirs := net.Pipe()
		c := management.New(ours, func(e management.Event) {
			if e.Env == nil || e.Client < -1<<62 {
				t.Errorf("an event without its content: %+v", e)
			}
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = c.Run(ctx) }()
		go func() { _, _ = io.WriteString(theirs, text); _ = theirs.Close() }()
		<-done
		cancel()
	})
}
