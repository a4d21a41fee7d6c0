package factor

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

const (
	challengeLife  = 5 * time.Minute
	challengeBytes = 16 + 8 + 32 // chance, when it ends, and the mark that we made it
	maxPasskeys    = 20
	maxPasskeyName = 100
)

// The ceremonies that a challenge can be for. One made for one does for no other.
const (
	toRegister = "register"
	toVerify   = "verify"
	toLogin    = "login"
)

// Options is what a browser is asked with: {"publicKey": …}.
type Options map[string]map[string]any

// challenge makes one that says itself what it is for and when it ends, so that asking for one writes nothing.
func (f *Factors) challenge(now time.Time, purpose string, user int64) string {
	raw := make([]byte, 24, challengeBytes)
	_, _ = rand.Read(raw[:16])                                                       // never fails, see crypto/rand
	binary.BigEndian.PutUint64(raw[16:], uint64(now.Add(challengeLife).UnixMilli())) //nolint:gosec // after 1970
	return base64.RawURLEncoding.EncodeToString(append(raw, f.mark(raw, purpose, user)...))
}

func (f *Factors) mark(raw []byte, purpose string, user int64) []byte {
	return f.keys.mac("challenge", fmt.Sprintf("%s\x00%d\x00%s", purpose, user, raw))
}

// spend takes a challenge that came back, once.
func (f *Factors) spend(ctx context.Context, tx *db.Tx, challenge, purpose string, user int64) error {
	raw, err := b64(challenge)
	if err != nil {
		return err
	}
	if len(raw) != challengeBytes || !hmac.Equal(raw[24:], f.mark(raw[:24], purpose, user)) {
		return refused("the challenge is not of this server")
	}
	ends := time.UnixMilli(int64(binary.BigEndian.Uint64(raw[16:]))) //nolint:gosec // we made it
	if !tx.Now.Before(ends) {
		return refused("the challenge is too old")
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM used_challenge WHERE expires_at <= ?`, tx.NowText()); err != nil {
		return fmt.Errorf("challenge: %w", err)
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO used_challenge (challenge_hash, expires_at) VALUES (?, ?) ON CONFLICT (challenge_hash) DO NOTHING`,
		hex.EncodeToString(raw[24:]), db.FormatTime(ends.Add(time.Second)))
	if err := one(res, err); errors.Is(err, errWrong) {
		return refused("the challenge was answered already")
	} else if err != nil {
		return err
	}
	return nil
}

// RegisterStart gives what a browser makes a passkey of.
func (f *Factors) RegisterStart(ctx context.Context, tx *db.Tx, by access.Caller) (Options, error) {
	if err := f.cfg.Accounts.MayEnrol(ctx, tx, by); err != nil {
		return nil, err
	}
	known, err := f.credentials(ctx, tx, by.User)
	if err != nil {
		return nil, err
	}
	return Options{"publicKey": {
		"challenge": f.challenge(tx.Now, toRegister, by.User),
		"rp":        map[string]string{"id": f.cfg.Host, "name": f.cfg.Site},
		"user": map[string]string{
			"id": base64.RawURLEncoding.EncodeToString(f.handle(by.User)), "name": by.Name, "displayName": by.Name,
		},
		"pubKeyCredParams": []map[string]any{
			{"type": "public-key", "alg": -7}, {"type": "public-key", "alg": -8}, {"type": "public-key", "alg": -257},
		},
		"excludeCredentials": known, "timeout": challengeLife.Milliseconds(), "attestation": "none",
		"authenticatorSelection": map[string]string{"residentKey": "preferred", "userVerification": "preferred"},
		"extensions":             map[string]bool{"credProps": true},
	}}, nil
}

// handle is what a passkey knows its user by. It says nothing of who that is.
func (f *Factors) handle(user int64) []byte { return f.keys.mac("user handle", fmt.Sprint(user)) }

// credentials are a user's, as browsers are told of them.
func (f *Factors) credentials(ctx context.Context, tx *db.Tx, user int64) ([]map[string]string, error) {
	ids, err := db.Column[string](ctx, tx, `SELECT credential FROM passkey WHERE "user" = ? ORDER BY id`, user)
	if err != nil {
		return nil, fmt.Errorf("passkeys: %w", err)
	}
	list := []map[string]string{}
	for _, id := range ids {
		list = append(list, map[string]string{"type": "public-key", "id": id})
	}
	return list, nil
}

// Register adds the passkey that a browser made.
func (f *Factors) Register(ctx context.Context, tx *db.Tx, by access.Caller, name string, c Credential, from account.From) (out api.Enrolled, err error) {
	name = strings.TrimSpace(name)
	if name == "" || len(name) > maxPasskeyName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return out, api.Errorf(api.Invalid, "name: a passkey needs a name of at most %d characters", maxPasskeyName)
	}
	if err := f.cfg.Accounts.MayEnrol(ctx, tx, by); err != nil {
		return out, err
	}
	a, err := c.read("webauthn.create", f.cfg.Host, f.cfg.Origin)
	if err != nil {
		return out, err
	}
	id, key, err := c.newKey(a)
	if err != nil {
		return out, err
	}
	if err := f.spend(ctx, tx, a.challenge, toRegister, by.User); err != nil {
		return out, err
	}
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM passkey WHERE "user" = ?`, by.User).Scan(&n); err != nil {
		return out, fmt.Errorf("register a passkey: %w", err)
	}
	if n >= maxPasskeys {
		return out, api.Errorf(api.Invalid, "a user has at most %d passkeys", maxPasskeys)
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO passkey ("user", created_at, name, credential, public_key, sign_count, is_way_in)
		VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (credential) DO NOTHING RETURNING id`,
		by.User, tx.NowText(), name, id, key, a.count, a.verified && c.Extensions.Properties.Resident).Scan(&out.ID)
	if errors.Is(err, sql.ErrNoRows) {
		return out, api.Errorf(api.Conflict, "this passkey is registered already")
	}
	if err != nil {
		return out, fmt.Errorf("register a passkey: %w", err)
	}
	return out, f.added(ctx, tx, by, from, "passkey", name, &out)
}

// VerifyStart gives what the passkey of a half session's user must answer.
func (f *Factors) VerifyStart(ctx context.Context, tx *db.Tx, by access.Caller) (Options, error) {
	known, err := f.credentials(ctx, tx, by.User)
	if err != nil {
		return nil, err
	}
	if len(known) == 0 {
		return nil, api.Errorf(api.NotFound, "you have no passkey")
	}
	return Options{"publicKey": {
		"challenge": f.challenge(tx.Now, toVerify, by.User), "rpId": f.cfg.Host, "allowCredentials": known,
		"timeout": challengeLife.Milliseconds(), "userVerification": "preferred",
	}}, nil
}

// VerifyPasskey makes a session whole that waits for a second factor.
func (f *Factors) VerifyPasskey(ctx context.Context, by access.Caller, c Credential, from account.From) (token string, err error) {
	var suspect error
	err = f.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var user int64
		if _, user, suspect, err = f.assert(ctx, tx, by, c, toVerify); err != nil || suspect != nil {
			return err
		}
		if user != by.User {
			return refused("it is not of this user")
		}
		if token, err = f.cfg.Accounts.Passed(ctx, tx, by, from, false); err != nil {
			return err
		}
		return record(ctx, tx, by, "factor.prove", map[string]any{"kind": "passkey"})
	})
	if err = errors.Join(err, suspect); err != nil {
		if errors.Is(err, api.ErrUnauthorized) {
			f.cfg.Accounts.Refused(ctx, by, "factor.prove", api.AsError(err).Text)
		}
		return "", err
	}
	return token, nil
}

// LoginStart gives what any passkey of this server's may answer. It is the same for everybody, and says nothing of anybody.
func (f *Factors) LoginStart(now time.Time) Options {
	return Options{"publicKey": {
		"challenge": f.challenge(now, toLogin, 0), "rpId": f.cfg.Host, "allowCredentials": []map[string]string{},
		"timeout": challengeLife.Milliseconds(), "userVerification": "required",
	}}
}

// Login opens a session for whom a passkey knows: the device and who holds it are two proofs.
func (f *Factors) Login(ctx context.Context, c Credential, from account.From) (token string, err error) {
	from.Way = account.ByPasskey
	if _, err := c.read("webauthn.get", f.cfg.Host, f.cfg.Origin); err != nil { // strangers' nonsense waits for no transaction
		return "", err
	}
	somebody := access.Caller{Kind: access.Anonymous, Name: access.Nobody().Name, Address: from.Address}
	var suspect error
	err = f.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		var user int64
		var a answer
		if a, user, suspect, err = f.assert(ctx, tx, somebody, c, toLogin); err != nil || suspect != nil {
			return err
		}
		if !a.verified {
			return refused("it did not verify its user")
		}
		if handle, err := b64(c.Response.UserHandle); err != nil || len(handle) > 0 && !hmac.Equal(handle, f.handle(user)) {
			return refused("it is of another user")
		}
		token, err = f.cfg.Accounts.SignIn(ctx, tx, user, from)
		return err
	})
	if err = errors.Join(err, suspect); err != nil {
		return "", err
	}
	return token, nil
}

// assert checks an assertion and moves the passkey's count. suspect is a refusal of which the mark on the passkey must stay: its
// count went back, as it does when there are two of it.
func (f *Factors) assert(ctx context.Context, tx *db.Tx, by access.Caller, c Credential, purpose string) (a answer, user int64, suspect, err error) {
	if a, err = c.read("webauthn.get", f.cfg.Host, f.cfg.Origin); err != nil {
		return a, 0, nil, err
	}
	var id int64
	var name, key string
	err = tx.QueryRowContext(ctx, `SELECT id, "user", name, public_key FROM passkey WHERE credential = ?`, strings.TrimRight(c.ID, "=")).
		Scan(&id, &user, &name, &key)
	if errors.Is(err, sql.ErrNoRows) {
		return a, 0, nil, refused("this server does not know it")
	}
	if err != nil {
		return a, 0, nil, fmt.Errorf("passkey: %w", err)
	}
	if err := c.signed(a, key); err != nil {
		return a, 0, nil, err
	}
	if err := f.spend(ctx, tx, a.challenge, purpose, by.User); err != nil {
		return a, 0, nil, err
	}
	// A count of zero means that the authenticator keeps none.
	res, err := tx.ExecContext(ctx, `UPDATE passkey SET sign_count = ?1, last_used_at = ?2
		WHERE id = ?3 AND (sign_count < ?1 OR sign_count = 0 AND ?1 = 0)`, int64(a.count), tx.NowText(), id)
	if err := one(res, err); err == nil || !errors.Is(err, errWrong) {
		return a, user, nil, err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE passkey SET is_suspect = 1 WHERE id = ?`, id); err != nil {
		return a, 0, nil, fmt.Errorf("passkey: %w", err)
	}
	err = audit.Record(ctx, tx, by, audit.Entry{
		Act: "factor.suspect", Result: audit.Refused, Kind: "user", ID: user, User: user, Detail: map[string]any{"kind": "passkey", "name": name},
	})
	if err != nil {
		return a, 0, nil, err
	}
	return a, user, refused("its count went back; there may be a copy of it"), nil
}

// Remove takes a passkey from its user, in a fresh session.
func (f *Factors) Remove(ctx context.Context, tx *db.Tx, by access.Caller, id int64, from account.From) (string, error) {
	if err := rights.RequireFresh(ctx, tx, by); err != nil {
		return "", err
	}
	var name string
	err := tx.QueryRowContext(ctx, `DELETE FROM passkey WHERE id = ? AND "user" = ? RETURNING name`, id, by.User).Scan(&name)
	if errors.Is(err, sql.ErrNoRows) {
		return "", api.Errorf(api.NotFound, "you have no passkey %d", id)
	}
	if err != nil {
		return "", fmt.Errorf("remove a passkey: %w", err)
	}
	if err := record(ctx, tx, by, "factor.remove", map[string]any{"kind": "passkey", "name": name}); err != nil {
		return "", err
	}
	if err := f.warn(ctx, tx, by, "second factor removed", "passkey", name); err != nil {
		return "", err
	}
	return f.leave(ctx, tx, by, from)
}
