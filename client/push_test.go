package client_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
)

// The connection breaks in every way that it can, and the builder is restarted meanwhile: each line comes once, in order.
func TestFollowingABuildSurvivesLostConnections(t *testing.T) {
	var asked atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/build/v1/builds/7/events" {
			t.Errorf("asked for %s", r.URL)
		}
		n := asked.Add(1)
		want := []string{"", "0", "2", "2", "2", "3"}[n]
		if got := r.URL.Query().Get("after"); got != want {
			t.Errorf("request %d asks for what comes after %q, want %q", n, got, want)
		}
		line := func(seq int) string { return fmt.Sprintf(`{"seq":%d,"message":"line %d"}`+"\n", seq, seq) }
		switch n {
		case 1: // in the middle of a line
			fmt.Fprint(w, "\n"+line(1)+line(2)+line(3)[:12])
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3: // at once
			panic(http.ErrAbortHandler)
		case 4: // with lines that are known, and an end without a word
			fmt.Fprint(w, line(1)+line(2)+line(3))
		default:
			fmt.Fprint(w, `{"seq":9,"lost":6}`+"\n"+line(10)+`{"seq":11,"status":"failed"}`+"\n")
		}
	})
	var got []int64
	told := 0
	status, err := c.FollowBuild(t.Context(), 7, client.FollowOptions{Stay: true, Lost: func(error) { told++ }}, func(l api.BuildLine) error {
		got = append(got, l.Seq)
		return nil
	})
	if err != nil || status != api.StatusFailed || told == 0 {
		t.Errorf("ended as %q, %v, the loss told %d times", status, err, told)
	}
	if diff := cmp.Diff([]int64{1, 2, 3, 9, 10, 11}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestFollowingEnds(t *testing.T) {
	for status, want := range map[int]error{404: client.ErrNotUnderWay, 401: api.ErrUnauthorized, 403: api.ErrForbidden} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		if _, err := c.FollowBuild(t.Context(), 7, client.FollowOptions{Stay: true}, nil); !errors.Is(err, want) {
			t.Errorf("%d: got %v, want %v", status, err, want)
		}
	}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"seq":1,"message":"x"}`+"\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.FollowBuild(ctx, 7, client.FollowOptions{Stay: true}, func(api.BuildLine) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("with its context ended: %v", err)
	}
	mine := errors.New("enough")
	if _, err := c.FollowBuild(t.Context(), 7, client.FollowOptions{Stay: true}, func(api.BuildLine) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("with an error of the caller's: %v", err)
	}
}

// held are contents in memory.
type held map[string]string

func (h held) Open(sum string) (io.ReadCloser, string, error) {
	return io.NopCloser(strings.NewReader(h[sum])), "file-" + h[sum][:1], nil
}

func (h held) Sizes() map[string]int64 {
	sizes := map[string]int64{}
	for sum, text := range h {
		sizes[sum] = int64(len(text))
	}
	return sizes
}

func hold(texts ...string) (held, []string) {
	h, sums := held{}, []string{}
	for _, text := range texts {
		sum := sha256.Sum256([]byte(text))
		h[hex.EncodeToString(sum[:])] = text
		sums = append(sums, hex.EncodeToString(sum[:]))
	}
	return h, sums
}

// An upload that breaks sends only what did not come through, and the bar does not run over.
func TestAnUploadThatBreaksGoesOn(t *testing.T) {
	h, sums := hold(strings.Repeat("a", 1000), strings.Repeat("b", 2000), "c")
	var posts atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var missing []string
		switch {
		case r.Method == http.MethodGet:
			missing = sums[1:]
		case posts.Add(1) == 1:
			_, _ = io.CopyN(io.Discard, r.Body, 10)
			panic(http.ErrAbortHandler)
		default:
			zr, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			text, err := io.ReadAll(zr)
			if err != nil || len(text) != 2*40+2000+1 || !bytes.HasPrefix(text[40:], []byte("bbb")) {
				t.Errorf("the second time %d bytes came: %v", len(text), err)
			}
		}
		_ = json.NewEncoder(w).Encode(api.BuildOpened{ID: 7, Missing: missing})
	})
	var sent int64
	err := c.SendContents(t.Context(), api.BuildOpened{ID: 7, Missing: sums}, h, func(n int64) { sent += n })
	if err != nil || sent != 2001 {
		t.Errorf("%d bytes are counted, %v", sent, err)
	}
}

func TestAFileThatChangesWhileItIsSentIsNamed(t *testing.T) {
	h, sums := hold("as it was")
	h[sums[0]] = "no longer"
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "{}")
		if err == nil {
			t.Error("all of it was sent")
		}
	})
	err := c.SendContents(t.Context(), api.BuildOpened{ID: 7, Missing: sums}, h, func(int64) {})
	if err == nil || !strings.Contains(err.Error(), "file-n was changed while it was sent") {
		t.Errorf("got %v", err)
	}
}

func TestAnOlderServerIsTold(t *testing.T) {
	c := serve(t, http.NotFound)
	if _, err := c.OpenBuild(t.Context(), client.BuildOptions{Slug: "o/f"}, nil); !errors.Is(err, client.ErrOlder) {
		t.Errorf("got %v", err)
	}
}
