package terminal_test

import (
	"bytes"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// A status stays below the lines and leaves nothing behind; without a terminal it is not shown at all.
func TestAStatusStaysBelowTheLines(t *testing.T) {
	for tty, want := range map[bool]string{
		false: "one\ntwo\n",
		true:  "\r\x1b[Kmain 1/2\r\x1b[Kone\n\r\x1b[Kmain 1/2\r\x1b[Kmain 2/2\r\x1b[K" + "two\n",
	} {
		var out bytes.Buffer
		c := (&terminal.Terminal{Out: &out}).ConsoleAs(tty)
		for _, err := range []error{
			c.Status("main 1/2"), c.Status("main 1/2"), c.Show(api.BuildEvent{Message: "one"}), c.Status("main 2/2"), c.Status(""),
			c.Show(api.BuildEvent{Message: "two"}), c.End(),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		if got := out.String(); got != want {
			t.Errorf("terminal %v: got %q, want %q", tty, got, want)
		}
	}
}
