package gitserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

const (
	callTimeout = 15 * time.Second
	maxAnswer   = 1 << 20
)

// credentials are what somebody sent over HTTPS, and from where. The zero value sent none.
type credentials struct{ authorization, address string }

// ask asks another role, the api role mostly. Its own words come back as a coded error; when it does not answer that is Unavailable.
func ask[T any](ctx context.Context, peer *pki.Peer, path string, by credentials, in any) (out T, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return out, fmt.Errorf("ask the api role: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, peer.URL+path, bytes.NewReader(body))
	if err != nil {
		return out, fmt.Errorf("ask the api role: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header["Idempotency-Key"] = nil // to ask again is harmless: on a connection that turns out to be dead it is asked again
	if by.authorization != "" {
		req.Header.Set("Authorization", by.authorization)
		req.Header.Set("X-Forwarded-For", by.address)
	}
	res, err := peer.HTTP.Do(req)
	if err != nil {
		return out, errors.Join(api.Errorf(api.Unavailable, "the api role does not answer; try again"), err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return out, errors.Join(api.Errorf(api.Unavailable, "the api role's answer was cut off; try again"), err)
	}
	if res.StatusCode >= 300 {
		return out, answerError(res.StatusCode, text)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return out, fmt.Errorf("read the api role's answer: %w", err)
	}
	return out, nil
}

// answerError is the error that a role answered with: a JSON string, plain text, or nothing.
func answerError(status int, body []byte) error {
	var text string
	if json.Unmarshal(body, &text) != nil {
		text = strings.TrimSpace(string(body))
	}
	if text == "" {
		text = http.StatusText(status)
	}
	return &api.Error{Code: api.CodeOf(status), Text: text}
}

// words is what a person is told of an error: only what is meant for them.
func words(err error) (text string, ours bool) {
	e := api.AsError(err)
	switch {
	case e.Code == api.Internal:
		return "internal error; the server's log has it", true
	case e.Text == "":
		return http.StatusText(e.Code.Status()), false
	}
	return e.Text, false
}
