package trust

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// find finds a fleet by its uuid or slug, for a caller who has some verbs on it; a device its own. What they may not see is not found.
func find(ctx context.Context, tx *db.Tx, by access.Caller, name string, need access.Verbs) (f fleetRow, err error) {
	where := `f.uuid = ?`
	if strings.Contains(name, "/") {
		where = `f.slug = ?`
	}
	if len(name) > 255 {
		return f, api.ErrNotFound
	}
	if f, err = readFleet(ctx, tx, where, strings.ToLower(name)); err != nil {
		return f, err
	}
	if by.Kind == access.Device || by.Kind == access.FleetKey {
		if by.Fleet != f.id || need&^access.Read != 0 {
			return fleetRow{}, api.ErrNotFound
		}
		return f, nil
	}
	return f, rights.Require(ctx, tx, by, f.id, access.Read|need)
}

// ready gives a fleet for a caller, with its metadata published.
func (t *Trust) ready(ctx context.Context, by access.Caller, name string, need access.Verbs) (f fleetRow, err error) {
	var v *view
	log, _ := t.Book.Key(ctx) // without a signer what is published is read all the same
	read := func() error {
		return t.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
			if f, err = find(ctx, tx, by, name, need); err != nil {
				return err
			}
			if v, err = readView(ctx, tx, viewKey{fleet: f.id}); err != nil {
				return err
			}
			if w, lacks := v.lacks(tx.Now, 0, 0, log); lacks {
				return &lacking{w}
			}
			return nil
		})
	}
	var l *lacking
	if err = read(); errors.As(err, &l) {
		if err = t.bringOnce(ctx, f.id, l.want); err == nil {
			err = read()
		}
	}
	return f, err
}

// lacking is the error of what has to be published first.
type lacking struct{ want }

func (*lacking) Error() string { return "the fleet's metadata are not published yet" }

// Keys are the server's public keys of a fleet.
func (t *Trust) Keys(ctx context.Context, by access.Caller, name string) (out api.TrustServerKeys, err error) {
	var f fleetRow
	if err := t.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
		f, err = find(ctx, tx, by, name, 0)
		return err
	}); err != nil {
		return out, err
	}
	var keys api.TrustFleetKeys
	err = t.ask(ctx, "keys", api.TrustKeysAsk{Fleet: f.uuid}, &keys)
	return keys.TrustServerKeys, err
}

// File gives one file of a fleet's metadata, as a client of The Update Framework asks for it: root.json and timestamp.json by their names, the
// others by version and name, or by the name alone for the newest.
func (t *Trust) File(ctx context.Context, by access.Caller, name, file string) (data []byte, err error) {
	role, ok := strings.CutSuffix(file, ".json")
	if !ok || len(file) > 64 {
		return nil, api.ErrNotFound
	}
	version := int64(0)
	if number, rest, ok := strings.Cut(role, "."); ok {
		if version, err = strconv.ParseInt(number, 10, 64); err != nil || version <= 0 {
			return nil, api.ErrNotFound
		}
		role = rest
	}
	if tuf.Bounds(role) == 0 {
		return nil, api.ErrNotFound
	}
	f, err := t.ready(ctx, by, name, 0)
	if err != nil {
		return nil, err
	}
	err = t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		var text string
		err := tx.QueryRowContext(ctx, `SELECT data FROM trust_file WHERE application = ? AND role = ? AND (? = 0 OR version = ?) ORDER BY version DESC LIMIT 1`,
			f.id, role, version, version).Scan(&text)
		if errors.Is(err, sql.ErrNoRows) {
			return api.ErrNotFound
		}
		data = []byte(text)
		return err
	})
	return data, err
}

// Document gives the document of a release, and makes it when it is asked for the first time.
func (t *Trust) Document(ctx context.Context, by access.Caller, name, commit string) (data []byte, err error) {
	if !commitForm.MatchString(commit) {
		return nil, api.ErrNotFound
	}
	var f fleetRow
	var release int64
	var d *document
	read := func() error {
		return t.cfg.DB.Read(ctx, func(tx *db.Tx) (err error) {
			if f, err = find(ctx, tx, by, name, 0); err != nil {
				return err
			}
			err = tx.QueryRowContext(ctx, `SELECT id FROM "release" WHERE belongs_to__application = ? AND "commit" = ? AND status = 'success'`, f.id, commit).Scan(&release)
			if errors.Is(err, sql.ErrNoRows) {
				return api.ErrNotFound
			}
			if err != nil {
				return fmt.Errorf("document: %w", err)
			}
			d, err = readDocument(ctx, tx, `d."release" = ?`, release)
			return err
		})
	}
	if err = read(); err == nil && d == nil {
		if err = t.bringOnce(ctx, f.id, want{release: release}); err == nil {
			err = read()
		}
	}
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, api.ErrNotFound
	}
	return d.data, nil
}

// Root is the root that devices of a fleet get with their config.json, when this server gives one.
func (t *Trust) Root(ctx context.Context, by access.Caller, fleet int64) (*api.ConfigTrust, error) {
	if !t.cfg.On || t.cfg.Ask == nil {
		return nil, nil //nolint:nilnil // none is given
	}
	var uuid string
	err := t.cfg.DB.ReadOne(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT uuid FROM application WHERE id = ?`, fleet).Scan(&uuid)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, api.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("root of fleet %d: %w", fleet, err)
	}
	data, err := t.File(ctx, by, uuid, "root.json")
	if err != nil {
		return nil, err
	}
	return &api.ConfigTrust{Fleet: uuid, Root: data}, nil
}

// Proof proves the newest listing of a release, by the builder or the owner.
func (t *Trust) Proof(ctx context.Context, by access.Caller, name, commit, whose string, from int64) (*api.TrustLogging, error) {
	if whose != api.TrustBuilder && whose != api.TrustOwner || from < 0 || !commitForm.MatchString(commit) {
		return nil, api.Errorf(api.Invalid, "by: builder or owner; from: a size; and a commit")
	}
	var e api.TrustEntry
	err := t.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		f, err := find(ctx, tx, by, name, 0)
		if err != nil {
			return err
		}
		d, err := readDocument(ctx, tx, `d.application = ? AND d."commit" = ?`, f.id, commit)
		if err != nil {
			return err
		}
		path, err := tuf.ReleasePath(commit)
		if err != nil || d == nil {
			return errors.Join(api.ErrNotFound, err)
		}
		role := tuf.BinRole(whose, path)
		files, err := readFiles(ctx, tx, f.id, ` AND f.role = ?`, role)
		if err != nil || files[role] == nil {
			return errors.Join(api.ErrNotFound, err)
		}
		bin, err := tuf.ReadBin(role, files[role].data)
		if err != nil {
			return err
		}
		l, ok := bin.Listed[path]
		if !ok {
			return api.ErrNotFound
		}
		e = d.entry(f.uuid, whose, l.Counter)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t.Book.Prove(ctx, e, from)
}
