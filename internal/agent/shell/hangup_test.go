package shell_test

import (
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// An agent that was started by nohup ignores the signal of a hang-up. What it starts hears it all the same when its session ends.
func TestProgramsHearThatTheirSessionEnds(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	t.Cleanup(func() { signal.Reset(syscall.SIGHUP) })
	w := newWorld(t)
	client := w.certified().dial("root")
	session, err := client.NewSession()
	w.must(err)
	out := &shown{}
	session.Stdout = out
	w.must(session.RequestPty("xterm", 24, 80, ssh.TerminalModes{}))
	mark := filepath.Join(t.TempDir(), "heard")
	w.must(session.Start("trap 'echo >" + mark + "; exit' HUP; echo here; while :; do sleep 0.1; done"))
	w.eventually("the program is there", func() bool { return strings.Contains(out.String(), "here") })
	w.must(client.Close())
	w.eventually("it hears of the end", func() bool {
		_, err := os.Stat(mark)
		return err == nil
	})
}
