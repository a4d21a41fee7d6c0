package account

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

const (
	maxPublicKey  = 16 << 10 // bytes of one key with its comment
	maxPublicKeys = 100      // of one user
	minRSABits    = 2048
)

// publicKeyResource is the SSH keys of people: each sees and changes their own.
func publicKeyResource() *odata.Resource {
	const long, own = "user__has__public_key", "user eq @user"
	return &odata.Resource{
		Name: long, Synonyms: []string{"user_public_key"},
		Columns: []odata.Column{
			{Name: "id", Type: odata.Integer},
			{Name: "created_at", Type: odata.Date},
			{Name: "user", Type: odata.ForeignKey, To: "user", Reverse: []string{long, "user_public_key"}},
			{Name: "title", Type: odata.String, MaxLen: 255},
			{Name: "public_key", Type: odata.String, MaxLen: maxPublicKey},
		},
		Keys:       [][]string{{"user", "public_key"}},
		UniqueText: map[string]string{"user,public_key": `"user" and "public_key" must be unique.`},
		Rules: map[access.Kind]odata.Rule{
			access.User: {Read: own, Create: own, Update: own, Delete: own, Write: []string{"user", "title", "public_key"}},
		},
		Before: []odata.Hook{beforePublicKey},
	}
}

// beforePublicKey lets in what is an SSH public key and nothing more: the text goes into the authorized_keys of devices.
func beforePublicKey(ctx context.Context, tx *db.Tx, c *odata.Change) error {
	if c.Op == odata.Delete {
		return nil
	}
	if title, ok := c.Values["title"].(string); ok || c.Op == odata.Create {
		if strings.TrimSpace(title) == "" {
			return api.Errorf(api.Invalid, "A public key needs a title.")
		}
		if strings.ContainsFunc(title, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return api.Errorf(api.Invalid, "The title of a public key has no control characters.")
		}
	}
	if text, ok := c.Values["public_key"].(string); ok || c.Op == odata.Create {
		line, err := parsePublicKey(text)
		if err != nil {
			return err
		}
		c.Values["public_key"] = line
	}
	if c.Op != odata.Create {
		return nil
	}
	var n int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM user__has__public_key WHERE "user" = ?`, c.Values["user"]).Scan(&n)
	if err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	if n >= maxPublicKeys {
		return api.Errorf(api.Invalid, "A user has at most %d public keys.", maxPublicKeys)
	}
	return nil
}

// parsePublicKey gives a key as one line: its type, the key and the comment as they were given.
func parsePublicKey(text string) (string, error) {
	text = strings.TrimSpace(text)
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	switch {
	case err != nil:
		return "", api.Errorf(api.Invalid, "\"public_key\" is not an SSH public key as it stands in a .pub file.")
	case len(options) > 0:
		return "", api.Errorf(api.Invalid, "\"public_key\" has options in front of the key; give the key alone.")
	case len(bytes.TrimSpace(rest)) > 0 || strings.ContainsAny(text, "\r\n"):
		return "", api.Errorf(api.Invalid, "\"public_key\" holds more than one line; add each key by itself.")
	case strings.ContainsFunc(comment, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", api.Errorf(api.Invalid, "the comment of \"public_key\" has control characters.")
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return "", api.Errorf(api.Invalid, "\"public_key\" is a certificate; give the key itself.")
	}
	switch key.Type() {
	case ssh.KeyAlgoRSA:
		if bits := rsaBits(key); bits < minRSABits {
			return "", api.Errorf(api.Invalid, "\"public_key\" is an RSA key of %d bits; it needs at least %d.", bits, minRSABits)
		}
	case ssh.InsecureKeyAlgoDSA: //nolint:staticcheck // named to be refused
		return "", api.Errorf(api.Invalid, "\"public_key\" is a DSA key, which no device accepts any more.")
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	if comment != "" {
		line += " " + comment
	}
	return line, nil
}

// rsaBits is the size of an RSA key, read from its wire form: type, exponent, modulus.
func rsaBits(key ssh.PublicKey) int {
	var wire struct {
		Name string
		E    []byte
		N    []byte
	}
	if ssh.Unmarshal(key.Marshal(), &wire) != nil {
		return 0
	}
	n := bytes.TrimLeft(wire.N, "\x00")
	if len(n) == 0 {
		return 0
	}
	bits := len(n) * 8
	for top := n[0]; top < 0x80; top <<= 1 {
		bits--
	}
	return bits
}

// PublicKeys gives a user's SSH public keys, oldest first; of a disabled user, none. It checks no right.
func PublicKeys(ctx context.Context, tx *db.Tx, user int64) ([]string, error) {
	rows, err := tx.QueryContext(ctx, `SELECT k.public_key FROM user__has__public_key k JOIN "user" u ON u.id = k."user" AND u.is_disabled = 0
		WHERE k."user" = ? ORDER BY k.id`, user)
	if err != nil {
		return nil, fmt.Errorf("public keys of user %d: %w", user, err)
	}
	defer func() { _ = rows.Close() }()
	var keys []string
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			return nil, fmt.Errorf("public keys of user %d: %w", user, err)
		}
		keys = append(keys, key)
	}
	return keys, rows.Err()
}
