package seen

import (
	"context"
	"fmt"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/tlog"
)

// At is where the server answers about the log.
const At = "/trust/v1/log"

// Newest asks for the newest checkpoint and verifies its signature.
func Newest(ctx context.Context, c *client.Client) (*api.TrustCheckpoint, tlog.Checkpoint, error) {
	var out api.TrustCheckpoint
	if err := c.Do(ctx, http.MethodGet, At+"/checkpoint", nil, &out); err != nil {
		return nil, tlog.Checkpoint{}, fmt.Errorf("ask for the log's checkpoint: %w", err)
	}
	cp, _, err := tlog.Open(out.Checkpoint, out.Key)
	return &out, cp, err
}

// Entries asks for some leaves, and checks that each is what its hash says.
func Entries(ctx context.Context, c *client.Client, start, end int64) ([]api.TrustLeaf, []tlog.Hash, error) {
	var list []api.TrustLeaf
	if err := c.Do(ctx, http.MethodGet, fmt.Sprintf("%s/entries?start=%d&end=%d", At, start, end), nil, &list); err != nil {
		return nil, nil, fmt.Errorf("ask for entries of the log: %w", err)
	}
	if len(list) == 0 || int64(len(list)) > end-start {
		return nil, nil, fmt.Errorf("the log gave %d entries from %d to %d", len(list), start, end)
	}
	hashes := make([]tlog.Hash, len(list))
	for i, l := range list {
		h, err := ParseHash(l.Hash)
		if err != nil || l.Index != start+int64(i) {
			return nil, nil, fmt.Errorf("entry %d of the log cannot be read", start+int64(i))
		}
		if len(l.Entry) > 0 && tlog.LeafHash(l.Entry) != h {
			return nil, nil, fmt.Errorf("entry %d of the log is not what its hash says: the server shows something that is not in the log", l.Index)
		}
		hashes[i] = h
	}
	return list, hashes, nil
}

// Consistent asks for the proof that a log goes on from one checkpoint to another, and checks it.
func Consistent(ctx context.Context, c *client.Client, from, to tlog.Checkpoint) error {
	var proof api.TrustLogging
	if from.Size > 0 && from.Size < to.Size {
		if err := c.Do(ctx, http.MethodGet, fmt.Sprintf("%s/consistency?from=%d&to=%d", At, from.Size, to.Size), nil, &proof); err != nil {
			return fmt.Errorf("ask for the proof of consistency: %w", err)
		}
	}
	return tlog.CheckConsistency(from, to, proof.Consistency)
}
