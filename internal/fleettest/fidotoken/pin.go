package fidotoken

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
)

const pinProtocol = 1

// Subcommands of clientPIN (CTAP 2.1, 6.5.5).
const (
	getRetries      = 1
	getKeyAgreement = 2
	getPINToken     = 5
)

// pins is what a token keeps of a session about PINs and shared secrets.
type pins struct {
	agreement *ecdh.PrivateKey
	token     []byte // with which a program shows that it knew the PIN
	wrong     int    // PINs in a row
}

// fresh makes new secrets, as a token does when it is plugged in.
func (p *pins) fresh() {
	*p = pins{token: make([]byte, 32)}
	_, _ = rand.Read(p.token) // it never fails
	p.agree()
}

func (p *pins) agree() {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // only a reader that fails could do that
	}
	p.agreement = key
}

func (p *pins) command(k *Token, args map[any]any) (map[any]any, error) {
	sub, err := field[int](args, 2)
	if err != nil {
		return nil, err
	}
	switch sub {
	case getRetries:
		return map[any]any{3: k.retries}, nil
	case getKeyAgreement:
		point := p.agreement.PublicKey().Bytes()
		return map[any]any{1: map[any]any{1: 2, 3: -25, -1: 1, -2: point[1:33], -3: point[33:]}}, nil
	case getPINToken:
		return p.check(k, args)
	}
	return nil, invalidCommand
}

// check gives the PIN token to who knows the PIN.
func (p *pins) check(k *Token, args map[any]any) (map[any]any, error) {
	switch {
	case k.PIN == "":
		return nil, pinNotSet
	case k.retries == 0:
		return nil, pinBlocked
	case p.wrong == 3:
		return nil, pinAuthBlocked
	}
	shared, err := p.shared(args, 3)
	if err != nil {
		return nil, err
	}
	sealed, err := field[[]byte](args, 6)
	if err != nil {
		return nil, err
	}
	said, err := crypt(shared, sealed, cipher.NewCBCDecrypter)
	if err != nil {
		return nil, err
	}
	right := sha256.Sum256([]byte(k.PIN))
	if !hmac.Equal(said, right[:16]) {
		k.retries--
		p.wrong++
		p.agree()
		switch {
		case k.retries == 0:
			return nil, pinBlocked
		case p.wrong == 3:
			return nil, pinAuthBlocked
		}
		return nil, pinInvalid
	}
	k.retries, p.wrong = PINTries, 0
	token, err := crypt(shared, p.token, cipher.NewCBCEncrypter)
	return map[any]any{2: token}, err
}

// verified says whether a request shows, by its fields auth and protocol, that the program knew the PIN.
func (s *session) verified(args map[any]any, auth, protocol int, hash []byte) (bool, error) {
	if _, there := args[auth]; !there {
		return false, nil
	}
	shown, err := field[[]byte](args, auth)
	if err != nil {
		return false, err
	}
	if args[protocol] != pinProtocol || !hmac.Equal(shown, mac(s.pins.token, hash)) {
		return false, pinAuthInvalid
	}
	return true, nil
}

// secret is hmac-secret (CTAP 2.1, 12.5): the HMAC of one or two salts that arrive, and leave, encrypted.
func (p *pins) secret(ask map[any]any, key []byte) ([]byte, error) {
	shared, err := p.shared(ask, 1)
	if err != nil {
		return nil, err
	}
	sealed, err := field[[]byte](ask, 2)
	if err != nil {
		return nil, err
	}
	auth, err := field[[]byte](ask, 3)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(auth, mac(shared, sealed)) {
		return nil, pinAuthInvalid
	}
	salts, err := crypt(shared, sealed, cipher.NewCBCDecrypter)
	if err != nil {
		return nil, err
	}
	if len(salts) != 32 && len(salts) != 64 {
		return nil, invalidCBOR
	}
	var out []byte
	for ; len(salts) > 0; salts = salts[32:] {
		h := hmac.New(sha256.New, key)
		h.Write(salts[:32])
		out = h.Sum(out)
	}
	return crypt(shared, out, cipher.NewCBCEncrypter)
}

// shared is the secret that token and program have agreed on, by the program's public key in a field.
func (p *pins) shared(args map[any]any, key any) ([]byte, error) {
	cose, err := field[map[any]any](args, key)
	if err != nil {
		return nil, err
	}
	x, err := field[[]byte](cose, -2)
	if err != nil {
		return nil, err
	}
	y, err := field[[]byte](cose, -3)
	if err != nil {
		return nil, err
	}
	public, err := ecdh.P256().NewPublicKey(append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, invalidCBOR
	}
	point, err := p.agreement.ECDH(public)
	if err != nil {
		return nil, invalidCBOR
	}
	sum := sha256.Sum256(point)
	return sum[:], nil
}

// mac is how protocol one shows that somebody has a key.
func mac(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)[:16]
}

// crypt is how protocol one encrypts and decrypts: AES-256-CBC, from zero.
func crypt(key, data []byte, mode func(cipher.Block, []byte) cipher.BlockMode) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 || len(data)%aes.BlockSize != 0 {
		return nil, invalidCBOR
	}
	out := make([]byte, len(data))
	mode(block, make([]byte, aes.BlockSize)).CryptBlocks(out, data)
	return out, nil
}
