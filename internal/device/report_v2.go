package device

import (
	"context"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/report"
)

// ReportV2 takes a report of a supervisor before version 13. The body is {"local": {what changed}, "dependent": …}; its apps are keyed
// by ids: {"<fleet>": {"services": {"<image>": {"status", "releaseId", "download_progress"}}}}, and is_on__commit says what runs.
func (d *Devices) ReportV2(ctx context.Context, by access.Caller, uuid api.DeviceUUID, body []byte, address string) error {
	if by.Kind != access.Device {
		return api.Errorf(api.Forbidden, "only a device reports its state")
	}
	r, err := report.ReadV2(body)
	if err != nil {
		return err
	}
	return d.take(ctx, by, uuid, r, address)
}

// planOlder compares what an older device says of its fleet's releases. Images that are not its fleet's refuse the whole report.
func planOlder(ctx context.Context, tx *db.Tx, p *plan, older *report.Older, k *known) error {
	home := k.home
	if older.Commit != "" {
		id, err := findRelease(ctx, tx, home.fleet, older.Commit)
		if err != nil {
			return err
		}
		if id != home.running {
			p.set["is_running__release"] = id
		}
	}
	if !older.Said {
		return nil
	}
	installs := map[int64]install{}
	for _, s := range older.Services {
		// Without a release it is the newest that has the image, which is the only one but for images that were built once.
		var release int64
		err := tx.QueryRowContext(ctx, `SELECT r.id FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
			WHERE ri.image = ? AND r.belongs_to__application = ? AND r.status = 'success' AND (CAST(? AS BIGINT) = 0 OR r.id = ?)
			ORDER BY r.id DESC LIMIT 1`, s.Image, home.fleet, s.Release, s.Release).Scan(&release)
		if noRows(err) {
			return api.ErrUnauthorized
		}
		if err != nil {
			return err
		}
		addInstall(installs, install{image: s.Image, release: release, status: s.Status, progress: s.Progress})
	}
	p.compareInstalls(k.installs, installs)
	return nil
}
