package fetch

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/roadstead-io/roadstead/api"
)

// Keyring holds public keys. That a key is in it is not enough for its signature to count: whoever asks says by full fingerprint
// whose signature is wanted.
type Keyring struct{ keys openpgp.EntityList }

// What a signature must not rest on: anybody who can make two texts with one such digest can have one signed and show the other.
var (
	weakDigests   = map[crypto.Hash]bool{crypto.MD5: true, crypto.SHA1: true, crypto.RIPEMD160: true}
	maxSignature  = int64(64 << 10)
	maxKeyring    = int64(4 << 20)
	signatureKind = "PGP SIGNATURE"
	publicKind    = "PGP PUBLIC KEY BLOCK"
)

// ReadKeyring reads public keys from ASCII armour; there may be several blocks.
func ReadKeyring(text []byte) (*Keyring, error) {
	if int64(len(text)) > maxKeyring {
		return nil, api.Errorf(api.TooLarge, "the keyring is larger than %d bytes", maxKeyring)
	}
	ring := &Keyring{}
	// One block at a time: the armour's decoder reads ahead, past the end of a block.
	const begin = "-----BEGIN "
	for _, block := range strings.Split("\n"+string(text), "\n"+begin)[1:] {
		a, err := armor.Decode(strings.NewReader(begin + block))
		if err != nil {
			return nil, api.Errorf(api.Invalid, "the keyring is no ASCII armour: %v", err)
		}
		if a.Type != publicKind {
			return nil, api.Errorf(api.Invalid, "the keyring holds a %s; only public keys belong there", a.Type)
		}
		keys, err := openpgp.ReadKeyRing(a.Body)
		if err != nil {
			return nil, api.Errorf(api.Invalid, "the keyring cannot be read: %v", err)
		}
		ring.keys = append(ring.keys, keys...)
	}
	if len(ring.keys) == 0 {
		return nil, api.Errorf(api.Invalid, "the keyring holds no public key")
	}
	return ring, nil
}

// CheckFingerprint refuses what is not the whole fingerprint of a key. Short ids are no names: keys with a wanted one can be made.
func CheckFingerprint(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 20 || s != strings.ToUpper(s) {
		return api.Errorf(api.Invalid, "%q is no key's fingerprint: it has 40 hexadecimal digits in upper case; short ids are not taken", s)
	}
	return nil
}

// Verify checks a detached signature, armoured or not, over a text and gives the fingerprint of the primary key that made it. It
// must be by one of the keys by; if several of these signed, each signature must be good.
func (k *Keyring) Verify(name string, signed io.Reader, signature []byte, by []string, now time.Time) (string, error) {
	if int64(len(signature)) > maxSignature {
		return "", api.Errorf(api.TooLarge, "%s: the signature is larger than %d bytes", name, maxSignature)
	}
	var body io.Reader = bytes.NewReader(signature)
	if bytes.HasPrefix(bytes.TrimSpace(signature), []byte("-----BEGIN ")) {
		a, err := armor.Decode(body)
		if err != nil || a.Type != signatureKind {
			return "", api.Errorf(api.Invalid, "%s: its signature is no %s", name, signatureKind)
		}
		body = a.Body
	}
	return k.verify(name, signed, body, by, now)
}

// Open checks a text that carries its signature (as Debian's InRelease does) and gives what was signed.
func (k *Keyring) Open(name string, text []byte, by []string, now time.Time) (plain []byte, signer string, err error) {
	const start = "-----BEGIN PGP SIGNED MESSAGE-----"
	if !bytes.HasPrefix(text, []byte(start)) {
		return nil, "", api.Errorf(api.Invalid, "%s is not signed: it does not begin with %q", name, start)
	}
	block, rest := clearsign.Decode(text)
	if block == nil {
		return nil, "", api.Errorf(api.Invalid, "%s is not signed, or damaged", name)
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, "", api.Errorf(api.Invalid, "%s: there is text after its signature", name)
	}
	if signer, err = k.verify(name, bytes.NewReader(block.Bytes), block.ArmoredSignature.Body, by, now); err != nil {
		return nil, "", err
	}
	return block.Plaintext, signer, nil
}

func (k *Keyring) verify(name string, signed, signature io.Reader, by []string, now time.Time) (string, error) {
	wanted, err := k.wanted(by)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	cfg := &packet.Config{
		Time: func() time.Time { return now }, MinRSABits: 2048,
		RejectHashAlgorithms: weakDigests, RejectMessageHashAlgorithms: weakDigests,
	}
	md, err := openpgp.VerifyDetachedSignatureReader(wanted, signed, io.LimitReader(signature, maxSignature), cfg)
	if err != nil {
		return "", api.Errorf(api.Invalid, "%s: the signature cannot be read: %v", name, err)
	}
	if _, err := io.Copy(io.Discard, md.UnverifiedBody); err != nil {
		return "", fmt.Errorf("%s: check the signature: %w", name, err)
	}
	signer := ""
	var others []string
	for _, c := range md.SignatureCandidates {
		if c.SignedByEntity == nil {
			others = append(others, fmt.Sprintf("%016X", c.IssuerKeyId))
			continue
		}
		print := fingerprint(c.SignedByEntity)
		if err := judge(c, cfg, now); err != nil {
			return "", api.Errorf(api.Invalid, "%s: the signature by %s does not count: %v", name, print, err)
		}
		if signer == "" {
			signer = print
		}
	}
	if signer == "" {
		return "", api.Errorf(api.Invalid, "%s is signed by none of the keys that count (%s), but by %s", name,
			strings.Join(by, ", "), strings.Join(others, ", "))
	}
	return signer, nil
}

// wanted are the keys with these fingerprints.
func (k *Keyring) wanted(by []string) (openpgp.EntityList, error) {
	if len(by) == 0 {
		return nil, api.Errorf(api.Invalid, "nobody is named whose signature counts")
	}
	var list openpgp.EntityList
	for _, print := range by {
		if err := CheckFingerprint(print); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(k.keys, func(e *openpgp.Entity) bool { return fingerprint(e) == print })
		if i < 0 {
			return nil, api.Errorf(api.Invalid, "the key %s is not in the keyring", print)
		}
		list = append(list, k.keys[i])
	}
	return list, nil
}

// judge says why a signature does not count. The library judges a key as it was when the signature says that it was made; whoever
// holds a key that has expired since can say what they like there, so it must be good today as well.
func judge(c *openpgp.SignatureCandidate, cfg *packet.Config, now time.Time) error {
	if c.SignatureError != nil {
		return explain(c.SignatureError, c, cfg, now)
	}
	if c.SignedBy == nil || c.CorrespondingSig == nil {
		return errors.New("it could not be checked")
	}
	if c.CorrespondingSig.CreationTime.After(now.Add(clockSkew)) {
		return fmt.Errorf("it was made in the future, %s", c.CorrespondingSig.CreationTime.UTC().Format(time.RFC3339))
	}
	return standing(c.SignedByEntity, c.SignedBy.PublicKey, cfg, now)
}

// explain adds to the library's error what people need to know of the key.
func explain(err error, c *openpgp.SignatureCandidate, cfg *packet.Config, now time.Time) error {
	if c.SignedByEntity.Revoked(now) {
		return errors.New("the key is revoked")
	}
	if weakDigests[c.HashAlgorithm] {
		return fmt.Errorf("it rests on %s, which can be forged", c.HashAlgorithm)
	}
	if why := standing(c.SignedByEntity, nil, cfg, now); why != nil {
		return why
	}
	return err
}

// standing says why a key, or the part of it that signed, is not good at a time.
func standing(e *openpgp.Entity, part *packet.PublicKey, cfg *packet.Config, now time.Time) error {
	if e.Revoked(now) {
		return errors.New("the key is revoked")
	}
	if _, err := e.VerifyPrimaryKey(now, cfg); err != nil {
		return fmt.Errorf("the key is not good today: %w", err)
	}
	for i := range e.Subkeys {
		s := &e.Subkeys[i]
		if part == nil || !bytes.Equal(s.PublicKey.Fingerprint, part.Fingerprint) {
			continue
		}
		if _, err := s.Verify(now, cfg); err != nil {
			return fmt.Errorf("its part %X is not good today: %w", part.Fingerprint, err)
		}
	}
	return nil
}

func fingerprint(e *openpgp.Entity) string { return fmt.Sprintf("%X", e.PrimaryKey.Fingerprint) }
