package ownerkey

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	party  = "roadstead.owner" // who asks the token; it is no web site's name
	person = "owner"
)

// FIDO2 is how a token works out the key of a file: HMAC, with a secret that never leaves it, of the salt.
type FIDO2 struct {
	Party      string `json:"party"`
	Credential []byte `json:"credential"`
	Salt       []byte `json:"salt"`
}

func (k *FIDO2) check() error {
	if k == nil || k.Party == "" || strings.ContainsAny(k.Party, "\x00\n") || len(k.Credential) == 0 || len(k.Credential) > 1024 || len(k.Salt) != 32 {
		return errors.New("it is damaged: how the token opens it")
	}
	return nil
}

// CreateFIDO2 makes a new key in a file that only a FIDO2 token opens: the token is touched when it is made and each time that it signs.
func CreateFIDO2(ctx context.Context, path string, u Unlock) (*File, error) {
	device, err := device(ctx, u.FIDO2)
	if err != nil {
		return nil, err
	}
	u.say("Touch the FIDO2 token to make a credential on it.")
	out, err := run(ctx, nil, lines(base64.StdEncoding.EncodeToString(random(32)), party, person, base64.StdEncoding.EncodeToString(random(32))),
		fido2Cred, "-M", "-h", device)
	if err != nil {
		return nil, fmt.Errorf("make a credential on the FIDO2 token: %w", err)
	}
	const credential = 4 // the fifth line
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(got) <= credential {
		return nil, fmt.Errorf("%s printed %d lines, and the credential is in the fifth", fido2Cred, len(got))
	}
	id, err := base64.StdEncoding.DecodeString(got[credential])
	if err != nil {
		return nil, fmt.Errorf("%s: the credential: %w", fido2Cred, err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	f, err := newFile(KindFIDO2, public)
	if err != nil {
		return nil, err
	}
	f.FIDO2 = &FIDO2{Party: party, Credential: id, Salt: random(32)}
	u.FIDO2 = device
	key, err := f.FIDO2.key(ctx, u)
	if err != nil {
		return nil, err
	}
	if err := f.seal(key, private.Seed()); err != nil {
		return nil, err
	}
	return f, f.write(path)
}

// key has the token work out the key of a file.
func (k *FIDO2) key(ctx context.Context, u Unlock) ([]byte, error) {
	device, err := device(ctx, u.FIDO2)
	if err != nil {
		return nil, err
	}
	u.say("Touch the FIDO2 token to open the key.")
	out, err := run(ctx, nil, lines(base64.StdEncoding.EncodeToString(random(32)), k.Party, base64.StdEncoding.EncodeToString(k.Credential),
		base64.StdEncoding.EncodeToString(k.Salt)), fido2Assert, "-G", "-h", "-t", "up=true", device)
	if err != nil {
		return nil, fmt.Errorf("ask the FIDO2 token: %w", err)
	}
	const hmac = 4 // the fifth line: the credential is not resident, so that no user's id stands before it
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(got) <= hmac {
		return nil, errors.New("the FIDO2 token gave no secret: it does not know the extension hmac-secret, or not this credential")
	}
	secret, err := base64.StdEncoding.DecodeString(got[hmac])
	if err != nil || len(secret) != 32 {
		return nil, fmt.Errorf("%s: what it printed as the secret is none", fido2Assert)
	}
	return hkdf.Key(sha256.New, secret, k.Salt, "roadstead owner key 1", chacha20poly1305.KeySize)
}

// device is the token to ask: the one that is named, or the only one there is.
func device(ctx context.Context, named string) (string, error) {
	if named != "" {
		if strings.HasPrefix(named, "-") || !strings.ContainsAny(named, "/:") {
			return "", fmt.Errorf("%q is no FIDO2 device: they are called as `fido2-token -L` lists them", named)
		}
		return named, nil
	}
	out, err := run(ctx, nil, nil, fido2Token, "-L")
	if err != nil {
		return "", err
	}
	var found []string
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if name, _, ok := strings.Cut(line, ": "); ok {
			found = append(found, name)
		}
	}
	switch len(found) {
	case 0:
		return "", errors.New("there is no FIDO2 token: plug it in; `fido2-token -L` lists those that this user may use")
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("there are %d FIDO2 tokens: name one by --fido2-device, of %s", len(found), strings.Join(found, ", "))
}

// tokenSays puts into words what went wrong with a token, where a person can do something about it; empty: nothing that is known.
func tokenSays(text string) string {
	for _, known := range []struct{ code, words string }{
		{"FIDO_ERR_USER_ACTION_TIMEOUT", "the token was not touched in time: try again, and touch it when it blinks"},
		{"FIDO_ERR_ACTION_TIMEOUT", "the token was not touched in time: try again, and touch it when it blinks"},
		{"FIDO_ERR_OPERATION_DENIED", "the token refused: it was not touched, or told not to"},
		{"FIDO_ERR_PIN_AUTH_BLOCKED", "too many wrong PINs: unplug the token, plug it in again, and try once more"},
		{"FIDO_ERR_PIN_BLOCKED", "the token's PIN is blocked after too many wrong ones: only a reset, which loses its keys, makes it usable again"},
		{"FIDO_ERR_PIN_INVALID", "wrong PIN of the token"},
		{"FIDO_ERR_PIN_REQUIRED", "the token asks for its PIN: run this on a terminal"},
		{"FIDO_ERR_PIN_NOT_SET", "the token has no PIN yet, and wants one: `fido2-token -S DEVICE` sets it"},
		{"FIDO_ERR_NO_CREDENTIALS", "this is not the token that the key was made with"},
		{"FIDO_ERR_UNSUPPORTED_EXTENSION", "the token does not know the extension hmac-secret: use another one"},
	} {
		if strings.Contains(text, known.code) {
			return known.words
		}
	}
	return ""
}

func lines(list ...string) []byte { return []byte(strings.Join(list, "\n") + "\n") }
