// Package ownerkey keeps the keys with which the owner of a fleet signs: in files under a passphrase, in PKCS#11 tokens, and in files
// that only a FIDO2 token opens. Each key has a file; its public half can be read without the passphrase or token. What is secret never
// leaves the file but for the memory of the program that signs, and never leaves a PKCS#11 token at all.
package ownerkey

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// Kinds of keys.
const (
	KindPassphrase = "passphrase" // Ed25519, the file is sealed with a passphrase
	KindPKCS11     = "pkcs11"     // ECDSA P-256, the file says where the key is
	KindFIDO2      = "fido2"      // Ed25519, the file is sealed with what only a token can work out
	KindPublic     = "public"     // the public half of a key that is elsewhere
)

const (
	format   = 1        // of the files that are written
	maxFile  = 64 << 10 // of a file that is read
	kibCost  = 64 << 10 // of memory to try one passphrase; with the next two the second choice of RFC 9106
	timeCost = 3
	lanes    = 4
	maxKiB   = 4 << 20 // more memory than that is not asked for, whatever a file says

	// MinPassphrase is how many bytes the passphrase of a new key has at least.
	MinPassphrase = 10
)

// ErrPassphrase says that a passphrase, or the PIN of a token, is the wrong one.
var ErrPassphrase = errors.New("wrong passphrase")

// Signer signs with a key. It is a signer of package tuf.
type Signer interface {
	Public() *metadata.Key
	Sign(message []byte) ([]byte, error)
}

// File is a key's file. Everything in it but Sealed may be read by anybody who has the file; Sealed is bound to the rest.
type File struct {
	Format  int           `json:"roadstead_owner_key"`
	Kind    string        `json:"kind"`
	ID      string        `json:"id"` // of the public key, as TUF has it
	Created time.Time     `json:"created"`
	Public  *metadata.Key `json:"public"`
	KDF     *KDF          `json:"kdf,omitempty"`    // passphrase
	Token   string        `json:"token,omitempty"`  // pkcs11: where it is, as RFC 7512 writes it
	FIDO2   *FIDO2        `json:"fido2,omitempty"`  // fido2
	Sealed  []byte        `json:"sealed,omitempty"` // nonce and box (XChaCha20-Poly1305)

	path string
}

// KDF is how a passphrase becomes a key.
type KDF struct {
	Name   string `json:"name"` // argon2id
	Salt   []byte `json:"salt"`
	Time   uint32 `json:"time"`
	Memory uint32 `json:"memory"` // KiB
	Lanes  uint8  `json:"lanes"`
}

// Unlock is how keys are opened.
type Unlock struct {
	Passphrase func(what string) ([]byte, error) // asks for a passphrase, or the PIN of a token
	Say        func(text string)                 // tells a person what to do, as to touch a token; may be nil
	FIDO2      string                            // device of the FIDO2 token; empty: the only one there is
}

func (u Unlock) say(text string) {
	if u.Say != nil {
		u.Say(text)
	}
}

// Path is where the file was read, or written.
func (f *File) Path() string { return f.path }

// Describe says for people what kind of key it is.
func (f *File) Describe() string {
	switch f.Kind {
	case KindPKCS11:
		return "PKCS#11 token (" + f.Token + ")"
	case KindFIDO2:
		return "file that a FIDO2 token opens"
	case KindPublic:
		return "public half; the key is elsewhere"
	}
	return "file under a passphrase"
}

// Create makes a new key in a file under a passphrase. It overwrites nothing.
func Create(path string, passphrase []byte) (*File, error) {
	if len(passphrase) < MinPassphrase {
		return nil, fmt.Errorf("the passphrase is shorter than %d bytes", MinPassphrase)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	f, err := newFile(KindPassphrase, public)
	if err != nil {
		return nil, err
	}
	f.KDF = &KDF{Name: "argon2id", Salt: random(16), Time: timeCost, Memory: kibCost, Lanes: lanes}
	if err := f.seal(f.KDF.key(passphrase), private.Seed()); err != nil {
		return nil, err
	}
	return f, f.write(path)
}

// Read reads a key's file, without what is secret in it.
func Read(path string) (*File, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the key %s: %w", path, err)
	}
	f, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f.path = path
	return f, nil
}

// parse reads and checks what a file says.
func parse(data []byte) (*File, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("it is larger than %d bytes: that is no key", maxFile)
	}
	var version struct {
		Format int `json:"roadstead_owner_key"`
	}
	if err := json.Unmarshal(data, &version); err != nil || version.Format == 0 {
		return nil, errors.New("it is no owner's key")
	}
	if version.Format != format {
		return nil, fmt.Errorf("it has format %d, and this program knows format %d: use a newer one", version.Format, format)
	}
	f := &File{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(f); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	if f.Public == nil {
		return nil, errors.New("it is damaged: there is no public key")
	}
	if _, err := f.Public.ToPublicKey(); err != nil {
		return nil, fmt.Errorf("it is damaged: public key: %w", err)
	}
	if id, err := f.Public.ID(); err != nil || id != f.ID {
		return nil, errors.New("it is damaged: id and public key do not belong together")
	}
	switch {
	case f.Kind == KindPassphrase:
		return f, f.KDF.check()
	case f.Kind == KindPKCS11 && f.Token != "":
		_, err := parseURI(f.Token)
		return f, err
	case f.Kind == KindFIDO2:
		return f, f.FIDO2.check()
	case f.Kind == KindPublic:
		return f, nil
	}
	return nil, fmt.Errorf("it has a key of kind %q, which this program does not know", f.Kind)
}

// check bounds what is asked of this machine.
func (k *KDF) check() error {
	if k == nil || k.Name != "argon2id" || len(k.Salt) < 16 || len(k.Salt) > 64 || k.Time < 1 || k.Time > 100 || k.Memory < 8<<10 || k.Memory > maxKiB || k.Lanes < 1 {
		return errors.New("it is damaged: how the passphrase becomes a key")
	}
	return nil
}

func (k *KDF) key(passphrase []byte) []byte {
	return argon2.IDKey(passphrase, k.Salt, k.Time, k.Memory, k.Lanes, chacha20poly1305.KeySize)
}

// Open gives a signer. The context is that of all signing: tokens are asked while it lasts.
func (f *File) Open(ctx context.Context, u Unlock) (Signer, error) {
	var key []byte
	switch f.Kind {
	case KindPKCS11:
		return openToken(ctx, f, u)
	case KindPublic:
		return nil, fmt.Errorf("this is the public half of the key %s, which cannot sign: name the key's own file", f.ID[:8])
	case KindFIDO2:
		var err error
		if key, err = f.FIDO2.key(ctx, u); err != nil {
			return nil, err
		}
	default:
		passphrase, err := u.Passphrase("Passphrase of the key " + f.ID[:8])
		if err != nil {
			return nil, err
		}
		key = f.KDF.key(passphrase)
	}
	seed, err := f.open(key)
	if err != nil {
		return nil, err
	}
	private := ed25519.NewKeyFromSeed(seed)
	public, err := f.Public.ToPublicKey()
	if err != nil {
		return nil, err
	}
	if !private.Public().(ed25519.PublicKey).Equal(public) {
		return nil, errors.New("the key in the file is not the one that the file names")
	}
	return &plain{f.Public, private}, nil
}

// plain is an opened key.
type plain struct {
	public  *metadata.Key
	private ed25519.PrivateKey
}

func (p *plain) Public() *metadata.Key { return p.public }

func (p *plain) Sign(message []byte) ([]byte, error) { return ed25519.Sign(p.private, message), nil }

func newFile(kind string, public any) (*File, error) {
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return nil, err
	}
	id, err := key.ID()
	return &File{Format: format, Kind: kind, ID: id, Public: key, Created: time.Now().UTC().Truncate(time.Second)}, err
}

// bound is what the box is bound to: all of the file but the box.
func (f *File) bound() ([]byte, error) {
	rest := *f
	rest.Sealed = nil
	return json.Marshal(rest)
}

func (f *File) seal(key, secret []byte) error {
	bound, err := f.bound()
	if err != nil {
		return err
	}
	box, err := chacha20poly1305.NewX(key)
	if err != nil {
		return err
	}
	nonce := random(chacha20poly1305.NonceSizeX)
	f.Sealed = box.Seal(nonce, nonce, secret, bound)
	return nil
}

func (f *File) open(key []byte) ([]byte, error) {
	bound, err := f.bound()
	if err != nil {
		return nil, err
	}
	box, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	if len(f.Sealed) != chacha20poly1305.NonceSizeX+ed25519.SeedSize+box.Overhead() {
		return nil, errors.New("the key's file is damaged: its sealed part has the wrong length")
	}
	nonce, rest := f.Sealed[:chacha20poly1305.NonceSizeX], f.Sealed[chacha20poly1305.NonceSizeX:]
	secret, err := box.Open(nil, nonce, rest, bound)
	if err != nil {
		if f.Kind == KindFIDO2 {
			return nil, errors.New("this token does not open the key, or the file was changed: is it the token that the key was made with?")
		}
		return nil, fmt.Errorf("%w, or the file was changed", ErrPassphrase)
	}
	return secret, nil
}

// write puts the file down, for its owner's eyes, and overwrites nothing: a key that is lost cannot be made again.
func (f *File) write(path string) error {
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep the key: %w", err)
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and a key is not overwritten", path)
	}
	if err != nil {
		return fmt.Errorf("keep the key: %w", err)
	}
	_, err = out.Write(append(data, '\n'))
	err = errors.Join(err, out.Sync(), out.Close())
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("keep the key: %w", errors.Join(err, os.Remove(path)))
	}
	f.path = path
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails: crypto/rand ends the program instead
	return b
}

// PassphraseFrom reads a passphrase from a file: its first line.
func PassphraseFrom(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the passphrase: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, fmt.Errorf("the passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return nil, fmt.Errorf("the passphrase: the first line of %s is empty", path)
	}
	return []byte(line), nil
}

// WritePublic writes the public half of a key to a file of its own.
func (f *File) WritePublic(path string) (*File, error) {
	public := &File{Format: format, Kind: KindPublic, ID: f.ID, Public: f.Public, Created: f.Created}
	return public, public.write(path)
}
