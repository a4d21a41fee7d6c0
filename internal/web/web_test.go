package web_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/web"
)

// logged serves one handler behind web.Logged. The log is whole after closed was called.
func logged(t *testing.T, h http.Handler) (url string, closed func() string) {
	t.Helper()
	log := &roletest.Log{}
	srv := httptest.NewServer(web.Logged(log.Logger(), func(*http.Request) bool { return false }, h))
	t.Cleanup(srv.Close)
	return srv.URL, func() string { srv.Close(); return log.String() }
}

func get(t *testing.T, url string, trace *httptrace.ClientTrace) (*http.Response, error) {
	t.Helper()
	ctx := t.Context()
	if trace != nil {
		ctx = httptrace.WithClientTrace(ctx, trace)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err == nil {
		_ = res.Body.Close()
	}
	return res, err
}

func TestAnInformationIsNotTheAnswer(t *testing.T) {
	h := web.Handle(slog.New(slog.DiscardHandler), func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusEarlyHints)
		return api.Errorf(api.NotFound, "there is no such thing")
	})
	url, closed := logged(t, h)
	hints := 0
	res, err := get(t, url, &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { hints++; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusNotFound || hints != 1 {
		t.Errorf("got %d after %d hints, want 404 after one", res.StatusCode, hints)
	}
	if text := closed(); !strings.Contains(text, "status=404") {
		t.Errorf("the log has another status:\n%s", text)
	}
}

func TestAPanicIsAnsweredAndExplained(t *testing.T) {
	url, closed := logged(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("the roof fell in") }))
	res, err := get(t, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusInternalServerError {
		t.Errorf("got %d, want 500", res.StatusCode)
	}
	text := closed()
	for _, want := range []string{"the roof fell in", "web_test.go", "status=500"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
}

// An answer that was cut off on purpose is cut off for the client too, and is still a request in the log.
func TestACutAnswerIsLogged(t *testing.T) {
	url, closed := logged(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	if res, err := get(t, url+"/cut", nil); err == nil {
		t.Errorf("got %d, want a broken connection", res.StatusCode)
	}
	if text := closed(); !strings.Contains(text, "path=/cut") || strings.Contains(text, "level=ERROR") {
		t.Errorf("the log:\n%s", text)
	}
}

func TestDecodeIsBounded(t *testing.T) {
	for what, test := range map[string]struct {
		kind, body string
		want       error
	}{
		"an object":       {"application/json", `{"name":"x","unknown":1}`, nil},
		"no content type": {"", `{}`, nil},
		"a form":          {"application/x-www-form-urlencoded", `name=x`, api.ErrUnsupported},
		"not JSON":        {"application/json", `{"name":`, api.ErrInvalid},
		"another type":    {"application/json", `{"name":1}`, api.ErrInvalid},
		"too large":       {"application/json", `{"name":"` + strings.Repeat("x", web.MaxBody) + `"}`, api.ErrTooLarge},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(test.body))
		if test.kind != "" {
			r.Header.Set("Content-Type", test.kind)
		}
		var into struct{ Name string }
		if err := web.Decode(r, &into); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", what, err, test.want)
		}
	}
	r := httptest.NewRequest(http.MethodPost, "/", io.MultiReader(strings.NewReader("{"), brokenReader{}))
	if err := web.Decode(r, &struct{}{}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a body that breaks off: got %v", err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A fleet of devices that ask every minute and hear that nothing is new must not bury the rest of the log.
func TestNothingNewIsNotLogged(t *testing.T) {
	for status, logged := range map[int]bool{http.StatusNotModified: false, http.StatusOK: true, http.StatusNotFound: true} {
		var log bytes.Buffer
		h := web.Logged(slog.New(slog.NewTextHandler(&log, nil)), func(*http.Request) bool { return false },
			http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/device/v3/x/state", nil))
		if got := strings.Contains(log.String(), "msg=request"); got != logged {
			t.Errorf("status %d: logged %t, want %t: %s", status, got, logged, log.String())
		}
	}
}
