package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
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
	WhiteListedNames   []string `json:"whiteListedNames"`
}

// IsConfig reports whether a variable of that name configures the device rather than its services.
func (v VarNames) IsConfig(name string) bool {
	if slices.Contains(v.WhiteListedNames, name) {
		return true
	}
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

// TwoFactorDue reports whether a session token waits for a second factor. Nothing is verified: only the server can.
func TwoFactorDue(token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return false
	}
	var claims struct {
		Due bool `json:"twoFactorRequired"`
	}
	return json.Unmarshal(payload, &claims) == nil && claims.Due
}

// VerifyCode gives the whole session for one that waits for a code; it takes a recovery code, too.
func (c *Client) VerifyCode(ctx context.Context, code string) (string, error) {
	var token string
	if err := c.Do(ctx, http.MethodPost, "/auth/totp/verify", api.FactorCode{Code: code}, &token); err != nil {
		return "", fmt.Errorf("verify the code: %w", err)
	}
	return token, nil
}

// SetupTOTP gives a new seed for one-time codes, in base32; EnableTOTP confirms it.
func (c *Client) SetupTOTP(ctx context.Context) (string, error) {
	var seed string
	if err := c.Do(ctx, http.MethodGet, "/auth/totp/setup", nil, &seed); err != nil {
		return "", fmt.Errorf("set up one-time codes: %w", err)
	}
	return seed, nil
}

// EnableTOTP confirms a seed with a code made of it. The token is of the session that takes the place of this one.
func (c *Client) EnableTOTP(ctx context.Context, code string) (api.Enrolled, error) {
	var out api.Enrolled
	if err := c.Do(ctx, http.MethodPost, "/auth/totp/enable", api.FactorCode{Code: code}, &out); err != nil {
		return out, fmt.Errorf("enable one-time codes: %w", err)
	}
	return out, nil
}

// DisableTOTP takes one-time codes away. The token is of the session that takes the place of this one.
func (c *Client) DisableTOTP(ctx context.Context, code string) (string, error) {
	var token string
	if err := c.Do(ctx, http.MethodPost, "/auth/totp/disable", api.FactorCode{Code: code}, &token); err != nil {
		return "", fmt.Errorf("disable one-time codes: %w", err)
	}
	return token, nil
}

// RenewRecoveryCodes gives ten new recovery codes, in the place of those there are.
func (c *Client) RenewRecoveryCodes(ctx context.Context, code string) ([]string, error) {
	var codes []string
	if err := c.Do(ctx, http.MethodPost, "/auth/totp/recovery-codes", api.FactorCode{Code: code}, &codes); err != nil {
		return nil, fmt.Errorf("renew recovery codes: %w", err)
	}
	return codes, nil
}

// Factors lists the caller's second factors.
func (c *Client) Factors(ctx context.Context) ([]api.Factor, error) {
	var list []api.Factor
	if err := c.Do(ctx, http.MethodGet, "/user/v1/factors", nil, &list); err != nil {
		return nil, fmt.Errorf("list second factors: %w", err)
	}
	return list, nil
}

// RemovePasskey removes a passkey. The token is of the session that takes the place of this one.
func (c *Client) RemovePasskey(ctx context.Context, id int64) (string, error) {
	var token string
	if err := c.Do(ctx, http.MethodDelete, fmt.Sprintf("/auth/webauthn/%d", id), nil, &token); err != nil {
		return "", fmt.Errorf("remove a passkey: %w", err)
	}
	return token, nil
}

// ChangePassword changes the caller's password; all sessions end. The token is of a new one.
func (c *Client) ChangePassword(ctx context.Context, change api.ChangePassword) (string, error) {
	var token string
	if err := c.Do(ctx, http.MethodPost, "/user/v1/password", change, &token); err != nil {
		return "", fmt.Errorf("change the password: %w", err)
	}
	return token, nil
}

// DeleteAccount deletes the account of the caller, whose user name is the confirmation.
func (c *Client) DeleteAccount(ctx context.Context, username string) error {
	if err := c.Do(ctx, http.MethodPost, "/user/v1/delete", api.DeleteAccount{Username: username}, nil); err != nil {
		return fmt.Errorf("delete the account: %w", err)
	}
	return nil
}
