package remote

import (
	"context"
	"fmt"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
)

// maxBundle bounds the metadata that a server may send at once.
const maxBundle = 3 << 20

// Bundle asks for the signed metadata that a device lacks.
func (c *Client) Bundle(ctx context.Context, uuid api.DeviceUUID, key string, have api.TrustHave) (out api.TrustBundle, err error) {
	if err := c.doWithin(ctx, maxBundle, http.MethodPost, "/trust/v1/device/"+string(uuid)+"/bundle", key, have, http.StatusOK, &out); err != nil {
		return api.TrustBundle{}, fmt.Errorf("fetch signed metadata: %w", err)
	}
	return out, nil
}

// TrustReport tells what became of the checks.
func (c *Client) TrustReport(ctx context.Context, uuid api.DeviceUUID, key string, report api.TrustReport) error {
	if err := c.do(ctx, http.MethodPost, "/trust/v1/device/"+string(uuid)+"/report", key, report, http.StatusOK, nil); err != nil {
		return fmt.Errorf("report of the checks: %w", err)
	}
	return nil
}
