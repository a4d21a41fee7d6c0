package terminal_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// TestTerminalIsNotSteered: what a device writes may have colours, and nothing else.
func TestTerminalIsNotSteered(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                   "plain",
		"\x1b[31mred\x1b[0m":      "\x1b[31mred\x1b[0m",
		"\x1b[31mred":             "\x1b[31mred\x1b[0m",
		"\x1b[2Jcleared":          "[2Jcleared\x1b[0m",
		"\x1b]0;title\x07x":       "]0;titlex",
		"a\rb\bc\x00":             "abc",
		"tab\there":               "tab here",
		"\x1b[1;32mok\x1b[0m end": "\x1b[1;32mok\x1b[0m end\x1b[0m",
		"\u009b2J":                "2J",
		"moc.live\u202egood.com":  "moc.livegood.com",
	} {
		if got := terminal.Coloured(in); got != want {
			t.Errorf("terminal.Coloured(%q): got %q, want %q", in, got, want)
		}
	}
	const many = "one\x1b]52;c;aGk=\x07\n\x1b[32mtwo\x1b[0m\tx\r\n"
	if got, want := terminal.Lines(many), "one]52;c;aGk=\n\x1b[32mtwo\x1b[0m\tx\x1b[0m\n"; got != want {
		t.Errorf("terminal.Lines(%q): got %q, want %q", many, got, want)
	}
}

// The attack: a package that a build installs prints what takes over the clipboard or rewrites the pusher's screen; and an
// error of the server's names something that another tenant called so.
func TestBuildsAndErrorsDoNotSteer(t *testing.T) {
	var out, said bytes.Buffer
	term := &terminal.Terminal{Out: &out, Err: &said}
	for _, e := range []api.BuildEvent{{Message: "[main] \x1b]52;c;aGk=\x07ok\x1b[1A"}, {Message: "\x1b[?1049h10 %", Replace: true}} {
		if err := term.ConsoleAs(false).Show(e); err != nil {
			t.Fatal(err)
		}
	}
	term.Say("error: there is no fleet %s", "x\x1b[2J")
	if got, want := out.String(), "[main] ]52;c;aGk=ok[1A\x1b[0m\n"; got != want {
		t.Errorf("a build: got %q, want %q", got, want)
	}
	if got, want := said.String(), "error: there is no fleet x[2J\x1b[0m\n"; got != want {
		t.Errorf("an error: got %q, want %q", got, want)
	}
}

func TestConsole(t *testing.T) {
	events := []api.BuildEvent{
		{Message: "one"}, {Message: "10 %", Replace: true}, {Message: "90 %", Replace: true}, {Message: "two\n"},
		{Type: "metadata", Resource: "cursor", Value: "up3"}, {Type: "metadata", Resource: "cursor", Value: "up1;31m"},
		{Type: "metadata", Resource: "cursor", Value: "erase"}, {Message: "three", IsError: true}, {Message: "last", Replace: true},
	}
	for _, tt := range []struct {
		tty  bool
		want string
	}{
		{false, "one\n90 %\ntwo\nthree\nlast\n"},
		{true, "one\n\r\x1b[K10 %\r\x1b[K90 %\ntwo\n\x1b[3A\r\x1b[Kthree\n\r\x1b[Klast\n"},
	} {
		var out bytes.Buffer
		c := (&terminal.Terminal{Out: &out}).ConsoleAs(tt.tty)
		for _, e := range events {
			if err := c.Show(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.End(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, out.String()); diff != "" {
			t.Errorf("terminal %v (-want +got):\n%s", tt.tty, diff)
		}
	}
}

// The attack: what a person is asked to sign is so long that a narrow terminal cuts the part that matters.
func TestWhatIsToBeSignedIsNotCut(t *testing.T) {
	for _, whole := range []bool{false, true} {
		master, screen := narrow(t)
		g := &terminal.Grid{Head: []string{"Service", "Value"}, Whole: whole}
		g.Add("web", strings.Repeat("harmless ", 20)+"EVIL")
		read := make(chan string)
		go func() {
			buf := make([]byte, 64<<10)
			var all []byte
			for !bytes.Contains(all, []byte("THE END")) {
				n, err := master.Read(buf)
				if err != nil {
					break
				}
				all = append(all, buf[:n]...)
			}
			read <- string(all)
		}()
		term := &terminal.Terminal{Out: screen, Err: screen}
		term.Table(g)
		term.Say("THE END")
		if got := strings.Contains(<-read, "EVIL"); got != whole {
			t.Errorf("whole %v: the end is there: %v", whole, got)
		}
	}
}

// narrow is a terminal of 40 columns, and its other end.
func narrow(t *testing.T) (master, screen *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 10, Col: 40})
	}
	if err == nil {
		screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = screen.Close() })
	return master, screen
}
