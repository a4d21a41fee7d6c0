package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// Link opens a connection to a manager, wherever that is.
type Link func(ctx context.Context) (net.Conn, error)

// Local is the way to a manager on this machine, by the address of its socket ("unix:///path").
func Local(address string) Link {
	return func(ctx context.Context) (net.Conn, error) {
		path, ok := strings.CutPrefix(address, "unix://")
		if !ok {
			return nil, fmt.Errorf("the build service's address %q is not unix://", address)
		}
		return dial(ctx, path)
	}
}

// Dial opens a connection to a domain's daemon through a manager's socket ("unix:///path").
func Dial(ctx context.Context, address, domain string) (net.Conn, error) {
	return Local(address).Connect(ctx, domain)
}

// Ask asks a manager what it can build for.
func Ask(ctx context.Context, address string) (Status, error) { return Local(address).Ask(ctx) }

// Killed asks a manager which steps of a domain it ended since a time.
func Killed(ctx context.Context, address, domain string, since time.Time) ([]Kill, error) {
	return Local(address).Killed(ctx, domain, since)
}

// Connect opens a connection to a domain's daemon.
func (l Link) Connect(ctx context.Context, domain string) (net.Conn, error) {
	conn, err := l(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://worker/v1/domains/"+url.PathEscape(domain)+"/connect", nil)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgrade)
	buffered := bufio.NewReader(conn)
	res, err := exchange(conn, buffered, req)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	defer func() { _ = res.Body.Close() }() // empty, when the connection is ours
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer func() { _ = conn.Close() }()
		return nil, answerError(res)
	}
	if !stop() {
		return nil, errors.Join(ctx.Err(), conn.Close())
	}
	return &stream{Conn: conn, from: buffered}, nil
}

// Ask asks the manager what it can build for.
func (l Link) Ask(ctx context.Context) (s Status, err error) {
	err = l.get(ctx, "/v1/status", &s)
	return s, err
}

// Killed asks the manager which steps of a domain it ended since a time.
func (l Link) Killed(ctx context.Context, domain string, since time.Time) (list []Kill, err error) {
	err = l.get(ctx, "/v1/domains/"+url.PathEscape(domain)+"/kills?since="+url.QueryEscape(since.Format(time.RFC3339Nano)), &list)
	return list, err
}

func (l Link) get(ctx context.Context, path string, into any) error {
	conn, err := l(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://worker"+path, nil)
	if err != nil {
		return err
	}
	res, err := exchange(conn, bufio.NewReader(conn), req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return answerError(res)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("ask the build service: %w", err)
	}
	return nil
}

const maxAnswer = 64 << 10

func exchange(conn net.Conn, buffered *bufio.Reader, req *http.Request) (*http.Response, error) {
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("ask the build service: %w", err)
	}
	res, err := http.ReadResponse(buffered, req)
	if err != nil {
		return nil, fmt.Errorf("ask the build service: %w", err)
	}
	return res, nil
}

func answerError(res *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask the build service: %w", err)
	}
	var words string
	if json.Unmarshal(text, &words) != nil {
		words = strings.TrimSpace(string(text))
	}
	return &api.Error{Code: api.CodeOf(res.StatusCode), Text: words}
}

// stream is a connection of which a little was read already.
type stream struct {
	net.Conn
	from *bufio.Reader
}

func (s *stream) Read(p []byte) (int, error) { return s.from.Read(p) }
