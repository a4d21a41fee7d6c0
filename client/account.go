package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// Login gives a session token for a user name (or e-mail address) and a password.
func (c *Client) Login(ctx context.Context, username, password string) (string, error) {
	var token string
	err := c.As("").Do(ctx, http.MethodPost, "/login_", api.Login{Username: username, Password: password}, &token)
	if err != nil {
		return "", fmt.Errorf("log in: %w", err)
	}
	if token == "" {
		return "", errors.New("log in: the server answered without a token")
	}
	return token, nil
}

// Logout ends the session on the server; an API key has none and stays.
func (c *Client) Logout(ctx context.Context) error {
	if err := c.Do(ctx, http.MethodPost, "/user/v1/logout", nil, nil); err != nil {
		return fmt.Errorf("log out: %w", err)
	}
	return nil
}

// Whoami says whom the token stands for.
func (c *Client) Whoami(ctx context.Context) (*api.Whoami, error) {
	var who api.Whoami
	if err := c.Do(ctx, http.MethodGet, "/actor/v1/whoami", nil, &who); err != nil {
		return nil, fmt.Errorf("ask who I am: %w", err)
	}
	return &who, nil
}

// Refresh exchanges a session token for a new one; the old one ends.
func (c *Client) Refresh(ctx context.Context) (string, error) {
	var token string
	if err := c.Do(ctx, http.MethodGet, "/user/v1/refresh-token", nil, &token); err != nil {
		return "", fmt.Errorf("refresh the session: %w", err)
	}
	if token == "" {
		return "", errors.New("refresh the session: the server answered without a token")
	}
	return token, nil
}

// TokenIssued reads from a session token when it was issued; ok is false for an API key. Nothing is verified: only the server
// can.
func TokenIssued(token string) (at time.Time, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		IssuedAt int64 `json:"iat"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.IssuedAt == 0 {
		return time.Time{}, false
	}
	return time.Unix(claims.IssuedAt, 0), true
}

// CreateUserKey makes a named API key of the caller's own. It is shown this once.
func (c *Client) CreateUserKey(ctx context.Context, key api.NewKey) (string, error) {
	var secret string
	if err := c.Do(ctx, http.MethodPost, "/api-key/user/full", key, &secret); err != nil {
		return "", fmt.Errorf("create an API key: %w", err)
	}
	return secret, nil
}

// CreateProvisioningKey makes a key that may register devices into one fleet. It is shown this once.
func (c *Client) CreateProvisioningKey(ctx context.Context, fleet int64, key api.NewKey) (string, error) {
	key.ActorType, key.ActorTypeID, key.Roles = "application", fleet, []string{"provisioning-api-key"}
	var secret string
	if err := c.Do(ctx, http.MethodPost, "/api-key/v2/", key, &secret); err != nil {
		return "", fmt.Errorf("create a provisioning key: %w", err)
	}
	return secret, nil
}

// NewConfig says what a device's config.json shall hold.
type NewConfig struct {
	Fleet      int64      `json:"appId"`
	Version    string     `json:"version"` // of the operating system; the reference server insists on one
	DeviceType string     `json:"deviceType,omitempty"`
	KeyName    string     `json:"provisioningKeyName,omitempty"`
	KeyExpiry  *time.Time `json:"provisioningKeyExpiryDate,omitempty"`
	KeyMaxUses int        `json:"provisioningKeyMaxUses,omitempty"` // ours, not balena's
}

// DownloadConfig makes a config.json with a fresh provisioning key. It is given back as the server wrote it, so that keys which
// this client does not know reach the device.
func (c *Client) DownloadConfig(ctx context.Context, want NewConfig) (json.RawMessage, error) {
	var config json.RawMessage
	if err := c.Do(ctx, http.MethodPost, "/download-config", want, &config); err != nil {
		return nil, fmt.Errorf("make a device's configuration: %w", err)
	}
	if !json.Valid(config) {
		return nil, errors.New("make a device's configuration: the server's answer is not JSON")
	}
	return config, nil
}

// Register registers a device; the client's token is a provisioning key.
func (c *Client) Register(ctx context.Context, device api.Register) (*api.Registered, error) {
	var registered api.Registered
	if err := c.Do(ctx, http.MethodPost, "/device/register", device, &registered); err != nil {
		return nil, fmt.Errorf("register device %s: %w", device.UUID, err)
	}
	return &registered, nil
}

// VarNames says which names of variables are the platform's own.
type VarNames struct {
	ReservedNamespaces []string `json:"reservedNamespaces"`
}

// IsConfig reports whether a variable of that name configures the device rather than its services.
func (v VarNames) IsConfig(name string) bool {
	for _, prefix := range v.ReservedNamespaces {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// VarNames reads them.
func (c *Client) VarNames(ctx context.Context) (VarNames, error) {
	var names VarNames
	if err := c.Do(ctx, http.MethodGet, "/config/vars", nil, &names); err != nil {
		return VarNames{}, fmt.Errorf("read the names of variables: %w", err)
	}
	return names, nil
}
