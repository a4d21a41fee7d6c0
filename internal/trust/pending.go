package trust

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// pendingFile is a file that waits for signatures.
type pendingFile struct {
	api.TrustFile
	user  int64  // who brought it; 0: nobody that there is still
	by    string // name of that user
	since time.Time
}

// readPending gives the files that wait for signatures.
func readPending(ctx context.Context, tx *db.Tx, fleet int64) ([]pendingFile, error) {
	rows, err := tx.QueryContext(ctx, `SELECT p.role, p.data, p.created_at, coalesce(u.id, 0), coalesce(u.username, '')
		FROM trust_pending p LEFT JOIN "user" u ON u.id = p.brought_by WHERE p.application = ?`, fleet)
	if err != nil {
		return nil, fmt.Errorf("waiting files: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var list []pendingFile
	for rows.Next() {
		var f pendingFile
		var data, at string
		if err := rows.Scan(&f.Role, &data, &at, &f.user, &f.by); err != nil {
			return nil, fmt.Errorf("waiting files: %w", err)
		}
		if f.since, err = db.ParseTime(at); err != nil {
			return nil, fmt.Errorf("waiting files: %w", err)
		}
		f.Data = []byte(data)
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b pendingFile) int { return inOrder(a.TrustFile, b.TrustFile) })
	return list, rows.Err()
}

// says names it, and who brought it.
func (f pendingFile) says() string {
	text := f.Role
	if version, err := versionOf(f.TrustFile); err == nil {
		text = fmt.Sprintf("%s version %d", f.Role, version)
	}
	if f.by != "" {
		text += " of " + f.by + "'s"
	}
	return text + ", since " + f.since.Format(time.RFC3339)
}

// keepPending keeps a file as waiting, as brought by whoever brought it first.
func keepPending(ctx context.Context, tx *db.Tx, fleet int64, f api.TrustFile, by access.Caller) error {
	version, err := versionOf(f)
	if err != nil {
		return err
	}
	var user any
	if by.User != 0 {
		user = by.User
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO trust_pending (created_at, application, role, version, data, brought_by) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (application, role) DO UPDATE SET version = excluded.version, data = excluded.data`, tx.NowText(), fleet, f.Role, version, string(f.Data), user)
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	return nil
}

func dropPending(ctx context.Context, tx *db.Tx, fleet int64, role string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM trust_pending WHERE application = ? AND role = ?`, fleet, role); err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	return nil
}

// apart is the error of who would put another file in the place of one that waits.
func (u *upload) apart(f given) error {
	at := slices.IndexFunc(u.pending, func(p pendingFile) bool { return p.Role == f.Role })
	return api.Errorf(api.Conflict, "files[%d]: another %s, waits for signatures: sign that one (roadstead trust sign %s), or have it taken back first (roadstead trust withdraw %s); nothing was changed",
		f.at, u.pending[at].says(), u.fleet.slug, u.fleet.slug)
}

// stands says whether a file that waits could still be published.
func (u *upload) stands(f api.TrustFile, as map[string]*storedFile, waits map[string]bool) (bool, error) {
	version, expires, err := lifeOf(f)
	if err == nil {
		err = u.check(given{TrustFile: f, at: -1}, version, expires, as, waits)
	}
	if err == nil {
		_, err = u.signed(given{TrustFile: f, at: -1}, as, waits)
	}
	return err == nil, unlessWrong(err)
}

// unlessWrong is nil for an error that says what is wrong with a file.
func unlessWrong(err error) error {
	if code := api.AsError(err).Code; code == api.Invalid || code == api.Conflict {
		return nil
	}
	return err
}

// decided says whether what waits changes nothing about who signs a role, or about who says that.
func (u *upload) decided(role string, as map[string]*storedFile) (bool, error) {
	now, err := holdersOf(as)
	if err != nil {
		return false, err
	}
	then, err := holdersOf(u.later)
	if err != nil {
		return false, err
	}
	for _, r := range []string{api.TrustTargets, api.TrustOwner, api.TrustOwner + "-"} {
		if !now[r].same(then[r]) {
			return false, nil
		}
		if r == role {
			break
		}
	}
	return true, nil
}

// policyRoles are taken back together: what one of them says hangs on the others.
var policyRoles = []string{api.TrustRoot, api.TrustTargets, api.TrustOwner}

// Withdraw takes back files that wait for signatures: who brought them may, and who says who may do what in the fleet. What is in force is not
// taken back. What waited because of them, and has enough signatures without, is published.
func (t *Trust) Withdraw(ctx context.Context, by access.Caller, name string, ask api.TrustWithdrawal) (out api.TrustWithdrawn, err error) {
	out = api.TrustWithdrawn{Withdrawn: []string{}, Published: []string{}, Waiting: []string{}}
	if len(ask.Files) == 0 || len(ask.Files) > maxUpload {
		return out, api.Errorf(api.Invalid, "files: 1 to %d at once, each as 3.root", maxUpload)
	}
	u, err := t.begin(ctx, by, name, nil)
	if err != nil {
		return out, err
	}
	err = t.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		if u.fleet, err = find(ctx, tx, by, name, access.Releases); err != nil {
			return err
		}
		u.now = tx.Now
		return u.withdraw(ctx, tx, by, ask.Files)
	})
	if err != nil {
		return out, err
	}
	if len(u.ready) > 0 {
		if err := t.bring(ctx, u.fleet.id, want{files: u.ready, owned: u.keys.Owned}); err != nil {
			return out, err
		}
	}
	for to, files := range map[*[]string][]api.TrustFile{&out.Withdrawn: u.gone(), &out.Published: u.ready, &out.Waiting: u.waiting} {
		if *to, err = named(files); err != nil {
			return out, err
		}
	}
	return out, t.relist(ctx, u)
}

// gone are the files that wait no more.
func (u *upload) gone() (list []api.TrustFile) {
	for _, f := range u.dropped {
		list = append(list, f.TrustFile)
	}
	slices.SortFunc(list, inOrder)
	return list
}

// withdraw deletes files that wait, by names like 3.root.
func (u *upload) withdraw(ctx context.Context, tx *db.Tx, by access.Caller, names []string) error {
	u.reset()
	files, err := readFiles(ctx, tx, u.fleet.id, ``)
	if err != nil {
		return err
	}
	if u.pending, err = readPending(ctx, tx, u.fleet.id); err != nil {
		return err
	}
	roles, err := u.find(names, files)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(policyRoles, func(r string) bool { return slices.Contains(roles, r) }) {
		roles = append(roles, policyRoles...)
	}
	var rest []given
	for _, f := range u.pending {
		g := given{TrustFile: f.TrustFile, at: -1}
		if !slices.Contains(roles, f.Role) {
			rest = append(rest, g)
			continue
		}
		if f.user == 0 || f.user != by.User {
			if err := rights.Require(ctx, tx, by, u.fleet.id, access.Members); err != nil {
				return err
			}
		}
		u.dropped = append(u.dropped, g)
	}
	if err := u.sort(rest, files); err != nil {
		return err
	}
	for _, f := range u.dropped {
		if err := dropPending(ctx, tx, u.fleet.id, f.Role); err != nil {
			return err
		}
	}
	if err := u.keepRaised(ctx, tx); err != nil {
		return err
	}
	withdrawn, err := named(u.gone())
	if err != nil {
		return err
	}
	return audit.Record(ctx, tx, by, audit.Entry{Act: "trust.withdraw", Kind: "application", ID: u.fleet.id, Name: u.fleet.slug, Fleet: u.fleet.id,
		Organization: u.fleet.organization, Detail: map[string]any{"files": strings.Join(withdrawn, " ")}})
}

// find gives the roles of files that wait.
func (u *upload) find(names []string, files map[string]*storedFile) (roles []string, err error) {
	for i, name := range names {
		var version int64
		number, role, _ := strings.Cut(name, ".")
		if _, err := fmt.Sscanf(number, "%d", &version); err != nil || fmt.Sprint(version) != number || version < 1 || rankOf(role) < 0 {
			return nil, api.Errorf(api.Invalid, "files[%d]: %.60q names no file that an owner signs, as 3.root does", i, name)
		}
		waits := slices.ContainsFunc(u.pending, func(f pendingFile) bool {
			v, err := versionOf(f.TrustFile)
			return err == nil && f.Role == role && v == version
		})
		old := files[role]
		switch {
		case waits:
			roles = append(roles, role)
		case old != nil && version <= old.version:
			return nil, api.Errorf(api.Conflict, "files[%d]: version %d of %s is in force, or was: what is in force is not taken back, but replaced", i, version, role)
		default:
			return nil, api.Errorf(api.NotFound, "files[%d]: no version %d of %s waits for signatures", i, version, role)
		}
	}
	return roles, nil
}
