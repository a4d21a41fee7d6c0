package terminal_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

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
	} {
		if got := terminal.Coloured(in); got != want {
			t.Errorf("terminal.Coloured(%q): got %q, want %q", in, got, want)
		}
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
