package device

import (
	"context"
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

// home is what a device's row says that reports of releases are held against.
type home struct {
	fleet             int64
	uuid              string // the fleet's
	version           string // of the fleet's target
	target            int64  // the release that it should run; 0: none
	operator, manager int64  // the releases of the host and the supervisor that it should have; 0: none
	running           int64  // the release that it last said to run; 0: none
	update            string // how far it last said to be
}

// planApps compares what a device says of releases with what is known. A release or image that is not one of its fleet's, its
// host's or its supervisor's refuses the whole report.
func (d *Devices) planApps(ctx context.Context, tx *db.Tx, p *plan, apps map[string]*api.AppReport, k *known) error {
	home := k.home
	installs := map[int64]install{}
	status := ""
	for uuid, app := range apps {
		if app == nil {
			continue
		}
		fleetID := home.fleet
		if uuid != home.uuid {
			var err error
			if fleetID, err = otherApp(ctx, tx, uuid, home); err != nil {
				return err
			}
		}
		for commit, release := range app.Releases {
			if release == nil {
				continue
			}
			if err := d.planRelease(ctx, tx, home, fleetID, commit, release, installs); err != nil {
				return err
			}
			rank := updateOrder[release.UpdateStatus]
			if fleetID == home.fleet && rank > 0 && (status == "" || rank < updateOrder[status]) {
				status = release.UpdateStatus
			}
		}
		if app.ReleaseUUID == "" || fleetID != home.fleet {
			continue
		}
		id, _, err := d.releaseOf(ctx, tx, home, fleetID, app.ReleaseUUID)
		if err != nil {
			return err
		}
		if id != home.running {
			p.set["is_running__release"] = id
		}
	}
	if status != "" && status != home.update {
		p.set["update_status"] = status
	}
	p.compareInstalls(k.installs, installs)
	return nil
}

// otherApp finds an app that is not the device's fleet but may well be on it: its host's, its supervisor's, or a public one.
func otherApp(ctx context.Context, tx *db.Tx, uuid string, home home) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT f.id FROM application f WHERE f.uuid = ? AND (f.is_public = 1 OR EXISTS (
		SELECT 1 FROM "release" r WHERE r.id IN (?, ?) AND r.belongs_to__application = f.id))`, uuid, home.operator, home.manager).Scan(&id)
	if noRows(err) {
		return 0, api.ErrUnauthorized
	}
	return id, err
}

// releaseOf finds a successful release of an app by its commit, and its images if they are known without asking.
func (d *Devices) releaseOf(ctx context.Context, tx *db.Tx, home home, fleetID int64, commit string) (int64, *part, error) {
	if fleetID == home.fleet && home.target != 0 {
		target, err := d.parts.get(ctx, tx, partKey{fleet: fleetID, release: home.target}, home.version)
		if err != nil {
			return 0, nil, err
		}
		if target.commit == commit {
			return home.target, target, nil
		}
	}
	id, err := findRelease(ctx, tx, fleetID, commit)
	return id, nil, err
}

func findRelease(ctx context.Context, tx *db.Tx, fleetID int64, commit string) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id FROM "release" WHERE "commit" = ? AND belongs_to__application = ? AND status = 'success'`,
		commit, fleetID).Scan(&id)
	if noRows(err) {
		return 0, api.ErrUnauthorized
	}
	return id, err
}

func (d *Devices) planRelease(ctx context.Context, tx *db.Tx, home home, fleetID int64, commit string, r *api.ReleaseReport,
	installs map[int64]install) error {
	id, known, err := d.releaseOf(ctx, tx, home, fleetID, commit)
	if err != nil || len(r.Services) == 0 {
		return err
	}
	images := known.images()
	if known == nil {
		if images, err = releaseImages(ctx, tx, id); err != nil {
			return err
		}
	}
	for _, s := range r.Services {
		if s == nil {
			continue
		}
		image, ok := images[strings.ToLower(s.Image)]
		if !ok {
			return api.ErrUnauthorized
		}
		var progress any
		if s.DownloadProgress != nil {
			progress = int64(max(0, min(*s.DownloadProgress, 100)))
		}
		addInstall(installs, install{image: image, release: id, status: s.Status, progress: progress})
	}
	return nil
}

func addInstall(installs map[int64]install, i install) {
	if !knownStatus[i.status] {
		i.status = "Unknown"
	}
	// Two releases may share an image; what runs says more than what is on its way.
	if other, ok := installs[i.image]; !ok || other.status != "Running" {
		installs[i.image] = i
	}
}

// images gives the images of a part's release by the reference that a device has of them.
func (p *part) images() map[string]int64 {
	if p == nil {
		return nil
	}
	out := make(map[string]int64, len(p.services))
	for i := range p.services {
		out[p.services[i].target.Image] = p.services[i].target.ImageID
	}
	return out
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
func (p *plan) compareInstalls(rows []installed, installs map[int64]install) {
	for _, old := range rows {
		wanted, ok := installs[old.image]
		switch {
		case !ok && old.status != "deleted":
			p.gone = append(p.gone, old.id)
		case ok && old.install == wanted:
			delete(installs, old.image)
		}
	}
	for _, i := range installs {
		p.install = append(p.install, i)
	}
}
