package signin

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/account/throttle"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Bounds of logins by code.
const (
	deviceLife    = 10 * time.Minute
	deviceKept    = time.Hour // after its end, so that who waits learns that it is over
	devicePoll    = 5         // seconds
	deviceMost    = 10_000    // waiting at a time
	deviceAtOnce  = 20        // of one network: an address of IPv4, a /64 of IPv6
	userDigits    = 8
	missesAllowed = 10 // codes that a user may mistype
	missForget    = 10 * time.Minute
)

// letters of codes that people type: no vowels, so that no word comes about, and none that looks like another.
const letters = "BCDFGHJKLMNPQRSTVWXZ"

// userCode makes a code that people type: 34 bits, which ten tries of a user in ten minutes do not find.
func userCode() string {
	code := make([]byte, 0, userDigits)
	for len(code) < userDigits {
		var b [1]byte
		_, _ = rand.Read(b[:]) // never fails, see crypto/rand
		if int(b[0]) < 256/len(letters)*len(letters) {
			code = append(code, letters[int(b[0])%len(letters)])
		}
	}
	return string(code)
}

// typed reads a code as people type it.
func typed(code string) string {
	return strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(code))
}

// NewDevice lets a program wait for a login. What it says of itself is shown to whoever approves.
func (s *SignIn) NewDevice(ctx context.Context, client string, from account.From) (api.DeviceCode, error) {
	device, code, network := random(), userCode(), throttle.Network(from.Address).String()
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var all, here int
		err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM device_login WHERE expires_at > ?1 AND answer = ''),
			(SELECT count(*) FROM device_login WHERE network = ?2 AND expires_at > ?1 AND answer = '')`, tx.NowText(), network).Scan(&all, &here)
		if err != nil {
			return err
		}
		if all >= deviceMost || here >= deviceAtOnce {
			return api.Errorf(api.RateLimited, "too many logins wait for their codes; try again in some minutes")
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO device_login (created_at, expires_at, device_hash, user_hash, client, address, network, poll_seconds, answer)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, '')`, tx.NowText(), db.FormatTime(tx.Now.Add(deviceLife)), s.hash("device code", device),
			s.hash("user code", code), clip(client), clip(from.Address), network, devicePoll)
		return err
	})
	if err != nil {
		return api.DeviceCode{}, fmt.Errorf("new login by code: %w", err)
	}
	shown := code[:4] + "-" + code[4:]
	page := s.cfg.Site.URL("dashboard") + "/device"
	return api.DeviceCode{
		DeviceCode: device, UserCode: shown, VerificationURI: page, VerificationURIComplete: page + "?code=" + shown,
		ExpiresIn: int(deviceLife / time.Second), Interval: devicePoll,
	}, nil
}

// TakeDevice asks whether a login by code was approved. An approval is used once, and holds as long as the session that gave it.
func (s *SignIn) TakeDevice(ctx context.Context, device string, from account.From) (answer api.DeviceToken, err error) {
	if device == "" || len(device) > 200 {
		return api.DeviceToken{Error: api.DeviceExpired}, nil
	}
	var known bool // a guess costs a look, and does not wait for whoever writes
	err = s.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM device_login WHERE device_hash = ?)`, s.hash("device code", device)).Scan(&known)
	})
	if err != nil {
		return api.DeviceToken{}, fmt.Errorf("login by code: %w", err)
	}
	if !known {
		return api.DeviceToken{Error: api.DeviceExpired}, nil
	}
	err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		answer, err = s.takeDevice(ctx, tx, device, from)
		return err
	})
	if err != nil {
		return api.DeviceToken{}, fmt.Errorf("login by code: %w", err)
	}
	return answer, nil
}

func (s *SignIn) takeDevice(ctx context.Context, tx *db.Tx, device string, from account.From) (api.DeviceToken, error) {
	var id, pause int64
	var expires, said string
	var polled sql.NullString
	var user, session sql.NullInt64
	err := tx.QueryRowContext(ctx, `SELECT id, expires_at, poll_seconds, last_polled_at, answer, "user", session FROM device_login WHERE device_hash = ?`,
		s.hash("device code", device)).Scan(&id, &expires, &pause, &polled, &said, &user, &session)
	if errors.Is(err, sql.ErrNoRows) || err == nil && expires <= tx.NowText() {
		return api.DeviceToken{Error: api.DeviceExpired}, nil
	}
	if err != nil {
		return api.DeviceToken{}, err
	}
	if at, err := db.ParseTime(polled.String); err == nil && tx.Now.Sub(at) < time.Duration(pause)*time.Second-500*time.Millisecond {
		_, err := tx.ExecContext(ctx, `UPDATE device_login SET last_polled_at = ?, poll_seconds = ? WHERE id = ?`, tx.NowText(), min(pause+5, 60), id)
		return api.DeviceToken{Error: api.DeviceSlowDown}, err
	}
	if said == "" {
		_, err := tx.ExecContext(ctx, `UPDATE device_login SET last_polled_at = ? WHERE id = ?`, tx.NowText(), id)
		return api.DeviceToken{Error: api.DevicePending}, err
	}
	// Gone before it gives anything: of two that ask at once, one gets it.
	var gone int64
	err = tx.QueryRowContext(ctx, `DELETE FROM device_login WHERE id = ? RETURNING id`, id).Scan(&gone)
	if errors.Is(err, sql.ErrNoRows) {
		return api.DeviceToken{Error: api.DeviceExpired}, nil
	}
	if err != nil {
		return api.DeviceToken{}, err
	}
	if said == "denied" {
		return api.DeviceToken{Error: api.DeviceDenied}, nil
	}
	token, err := s.cfg.Accounts.DelegateApproved(ctx, tx, user.Int64, session.Int64, from)
	if errors.Is(err, api.ErrUnauthorized) { // the session that approved has ended since
		return api.DeviceToken{Error: api.DeviceDenied}, nil
	}
	if err != nil {
		return api.DeviceToken{}, err
	}
	return api.DeviceToken{AccessToken: token, TokenType: "bearer"}, nil
}

// LookUpDevice says who waits for a code, to somebody who is asked to approve it.
func (s *SignIn) LookUpDevice(ctx context.Context, by access.Caller, code string) (w api.DeviceWaiting, err error) {
	err = s.withDevice(ctx, by, code, func(_ *db.Tx, _ int64, waiting api.DeviceWaiting) error {
		w = waiting
		return nil
	})
	return w, err
}

// AnswerDevice approves a code, or denies it. Approving opens a way in, so it needs a session whose user proved lately to be there.
func (s *SignIn) AnswerDevice(ctx context.Context, by access.Caller, req api.DeviceApproval) error {
	return s.withDevice(ctx, by, req.UserCode, func(tx *db.Tx, id int64, w api.DeviceWaiting) error {
		answer, act := "approved", "device_login.approve"
		if req.Deny {
			answer, act = "denied", "device_login.deny"
		} else if err := rights.RequireFresh(ctx, tx, by); err != nil {
			return err
		}
		n, err := tx.ExecContext(ctx, `UPDATE device_login SET answer = ?, "user" = ?, session = ? WHERE id = ? AND answer = ''`,
			answer, by.User, by.Session, id)
		if err != nil {
			return err
		}
		if changed, err := n.RowsAffected(); err != nil || changed == 0 {
			return errors.Join(err, api.Errorf(api.NotFound, "nobody waits for this code"))
		}
		return audit.Record(ctx, tx, by, audit.Entry{
			Act: act, Kind: "device_login", ID: id, Name: w.Client, User: by.User, Detail: map[string]any{"from": w.Address},
		})
	})
}

// withDevice finds what waits for a code. Codes that nobody waits for count against whoever types them.
func (s *SignIn) withDevice(ctx context.Context, by access.Caller, code string, do func(tx *db.Tx, id int64, w api.DeviceWaiting) error) error {
	if by.Session == 0 {
		return api.Errorf(api.Forbidden, "an API key may not approve logins; log in")
	}
	missed := false
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		missed = false
		var misses int
		var last string
		err := tx.QueryRowContext(ctx, `SELECT misses, last_at FROM device_login_miss WHERE "user" = ?`, by.User).Scan(&misses, &last)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if last <= db.FormatTime(tx.Now.Add(-missForget)) {
			misses = 0
		}
		if misses >= missesAllowed {
			return api.Errorf(api.RateLimited, "too many wrong codes; try again in some minutes")
		}
		var id int64
		var w api.DeviceWaiting
		var created, expires string
		err = tx.QueryRowContext(ctx, `SELECT id, client, address, created_at, expires_at FROM device_login
			WHERE user_hash = ? AND expires_at > ? AND answer = ''`, s.hash("user code", typed(code)), tx.NowText()).
			Scan(&id, &w.Client, &w.Address, &created, &expires)
		if errors.Is(err, sql.ErrNoRows) {
			missed = true
			_, err := tx.ExecContext(ctx, `INSERT INTO device_login_miss ("user", misses, last_at) VALUES (?, ?, ?)
				ON CONFLICT ("user") DO UPDATE SET misses = excluded.misses, last_at = excluded.last_at`, by.User, misses+1, tx.NowText())
			return err
		}
		if err != nil {
			return err
		}
		w.CreatedAt, _ = db.ParseTime(created) // written by FormatTime
		w.ExpiresAt, _ = db.ParseTime(expires)
		return do(tx, id, w)
	})
	if err != nil {
		return fmt.Errorf("login by code: %w", err)
	}
	if missed {
		return api.Errorf(api.NotFound, "nobody waits for this code; it may be mistyped, used or over")
	}
	return nil
}
