package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/roadstead-io/roadstead/api"
)

// BaseImages gives the base images that the server has.
func (c *Client) BaseImages(ctx context.Context) (images []api.BaseImage, err error) {
	return images, c.Do(ctx, http.MethodGet, "/base/v1/images", nil, &images)
}

// BaseRecord gives what is kept of a base image: its "sbom", "provenance" or "lock".
func (c *Client) BaseRecord(ctx context.Context, digest, what string) (text json.RawMessage, err error) {
	return text, c.Do(ctx, http.MethodGet, "/base/v1/images/"+url.PathEscape(digest)+"/"+url.PathEscape(what), nil, &text)
}
