package remote

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/roadstead-io/roadstead/api"
)

// SSHKey asks whether the owner of an SSH key may enter this device.
func (c *Client) SSHKey(ctx context.Context, key string, ask api.SSHKeyAsk) (out api.SSHKeyAnswer, err error) {
	if err := c.do(ctx, http.MethodPost, "/device/v3/ssh/key", key, ask, http.StatusOK, &out); err != nil {
		return out, fmt.Errorf("ask about an SSH key: %w", err)
	}
	return out, nil
}

// SSHBegin tells that somebody was let in.
func (c *Client) SSHBegin(ctx context.Context, key string, ask api.SSHBegin) (out api.SSHBegun, err error) {
	if err := c.do(ctx, http.MethodPost, "/device/v3/ssh/begin", key, ask, http.StatusOK, &out); err != nil {
		return out, fmt.Errorf("tell of an SSH session: %w", err)
	}
	return out, nil
}

// SSHStill asks which open sessions must end.
func (c *Client) SSHStill(ctx context.Context, key string, ask api.SSHStill) (out api.SSHStill, err error) {
	if err := c.do(ctx, http.MethodPost, "/device/v3/ssh/still", key, ask, http.StatusOK, &out); err != nil {
		return out, fmt.Errorf("ask about SSH sessions: %w", err)
	}
	return out, nil
}

// SSHEnd tells that a session ended. It needs no key but the session's token.
func (c *Client) SSHEnd(ctx context.Context, told api.SSHProgress) error {
	if err := c.do(ctx, http.MethodPost, "/device/v3/ssh/end", "", told, http.StatusOK, nil); err != nil {
		return fmt.Errorf("tell of the end of an SSH session: %w", err)
	}
	return nil
}

// SSHRecording sends what a session showed.
func (c *Client) SSHRecording(ctx context.Context, session int64, token string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	path := c.cfg.Endpoint + "/device/v3/ssh/session/" + strconv.FormatInt(session, 10) + "/recording"
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	req.Header.Set("Content-Type", "application/x-asciicast")
	req.Header.Set("Roadstead-Session", token)
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("send a recording: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // the connection is used again
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("send a recording: %w", statusError(resp))
	}
	return nil
}
