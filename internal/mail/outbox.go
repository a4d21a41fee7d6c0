// Package mail sends letters to people. A letter is a row, written in the transaction of what it is about, and sent by a chore that
// repeats until a mail server took it: no act waits for a mail server, and none is told of that did not happen.
//
// What a letter says is sealed with a key that is not in the database, because letters hold links that let people in; it is taken
// apart only to be sent, and is removed then. What it says is never logged.
package mail

import (
	"context"
	"database/sql"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/seal"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the table of this package, number 0120; see [db.DB.Migrate].
func Migrations() fs.FS {
	return db.Folder(migrations)
}

// How many letters there are at most, and how long one is tried.
const (
	PerRecipient = 10   // of one kind to one address in an hour
	PerSender    = 50   // of one kind in an hour, had sent by one
	PerHour      = 1000 // of one kind in an hour, to all
	triedFor     = 24 * time.Hour
	failedFor    = 7 * 24 * time.Hour // for how long a letter that could not be sent is told of
	firstPause   = time.Minute
	longestPause = time.Hour
	claimed      = 10 * time.Minute // for how long a process has a letter to itself that it is sending
	atOnce       = 20               // letters over one connection; all have to be sent in the time that they are claimed for
	maxValue     = 2000             // bytes of one value
	lookEvery    = 5 * time.Second
)

// Config says what the outbox works with.
type Config struct {
	DB     *db.DB
	Server Server
	Hello  string // what we call ourselves to the mail server
	Secret []byte // never in the database; the key that seals letters is made of it
	Log    *slog.Logger
	Now    func() time.Time // nil: the clock
	// Render gives a letter's subject and text. Unknown kinds are an error.
	Render func(kind string, data map[string]string) (subject, body string, err error)
}

// Letter is what is to be sent.
type Letter struct {
	To   string
	Kind string
	Data map[string]string
	// Until is when it says nothing any more; zero: after a day.
	Until time.Time
	// By is who has it sent; empty: the server itself.
	By string
}

// Outbox keeps letters and sends them.
type Outbox struct {
	cfg    Config
	client *client
	key    seal.Key
	wake   chan struct{} // a letter was written by this process
}

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Outbox, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c, err := cfg.Server.parse(cfg.Hello)
	if err != nil {
		return nil, fmt.Errorf("mail: %w", err)
	}
	key, err := seal.Derive(cfg.Secret, "letters v1")
	if err != nil {
		return nil, fmt.Errorf("mail: %w", err)
	}
	return &Outbox{cfg: cfg, client: c, key: key, wake: make(chan struct{}, 1)}, nil
}

// ErrTooMany refuses one letter more to somebody who got many lately, or at a time when many are sent.
var ErrTooMany = api.Errorf(api.RateLimited, "too many letters of this kind were sent lately; try again in an hour")

// Post writes a letter, to be sent when the transaction is committed.
func (o *Outbox) Post(ctx context.Context, tx *db.Tx, l Letter) error {
	if err := CheckAddress(l.To); err != nil {
		return api.Errorf(api.Invalid, "%v", err)
	}
	for name, value := range l.Data {
		if len(value) > maxValue || !plain(value) {
			return api.Errorf(api.Invalid, "%s: no letter holds a text of more than %d bytes or with control characters", name, maxValue)
		}
	}
	if _, _, err := o.render(l.To, l.Kind, l.Data); err != nil {
		return fmt.Errorf("letter %q: %w", l.Kind, err)
	}
	if err := o.bound(ctx, tx, l); err != nil {
		return err
	}
	if l.Until.IsZero() {
		l.Until = tx.Now.Add(triedFor)
	}
	var id int64
	err := tx.QueryRowContext(ctx, `INSERT INTO letter (created_at, recipient, sender, kind, state, next_at, until)
		VALUES (?, ?, ?, ?, 'waiting', ?, ?) RETURNING id`, tx.NowText(), l.To, l.By, l.Kind, tx.NowText(), db.FormatTime(l.Until)).Scan(&id)
	if err != nil {
		return fmt.Errorf("letter %q: %w", l.Kind, err)
	}
	sealed, err := o.seal(id, l.Data)
	if err != nil {
		return fmt.Errorf("letter %q: %w", l.Kind, err)
	}
	if _, err := tx.ExecContext(ctx, `UPDATE letter SET sealed = ? WHERE id = ?`, sealed, id); err != nil {
		return fmt.Errorf("letter %q: %w", l.Kind, err)
	}
	tx.OnCommit(func() {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	})
	return nil
}

// render also gives a letter to know whom it goes to.
func (o *Outbox) render(to, kind string, data map[string]string) (subject, body string, err error) {
	all := map[string]string{"to": to}
	maps.Copy(all, data)
	return o.cfg.Render(kind, all)
}

// bound counts by kind: what a stranger can have sent, a link to reset a password say, keeps no warning from its reader.
func (o *Outbox) bound(ctx context.Context, tx *db.Tx, l Letter) error {
	var mine, sender, all int
	since := db.FormatTime(tx.Now.Add(-time.Hour))
	err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM letter WHERE recipient = ?1 AND kind = ?2 AND created_at > ?3),
		(SELECT count(*) FROM letter WHERE kind = ?2 AND created_at > ?3 AND sender = ?4),
		(SELECT count(*) FROM letter WHERE kind = ?2 AND created_at > ?3)`, l.To, l.Kind, since, l.By).Scan(&mine, &sender, &all)
	if err != nil {
		return fmt.Errorf("letter %q: %w", l.Kind, err)
	}
	if mine >= PerRecipient || l.By != "" && sender >= PerSender || all >= PerHour {
		return ErrTooMany
	}
	return nil
}

// seal encrypts what a letter says; its row's id is bound in, so that no row passes for another.
func (o *Outbox) seal(id int64, data map[string]string) (string, error) {
	text, err := json.Marshal(data)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(o.key.Seal(text, strconv.FormatInt(id, 10))), nil
}

func (o *Outbox) open(id int64, sealed string) (data map[string]string, err error) {
	raw, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil {
		return nil, errors.New("what it says cannot be read")
	}
	text, err := o.key.Open(raw, strconv.FormatInt(id, 10))
	if err != nil {
		return nil, errors.New("what it says cannot be read: it was sealed with another key")
	}
	return data, json.Unmarshal(text, &data)
}

// waiting is a letter that this process has claimed.
type waiting struct {
	id       int64
	to, kind string
	sealed   sql.NullString
	attempts int
	created  string
	until    string
}

// RunOnce sends what is due. Several processes may do so at the same time: each letter is claimed first.
func (o *Outbox) RunOnce(ctx context.Context) error {
	if err := o.tidy(ctx); err != nil {
		return err
	}
	for {
		some, err := o.claim(ctx)
		if err != nil || len(some) == 0 {
			return err
		}
		if err := o.sendAll(ctx, some); err != nil {
			return err
		}
	}
}

// claim takes some letters that are due. If this process dies before it says what became of them, another one sends them later.
func (o *Outbox) claim(ctx context.Context) (some []waiting, err error) {
	var due bool
	now := db.FormatTime(o.cfg.Now())
	err = o.cfg.DB.Read(ctx, func(tx *db.Tx) error { // most of the time there is nothing to do, and nothing is written
		return tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM letter WHERE state = 'waiting' AND next_at <= ?)`, now).Scan(&due)
	})
	if err != nil || !due {
		return nil, err
	}
	err = o.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		some = nil
		rows, err := tx.QueryContext(ctx, `UPDATE letter SET attempts = attempts + 1, next_at = ? WHERE state = 'waiting' AND next_at <= ?
			AND id IN (SELECT id FROM letter WHERE state = 'waiting' AND next_at <= ? ORDER BY next_at, id LIMIT ?)
			RETURNING id, recipient, kind, sealed, attempts, created_at, until`,
			db.FormatTime(o.cfg.Now().Add(claimed)), now, now, atOnce)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var w waiting
			if err := rows.Scan(&w.id, &w.to, &w.kind, &w.sealed, &w.attempts, &w.created, &w.until); err != nil {
				return err
			}
			some = append(some, w)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("mail: claim letters: %w", err)
	}
	return some, nil
}

// sendAll sends letters and writes down what became of each.
func (o *Outbox) sendAll(ctx context.Context, some []waiting) error {
	ctx, cancel := context.WithTimeout(ctx, claimed-time.Minute)
	defer cancel()
	fate := make(map[int64]error, len(some))
	var ready []message
	for i := range some {
		w := &some[i]
		m, err := o.prepare(w)
		if err != nil {
			fate[w.id] = errors.Join(errNever, err)
			continue
		}
		ready = append(ready, m)
	}
	if len(ready) > 0 {
		for i, err := range o.client.send(ctx, ready) {
			fate[ready[i].id] = err
		}
	}
	after, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second) // a letter that went out is not sent again
	defer stop()
	err := o.cfg.DB.Write(after, func(tx *db.Tx) error {
		for i := range some {
			if err := o.note(after, tx, &some[i], fate[some[i].id]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("mail: note letters: %w", err)
	}
	return nil
}

func (o *Outbox) prepare(w *waiting) (message, error) {
	at, err := db.ParseTime(w.created)
	if err != nil {
		return message{}, err
	}
	if w.until <= db.FormatTime(o.cfg.Now()) {
		return message{}, errors.New("it could not be sent in time")
	}
	data, err := o.open(w.id, w.sealed.String)
	if err != nil {
		return message{}, err
	}
	subject, body, err := o.render(w.to, w.kind, data)
	if err != nil {
		return message{}, err
	}
	return message{id: w.id, to: w.to, subject: subject, body: body, at: at}, nil
}

// note writes down what became of a letter.
func (o *Outbox) note(ctx context.Context, tx *db.Tx, w *waiting, err error) error {
	if err == nil {
		_, err := tx.ExecContext(ctx, `UPDATE letter SET state = 'sent', sealed = NULL, why = NULL WHERE id = ?`, w.id)
		return err
	}
	why := clip(strings.Join(strings.Fields(err.Error()), " "), 300)
	now := o.cfg.Now()
	pause := min(firstPause<<min(w.attempts-1, 10), longestPause)
	if errors.Is(err, errNever) || db.FormatTime(now.Add(pause)) > w.until {
		o.cfg.Log.ErrorContext(ctx, "a letter could not be sent", "letter", w.id, "kind", w.kind, "attempts", w.attempts, "error", why)
		_, err := tx.ExecContext(ctx, `UPDATE letter SET state = 'failed', sealed = NULL, why = ? WHERE id = ?`, why, w.id)
		return err
	}
	o.cfg.Log.WarnContext(ctx, "a letter could not be sent yet", "letter", w.id, "kind", w.kind, "attempts", w.attempts, "error", why)
	_, err = tx.ExecContext(ctx, `UPDATE letter SET next_at = ?, why = ? WHERE id = ?`, db.FormatTime(now.Add(pause)), why, w.id)
	return err
}

// tidy removes letters that were sent an hour ago, and failed ones that were told of long enough.
func (o *Outbox) tidy(ctx context.Context) error {
	const old = ` FROM letter WHERE (state = 'sent' AND created_at <= ?) OR (state = 'failed' AND created_at <= ?)`
	now := o.cfg.Now()
	args := []any{db.FormatTime(now.Add(-time.Hour)), db.FormatTime(now.Add(-failedFor))}
	var some bool
	err := o.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1`+old+`)`, args...).Scan(&some)
	})
	if err == nil && some {
		err = o.cfg.DB.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE`+old, args...)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("mail: remove old letters: %w", err)
	}
	return nil
}

// Run sends letters until the context ends.
func (o *Outbox) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-o.wake:
		}
		if err := o.RunOnce(ctx); err != nil && ctx.Err() == nil {
			o.cfg.Log.ErrorContext(ctx, "mail", "error", err)
		}
	}
}

// Look says how the outbox is.
func Look(ctx context.Context, tx *db.Tx, server Server) (api.MailStatus, error) {
	out := api.MailStatus{On: server.On()}
	var why sql.NullString
	err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM letter WHERE state = 'waiting'), (SELECT count(*) FROM letter WHERE state = 'failed'),
		(SELECT why FROM letter WHERE why IS NOT NULL ORDER BY id DESC LIMIT 1)`).Scan(&out.Waiting, &out.Failed, &why)
	if err != nil {
		return out, fmt.Errorf("mail: %w", err)
	}
	out.Why = why.String
	return out, nil
}
