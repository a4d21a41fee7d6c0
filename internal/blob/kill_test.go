package blob_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/blob"
)

// childDir names the store on which this program, started again as a child, is killed in the middle of its work.
const childDir = "ROADSTEAD_TEST_BLOB_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, work(dir)) // it comes back only when something failed
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// endless gives some bytes, says so, and then nothing for ever.
type endless struct {
	left int
	say  string
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		fmt.Println(e.say)
		<-time.After(time.Hour) // killed long before
	}
	n := min(len(p), e.left)
	e.left -= n
	return n, nil
}

// work keeps one blob, one part of an upload, and is then in the middle of another part and of another blob.
func work(dir string) error {
	s, err := blob.Open(blob.Config{Dir: dir, Secret: []byte(strings.Repeat("s", 32)), Spare: 1})
	if err != nil {
		return err
	}
	info, err := s.Put(context.Background(), strings.NewReader("whole"), 100)
	if err != nil {
		return err
	}
	u, _, err := s.Begin(blob.Upload{Owner: "row", Size: 200 << 10, Chunk: 100 << 10})
	if err != nil {
		return err
	}
	if _, err := s.PutPart(context.Background(), u.ID, 1, strings.NewReader(strings.Repeat("a", 100<<10))); err != nil {
		return err
	}
	fmt.Println("kept", info.ID, u.ID)
	failed := make(chan error, 2)
	go func() {
		_, err := s.PutPart(context.Background(), u.ID, 2, &endless{left: 50 << 10, say: "in a part"})
		failed <- err
	}()
	go func() {
		_, err := s.Put(context.Background(), &endless{left: 50 << 10, say: "in a blob"}, 1<<20)
		failed <- err
	}()
	return <-failed
}

// A process that is killed in the middle loses what was not acknowledged, and nothing else; another goes on where it was.
func TestKilledInTheMiddle(t *testing.T) {
	s := open(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+s.dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var kept, upload string
	lines := bufio.NewScanner(out)
	for said := 0; said < 2 && lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "kept %s %s", &kept, &upload); err != nil {
			said++ // "in a part", "in a blob"
		}
	}
	killed := cmd.Process.Kill()
	_, _ = io.Copy(io.Discard, out)
	var exit *exec.ExitError
	if err := cmd.Wait(); killed != nil || !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("the child was not killed: %v, %v", killed, err)
	}

	if f, err := s.Open(kept); err != nil {
		t.Errorf("what was kept is gone: %v", err)
	} else {
		_ = f.Close()
	}
	first := strings.Repeat("a", 100<<10)
	tag, err := s.PutPart(t.Context(), upload, 2, strings.NewReader(strings.Repeat("b", 100<<10)))
	if err != nil {
		t.Fatalf("the part sent again: %v", err)
	}
	again, err := s.PutPart(t.Context(), upload, 1, strings.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	_, info, err := s.Commit(t.Context(), upload, "row", []blob.Tagged{{Number: 1, Tag: again}, {Number: 2, Tag: tag}})
	if err != nil {
		t.Fatal(err)
	}
	if _, body := s.send("GET", s.URL(info.ID, "f", ""), nil); body != first+strings.Repeat("b", 100<<10) {
		t.Errorf("the file is another: %d bytes", len(body))
	}
	s.now = s.now.Add(2 * time.Hour)
	if n, err := s.Sweep(t.Context(), time.Hour, func(id string) bool { return id == kept || id == info.ID }); n != 0 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if names := s.files(); len(names) != 2 {
		t.Errorf("left: %v", names)
	}
}
