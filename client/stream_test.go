package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
)

const uuid = "0123456789abcdef0123456789abcdef"

func TestBuild(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		want         client.BuildOutcome
		events       []string
		is           error
		text         string
	}{
		{"success", "[\n{\"message\":\"hello\"}\n,\n{\"type\":\"metadata\",\"resource\":\"buildLogId\",\"value\":700}\n]\n",
			client.BuildOutcome{Release: 700}, []string{"hello", ""}, nil, ""},
		{"release number as text", `[{"type":"metadata","resource":"buildLogId","value":"701"}]`, client.BuildOutcome{Release: 701}, []string{""}, nil, ""},
		{"failure", `[{"type":"metadata","resource":"buildLogId","value":7},{"message":"exit code: 1","isError":true}]`,
			client.BuildOutcome{Release: 7, Failed: true}, []string{"", "exit code: 1"}, nil, ""},
		{"cut inside an object", `[{"message":"a"},{"mess`, client.BuildOutcome{}, []string{"a"}, client.ErrStreamCut, ""},
		{"cut between objects", `[{"message":"a"}`, client.BuildOutcome{}, []string{"a"}, client.ErrStreamCut, ""},
		{"cut after a comma", `[{"message":"a"},`, client.BuildOutcome{}, []string{"a"}, client.ErrStreamCut, ""},
		{"nothing", ``, client.BuildOutcome{}, nil, client.ErrStreamCut, ""},
		{"not an array", `{"message":"a"}`, client.BuildOutcome{}, nil, nil, "not a stream"},
		{"lines", "{\"message\":\"a\"}\n{\"message\":\"b\"}\n", client.BuildOutcome{}, nil, nil, "not a stream"},
		{"rubbish", `[{"message":"a"},}]`, client.BuildOutcome{}, []string{"a"}, nil, "cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				want := "/v3/build?slug=o%2Ff&dockerfilePath=sub%2Fmy+file&emulated=false&nocache=true&headless=false&isdraft=true"
				if r.RequestURI != want || r.Header.Get("Content-Encoding") != "gzip" {
					t.Errorf("request:\n got %s\nwant %s", r.RequestURI, want)
				}
				if b, _ := io.ReadAll(r.Body); string(b) != "project" {
					t.Errorf("body: got %q", b)
				}
				fmt.Fprint(w, tt.answer)
			})
			var events []string
			out, err := c.Build(t.Context(), client.BuildOptions{Slug: "o/f", Dockerfile: "sub/my file", NoCache: true, Draft: true},
				strings.NewReader("project"), func(e api.BuildEvent) error {
					events = append(events, e.Message)
					return nil
				})
			if diff := cmp.Diff(tt.want, out); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.events, events); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if (err == nil) != (tt.is == nil && tt.text == "") || (tt.is != nil && !errors.Is(err, tt.is)) ||
				(err != nil && !strings.Contains(err.Error(), tt.text)) {
				t.Errorf("error: got %v, want %v %q", err, tt.is, tt.text)
			}
		})
	}
}

// TestBuildEventsAreLive checks that an event arrives while the builder still works, one flush each.
func TestBuildEventsAreLive(t *testing.T) {
	heard := make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, `[{"message":"first"}`)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-heard:
		case <-r.Context().Done():
			return
		}
		fmt.Fprint(w, `,{"message":"second"}]`)
	})
	n := 0
	_, err := c.Build(t.Context(), client.BuildOptions{}, bytes.NewReader(nil), func(api.BuildEvent) error {
		if n++; n == 1 {
			close(heard)
		}
		return nil
	})
	if err != nil || n != 2 {
		t.Errorf("got %d events, %v", n, err)
	}
}

func TestBuildRefused(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `no fleet "o/f"`)
	})
	_, err := c.Build(t.Context(), client.BuildOptions{Slug: "o/f"}, strings.NewReader(""), nil)
	if !errors.Is(err, api.ErrNotFound) || !strings.Contains(err.Error(), `no fleet "o/f"`) {
		t.Errorf("got %v", err)
	}
}

// TestBuildRefusedEarly has the builder refuse while most of the project is still to be sent: its words arrive all the same.
func TestBuildRefusedEarly(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		fmt.Fprint(w, "the project is too large")
	})
	_, err := c.Build(t.Context(), client.BuildOptions{}, io.LimitReader(zeros{}, 64<<20), nil)
	if !errors.Is(err, api.ErrTooLarge) || !strings.Contains(err.Error(), "the project is too large") {
		t.Errorf("got %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestBuildDetached(t *testing.T) {
	answer := `{"started":true,"releaseId":700}`
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) })
	out, err := c.Build(t.Context(), client.BuildOptions{Detach: true}, strings.NewReader(""), nil)
	if err != nil || out.Release != 700 {
		t.Errorf("got %+v, %v", out, err)
	}
	answer = `{"started":false,"error":"busy","message":"try later"}`
	if _, err := c.Build(t.Context(), client.BuildOptions{Detach: true}, strings.NewReader(""), nil); err == nil || !strings.Contains(err.Error(), "try later") {
		t.Errorf("got %v, want that it did not start", err)
	}
}

func TestCancelBuild(t *testing.T) {
	var got string
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.RequestURI + " " + string(b)
	})
	if err := c.CancelBuild(t.Context(), 700); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got, "PATCH /v7/release(700)?$filter=status%20ne%20%27success%27 ") || !strings.Contains(got, `"status":"cancelled"`) {
		t.Errorf("got %s", got)
	}
}

func TestLogHistory(t *testing.T) {
	var target string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		target = r.RequestURI
		fmt.Fprint(w, `[{"message":"a","timestamp":1,"createdAt":2,"serviceId":60},{"message":"b","timestamp":3,"isSystem":true}]`)
	})
	var got []string
	err := c.Logs(t.Context(), uuid, client.LogOptions{Count: 10, Since: time.UnixMilli(5)}, func(l api.LogLine) error {
		got = append(got, l.Message)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if want := "/device/v2/" + uuid + "/logs?count=10&start=5"; target != want {
		t.Errorf("request: got %s, want %s", target, want)
	}
}

func TestLogHistoryCut(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `[{"message":"a"},{"mes`) })
	if err := c.Logs(t.Context(), uuid, client.LogOptions{}, func(api.LogLine) error { return nil }); err == nil {
		t.Error("a cut answer passed for a whole one")
	}
}

// TestLogFollow breaks a stream in the middle of a line, between heartbeats; the next one repeats what was already seen.
func TestLogFollow(t *testing.T) {
	streams := []string{
		"",
		"{\"message\":\"a\",\"createdAt\":10}\n\n{\"message\":\"b\",\"createdAt\":20}\n{\"message\":\"b\",\"createdAt\":20}\n\n{\"mess",
		"{\"message\":\"b\",\"createdAt\":20}\n{\"mess",
		"\n{\"message\":\"b\",\"createdAt\":20}\n{\"message\":\"b\",\"createdAt\":20}\n{\"message\":\"b2\",\"createdAt\":20}\n{\"message\":\"c\",\"createdAt\":30}\n",
	}
	var targets []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		targets = append(targets, r.URL.RawQuery)
		fmt.Fprint(w, streams[min(len(targets), len(streams))-1])
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	broken, inFirst := 0, 0 // lines of the first stream that had any
	err := c.Logs(ctx, uuid, client.LogOptions{Count: 100, Follow: true, Reconnecting: func(error) { broken++ }}, func(l api.LogLine) error {
		if got = append(got, l.Message); l.Message == "c" {
			cancel()
		}
		if broken == 1 {
			inFirst++
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	if diff := cmp.Diff([]string{"a", "b", "b", "b2", "c"}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"count=100&stream=1", "count=100&stream=1", "count=all&start=20&stream=1",
		"count=all&start=20&stream=1"}, targets); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if inFirst != 3 {
		t.Errorf("the first stream brought %d lines, want 3", inFirst)
	}
	if broken != 3 {
		t.Errorf("told of %d broken streams, want 3", broken)
	}
}

// TestLogPicked asks for the last line of one kind, then for new ones of it: nothing is lost or repeated in between.
func TestLogPicked(t *testing.T) {
	var targets []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if targets = append(targets, r.URL.RawQuery); len(targets) == 1 {
			fmt.Fprint(w, `[{"message":"old","createdAt":5,"isSystem":true},{"message":"last","createdAt":10,"isSystem":true},{"message":"x","createdAt":20}]`)
			return
		}
		fmt.Fprint(w, "{\"message\":\"x\",\"createdAt\":20}\n{\"message\":\"y\",\"createdAt\":30}\n{\"message\":\"new\",\"createdAt\":31,\"isSystem\":true}\n")
	})
	enough := errors.New("enough")
	var got []string
	opt := client.LogOptions{Count: 1, Follow: true, Only: func(l api.LogLine) bool { return l.IsSystem }}
	err := c.Logs(t.Context(), uuid, opt, func(l api.LogLine) error {
		if got = append(got, l.Message); l.Message == "new" {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("got %v, want the caller's own error", err)
	}
	if diff := cmp.Diff([]string{"last", "new"}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"", "count=all&start=20&stream=1"}, targets); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestLogFollowEndsWhenRefused(t *testing.T) {
	calls := 0
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if calls++; calls > 1 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, "{\"message\":\"a\",\"createdAt\":10}\n")
	})
	err := c.Logs(t.Context(), uuid, client.LogOptions{Follow: true}, func(api.LogLine) error { return nil })
	if !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("got %v, want unauthorized", err)
	}
}

func TestLogFollowSilence(t *testing.T) {
	done := make(chan struct{})
	streams := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if streams++; streams == 2 {
			fmt.Fprint(w, "{\"message\":\"alive\",\"createdAt\":10}\n")
			return
		}
		_ = http.NewResponseController(w).Flush()
		select { // silent, without even a heartbeat
		case <-r.Context().Done():
		case <-done:
		}
	})
	defer close(done)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	heard := errors.New("heard")
	err := c.WithIdleTimeout(50*time.Millisecond).Logs(ctx, uuid, client.LogOptions{Follow: true}, func(api.LogLine) error { return heard })
	if !errors.Is(err, heard) {
		t.Errorf("got %v, want the second stream's line", err)
	}
}
