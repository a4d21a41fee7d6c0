package ownerkey

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Programs that speak to tokens, and the packages that have them.
const (
	pkcs11Tool  = "pkcs11-tool"
	fido2Token  = "fido2-token"
	fido2Cred   = "fido2-cred"
	fido2Assert = "fido2-assert"
)

var packages = map[string]string{pkcs11Tool: "opensc", fido2Token: "fido2-tools", fido2Cred: "fido2-tools", fido2Assert: "fido2-tools"}

// pinVariable carries a PIN to pkcs11-tool, in place of an argument that every user of the machine could read.
const pinVariable = "ROADSTEAD_TOKEN_PIN"

// uri is what is used of a PKCS#11 URI (RFC 7512).
type uri struct {
	token, object string
	id            []byte
	module        string
}

// parseURI reads where a key is: pkcs11:token=LABEL;object=NAME;id=%01?module-path=FILE
func parseURI(text string) (uri, error) {
	rest, ok := strings.CutPrefix(text, "pkcs11:")
	if !ok {
		return uri{}, fmt.Errorf("%q is no PKCS#11 URI: those begin with pkcs11: and name a token", text)
	}
	var u uri
	path, query, _ := strings.Cut(rest, "?")
	for _, part := range append(split(path, ";"), split(query, "&")...) {
		name, value, _ := strings.Cut(part, "=")
		plain, err := url.PathUnescape(value)
		if err != nil || plain == "" || strings.ContainsAny(plain, "\x00\n") && name != "id" {
			return uri{}, fmt.Errorf("PKCS#11 URI: %s: %q cannot be read", name, value)
		}
		switch name {
		case "token":
			u.token = plain
		case "object":
			u.object = plain
		case "id":
			u.id = []byte(plain)
		case "module-path":
			u.module = plain
		case "pin-value", "pin-source":
			return uri{}, fmt.Errorf("PKCS#11 URI: %s: the PIN is asked for, or read from the passphrase file; it does not stand in a URI", name)
		case "type", "manufacturer", "model", "serial", "library-manufacturer", "library-description", "library-version", "slot-id":
			return uri{}, fmt.Errorf("PKCS#11 URI: %s is not used here: name the token by token=LABEL", name)
		default:
			return uri{}, fmt.Errorf("PKCS#11 URI: %s is not known", name)
		}
	}
	switch {
	case u.token == "":
		return uri{}, errors.New("PKCS#11 URI: token is missing: name the token by its label")
	case u.object == "" && u.id == nil:
		return uri{}, errors.New("PKCS#11 URI: object and id are missing: name the key by one of them")
	case u.module != "" && !filepath.IsAbs(u.module):
		return uri{}, errors.New("PKCS#11 URI: module-path must be an absolute path")
	}
	return u, nil
}

func split(text, by string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, by)
}

// common are the arguments that choose module and token.
func (u uri) common() []string {
	var args []string
	if u.module != "" {
		args = append(args, "--module", u.module)
	}
	return append(args, "--token-label", u.token)
}

// key are the arguments that choose the key.
func (u uri) key() []string {
	var args []string
	if u.id != nil {
		args = append(args, "--id", hex.EncodeToString(u.id))
	}
	if u.object != "" {
		args = append(args, "--label", u.object)
	}
	return args
}

// public reads the public half, for which no PIN is needed. ok is false when the token has no such key.
func (u uri) public(ctx context.Context) (key *ecdsa.PublicKey, ok bool, err error) {
	out, err := run(ctx, nil, nil, pkcs11Tool, append(append(u.common(), "--read-object", "--type", "pubkey"), u.key()...)...)
	if err != nil {
		if strings.Contains(err.Error(), "object not found") {
			return nil, false, nil
		}
		return nil, false, err
	}
	any, err := x509.ParsePKIXPublicKey(out)
	if err != nil {
		return nil, false, fmt.Errorf("the public key on the token cannot be read: %w", err)
	}
	key, isEC := any.(*ecdsa.PublicKey)
	if !isEC || key.Curve != elliptic.P256() {
		return nil, false, errors.New("the key on the token is no ECDSA key on P-256; name another object, and one is made there")
	}
	return key, true, nil
}

// Token keeps a key on a PKCS#11 token: the one that the URI names, or a new one which the token makes there.
func Token(ctx context.Context, path, where string, u Unlock) (*File, error) {
	at, err := parseURI(where)
	if err != nil {
		return nil, err
	}
	key, there, err := at.public(ctx)
	if err != nil {
		return nil, err
	}
	if !there {
		pin, err := u.Passphrase("PIN of the token " + at.token)
		if err != nil {
			return nil, err
		}
		make := at
		if make.id == nil {
			make.id = random(8)
		}
		if make.object == "" {
			make.object = "roadstead"
		}
		if _, err := make.run(ctx, pin, nil, "--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign"); err != nil {
			return nil, fmt.Errorf("make a key on the token %s: %w", at.token, err)
		}
		u.say("Made the key " + make.object + " on the token " + at.token + ".")
		if key, there, err = at.public(ctx); err != nil || !there {
			return nil, fmt.Errorf("the token made a key and does not show it: %w", err)
		}
	} else {
		u.say("Took the key that is on the token " + at.token + ".")
	}
	f, err := newFile(KindPKCS11, key)
	if err != nil {
		return nil, err
	}
	f.Token = where
	return f, f.write(path)
}

// run asks the token for something that needs its PIN.
func (u uri) run(ctx context.Context, pin, input []byte, args ...string) ([]byte, error) {
	all := append(u.common(), "--login", "--pin", "env:"+pinVariable)
	return run(ctx, []string{pinVariable + "=" + string(pin)}, input, pkcs11Tool, append(append(all, args...), u.key()...)...)
}

// token is a key on a PKCS#11 token that was opened.
type token struct {
	ctx    context.Context // of the signing, see Open
	at     uri
	public *metadata.Key
	pin    []byte
}

func openToken(ctx context.Context, f *File, u Unlock) (Signer, error) {
	at, err := parseURI(f.Token)
	if err != nil {
		return nil, err
	}
	key, there, err := at.public(ctx)
	if err != nil {
		return nil, err
	}
	named, err := f.Public.ToPublicKey()
	if err != nil {
		return nil, err
	}
	if !there || !key.Equal(named) {
		return nil, fmt.Errorf("the token %s does not have the key %s: is it the right token?", at.token, f.ID[:8])
	}
	pin, err := u.Passphrase("PIN of the token " + at.token)
	if err != nil {
		return nil, err
	}
	return &token{ctx, at, f.Public, pin}, nil
}

func (t *token) Public() *metadata.Key { return t.public }

// Sign gives a signature as DER. Tokens sign digests; few know ECDSA with hashing of their own.
func (t *token) Sign(message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	sig, err := t.at.run(t.ctx, t.pin, sum[:], "--sign", "--mechanism", "ECDSA", "--signature-format", "openssl")
	if err != nil {
		return nil, fmt.Errorf("sign with the token %s: %w", t.at.token, err)
	}
	public, err := t.public.ToPublicKey()
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), sum[:], sig) {
		return nil, fmt.Errorf("the token %s gave a signature that does not verify", t.at.token)
	}
	return sig, nil
}

// run runs a token's program with input on its standard input and gives what it printed there.
func run(ctx context.Context, env []string, input []byte, program string, args ...string) ([]byte, error) {
	return runAs(ctx, func(cmd *exec.Cmd) error {
		cmd.Env = append(os.Environ(), env...)
		cmd.Stdin = bytes.NewReader(input)
		return nil
	}, program, args...)
}

// runAs runs a token's program as a function has it prepared.
func runAs(ctx context.Context, prepare func(*exec.Cmd) error, program string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("%s is not installed: `apt install %s`", program, packages[program])
	}
	cmd := exec.CommandContext(ctx, path, args...)
	if err := prepare(cmd); err != nil {
		return nil, err
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		text := lastLine(errs.String())
		if strings.Contains(errs.String(), "CKR_PIN_") {
			return nil, fmt.Errorf("%w (%s)", ErrPassphrase, text)
		}
		if strings.Contains(errs.String(), pinPrompt) && cmd.ExtraFiles == nil {
			return nil, errPINWanted
		}
		if what := tokenSays(errs.String()); what != "" {
			return nil, fmt.Errorf("%s (%s)", what, text)
		}
		return nil, fmt.Errorf("%s: %w: %s", program, err, text)
	}
	return out.Bytes(), nil
}

// lastLine is the last line that says something.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for len(lines) > 1 && strings.HasPrefix(lines[len(lines)-1], "Aborting") {
		lines = lines[:len(lines)-1]
	}
	return lines[len(lines)-1]
}
