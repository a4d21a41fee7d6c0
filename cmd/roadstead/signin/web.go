// Package signin is the ways in that need a browser: on this computer, or on another one with a code.
package signin

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
)

// Web says how a login through a browser is done.
type Web struct {
	Client *client.Client                   // of the server, without a token
	Say    func(format string, args ...any) // to whoever logs in
	Port   int                              // where the browser brings the session; 0: any
	// Timeout is how long the browser is waited for. 0 means five minutes.
	Timeout time.Duration
	// Open opens a browser. nil means the system's own way.
	Open func(ctx context.Context, address string) error
	// Pause waits between questions. nil means the clock.
	Pause func(ctx context.Context, d time.Duration) error
}

var errNoBrowser = errors.New("no browser can be opened here")

// Browser gives the token of a session that is authorized in this computer's browser; where there is none, with a code in another.
func Browser(ctx context.Context, w Web) (token string, err error) {
	if w.Timeout == 0 {
		w.Timeout = 5 * time.Minute
	}
	if w.Open == nil {
		w.Open = openBrowser
	}
	waiting, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(w.Port)))
	if err != nil {
		return "", fmt.Errorf("wait for the browser: %w", err)
	}
	d := &delivery{host: waiting.Addr().String(), path: "/auth/" + secret(), client: w.Client, token: make(chan string, 1)}
	srv := &http.Server{Handler: d, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(waiting) }()
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second) // the browser gets its page
		defer cancel()
		_ = srv.Shutdown(stop)
		<-served //nolint:errcheck // it is http.ErrServerClosed
	}()
	callback := "http://" + d.host + d.path
	page := w.Client.ServiceURL("dashboard") + "/login/cli/" + strings.ReplaceAll(url.QueryEscape(callback), "%", "%25")
	if err := w.Open(ctx, page); err != nil {
		w.Say("%v.", errNoBrowser)
		return Device(ctx, w)
	}
	w.Say("Your browser opens %s", page)
	w.Say("Press Authorize there. If no browser opens, stop this with Ctrl-C and use --device.")
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	select {
	case token := <-d.token:
		return token, nil
	case err := <-served:
		served <- err
		return "", fmt.Errorf("wait for the browser: %w", err)
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return "", fmt.Errorf("nobody authorized this in the browser within %s", w.Timeout)
		}
		return "", ctx.Err()
	}
}

// delivery is where the browser brings a session. Its path is a secret between this program and the dashboard, so that no other page
// can bring somebody else's.
type delivery struct {
	host, path string
	client     *client.Client
	token      chan string
}

func (d *delivery) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(status int, text string) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Roadstead</title><p>%s</p></html>\n", text)
	}
	if r.Host != d.host || r.URL.Path != d.path || r.Method != http.MethodPost {
		answer(http.StatusNotFound, "There is nothing here.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	if err := r.ParseForm(); err != nil || r.PostForm.Get("token") == "" {
		answer(http.StatusBadRequest, "No session came along.")
		return
	}
	token := r.PostForm.Get("token")
	if _, err := d.client.As(token).Whoami(r.Context()); err != nil {
		answer(http.StatusUnauthorized, "The session does not hold. Try again.")
		return
	}
	answer(http.StatusOK, "You are logged in. You can close this page and go back to the terminal.")
	select {
	case d.token <- token:
	default: // one is there already
	}
}

func secret() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

// Device gives the token of a session that somebody approves in a browser elsewhere, with a code.
func Device(ctx context.Context, w Web) (token string, err error) {
	if w.Pause == nil {
		w.Pause = pause
	}
	name := "roadstead"
	if host, err := os.Hostname(); err == nil && host != "" {
		name += " on " + host
	}
	code, err := w.Client.DeviceCode(ctx, name)
	if err != nil {
		return "", err
	}
	w.Say("Open %s in a browser, anywhere, and give the code %s", code.VerificationURI, code.UserCode)
	every := time.Duration(max(code.Interval, 1)) * time.Second
	for {
		if err := w.Pause(ctx, every); err != nil {
			return "", err
		}
		answer, err := w.Client.DeviceToken(ctx, code)
		switch {
		case errors.Is(err, api.ErrUnavailable), errors.Is(err, api.ErrRateLimited): // it comes back, and the code still holds
			every = min(2*every, time.Minute)
			continue
		case err != nil:
			return "", err
		}
		switch answer.Error {
		case "":
			if answer.AccessToken == "" {
				return "", errors.New("the server answered without a session")
			}
			return answer.AccessToken, nil
		case api.DevicePending:
		case api.DeviceSlowDown:
			every += 5 * time.Second
		case api.DeviceDenied:
			return "", api.Errorf(api.Forbidden, "it was not approved")
		default:
			return "", api.Errorf(api.Unauthorized, "nobody approved the code in time; log in again")
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// openBrowser opens an address in the browser of this system. Where nothing can show one, it says so.
func openBrowser(ctx context.Context, address string) error {
	name, args := "xdg-open", []string{address}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", address}
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), name, args...)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the program that it started; a browser may stay for hours
	select {
	case err := <-ended:
		return err
	case <-time.After(2 * time.Second): // it runs, so it shows something
		return nil
	}
}
