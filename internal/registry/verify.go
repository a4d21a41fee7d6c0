package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
)

// VerifyBlobs reads every blob of the storage that a configuration names and compares it with its digest. The error names each one
// that is damaged.
func VerifyBlobs(ctx context.Context, cfg Config) (int, error) {
	st, err := openStorage(ctx, cfg)
	if err != nil {
		return 0, fmt.Errorf("registry: %w", err)
	}
	got, err := st.check(ctx)
	problems := []error{err}
	for _, d := range got.Damaged {
		problems = append(problems, fmt.Errorf("registry: blob %s is damaged: its bytes have another digest", d))
	}
	return int(got.Blobs), errors.Join(problems...)
}

// check reads every blob.
func (st *storage) check(ctx context.Context) (api.RegistryChecked, error) {
	got := api.RegistryChecked{Damaged: []string{}}
	err := st.eachBlob(ctx, func(digest string) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, good, err := st.whole(ctx, digest)
		if err != nil {
			return fmt.Errorf("registry: read blob %s: %w", digest, err)
		}
		got.Blobs++
		got.Bytes += n
		if !good {
			got.Damaged = append(got.Damaged, digest)
		}
		return nil
	})
	return got, err
}
