package device

import (
	"context"
	"database/sql"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// install is one image on a device.
type install struct {
	image, release int64
	status         string
	progress       any // per cent, or nil
}

// knownStatus are the words for what a service does; others become "Unknown".
var knownStatus = map[string]bool{
	"Downloading": true, "Downloaded": true, "Installing": true, "Installed": true, "Starting": true, "Running": true, "Idle": true,
	"Handing over": true, "Awaiting handover": true, "Stopping": true, "Stopped": true, "exited": true, "Deleting": true,
	"deleted": true, "Dead": true, "paused": true, "restarting": true, "removing": true, "configuring": true, "Unknown": true,
}

// updateOrder ranks how far an update is; a device is as far as the least of its releases.
var updateOrder = map[string]int{
	"rejected": 1, "aborted": 2, "downloading": 3, "downloaded": 4, "applying changes": 5, "done": 6,
}

// planApps compares what a device says of its fleet's releases. Releases and images that are not its fleet's refuse the whole
// report.
func (p *plan) planApps(ctx context.Context, tx *db.Tx, apps map[string]*api.AppReport, fleetID int64, fleetUUID, update string,
	running sql.NullInt64) error {
	installs := map[int64]install{}
	status, reportedRunning := "", false
	for uuid, app := range apps {
		if app == nil {
			continue
		}
		if uuid != fleetUUID {
			return api.ErrUnauthorized
		}
		for commit, release := range app.Releases {
			if release == nil {
				continue
			}
			id, err := p.planRelease(ctx, tx, fleetID, commit, release, installs)
			if err != nil {
				return err
			}
			if rank := updateOrder[release.UpdateStatus]; rank > 0 && (status == "" || rank < updateOrder[status]) {
				status = release.UpdateStatus
			}
			if commit == app.ReleaseUUID {
				p.setRunning(running, id)
				reportedRunning = true
			}
		}
		if app.ReleaseUUID != "" && !reportedRunning {
			id, err := findRelease(ctx, tx, fleetID, app.ReleaseUUID)
			if err != nil {
				return err
			}
			p.setRunning(running, id)
		}
	}
	if status != "" && status != update {
		p.set["update_status"] = status
	}
	return p.compareInstalls(ctx, tx, installs)
}

func (p *plan) setRunning(old sql.NullInt64, id int64) {
	if !old.Valid || old.Int64 != id {
		p.set["is_running__release"] = id
	}
}

func findRelease(ctx context.Context, tx *db.Tx, fleetID int64, commit string) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id FROM "release" WHERE "commit" = ? AND belongs_to__application = ? AND status = 'success'`,
		commit, fleetID).Scan(&id)
	if noRows(err) {
		return 0, api.ErrUnauthorized
	}
	return id, err
}

func (p *plan) planRelease(ctx context.Context, tx *db.Tx, fleetID int64, commit string, r *api.ReleaseReport,
	installs map[int64]install) (int64, error) {
	id, err := findRelease(ctx, tx, fleetID, commit)
	if err != nil || len(r.Services) == 0 {
		return id, err
	}
	images, err := releaseImages(ctx, tx, id)
	if err != nil {
		return 0, err
	}
	for _, s := range r.Services {
		if s == nil {
			continue
		}
		image, ok := images[strings.ToLower(s.Image)]
		if !ok {
			return 0, api.ErrUnauthorized
		}
		i := install{image: image, release: id, status: s.Status}
		if !knownStatus[i.status] {
			i.status = "Unknown"
		}
		if s.DownloadProgress != nil {
			i.progress = int64(max(0, min(*s.DownloadProgress, 100)))
		}
		// Two releases may share an image; what runs says more than what is on its way.
		if other, ok := installs[image]; !ok || other.status != "Running" {
			installs[image] = i
		}
	}
	return id, nil
}

// releaseImages gives a release's images by the reference that a device has of them.
func releaseImages(ctx context.Context, tx *db.Tx, release int64) (map[string]int64, error) {
	rows, err := tx.QueryContext(ctx, `SELECT i.id, i.is_stored_at__image_location, coalesce(i.content_hash, '')
		FROM release_image ri JOIN image i ON i.id = ri.image WHERE ri.is_part_of__release = ?`, release)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	out := map[string]int64{}
	for rows.Next() {
		var id int64
		var location, digest string
		if err := rows.Scan(&id, &location, &digest); err != nil {
			return nil, err
		}
		out[strings.ToLower(location+"@"+digest)] = id
	}
	return out, rows.Err()
}

// compareInstalls plans what differs from the rows there are; those that the device no longer names are gone from it.
func (p *plan) compareInstalls(ctx context.Context, tx *db.Tx, installs map[int64]install) error {
	rows, err := tx.QueryContext(ctx, `SELECT id, installs__image, is_provided_by__release, status, download_progress
		FROM image_install WHERE device = ?`, p.device)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id int64
		var old install
		var progress sql.NullInt64
		if err := rows.Scan(&id, &old.image, &old.release, &old.status, &progress); err != nil {
			return err
		}
		if progress.Valid {
			old.progress = progress.Int64
		}
		wanted, ok := installs[old.image]
		switch {
		case !ok && old.status != "deleted":
			p.gone = append(p.gone, id)
		case ok && old == wanted:
			delete(installs, old.image)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, i := range installs {
		p.install = append(p.install, i)
	}
	return nil
}
