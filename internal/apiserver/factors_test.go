package apiserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// browser answers as browsers do, with all that PublicKeyCredential.toJSON says.
type browser struct {
	key    *ecdsa.PrivateKey
	id     []byte
	origin string
	count  uint32
}

func (b *browser) answer(s *server, kind string, options *answer) map[string]any {
	s.Helper()
	var o struct {
		PublicKey struct {
			Challenge string
			RP        struct{ ID string }
			RPID      string `json:"rpId"`
		}
	}
	options.want(http.StatusOK).into(&o)
	b64 := base64.RawURLEncoding.EncodeToString
	said, err := json.Marshal(map[string]any{"type": kind, "challenge": o.PublicKey.Challenge, "origin": b.origin, "crossOrigin": false})
	s.must(err)
	b.count++
	host := sha256.Sum256([]byte(o.PublicKey.RP.ID + o.PublicKey.RPID))
	flags := byte(1 | 4)
	if kind == "webauthn.create" {
		flags |= 0x40
	}
	data := binary.BigEndian.AppendUint32(append(host[:], flags), b.count)
	response := map[string]any{"clientDataJSON": b64(said)}
	if kind == "webauthn.create" {
		data = append(binary.BigEndian.AppendUint16(append(data, make([]byte, 16)...), uint16(len(b.id))), b.id...)
		spki, err := x509.MarshalPKIXPublicKey(&b.key.PublicKey)
		s.must(err)
		response["publicKey"], response["publicKeyAlgorithm"], response["transports"] = b64(spki), -7, []string{"internal"}
		response["attestationObject"] = b64([]byte("not looked at"))
	} else {
		sum := sha256.Sum256(said)
		hash := sha256.Sum256(append(append([]byte{}, data...), sum[:]...))
		signature, err := ecdsa.SignASN1(rand.Reader, b.key, hash[:])
		s.must(err)
		response["signature"], response["userHandle"] = b64(signature), nil
	}
	response["authenticatorData"] = b64(data)
	return map[string]any{
		"id": b64(b.id), "rawId": b64(b.id), "type": "public-key", "authenticatorAttachment": "platform", "response": response,
		"clientExtensionResults": map[string]any{"credProps": map[string]bool{"rk": true}},
	}
}

func TestPasskeysOverTheWire(t *testing.T) {
	s := newServer(t)
	var made api.NewUser
	s.role(api.RoleAdmin, "POST", "/internal/v1/users", api.NewUser{Email: "pam@example.com", Username: "pam"}).want(http.StatusCreated).into(&made)
	session := s.login("pam", made.Password)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	b := &browser{key: key, id: []byte("0123456789abcdef"), origin: "https://dashboard.roadstead.test"}
	var out api.Enrolled
	s.do(session, "POST", "/auth/webauthn/register/start", nil)
	s.do(session, "POST", "/auth/webauthn/register", map[string]any{
		"name": "laptop", "credential": b.answer(s, "webauthn.create", s.do(session, "POST", "/auth/webauthn/register/start", nil)),
	}).want(http.StatusOK).into(&out)
	if out.ID == 0 || len(out.RecoveryCodes) != 10 {
		t.Fatalf("registered: got %+v", out)
	}
	s.do(session, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	half := s.login("pam", made.Password)
	s.do(half, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	s.do(half, "GET", "/v7/organization", nil).want(http.StatusUnauthorized)
	whole := s.do(half, "POST", "/auth/webauthn/verify", b.answer(s, "webauthn.get", s.do(half, "POST", "/auth/webauthn/verify/start", nil))).want(http.StatusOK)
	s.do(whole.body, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	direct := s.do("", "POST", "/auth/webauthn/login", b.answer(s, "webauthn.get", s.do("", "POST", "/auth/webauthn/login/start", nil))).want(http.StatusOK)
	s.do(direct.body, "GET", "/user/v1/factors", nil).want(http.StatusOK)
	left := s.do(direct.body, "DELETE", "/auth/webauthn/"+itoa(out.ID), nil).want(http.StatusOK)
	s.do(left.body, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
}
