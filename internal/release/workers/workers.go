// Package workers owns the rows about machines that build for this server and are not its own: who was invited, with which key they
// are known since they joined, and what the builder saw of them last.
package workers

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/token"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the table of this package, numbers 0240 to 0249.
func Migrations() fs.FS { return db.Folder(migrations) }

// Most is how many workers a server has.
const Most = 100

const (
	shortest     = time.Minute
	longest      = 30 * 24 * time.Hour
	seenEvery    = 30 * time.Second // how exact seen_at is
	maxText      = 200              // bytes of a text that a worker says of itself
	maxPlatforms = 40
	secretDomain = "worker join\x00"
	kind         = "build_worker"
)

var (
	nameForm     = pattern.New(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)
	keyForm      = pattern.New(`^[0-9a-f]{64}$`)
	platformForm = pattern.New(`^[a-z0-9]{1,20}/[a-z0-9]{1,20}(/[a-z0-9]{1,10})?$`)
)

// Rows are the package's functions with what they need.
type Rows struct{ hash token.Hasher }

// New makes it.
func New(hash token.Hasher) *Rows { return &Rows{hash} }

func (s *Rows) hashed(secret string) string {
	return hex.EncodeToString(s.hash.MAC(secretDomain, secret))
}

// Add invites a worker, or anew one that has not joined.
func (s *Rows) Add(ctx context.Context, tx *db.Tx, by access.Caller, ask api.NewWorker) (api.WorkerInvitation, error) {
	life := time.Duration(ask.Seconds) * time.Second
	switch {
	case !nameForm.MatchString(ask.Name) || ask.Name == "local":
		return api.WorkerInvitation{}, api.Errorf(api.Invalid, "name %.60q: 1 to 40 lower-case letters, digits and hyphens, and not \"local\"", ask.Name)
	case ask.Seconds < int64(shortest/time.Second) || ask.Seconds > int64(longest/time.Second):
		return api.WorkerInvitation{}, api.Errorf(api.Invalid, "seconds: a token holds for 1 minute to 30 days, not for %d seconds", ask.Seconds)
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM build_worker WHERE name = ? AND joined_at IS NULL`, ask.Name)
	if err != nil {
		return api.WorkerInvitation{}, fmt.Errorf("invite a worker: %w", err)
	}
	var count int
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM build_worker`).Scan(&count); err != nil {
		return api.WorkerInvitation{}, fmt.Errorf("invite a worker: %w", err)
	}
	if count >= Most {
		return api.WorkerInvitation{}, api.Errorf(api.Conflict, "there are %d workers already; remove one", Most)
	}
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails, see crypto/rand
	made := api.WorkerInvitation{Name: ask.Name, Secret: base64.RawURLEncoding.EncodeToString(raw[:]), ExpiresAt: db.FormatTime(tx.Now.Add(life))}
	var id int64
	err = tx.QueryRowContext(ctx, `INSERT INTO build_worker (created_at, name, token_hash, token_expires_at) VALUES (?, ?, ?, ?) RETURNING id`,
		tx.NowText(), ask.Name, s.hashed(made.Secret), made.ExpiresAt).Scan(&id)
	if db.IsUnique(err) {
		return api.WorkerInvitation{}, api.Errorf(api.Conflict, "there is a worker %s already; remove it first, or choose another name", ask.Name)
	}
	if err != nil {
		return api.WorkerInvitation{}, fmt.Errorf("invite a worker: %w", err)
	}
	return made, audit.Record(ctx, tx, by, audit.Entry{Act: "worker.add", Kind: kind, ID: id, Name: ask.Name,
		Detail: map[string]any{"expires_at": made.ExpiresAt}})
}

// Remove takes a worker's key, or its token, away.
func (s *Rows) Remove(ctx context.Context, tx *db.Tx, by access.Caller, name string) error {
	var id int64
	err := tx.QueryRowContext(ctx, `DELETE FROM build_worker WHERE name = ? RETURNING id`, name).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return api.Errorf(api.NotFound, "there is no worker %.60q", name)
	}
	if err != nil {
		return fmt.Errorf("remove a worker: %w", err)
	}
	return audit.Record(ctx, tx, by, audit.Entry{Act: "worker.remove", Kind: kind, ID: id, Name: name})
}

// Join makes a key the one of the worker that was invited with a secret. Repeating it with the same key changes nothing: the first
// answer may have been lost.
func (s *Rows) Join(ctx context.Context, tx *db.Tx, by access.Caller, ask api.WorkerJoin) (api.WorkerAdmitted, error) {
	var w api.WorkerAdmitted
	if !keyForm.MatchString(ask.Key) {
		return w, api.Errorf(api.Invalid, "key: not a SHA-256")
	}
	var key, joined sql.NullString
	var expires string
	err := tx.QueryRowContext(ctx, `SELECT id, name, public_key, joined_at, token_expires_at FROM build_worker WHERE token_hash = ?`, s.hashed(ask.Secret)).
		Scan(&w.ID, &w.Name, &key, &joined, &expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return api.WorkerAdmitted{}, api.Errorf(api.Unauthorized, "the server does not know this token: the worker it was made for was removed or "+
			"invited anew, or it is of another server. `roadsteadd admin worker add` on the server makes one")
	case err != nil:
		return api.WorkerAdmitted{}, fmt.Errorf("join: %w", err)
	case key.Valid && key.String == ask.Key:
		return w, nil
	case key.Valid:
		return api.WorkerAdmitted{}, api.Errorf(api.Conflict, "this token was used already, for worker %s at %s; a token lets one machine in. If that was not you, "+
			"remove the worker: `roadsteadd admin worker remove %s` on the server", w.Name, joined.String, w.Name)
	case expires <= tx.NowText():
		return api.WorkerAdmitted{}, api.Errorf(api.Unauthorized, "this token lapsed at %s; `roadsteadd admin worker add %s` on the server makes another", expires, w.Name)
	}
	_, err = tx.ExecContext(ctx, `UPDATE build_worker SET public_key = ?, joined_at = ?, address = ? WHERE id = ?`, ask.Key, tx.NowText(), cut(ask.Address), w.ID)
	if db.IsUnique(err) {
		return api.WorkerAdmitted{}, api.Errorf(api.Conflict, "this machine joined as another worker; remove that one first")
	}
	if err != nil {
		return api.WorkerAdmitted{}, fmt.Errorf("join: %w", err)
	}
	by.Address = ask.Address
	return w, audit.Record(ctx, tx, by, audit.Entry{Act: "worker.join", Kind: kind, ID: w.ID, Name: w.Name, Detail: map[string]any{"key": ask.Key}})
}

// Open says which worker has a key.
func (s *Rows) Open(ctx context.Context, tx *db.Tx, key string) (w api.WorkerAdmitted, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id, name FROM build_worker WHERE public_key = ?`, key).Scan(&w.ID, &w.Name)
	if errors.Is(err, sql.ErrNoRows) {
		return w, api.Errorf(api.Unauthorized, "the server does not know this machine: the worker was removed. To come back it joins again, "+
			"with a new token of `roadsteadd admin worker add`")
	}
	if err != nil {
		return w, fmt.Errorf("whose key: %w", err)
	}
	return w, nil
}

// Stay says which of the connected workers may stay, and whether what is said of them is news, see Live.
func (s *Rows) Stay(ctx context.Context, tx *db.Tx, live api.WorkersLive) (stay api.WorkersStay, news bool, err error) {
	rows, err := s.known(ctx, tx)
	if err != nil {
		return stay, false, err
	}
	for _, r := range rows {
		w, connected := r.among(live)
		if connected {
			stay.IDs = append(stay.IDs, r.id)
		}
		news = news || connected != r.connected || connected && (r.said != said(w) || r.seen <= db.FormatTime(tx.Now.Add(-seenEvery)))
	}
	return stay, news, nil
}

// Live writes down what is known of all workers that are connected, and that the others are not.
func (s *Rows) Live(ctx context.Context, tx *db.Tx, live api.WorkersLive) (stay api.WorkersStay, err error) {
	rows, err := s.known(ctx, tx)
	if err != nil {
		return stay, err
	}
	for _, r := range rows {
		w, connected := r.among(live)
		if connected {
			stay.IDs = append(stay.IDs, r.id)
			t := said(w)
			_, err = tx.ExecContext(ctx, `UPDATE build_worker SET connected = 1, seen_at = ?, address = ?, version = ?, buildkit = ?, platforms = ?, why = ? WHERE id = ?`,
				tx.NowText(), t.address, t.version, t.buildkit, t.platforms, t.why, r.id)
		} else if r.connected {
			_, err = tx.ExecContext(ctx, `UPDATE build_worker SET connected = 0, seen_at = ? WHERE id = ?`, tx.NowText(), r.id)
		}
		if err != nil {
			return stay, fmt.Errorf("note what workers there are: %w", err)
		}
	}
	return stay, nil
}

// telling is what a worker said of itself, as it is kept.
type telling struct{ address, version, buildkit, platforms, why string }

func said(w api.WorkerLive) telling {
	list := slices.DeleteFunc(slices.Clone(w.Platforms), func(p api.WorkerPlatform) bool { return !platformForm.MatchString(p.Platform) })
	list = list[:min(len(list), maxPlatforms)]
	if list == nil {
		list = []api.WorkerPlatform{}
	}
	data, err := json.Marshal(list)
	if err != nil {
		panic(err) // strings and booleans always marshal
	}
	return telling{cut(w.Address), cut(w.Version), cut(w.BuildKit), string(data), cut(w.Why)}
}

func cut(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	clean := []rune(text)
	return string(slices.DeleteFunc(clean, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }))
}

// row is a worker that has joined.
type row struct {
	id        int64
	key       string
	connected bool
	seen      string
	said      telling
}

// among finds the worker among those that are connected. One that was removed and joined again has another id and key.
func (r row) among(live api.WorkersLive) (api.WorkerLive, bool) {
	for _, w := range live.Workers {
		if w.ID == r.id && w.Key == r.key {
			return w, true
		}
	}
	return api.WorkerLive{}, false
}

func (s *Rows) known(ctx context.Context, tx *db.Tx) (list []row, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, public_key, connected, COALESCE(seen_at, ''), address, version, buildkit, platforms, why
FROM build_worker WHERE public_key IS NOT NULL ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("the workers: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var r row
		var connected int
		if err := rows.Scan(&r.id, &r.key, &connected, &r.seen, &r.said.address, &r.said.version, &r.said.buildkit, &r.said.platforms, &r.said.why); err != nil {
			return nil, fmt.Errorf("the workers: %w", err)
		}
		r.connected = connected == 1
		list = append(list, r)
	}
	return list, rows.Err()
}

// List is every worker, by name.
func (s *Rows) List(ctx context.Context, tx *db.Tx) ([]api.Worker, error) {
	rows, err := tx.QueryContext(ctx, `SELECT name, created_at, token_expires_at, COALESCE(public_key, ''), COALESCE(joined_at, ''), COALESCE(seen_at, ''),
connected, address, version, buildkit, platforms, why FROM build_worker ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("the workers: %w", err)
	}
	defer func() { _ = rows.Close() }()
	list := []api.Worker{}
	for rows.Next() {
		var w api.Worker
		var connected int
		var platforms string
		if err := rows.Scan(&w.Name, &w.CreatedAt, &w.ExpiresAt, &w.Key, &w.JoinedAt, &w.SeenAt, &connected, &w.Address, &w.Version, &w.BuildKit, &platforms, &w.Why); err != nil {
			return nil, fmt.Errorf("the workers: %w", err)
		}
		if err := json.Unmarshal([]byte(platforms), &w.Platforms); err != nil {
			return nil, fmt.Errorf("the platforms of worker %s: %w", w.Name, err)
		}
		switch {
		case w.Key == "" && w.ExpiresAt <= tx.NowText():
			w.State = api.WorkerExpired
		case w.Key == "":
			w.State = api.WorkerInvited
		case connected == 1:
			w.State, w.ExpiresAt = api.WorkerConnected, ""
		default:
			w.State, w.ExpiresAt, w.Why = api.WorkerAway, "", ""
		}
		list = append(list, w)
	}
	return list, rows.Err()
}
