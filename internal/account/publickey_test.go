package account_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/internal/account/sshkey"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Keys that were there before they had a fingerprint: each gets one, and of one key under two accounts or comments the oldest stays. A
// second start changes nothing.
func TestKeysOfBeforeGetTheirFingerprint(t *testing.T) {
	f := newFixture(t)
	alice := f.caller(f.user("alice"))
	bob := f.caller(f.user("bob"))
	key := func() string {
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		f.must(err)
		k, err := ssh.NewPublicKey(pub)
		f.must(err)
		return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
	}
	one, two := key(), key()
	for i, row := range []struct {
		user int64
		line string
	}{{bob.User, one + " bob"}, {alice.User, one + " alice"}, {bob.User, one}, {alice.User, two}, {alice.User, "ssh-ed25519 AAAA"}, {bob.User, "ssh-ed25519 AAAA"}} {
		f.write(func(tx *db.Tx) error {
			_, err := tx.ExecContext(f.ctx, `INSERT INTO user__has__public_key (created_at, "user", title, public_key) VALUES (?, ?, ?, ?)`,
				tx.NowText(), row.user, fmt.Sprint("key ", i+1), row.line)
			return err
		})
	}
	for range 2 {
		f.write(func(tx *db.Tx) error { return sshkey.New(f.accounts, slog.Default()).Prepare(f.ctx, tx) })
		var left, dropped []string
		f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) {
			left, err = db.Column[string](f.ctx, tx, `SELECT title || ' ' || coalesce(substr(fingerprint, 1, 7), '-') FROM user__has__public_key ORDER BY id`)
			if err != nil {
				return err
			}
			dropped, err = db.Column[string](f.ctx, tx, `SELECT thing_name FROM audit_entry WHERE act = 'ssh_key.drop' ORDER BY id`)
			return err
		}))
		if want := []string{"key 1 SHA256:", "key 4 SHA256:", "key 5 -", "key 6 -"}; !slices.Equal(left, want) {
			t.Errorf("left: got %q, want %q", left, want)
		}
		if want := []string{"key 2", "key 3"}; !slices.Equal(dropped, want) || !slices.Equal(f.revoked, []string{"ssh", "ssh"}) {
			t.Errorf("dropped: got %q, told %q", dropped, f.revoked)
		}
	}
}
