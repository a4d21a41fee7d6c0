package client

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
)

// AuditExport copies the audit log, from after an entry on, line by line as it comes. Whether it came to its end its last line says.
func (c *Client) AuditExport(ctx context.Context, after int64, to io.Writer) error {
	req, err := c.request(ctx, http.MethodGet, fmt.Sprintf("%s/audit/v1/export?after=%d", c.base, after), nil)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("export the audit log: %w", unwrapURL(err))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return responseError(req, res)
	}
	if _, err := io.Copy(to, res.Body); err != nil {
		return fmt.Errorf("export the audit log: %w", err)
	}
	return nil
}

// AuditKeys gives the public keys with which the server says that its audit log is signed.
func (c *Client) AuditKeys(ctx context.Context) (keys []api.AuditKey, err error) {
	return keys, c.Do(ctx, http.MethodGet, "/audit/v1/keys", nil, &keys)
}
