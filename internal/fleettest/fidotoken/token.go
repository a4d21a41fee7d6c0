// Package fidotoken is a FIDO2 token for tests, in software: what a security key does at the other end of its USB cable. It speaks CTAP 2.0 over
// CTAPHID, with user presence, the extension hmac-secret and a PIN (protocol one), and nothing that the keys of owners do not need. It guards nothing: whoever
// has the process has its secrets.
package fidotoken

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
)

// Answer is what a person does whom a token waits for.
type Answer int

// Answers.
const (
	Touched Answer = iota
	Refused        // the token was told not to
	TooLate        // nobody has come, and the token waits no longer
)

// Token is a token, plugged in or not. Its fields are set before it is plugged in for the first time.
type Token struct {
	// Person is asked to touch it; what says what for. Nobody waits for the answer any more when the context ends. Nil: somebody always touches it.
	Person func(ctx context.Context, what string) Answer
	PIN    string // empty: it has none
	Old    bool   // it does not know hmac-secret

	waited  atomic.Int64 // keepalives that said that it waits for a touch
	secret  [32]byte     // of its own, of which all else is derived
	counter uint32       // of its signatures
	retries int          // that are left for the PIN
}

// PINTries is how many wrong PINs in all block a token.
const PINTries = 8

// New makes a token with a secret of its own.
func New() *Token {
	k := &Token{retries: PINTries}
	_, _ = rand.Read(k.secret[:]) // it never fails: crypto/rand ends the program instead
	return k
}

// Waited is how often it has said that it waits to be touched.
func (k *Token) Waited() int64 { return k.waited.Load() }

// status is how CTAP2 says what is wrong (CTAP 2.1, 8.2).
type status byte

const (
	invalidCommand       status = 0x01
	unexpectedType       status = 0x11
	invalidCBOR          status = 0x12
	missingParameter     status = 0x14
	unsupportedAlgorithm status = 0x26
	operationDenied      status = 0x27
	unsupportedOption    status = 0x2b
	keepaliveCancel      status = 0x2d
	noCredentials        status = 0x2e
	userActionTimeout    status = 0x2f
	pinInvalid           status = 0x31
	pinBlocked           status = 0x32
	pinAuthInvalid       status = 0x33
	pinAuthBlocked       status = 0x34
	pinNotSet            status = 0x35
	pinRequired          status = 0x36
	other                status = 0x7f
)

func (s status) Error() string {
	return "CTAP2 status " + string("0123456789abcdef"[s>>4]) + string("0123456789abcdef"[s&15])
}

// Commands.
const (
	makeCredential = 0x01
	getAssertion   = 0x02
	getInfo        = 0x04
	clientPIN      = 0x06
)

// Flags of what a token signs.
const (
	userPresent  = 0x01
	userVerified = 0x04
	withKey      = 0x40
	withMore     = 0x80
)

const (
	hmacSecret = "hmac-secret"
	es256      = -7
	publicKey  = "public-key"
)

// aaguid names the model.
var aaguid = []byte("roadstead tests.")

// command runs one, and gives its status and what it answers.
func (s *session) command(ctx context.Context, request []byte) []byte {
	answer, err := s.answer(ctx, request[0], request[1:])
	if err != nil {
		code := other
		errors.As(err, &code)
		return []byte{byte(code)}
	}
	return append([]byte{0}, encode(answer)...)
}

func (s *session) answer(ctx context.Context, command byte, request []byte) (map[any]any, error) {
	if command == getInfo {
		return s.info(), nil
	}
	v, err := decode(request)
	if err != nil {
		return nil, invalidCBOR
	}
	args, ok := v.(map[any]any)
	if !ok {
		return nil, unexpectedType
	}
	switch command {
	case makeCredential:
		return s.make(ctx, args)
	case getAssertion:
		return s.assert(ctx, args)
	case clientPIN:
		return s.pins.command(s.Token, args)
	}
	return nil, invalidCommand
}

func (k *Token) info() map[any]any {
	extensions := []any{}
	if !k.Old {
		extensions = append(extensions, hmacSecret)
	}
	return map[any]any{
		1: []any{"FIDO_2_0"}, 2: extensions, 3: aaguid,
		4: map[any]any{"rk": false, "up": true, "plat": false, "clientPin": k.PIN != ""},
		5: 2048, 6: []any{pinProtocol},
	}
}

// field gives a field that must be there.
func field[T any](m map[any]any, key any) (T, error) {
	v, ok := m[key]
	if !ok {
		var none T
		return none, missingParameter
	}
	t, ok := v.(T)
	if !ok {
		return t, unexpectedType
	}
	return t, nil
}

// maybe gives a field that need not be there.
func maybe[T any](m map[any]any, key any) (v T, err error) {
	if _, ok := m[key]; ok {
		return field[T](m, key)
	}
	return v, nil
}

// touch waits until a person touches the token.
func (s *session) touch(ctx context.Context, what string) error {
	if s.Person == nil {
		return nil
	}
	s.does.Store(needsTouch)
	defer s.does.Store(processing)
	answer := s.Person(ctx, what)
	switch {
	case ctx.Err() != nil:
		return keepaliveCancel
	case answer == Refused:
		return operationDenied
	case answer == TooLate:
		return userActionTimeout
	}
	return nil
}

// make makes a credential. It keeps none: a credential's id is its private key, sealed for this token and this party.
func (s *session) make(ctx context.Context, args map[any]any) (map[any]any, error) {
	hash, err := field[[]byte](args, 1)
	if err != nil {
		return nil, err
	}
	rp, err := field[map[any]any](args, 2)
	if err != nil {
		return nil, err
	}
	party, err := field[string](rp, "id")
	if err != nil {
		return nil, err
	}
	algorithms, err := field[[]any](args, 4)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(algorithms, func(a any) bool { m, _ := a.(map[any]any); return m["type"] == publicKey && m["alg"] == es256 }) {
		return nil, unsupportedAlgorithm
	}
	more, err := maybe[map[any]any](args, 6)
	if err != nil {
		return nil, err
	}
	options, err := maybe[map[any]any](args, 7)
	if err != nil {
		return nil, err
	}
	if options["rk"] == true || options["uv"] == true {
		return nil, unsupportedOption
	}
	verified, err := s.verified(args, 8, 9, hash)
	if err != nil {
		return nil, err
	}
	if s.PIN != "" && !verified {
		return nil, pinRequired
	}
	if err := s.touch(ctx, "make a credential for "+party); err != nil {
		return nil, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	id, err := s.wrap(private, party)
	if err != nil {
		return nil, err
	}
	point, err := private.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	var extensions map[any]any
	if more[hmacSecret] == true && !s.Old {
		extensions = map[any]any{hmacSecret: true}
	}
	key := append(append([]byte(nil), aaguid...), binary.BigEndian.AppendUint16(nil, uint16(len(id)))...)
	key = append(append(key, id...), encode(map[any]any{1: 2, 3: es256, -1: 1, -2: point[1:33], -3: point[33:]})...)
	data := s.data(party, verified, key, extensions)
	signature, err := sign(private, data, hash)
	if err != nil {
		return nil, err
	}
	return map[any]any{1: "packed", 2: data, 3: map[any]any{"alg": es256, "sig": signature}}, nil
}

// assert signs with a credential, and works out a secret.
func (s *session) assert(ctx context.Context, args map[any]any) (map[any]any, error) {
	party, err := field[string](args, 1)
	if err != nil {
		return nil, err
	}
	hash, err := field[[]byte](args, 2)
	if err != nil {
		return nil, err
	}
	allowed, err := maybe[[]any](args, 3)
	if err != nil {
		return nil, err
	}
	more, err := maybe[map[any]any](args, 4)
	if err != nil {
		return nil, err
	}
	options, err := maybe[map[any]any](args, 5)
	if err != nil {
		return nil, err
	}
	if options["uv"] == true {
		return nil, unsupportedOption
	}
	verified, err := s.verified(args, 6, 7, hash)
	if err != nil {
		return nil, err
	}
	var private *ecdsa.PrivateKey
	var id []byte
	for _, a := range allowed {
		m, _ := a.(map[any]any)
		if id, err = field[[]byte](m, "id"); err != nil {
			return nil, err
		}
		if private = s.unwrap(id, party); private != nil {
			break
		}
	}
	if private == nil {
		return nil, noCredentials
	}
	if options["up"] != false {
		if err := s.touch(ctx, "use a credential of "+party); err != nil {
			return nil, err
		}
	}
	var extensions map[any]any
	if _, asked := more[hmacSecret]; asked && !s.Old {
		ask, err := field[map[any]any](more, hmacSecret)
		if err != nil {
			return nil, err
		}
		secret, err := s.pins.secret(ask, s.derive("secret", id, map[bool]byte{true: 1}[verified]))
		if err != nil {
			return nil, err
		}
		extensions = map[any]any{hmacSecret: secret}
	}
	data := s.data(party, verified, nil, extensions)
	signature, err := sign(private, data, hash)
	if err != nil {
		return nil, err
	}
	return map[any]any{1: map[any]any{"id": id, "type": publicKey}, 2: data, 3: signature}, nil
}

// data is what is signed beside the program's hash.
func (k *Token) data(party string, verified bool, key []byte, extensions map[any]any) []byte {
	k.counter++
	name := sha256.Sum256([]byte(party))
	flags := byte(userPresent)
	if verified {
		flags |= userVerified
	}
	if key != nil {
		flags |= withKey
	}
	if extensions != nil {
		flags |= withMore
	}
	out := binary.BigEndian.AppendUint32(append(name[:], flags), k.counter)
	out = append(out, key...)
	if extensions != nil {
		out = append(out, encode(extensions)...)
	}
	return out
}

func sign(private *ecdsa.PrivateKey, data, hash []byte) ([]byte, error) {
	sum := sha256.Sum256(append(bytes.Clone(data), hash...))
	return ecdsa.SignASN1(rand.Reader, private, sum[:])
}

// derive gives a secret of the token's secret, one for each use.
func (k *Token) derive(use string, of []byte, which ...byte) []byte {
	h := hmac.New(sha256.New, k.secret[:])
	h.Write(append([]byte(use), which...))
	h.Write(of)
	return h.Sum(nil)
}

func (k *Token) box(party string) (cipher.AEAD, error) {
	block, err := aes.NewCipher(k.derive("credentials", []byte(party)))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (k *Token) wrap(private *ecdsa.PrivateKey, party string) ([]byte, error) {
	raw, err := private.Bytes()
	if err != nil {
		return nil, err
	}
	box, err := k.box(party)
	if err != nil {
		return nil, err
	}
	return box.Seal(nil, nil, raw, nil), nil
}

// unwrap gives nil for a credential of another token or party.
func (k *Token) unwrap(id []byte, party string) *ecdsa.PrivateKey {
	box, err := k.box(party)
	if err != nil {
		return nil
	}
	raw, err := box.Open(nil, nil, id, nil)
	if err != nil {
		return nil
	}
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
	if err != nil {
		return nil
	}
	return private
}
