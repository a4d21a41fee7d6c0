package factor_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/factor"
	"github.com/roadstead-io/roadstead/internal/db"
)

// authenticator is a passkey in software, with the browser around it.
type authenticator struct {
	key    *ecdsa.PrivateKey
	id     []byte
	count  uint32
	flags  byte
	host   string
	origin string
	framed bool // the page is one within another
}

func newAuthenticator(t testing.TB) *authenticator {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authenticator{key: key, id: make([]byte, 32), flags: 1 | 4, host: host, origin: origin}
	_, _ = rand.Read(a.id)
	return a
}

func url64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (a *authenticator) clientData(kind string, o factor.Options) []byte {
	data, _ := json.Marshal(map[string]any{"type": kind, "challenge": o["publicKey"]["challenge"], "origin": a.origin, "crossOrigin": a.framed})
	return data
}

func (a *authenticator) data(more byte) []byte {
	sum := sha256.Sum256([]byte(a.host))
	return binary.BigEndian.AppendUint32(append(sum[:], a.flags|more), a.count)
}

func (a *authenticator) create(o factor.Options) (c factor.Credential) {
	spki, _ := x509.MarshalPKIXPublicKey(&a.key.PublicKey)
	data := append(a.data(0x40), make([]byte, 16)...)
	data = append(binary.BigEndian.AppendUint16(data, uint16(len(a.id))), a.id...)
	c.ID, c.Type = url64(a.id), "public-key"
	c.Response.ClientData, c.Response.AuthenticatorData, c.Response.PublicKey = url64(a.clientData("webauthn.create", o)), url64(data), url64(spki)
	c.Extensions.Properties.Resident = true
	return c
}

func (a *authenticator) get(o factor.Options) (c factor.Credential) {
	a.count++
	said, data := a.clientData("webauthn.get", o), a.data(0)
	sum := sha256.Sum256(said)
	hash := sha256.Sum256(append(append([]byte{}, data...), sum[:]...))
	signature, _ := ecdsa.SignASN1(rand.Reader, a.key, hash[:])
	c.ID, c.Type = url64(a.id), "public-key"
	c.Response.ClientData, c.Response.AuthenticatorData, c.Response.Signature = url64(said), url64(data), url64(signature)
	return c
}

func (f *fixture) registerStart(by access.Caller) (o factor.Options) {
	f.Helper()
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) { o, err = f.factors.RegisterStart(f.ctx, tx, by); return err }))
	return o
}

func (f *fixture) register(by access.Caller, c factor.Credential) (out api.Enrolled, err error) {
	err = f.db.Write(f.ctx, func(tx *db.Tx) (err error) {
		out, err = f.factors.Register(f.ctx, tx, by, "laptop", c, account.From{Address: "192.0.2.1"})
		return err
	})
	return out, err
}

func (f *fixture) verifyStart(by access.Caller) (o factor.Options) {
	f.Helper()
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) { o, err = f.factors.VerifyStart(f.ctx, tx, by); return err }))
	return o
}

func TestLoginWithAPasskey(t *testing.T) {
	f := newFixture(t)
	alice, device := f.user("alice"), newAuthenticator(t)
	out, err := f.register(alice, device.create(f.registerStart(alice)))
	f.must(err)
	if out.ID == 0 || len(out.RecoveryCodes) != 10 || claim(t, out.Token) != "false" {
		t.Errorf("registered: got %+v", out)
	}
	half := f.login("alice")
	if half.Kind != access.HalfUser {
		t.Fatalf("after the password: got a %s", half.Kind)
	}
	token, err := f.factors.VerifyPasskey(f.ctx, half, device.get(f.verifyStart(half)), account.From{})
	f.must(err)
	alice = f.caller(token)
	if alice.Kind != access.User {
		t.Errorf("after the passkey: got a %s", alice.Kind)
	}
	// And without a password.
	token, err = f.factors.Login(f.ctx, device.get(f.factors.LoginStart(f.clock())), account.From{})
	f.must(err)
	if c := f.caller(token); c.Kind != access.User || c.User != alice.User || claim(t, token) != "false" {
		t.Errorf("without a password: got %+v", c)
	}
	var list []api.Factor
	f.must(f.db.Read(f.ctx, func(tx *db.Tx) (err error) { list, err = f.factors.List(f.ctx, tx, alice); return err }))
	if len(list) != 2 || list[0].Kind != "passkey" || list[0].Name != "laptop" || !list[0].WayIn || list[0].LastUsedAt == "" || list[1].Left != 10 {
		t.Errorf("factors: got %+v", list)
	}
	f.must(f.db.Write(f.ctx, func(tx *db.Tx) (err error) {
		token, err = f.factors.Remove(f.ctx, tx, alice, out.ID, account.From{})
		return err
	}))
	if c := f.login("alice"); c.Kind != access.User || claim(t, token) != "" {
		t.Errorf("after it was removed: got a %s", c.Kind)
	}
}

func TestPasskeysAnswersThatDoNotHold(t *testing.T) {
	f := newFixture(t)
	alice, device := f.user("alice"), newAuthenticator(t)
	_, err := f.register(alice, device.create(f.registerStart(alice)))
	f.must(err)
	half := f.login("alice")
	bob, bobs := f.user("bob"), newAuthenticator(t)
	_, err = f.register(bob, bobs.create(f.registerStart(bob)))
	f.must(err)
	bobHalf := f.login("bob")
	used := device.get(f.verifyStart(half))
	_, err = f.factors.VerifyPasskey(f.ctx, f.login("alice"), used, account.From{})
	f.must(err)

	change := func(do func(a *authenticator), o factor.Options) factor.Credential {
		other := *device
		do(&other)
		c := other.get(o)
		device.count = other.count
		return c
	}
	nothing := func(*authenticator) {}
	old := f.verifyStart(half)
	f.pass(6 * time.Minute)
	broken := change(nothing, f.verifyStart(half))
	broken.Response.Signature = url64([]byte("no signature"))
	for what, c := range map[string]factor.Credential{
		"a challenge that was answered":      used,
		"a challenge that is too old":        change(nothing, old),
		"a challenge for a login":            change(nothing, f.factors.LoginStart(f.clock())),
		"a challenge for somebody else":      change(nothing, f.verifyStart(bobHalf)),
		"a challenge that we did not make":   change(nothing, factor.Options{"publicKey": {"challenge": url64(make([]byte, 56))}}),
		"another page":                       change(func(a *authenticator) { a.origin = "https://dashboard.roadstead.example" }, f.verifyStart(half)),
		"another server":                     change(func(a *authenticator) { a.host = "roadstead.example" }, f.verifyStart(half)),
		"a page within another":              change(func(a *authenticator) { a.framed = true }, f.verifyStart(half)),
		"nobody there":                       change(func(a *authenticator) { a.flags = 0 }, f.verifyStart(half)),
		"another key":                        change(func(a *authenticator) { a.key = bobs.key }, f.verifyStart(half)),
		"a passkey of somebody else":         bobs.get(f.verifyStart(half)),
		"a registration in the place of one": device.create(f.verifyStart(half)),
		"a broken signature":                 broken,
		"nothing":                            {},
	} {
		if token, err := f.factors.VerifyPasskey(f.ctx, half, c, account.From{}); !errors.Is(err, api.ErrUnauthorized) || token != "" {
			t.Errorf("%s: got %v", what, err)
		}
	}
	unverified := change(func(a *authenticator) { a.flags = 1 }, f.factors.LoginStart(f.clock()))
	if _, err := f.factors.Login(f.ctx, unverified, account.From{}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a login by a device that does not know its user: got %v", err)
	}
	elsewhere := change(nothing, f.factors.LoginStart(f.clock()))
	elsewhere.Response.UserHandle = url64([]byte("somebody else"))
	if _, err := f.factors.Login(f.ctx, elsewhere, account.From{}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a login by a device that takes itself for somebody else's: got %v", err)
	}
	alice = f.caller(must(f.factors.VerifyPasskey(f.ctx, half, device.get(f.verifyStart(half)), account.From{})))
	if _, err := f.register(alice, bobs.create(f.registerStart(alice))); !errors.Is(err, api.ErrConflict) {
		t.Errorf("registering somebody else's passkey: got %v", err)
	}
	late := f.registerStart(alice)
	f.pass(6 * time.Minute)
	if _, err := f.register(alice, newAuthenticator(t).create(late)); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("registering too late: got %v", err)
	}
}

// Every kind of key that is asked for signs somebody in, and no other is taken.
func TestKindsOfPasskeys(t *testing.T) {
	f := newFixture(t)
	curve := func(c elliptic.Curve) crypto.Signer { return must(ecdsa.GenerateKey(c, rand.Reader)) }
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	f.must(err)
	for name, tt := range map[string]struct {
		key  crypto.Signer
		good bool
	}{
		"es256": {curve(elliptic.P256()), true}, "eddsa": {edwards, true}, "rs256": {must(rsa.GenerateKey(rand.Reader, 2048)), true},
		"es384": {curve(elliptic.P384()), false}, "rs256-short": {must(rsa.GenerateKey(rand.Reader, 1024)), false},
	} {
		by, device := f.user(name), newAuthenticator(t)
		c := device.create(f.registerStart(by))
		c.Response.PublicKey = url64(must(x509.MarshalPKIXPublicKey(tt.key.Public())))
		if _, err := f.register(by, c); (err == nil) != tt.good || err != nil && !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%s, registered: got %v", name, err)
		}
		if !tt.good {
			continue
		}
		answer := func(half access.Caller, spoil byte) factor.Credential {
			c := device.get(f.verifyStart(half))
			said := must(base64.RawURLEncoding.DecodeString(c.Response.ClientData))
			sum := sha256.Sum256(said)
			message := append(must(base64.RawURLEncoding.DecodeString(c.Response.AuthenticatorData)), sum[:]...)
			how := crypto.SignerOpts(crypto.Hash(0))
			if name != "eddsa" {
				digest := sha256.Sum256(message)
				message, how = digest[:], crypto.SHA256
			}
			signature := must(tt.key.Sign(rand.Reader, message, how))
			signature[len(signature)-1] ^= spoil
			c.Response.Signature = url64(signature)
			return c
		}
		half := f.login(name)
		if _, err := f.factors.VerifyPasskey(f.ctx, half, answer(half, 1), account.From{}); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%s, with another signature: got %v", name, err)
		}
		_, err := f.factors.VerifyPasskey(f.ctx, half, answer(half, 0), account.From{})
		f.must(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Attack: a passkey is copied. The copy and the original do not know of each other's counts.
func TestACopiedPasskeyIsNoticed(t *testing.T) {
	f := newFixture(t)
	alice, device := f.user("alice"), newAuthenticator(t)
	_, err := f.register(alice, device.create(f.registerStart(alice)))
	f.must(err)
	theCopy := *device
	for range 3 {
		half := f.login("alice")
		_, err := f.factors.VerifyPasskey(f.ctx, half, device.get(f.verifyStart(half)), account.From{})
		f.must(err)
	}
	half := f.login("alice")
	if _, err := f.factors.VerifyPasskey(f.ctx, half, theCopy.get(f.verifyStart(half)), account.From{}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("the copy: got %v", err)
	}
	if n := f.count(`SELECT count(*) FROM passkey WHERE is_suspect = 1`); n != 1 {
		t.Errorf("marked as suspect: got %d", n)
	}
	if _, err := f.factors.Login(f.ctx, theCopy.get(f.factors.LoginStart(f.clock())), account.From{Address: "192.0.2.7"}); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a login with the copy: got %v", err)
	}
	if n := f.count(`SELECT count(*) FROM audit_entry WHERE act = 'factor.suspect' AND about_user = ?`, alice.User); n != 2 {
		t.Errorf("recorded: got %d", n)
	}
}

// What a login is asked with tells nothing of who has a passkey: it has no user in it.
func TestTheLoginTellsNothing(t *testing.T) {
	f := newFixture(t)
	o := f.factors.LoginStart(f.clock())
	delete(o["publicKey"], "challenge")
	before, _ := json.Marshal(o)
	alice := f.user("alice")
	_, err := f.register(alice, newAuthenticator(t).create(f.registerStart(alice)))
	f.must(err)
	o = f.factors.LoginStart(f.clock())
	delete(o["publicKey"], "challenge")
	if after, _ := json.Marshal(o); string(after) != string(before) {
		t.Errorf("got %s, before %s", after, before)
	}
	if n := f.count(`SELECT count(*) FROM used_challenge`); n != 1 {
		t.Errorf("rows: got %d; asking writes nothing", n)
	}
}

func FuzzCredential(f *testing.F) {
	f.Add([]byte(`{"id":"AA","type":"public-key","response":{"clientDataJSON":"e30","authenticatorData":"AA","signature":"AA"}}`))
	fx := newFixture(f)
	alice, device := fx.user("alice"), newAuthenticator(f)
	if _, err := fx.register(alice, device.create(fx.registerStart(alice))); err != nil {
		f.Fatal(err)
	}
	seed, _ := json.Marshal(device.get(fx.factors.LoginStart(fx.clock())))
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var c factor.Credential
		if json.Unmarshal(data, &c) != nil {
			return
		}
		if _, err := fx.factors.Login(fx.ctx, c, account.From{}); err != nil && !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%s: %v", data, err)
		}
	})
}
