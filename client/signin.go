package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
)

// DeviceCode begins a login that somebody approves elsewhere, in a browser. client says to that person what waits.
func (c *Client) DeviceCode(ctx context.Context, client string) (code api.DeviceCode, err error) {
	err = c.As("").Do(ctx, http.MethodPost, "/auth/v1/device/code", map[string]string{"client_id": client}, &code)
	if err != nil {
		return code, fmt.Errorf("ask for a code: %w", err)
	}
	return code, nil
}

// DeviceToken asks whether it was approved. Of the errors that the protocol knows the answer has the word, see [api.DeviceToken].
func (c *Client) DeviceToken(ctx context.Context, code api.DeviceCode) (answer api.DeviceToken, err error) {
	err = c.As("").Do(ctx, http.MethodPost, "/auth/v1/device/token", map[string]string{"device_code": code.DeviceCode}, &answer)
	var re *ResponseError
	if errors.As(err, &re) && re.Status == http.StatusBadRequest {
		switch word := re.Err.Text; word {
		case api.DevicePending, api.DeviceSlowDown, api.DeviceDenied, api.DeviceExpired:
			return api.DeviceToken{Error: word}, nil
		}
	}
	if err != nil {
		return answer, fmt.Errorf("ask for the session: %w", err)
	}
	return answer, nil
}

// Identities lists one's own identities at sign-in providers.
func (c *Client) Identities(ctx context.Context) (list []api.Identity, err error) {
	if err = c.Do(ctx, http.MethodGet, "/user/v1/identities", nil, &list); err != nil {
		return nil, fmt.Errorf("list identities: %w", err)
	}
	return list, nil
}

// Unlink removes one of them.
func (c *Client) Unlink(ctx context.Context, identity int64) error {
	if err := c.Do(ctx, http.MethodDelete, fmt.Sprintf("/user/v1/identities/%d", identity), nil, nil); err != nil {
		return fmt.Errorf("unlink: %w", err)
	}
	return nil
}
