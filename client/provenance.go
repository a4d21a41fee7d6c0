package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// StatementRow is the signed statement of where a release comes from.
type StatementRow struct {
	KeyID    string `json:"key_id"`
	Envelope string `json:"envelope"`
}

// StatementKeys gives the public keys with which the server says that statements of where releases come from are signed.
func (c *Client) StatementKeys(ctx context.Context) (keys []api.StatementKey, err error) {
	return keys, c.Do(ctx, http.MethodGet, "/provenance/v1/keys", nil, &keys)
}

// RegistryBlob reads a blob that lies beside an image, as who may pull the image, and checks that it is the one that was asked for.
// location is that of the image: <registry host>/v2/<32 hex>.
func (c *Client) RegistryBlob(ctx context.Context, location, digest string, limit int64) ([]byte, error) {
	_, repository, ok := strings.Cut(location, "/")
	want, sha := strings.CutPrefix(digest, "sha256:")
	if !ok || !sha {
		return nil, api.Errorf(api.Invalid, "%s@%s names nothing in a registry", location, digest)
	}
	registry := c.ServiceURL("registry2")
	q := url.Values{"service": {strings.TrimPrefix(registry, "https://")}, "scope": {"repository:" + repository + ":pull"}}
	var token struct{ Token string }
	if err := c.Do(ctx, http.MethodGet, "/auth/v1/token?"+q.Encode(), nil, &token); err != nil {
		return nil, fmt.Errorf("ask for a token for the registry: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req, err := c.As(token.Token).request(ctx, http.MethodGet, registry+"/v2/"+repository+"/blobs/"+digest, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the registry: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, api.Errorf(api.CodeOf(res.StatusCode), "the registry answered %s for %s", res.Status, digest)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read from the registry: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, api.Errorf(api.TooLarge, "%s is larger than %d bytes", digest, limit)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want {
		return nil, api.Errorf(api.Invalid, "what the registry holds as %s is something else", digest)
	}
	return data, nil
}
