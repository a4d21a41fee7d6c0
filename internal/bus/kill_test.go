package bus_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestKilledProcessLosesNothing runs itself as a child that appends and says so, and kills it without a warning.
func TestKilledProcessLosesNothing(t *testing.T) {
	if dir := os.Getenv("BUS_TEST_CHILD"); dir != "" {
		_, r := open(t, dir)
		if err := r.Append(t.Context(), "a", lines(0, 500)...); err != nil {
			t.Fatal(err)
		}
		fmt.Println("appended")
		<-t.Context().Done() // until killed
		return
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestKilledProcessLosesNothing$")
	child.Env = append(os.Environ(), "BUS_TEST_CHILD="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	text, err := bufio.NewReader(out).ReadString('\n')
	_ = child.Process.Kill()
	_ = child.Wait()
	if err != nil || text != "appended\n" {
		t.Fatalf("the child said %q, %v", text, err)
	}
	_, r := open(t, dir)
	got, err := r.Last(t.Context(), "a", 1000, time.Time{})
	if err != nil || len(got) != 500 {
		t.Errorf("after the kill: %d entries, %v; want 500", len(got), err)
	}
}
