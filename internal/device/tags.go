package device

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/report"
	"github.com/roadstead-io/roadstead/internal/fleet"
)

const (
	maxTagsReported = 100 // of one report
	maxTags         = 500 // of one device, when the device itself writes them
)

// ReportTags takes tags that a device gives itself: {"<uuid>": {"<key>": "<value>"}}. They are stored if its fleet says so
// (allows_tags_from_devices); otherwise they are taken and forgotten. It makes tags and changes them, and deletes none.
func (d *Devices) ReportTags(ctx context.Context, tx *db.Tx, by access.Caller, byUUID map[api.DeviceUUID]map[string]any) error {
	if by.Kind != access.Device {
		return api.Errorf(api.Forbidden, "only a device reports its tags")
	}
	tags := map[string]string{}
	for uuid, given := range byUUID {
		if api.DeviceRegistryUser(uuid) != by.Name {
			return api.ErrUnauthorized
		}
		for key, value := range given {
			text, ok := value.(string)
			if !ok {
				return api.Errorf(api.Invalid, "the tag %q is not a string", report.Cut(report.Plain(key), 100))
			}
			if len(key) > 255 || len(text) > maxValue {
				return api.Errorf(api.TooLarge, "a tag's key has at most 255 bytes, its value %d", maxValue)
			}
			if err := fleet.CheckTagKey(key); err != nil {
				return err
			}
			tags[key] = text
		}
	}
	switch {
	case len(tags) == 0:
		return api.Errorf(api.Invalid, "no tags were given")
	case len(tags) > maxTagsReported:
		return api.Errorf(api.TooLarge, "a report has at most %d tags", maxTagsReported)
	}
	var allowed, frozen bool
	err := tx.QueryRowContext(ctx, `SELECT f.allows_tags_from_devices = 1, d.is_frozen = 1 FROM device d
		JOIN application f ON f.id = d.belongs_to__application WHERE d.id = ?`, by.Device).Scan(&allowed, &frozen)
	switch {
	case noRows(err) || err == nil && frozen:
		return api.ErrUnauthorized
	case err != nil:
		return fmt.Errorf("tags of device %d: %w", by.Device, err)
	case !allowed:
		return nil
	}
	for key, value := range tags {
		_, err := tx.ExecContext(ctx, `INSERT INTO device_tag (created_at, device, tag_key, value) VALUES (?, ?, ?, ?)
			ON CONFLICT (device, tag_key) DO UPDATE SET value = excluded.value`, tx.NowText(), by.Device, key, report.Plain(value))
		if err != nil {
			return fmt.Errorf("tags of device %d: %w", by.Device, err)
		}
	}
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM device_tag WHERE device = ?`, by.Device).Scan(&n); err != nil {
		return fmt.Errorf("tags of device %d: %w", by.Device, err)
	}
	if n > maxTags {
		return api.Errorf(api.TooLarge, "a device gives itself at most %d tags", maxTags)
	}
	return nil
}
