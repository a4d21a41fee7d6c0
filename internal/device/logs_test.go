package device_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/device/devicelog"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// send writes a whole log stream.
func (w *world) send(by access.Caller, uuid api.DeviceUUID, body string) error {
	w.Helper()
	l, err := w.Devices.Logs.Open(w.Context(), by, uuid)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Copy(strings.NewReader(body))
}

var everything = devicelog.Query{Count: 1000}

func (w *world) log(by access.Caller, uuid api.DeviceUUID, q devicelog.Query) (texts []string) {
	w.Helper()
	lines, err := w.Devices.Logs.Read(w.Context(), by, uuid, q)
	w.Must(err)
	for _, l := range lines {
		texts = append(texts, l.Message)
	}
	return texts
}

func TestLogKeepsTheLastThousandLines(t *testing.T) {
	w := newWorld(t)
	dev, _ := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	var body strings.Builder
	for n := range 1500 {
		fmt.Fprintf(&body, `{"message":"line %d","timestamp":1700000000000,"serviceId":7,"isStdErr":true}`+"\n", n)
	}
	w.Must(w.send(dev, uuidOf(1), body.String()))
	got := w.log(w.alice, uuidOf(1), everything)
	if len(got) != 1000 || got[0] != "line 500" || got[999] != "line 1499" {
		t.Errorf("%d lines, from %q to %q", len(got), got[0], got[len(got)-1])
	}
	lines, err := w.Devices.Logs.Read(t.Context(), w.alice, uuidOf(1), devicelog.Query{Count: 1})
	w.Must(err)
	if l := lines[0]; len(lines) != 1 || l.Timestamp != 1700000000000 || *l.ServiceID != 7 || !l.IsStdErr || l.IsSystem ||
		time.Since(time.UnixMilli(l.CreatedAt)) > time.Minute {
		t.Errorf("the last line: %+v", l)
	}
	if got := w.log(w.alice, uuidOf(1), devicelog.Query{Count: 1000, Since: w.Now().Add(time.Hour)}); len(got) != 0 {
		t.Errorf("since later: %d lines", len(got))
	}
}

func TestOddLogLines(t *testing.T) {
	w := newWorld(t)
	dev, _ := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	w.Must(w.send(dev, uuidOf(1), strings.Join([]string{
		`{"message":"first","timestamp":1}`, ``, `not json`, `{"timestamp":1}`, `{"message":7}`, `[]`, `null`,
		`{"message":"of another","timestamp":1,"uuid":"00"}`,
		`{"message":"` + strings.Repeat("x", 70_000) + `"}`, // longer than a line may be
		`{"message":"` + strings.Repeat("y", 20_000) + `","timestamp":-5,"isSystem":true,"more":{}}`,
		`{"message":"last","timestamp":1.5e12}`, `{"message":"torn`,
	}, "\n")))
	got := w.log(w.alice, uuidOf(1), everything)
	if len(got) != 3 || got[0] != "first" || len(got[1]) != 10_000 || got[2] != "last" {
		t.Errorf("got %d lines: %.40q", len(got), got)
	}
}

func TestTooMuchLog(t *testing.T) {
	w := newWorld(t, func(c *device.Config) { c.Logs.Rate, c.Logs.Burst = 1, 10 })
	dev, _ := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	w.Must(w.send(dev, uuidOf(1), strings.Repeat(`{"message":"x","timestamp":1}`+"\n", 100)))
	got := strings.Join(w.log(w.alice, uuidOf(1), everything), ",")
	if !strings.Contains(got, "Warning: Suppressed ") || !strings.Contains(got, " message(s) due to rate limiting") ||
		strings.Count(got, "x,") > 15 {
		t.Errorf("got %s", got)
	}
	if err := w.Devices.Logs.Post(t.Context(), dev, uuidOf(1), []byte(`[{"message":"x"}]`)); !errors.Is(err, api.ErrRateLimited) {
		t.Errorf("PostLog: %v", err)
	}
}

func TestLogsAreForTheirOwn(t *testing.T) {
	w := newWorld(t)
	f, far := w.Fleet(w.alice, "harbour"), w.Fleet(w.bob, "elsewhere")
	dev, made := w.device(w.alice, f, uuidOf(1))
	sister, _ := w.device(w.alice, f, uuidOf(2))
	foreign, _ := w.device(w.bob, far, uuidOf(3))
	w.Must(w.send(dev, uuidOf(1), `{"message":"mine"}`))
	for _, by := range []access.Caller{sister, foreign, w.bob} {
		if _, err := w.Devices.Logs.Read(t.Context(), by, uuidOf(1), everything); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s reads: %v", by.Name, err)
		}
		if _, err := w.Devices.Logs.Follow(t.Context(), by, uuidOf(1), everything); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s follows: %v", by.Name, err)
		}
		if err := w.send(by, uuidOf(1), `{"message":"foreign"}`); !errors.Is(err, api.ErrNotFound) && !errors.Is(err, api.ErrForbidden) {
			t.Errorf("%s writes: %v", by.Name, err)
		}
		if err := w.Devices.Logs.Post(t.Context(), by, uuidOf(1), []byte(`[{"message":"foreign"}]`)); err == nil {
			t.Errorf("%s posts", by.Name)
		}
	}
	if got := w.log(dev, uuidOf(1), everything); len(got) != 1 {
		t.Errorf("the device reads its own log: %q", got)
	}
	w.Want(w.alice, "DELETE", fmt.Sprintf("device(%d)", made.ID), nil, 200, "")
	if err := w.send(dev, uuidOf(1), `{"message":"ghost"}`); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a deleted device writes: %v", err)
	}
	w.device(w.bob, far, uuidOf(1)) // somebody else gets the uuid, but not what was said under it
	if got := w.log(w.bob, uuidOf(1), everything); len(got) != 0 {
		t.Errorf("the log of an earlier device shows: %q", got)
	}
	roletest.Eventually(w, "the old log is dropped", func() bool { return w.count("deleted_device") == 0 })
}

// follow reads lines until the follower ends.
func follow(f *devicelog.Follower) <-chan string {
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		defer f.Close()
		for {
			line, err := f.Next()
			if err != nil {
				return
			}
			if line != nil {
				lines <- line.Message
			}
		}
	}()
	return lines
}

func next(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case line, ok := <-lines:
		if !ok {
			return "the end"
		}
		return line
	case <-time.After(3 * time.Minute):
		t.Fatal("nothing came in 10 s")
		return ""
	}
}

func TestFollowLog(t *testing.T) {
	w := newWorld(t)
	dev, _ := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	w.Must(w.send(dev, uuidOf(1), `{"message":"one"}`+"\n"+`{"message":"two"}`))
	f, err := w.Devices.Logs.Follow(t.Context(), w.alice, uuidOf(1), devicelog.Query{Count: 1})
	w.Must(err)
	lines := follow(f)
	if got := next(t, lines); got != "two" {
		t.Errorf("history: %q, want two", got)
	}
	r, pipe := io.Pipe()
	l, err := w.Devices.Logs.Open(t.Context(), dev, uuidOf(1))
	w.Must(err)
	done := make(chan error, 1)
	go func() { done <- l.Copy(r) }()
	for _, text := range []string{"three", "four"} { // each arrives while the stream stays open
		fmt.Fprintf(pipe, `{"message":%q}`+"\n", text)
		if got := next(t, lines); got != text {
			t.Errorf("live: %q, want %q", got, text)
		}
	}
	_ = pipe.Close()
	w.Must(<-done)
	l.Close()
}

// Whoever loses the right to a stream loses the stream, within two seconds.
func TestRevokedStreamsEnd(t *testing.T) {
	for what, revoke := range map[string]func(w *world, made api.Registered, reader, dev access.Caller){
		"device deleted": func(w *world, made api.Registered, _, _ access.Caller) {
			w.Want(w.alice, "DELETE", fmt.Sprintf("device(%d)", made.ID), nil, 200, "")
		},
		"fleet deleted": func(w *world, _ api.Registered, _, _ access.Caller) {
			w.Want(w.alice, "DELETE", "application?$filter=app_name eq 'harbour'", nil, 200, "")
		},
		"session ended": func(w *world, _ api.Registered, reader, _ access.Caller) {
			w.Write(func(tx *db.Tx) error { return w.Accounts.EndSession(w.Context(), tx, reader, reader.Session) })
		},
		"device's key deleted": func(w *world, _ api.Registered, _, dev access.Caller) {
			w.Want(w.alice, "DELETE", fmt.Sprintf("api_key(%d)", dev.Key), nil, 200, "")
		},
		"device moved away": func(w *world, made api.Registered, reader, _ access.Caller) {
			w.Write(func(tx *db.Tx) error {
				_, err := tx.ExecContext(w.Context(), `UPDATE device SET belongs_to__application = ? WHERE id = ?`, w.far, made.ID)
				return err
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dev, made := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
			w.far = w.Fleet(w.bob, "elsewhere")
			token, err := w.Accounts.Login(t.Context(), api.Login{Username: "alice", Password: "correct horse battery alice"}, account.From{})
			w.Must(err)
			reader := w.Caller(token)
			f, err := w.Devices.Logs.Follow(t.Context(), reader, uuidOf(1), devicelog.Query{})
			w.Must(err)
			l, err := w.Devices.Logs.Open(t.Context(), dev, uuidOf(1))
			w.Must(err)
			defer f.Close()
			defer l.Close()
			begin := time.Now()
			revoke(w, made, reader, dev)
			wait := func(who string, ended <-chan struct{}) {
				select {
				case <-ended:
					t.Logf("%s ended after %s", who, time.Since(begin).Round(time.Millisecond))
				case <-time.After(2 * time.Second):
					t.Errorf("%s is open 2 s later", who)
				}
			}
			if what != "device's key deleted" {
				wait("the reader", f.Context().Done())
			}
			if what != "session ended" && what != "device moved away" {
				wait("the writer", l.Context().Done())
			}
		})
	}
}

func TestOldestStreamMakesRoom(t *testing.T) {
	w := newWorld(t)
	dev, _ := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	var open []*devicelog.Writer
	for range 9 {
		l, err := w.Devices.Logs.Open(t.Context(), dev, uuidOf(1))
		w.Must(err)
		defer l.Close()
		open = append(open, l)
	}
	if open[0].Context().Err() == nil || open[1].Context().Err() != nil || open[8].Context().Err() != nil {
		t.Error("of nine streams, not just the first was ended")
	}
}

func FuzzLog(f *testing.F) {
	f.Add(`{"message":"x","timestamp":1}` + "\n" + `{"message":"y"`)
	f.Add("\n\n{}\n{\"message\":null}\n")
	w := newWorld(f)
	dev, _ := w.device(w.alice, w.Fleet(w.alice, "harbour"), uuidOf(1))
	f.Fuzz(func(t *testing.T, body string) {
		l, err := w.Devices.Logs.Open(t.Context(), dev, uuidOf(1))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Copy(strings.NewReader(body)); err != nil {
			t.Errorf("Copy(%q): %v", body, err)
		}
	})
}
