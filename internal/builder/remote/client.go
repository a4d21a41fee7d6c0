package remote

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// ServerFile is where a worker notes which server it joined, in the directory that also has its key.
const ServerFile = "server.json"

// joined is its content.
type joined struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
	Server    string   `json:"server"` // fingerprint of the server's key
	Token     string   `json:"token"`  // SHA-256 of the secret, to know the token again
}

const (
	dialTime  = 10 * time.Second
	maxAnswer = 64 << 10
)

// ErrNotJoined says that a machine has joined no server.
var ErrNotJoined = errors.New("this machine has joined no server: give it the token that `roadsteadd admin worker add NAME` on the server prints, with --join TOKEN")

// Join makes this machine a worker of the server that made a token, and notes that in a directory. With "" it makes sure that it is one; a
// token that was used here before changes nothing.
func Join(ctx context.Context, dir, token, version string) (name string, err error) {
	server, err := readJoined(dir)
	if err != nil && !errors.Is(err, ErrNotJoined) {
		return "", err
	}
	if token == "" {
		return server.Name, err
	}
	t, err := ParseToken(token)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(t.Secret))
	used := hex.EncodeToString(sum[:])
	if server.Token == used {
		return server.Name, nil
	}
	file := filepath.Join(dir, KeyFile)
	// The key is made before it is told to the server: repeating a join that was cut short joins the same machine.
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		err = NewKey(file)
		if err != nil {
			return "", err
		}
	} else if err != nil {
		return "", err
	}
	key, err := loadKey(file)
	if err != nil {
		return "", err
	}
	var made joining
	if err := askAny(ctx, t, key, version, &made); err != nil {
		return "", err
	}
	data, err := json.MarshalIndent(joined{Name: made.Name, Addresses: t.Addresses, Server: t.Server, Token: used}, "", "  ")
	if err != nil {
		return "", err
	}
	return made.Name, durable.WriteFile(filepath.Join(dir, ServerFile), append(data, '\n'), 0o600)
}

func readJoined(dir string) (j joined, err error) {
	data, err := os.ReadFile(filepath.Join(dir, ServerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return j, ErrNotJoined
	}
	if err != nil {
		return j, err
	}
	if err := json.Unmarshal(data, &j); err != nil {
		return joined{}, fmt.Errorf("%s is damaged: %w", filepath.Join(dir, ServerFile), err)
	}
	return j, CheckAddresses(j.Addresses)
}

// askAny joins at the first address that answers.
func askAny(ctx context.Context, t Token, key tls.Certificate, version string, made *joining) error {
	body, err := json.Marshal(joining{Secret: t.Secret})
	if err != nil {
		return err
	}
	var errs []error
	for _, address := range t.Addresses {
		conn, err := dial(ctx, address, t.Server, key)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		res, _, err := exchange(ctx, conn, request(ctx, "/v1/join", version, body)) //nolint:bodyclose // readAnswer closes it
		if err == nil {
			err = readAnswer(res, made)
		}
		_ = conn.Close()
		if err == nil {
			if made.Name == "" {
				return fmt.Errorf("%s answered without a name", address)
			}
			return nil
		}
		if code := api.AsError(err).Code; code != api.Internal && code != api.Unavailable {
			return fmt.Errorf("the server refused: %w", err) // another address leads to the same server
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return fmt.Errorf("this machine could not join: %w", errors.Join(errs...))
}

// wrongKeyError is a server that is not the one that was joined.
type wrongKeyError struct{ address string }

func (e *wrongKeyError) Error() string {
	return fmt.Sprintf("%s proved another key than the one of the server that this machine was told to join: it is another server, its key was replaced, "+
		"or somebody stands in between. If the key was replaced, join again with a new token of `roadsteadd admin worker add`", e.address)
}

// dial makes a connection to the server, and to nobody who has another key.
func dial(ctx context.Context, address, server string, key tls.Certificate) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	d := tls.Dialer{
		NetDialer: &net.Dialer{KeepAlive: 30 * time.Second},
		Config: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{key}, NextProtos: []string{protocol},
			InsecureSkipVerify: true, // no authority vouches for the server: its key itself is known
			VerifyConnection: func(state tls.ConnectionState) error {
				if got, err := peerKey(state); err != nil || got != server {
					return &wrongKeyError{address}
				}
				return nil
			},
		},
	}
	conn, err := d.DialContext(ctx, "tcp", address)
	if wrong := (*wrongKeyError)(nil); errors.As(err, &wrong) {
		return nil, wrong
	}
	if err != nil {
		return nil, fmt.Errorf("the server cannot be reached at %s: %w", address, err)
	}
	return conn, nil
}

func request(ctx context.Context, path, version string, body []byte) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://workers"+path, bytes.NewReader(body))
	if err != nil {
		panic(err) // the address is ours
	}
	req.Header.Set("Roadstead-Version", version)
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	return req
}

// exchange sends a request and reads the head of its answer, whose body follows on what it gives.
func exchange(ctx context.Context, conn net.Conn, req *http.Request) (*http.Response, *bufio.Reader, error) {
	if err := conn.SetDeadline(time.Now().Add(2 * helloTime)); err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	if err := req.Write(conn); err != nil {
		return nil, nil, fmt.Errorf("ask the server: %w", err)
	}
	from := bufio.NewReader(conn)
	res, err := http.ReadResponse(from, req)
	if err != nil {
		return nil, nil, fmt.Errorf("ask the server: %w", err)
	}
	return res, from, nil
}

// readAnswer reads an answer's body, or the error that it is.
func readAnswer(res *http.Response, into any) error {
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		var words string
		if json.Unmarshal(data, &words) != nil {
			words = strings.TrimSpace(string(data))
		}
		return &api.Error{Code: api.CodeOf(res.StatusCode), Text: words}
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}
