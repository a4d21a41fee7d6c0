package ownerkey

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
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
	PIN        bool   `json:"pin,omitempty"` // the token works out another secret for who knows its PIN: that one
}

func (k *FIDO2) check() error {
	if k == nil || k.Party == "" || strings.ContainsAny(k.Party, "\x00\n") || len(k.Credential) == 0 || len(k.Credential) > 1024 || len(k.Salt) != 32 {
		return errors.New("it is damaged: how the token opens it")
	}
	return nil
}

// CreateFIDO2 makes a new key in a file that only a FIDO2 token opens: the token is touched when it is made and each time that it signs. A token that
// has a PIN gives this key's secret only with it.
func CreateFIDO2(ctx context.Context, path string, u Unlock) (*File, error) {
	t, err := plugged(ctx, u)
	if err != nil {
		return nil, err
	}
	pin, err := t.fit(ctx)
	if err != nil {
		return nil, err
	}
	got, err := t.ask(ctx, "Touch the FIDO2 token to make a credential on it.",
		lines(base64.StdEncoding.EncodeToString(random(32)), party, person, base64.StdEncoding.EncodeToString(random(32))), fido2Cred, "-M", "-h")
	if err != nil {
		return nil, fmt.Errorf("make a credential on the FIDO2 token: %w", err)
	}
	const credential = 4 // the fifth line
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
	f.FIDO2 = &FIDO2{Party: party, Credential: id, Salt: random(32), PIN: pin}
	key, err := f.FIDO2.keyOf(ctx, t)
	if err != nil {
		return nil, err
	}
	if err := f.seal(key, private.Seed()); err != nil {
		return nil, err
	}
	return f, f.write(path)
}

// key has the token that the key was made with work out the key of a file.
func (k *FIDO2) key(ctx context.Context, u Unlock) ([]byte, error) {
	name, err := k.find(ctx, u.FIDO2)
	if err != nil {
		return nil, err
	}
	return k.keyOf(ctx, &fido2{device: name, u: u})
}

// find gives the token that the key was made with, of all that are plugged in: it is the one that knows the credential, which it says without a touch.
func (k *FIDO2) find(ctx context.Context, named string) (string, error) {
	if err := checkDevice(named); err != nil {
		return "", err
	}
	list, err := listed(ctx)
	if err != nil {
		return "", err
	}
	if named != "" { // it may be one that is not listed
		list = append([]string{named}, slices.DeleteFunc(list, func(l string) bool { return l == named })...)
	}
	switch len(list) {
	case 0:
		return "", errNoToken
	case 1:
		return list[0], nil
	}
	var unknown error
	for _, name := range list {
		_, err := run(ctx, nil, lines(base64.StdEncoding.EncodeToString(random(32)), k.Party, base64.StdEncoding.EncodeToString(k.Credential)),
			fido2Assert, "-G", "-t", "up=false", name)
		if err == nil {
			return name, nil
		}
		if ctx.Err() != nil {
			return "", err
		}
		if !strings.Contains(err.Error(), noCredentials) {
			unknown = errors.Join(unknown, fmt.Errorf("%s: %w", name, err))
		}
	}
	if unknown != nil {
		return "", fmt.Errorf("of the FIDO2 tokens %s none shows that the key was made with it: %w", strings.Join(list, ", "), unknown)
	}
	return "", fmt.Errorf("the key was made with none of the FIDO2 tokens %s", strings.Join(list, ", "))
}

func (k *FIDO2) keyOf(ctx context.Context, t *fido2) ([]byte, error) {
	args := []string{"-G", "-h", "-t", "up=true"}
	if k.PIN {
		args = append(args, "-t", "pin=true")
	}
	got, err := t.ask(ctx, "Touch the FIDO2 token to open the key.", lines(base64.StdEncoding.EncodeToString(random(32)), k.Party,
		base64.StdEncoding.EncodeToString(k.Credential), base64.StdEncoding.EncodeToString(k.Salt)), fido2Assert, args...)
	if err != nil {
		return nil, fmt.Errorf("ask the FIDO2 token: %w", err)
	}
	const hmac = 4 // the fifth line: the credential is not resident, so that no user's id stands before it
	if len(got) <= hmac {
		return nil, errors.New("the FIDO2 token gave no secret: it does not know the extension hmac-secret, or not this credential")
	}
	secret, err := base64.StdEncoding.DecodeString(got[hmac])
	if err != nil || len(secret) != 32 {
		return nil, fmt.Errorf("%s: what it printed as the secret is none", fido2Assert)
	}
	return hkdf.Key(sha256.New, secret, k.Salt, "roadstead owner key 1", chacha20poly1305.KeySize)
}

// fido2 is a token that is plugged in.
type fido2 struct {
	device string
	u      Unlock
	pin    []byte // once it was asked for
}

func plugged(ctx context.Context, u Unlock) (*fido2, error) {
	name, err := device(ctx, u.FIDO2)
	return &fido2{device: name, u: u}, err
}

// fit says whether the token has a PIN, and refuses one that cannot keep a key.
func (t *fido2) fit(ctx context.Context) (pin bool, err error) {
	out, err := run(ctx, nil, nil, fido2Token, "-I", t.device)
	if err != nil {
		return false, fmt.Errorf("look at the FIDO2 token: %w", err)
	}
	can := map[string][]string{}
	for _, line := range strings.Split(string(out), "\n") {
		if what, list, ok := strings.Cut(line, ": "); ok {
			can[what] = strings.Split(list, ", ")
		}
	}
	if can["version strings"] == nil {
		return false, fmt.Errorf("look at the FIDO2 token %s: %s", t.device, isBusy)
	}
	if !slices.Contains(can["extension strings"], "hmac-secret") {
		return false, fmt.Errorf("the token %s does not know the extension hmac-secret: use another one", t.device)
	}
	return slices.Contains(can["options"], "clientPin"), nil
}

// pinPrompt is what the programs say when they want the token's PIN, and errPINWanted that they have.
const pinPrompt = "Enter PIN for "

var errPINWanted = errors.New("the token asks for its PIN")

// ask has the token do something for which it is touched, and gives the lines of the answer. Most want their PIN for some things: it is asked for then.
// The programs would ask on the terminal, so they have none.
func (t *fido2) ask(ctx context.Context, say string, input []byte, program string, args ...string) ([]string, error) {
	args = append(args, t.device)
	var out []byte
	err := errPINWanted
	if t.pin == nil && !slices.Contains(args, "pin=true") {
		t.u.say(say)
		out, err = runAs(ctx, func(cmd *exec.Cmd) error {
			cmd.Stdin = bytes.NewReader(input)
			return withoutTerminal(cmd)
		}, program, args...)
	}
	if errors.Is(err, errPINWanted) {
		if t.pin == nil {
			if t.u.Passphrase == nil {
				return nil, err
			}
			if t.pin, err = t.u.Passphrase("PIN of the FIDO2 token " + t.device); err != nil {
				return nil, err
			}
		}
		t.u.say(say)
		out, err = t.askWithPIN(ctx, input, program, args...)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), err
}

// askWithPIN gives a program the PIN where it reads one without a terminal, its standard input, and its own input beside it.
func (t *fido2) askWithPIN(ctx context.Context, input []byte, program string, args ...string) ([]byte, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	_, err = out.Write(input) // less than a pipe holds
	if err := errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	return runAs(ctx, func(cmd *exec.Cmd) error {
		cmd.Stdin = bytes.NewReader(append(bytes.Clone(t.pin), '\n'))
		cmd.ExtraFiles = []*os.File{in} // the third
		return withoutTerminal(cmd)
	}, program, append([]string{args[0], "-i", "/dev/fd/3"}, args[1:]...)...)
}

var errNoToken = errors.New("there is no FIDO2 token: plug it in; `fido2-token -L` lists those that this user may use")

// device is the token to make a key on: the one that is named, or the only one there is.
func device(ctx context.Context, named string) (string, error) {
	if named != "" {
		return named, checkDevice(named)
	}
	found, err := listed(ctx)
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", errNoToken
	case len(found) > 1:
		return "", fmt.Errorf("there are %d FIDO2 tokens: name the one to make the key on by --fido2-device, of %s", len(found), strings.Join(found, ", "))
	}
	return found[0], nil
}

func checkDevice(named string) error {
	if named != "" && (strings.HasPrefix(named, "-") || !strings.ContainsAny(named, "/:")) {
		return fmt.Errorf("%q is no FIDO2 device: they are called as `fido2-token -L` lists them", named)
	}
	return nil
}

// listed are the tokens that are plugged in.
func listed(ctx context.Context) (names []string, err error) {
	out, err := run(ctx, nil, nil, fido2Token, "-L")
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if name, _, ok := strings.Cut(line, ": "); ok {
			names = append(names, name)
		}
	}
	return names, err
}

const (
	noCredentials = "FIDO_ERR_NO_CREDENTIALS"

	// A program that was interrupted leaves a token that waits. To the next one it looks as if it knew U2F only.
	isBusy = "it does not speak FIDO2, or still waits to be touched for what was asked before: touch it, or pull it out and plug it in again"
)

// tokenSays puts into words what went wrong with a token, where a person can do something about it; empty: nothing that is known.
func tokenSays(text string) string {
	for _, known := range []struct{ code, words string }{
		{"FIDO_ERR_USER_ACTION_TIMEOUT", "the token was not touched in time: try again, and touch it when it blinks"},
		{"FIDO_ERR_ACTION_TIMEOUT", "the token was not touched in time: try again, and touch it when it blinks"},
		{"FIDO_ERR_OPERATION_DENIED", "the token refused: it was not touched, or told not to"},
		{"FIDO_ERR_PIN_AUTH_BLOCKED", "too many wrong PINs: unplug the token, plug it in again, and try once more"},
		{"FIDO_ERR_PIN_BLOCKED", "the token's PIN is blocked after too many wrong ones: only a reset, which loses its keys, makes it usable again"},
		{"FIDO_ERR_PIN_INVALID", "wrong PIN of the token"},
		{"FIDO_ERR_PIN_REQUIRED", "the token asks for its PIN"},
		{"invalid PIN length", "a PIN has 4 to 63 characters"},
		{"FIDO_ERR_PIN_NOT_SET", "the token has no PIN yet, and wants one: `fido2-token -S DEVICE` sets it"},
		{noCredentials, "this is not the token that the key was made with"},
		{"FIDO_ERR_UNSUPPORTED_EXTENSION", "the token does not know the extension hmac-secret: use another one"},
		{"fido_dev_open", "there is no such token, or this user may not use it: `fido2-token -L` lists those that there are"},
		{"FIDO_ERR_UNSUPPORTED_OPTION", isBusy},
		{"FIDO_ERR_RX", "the token does not answer any more: was it pulled out? Plug it in, and try again"},
		{"FIDO_ERR_TX", "the token does not answer any more: was it pulled out? Plug it in, and try again"},
	} {
		if strings.Contains(text, known.code) {
			return known.words
		}
	}
	return ""
}

func lines(list ...string) []byte { return []byte(strings.Join(list, "\n") + "\n") }
