package fetch_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/roadstead-io/roadstead/internal/builder/fetch"
)

var (
	now  = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	made = now.AddDate(0, -6, 0) // when keys are made
)

// key makes a key that holds for some days from made; 0 means for ever.
func key(t *testing.T, days int) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("archive", "", "archive@example.com", &packet.Config{
		Time: func() time.Time { return made }, Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: uint32(days * 86400)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func ring(t *testing.T, keys ...*openpgp.Entity) *fetch.Keyring {
	t.Helper()
	var text bytes.Buffer
	for _, k := range keys {
		w, err := armor.Encode(&text, "PGP PUBLIC KEY BLOCK", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Serialize(w); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		text.WriteByte('\n')
	}
	r, err := fetch.ReadKeyring(text.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func print(e *openpgp.Entity) string { return fmt.Sprintf("%X", e.PrimaryKey.Fingerprint) }

// sign makes an armoured detached signature, dated at.
func sign(t *testing.T, by *openpgp.Entity, text string, at time.Time, hash crypto.Hash) []byte {
	t.Helper()
	var sig bytes.Buffer
	cfg := &packet.Config{Time: func() time.Time { return at }, DefaultHash: hash, NonDeterministicSignaturesViaNotation: new(bool),
		RejectHashAlgorithms: map[crypto.Hash]bool{}, RejectMessageHashAlgorithms: map[crypto.Hash]bool{}}
	s := &packet.Signature{Version: by.PrimaryKey.Version, SigType: packet.SigTypeBinary, PubKeyAlgo: by.PrimaryKey.PubKeyAlgo, Hash: hash,
		CreationTime: at, IssuerKeyId: &by.PrimaryKey.KeyId, IssuerFingerprint: by.PrimaryKey.Fingerprint}
	h := hash.New()
	_, _ = io.WriteString(h, text)
	if err := s.Sign(h, by.PrivateKey, cfg); err != nil {
		t.Fatal(err)
	}
	w, err := armor.Encode(&sig, "PGP SIGNATURE", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serialize(w); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	return sig.Bytes()
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

// mirror serves what the test says, over TLS, and makes a fetcher that trusts it.
func mirror(t *testing.T, h http.HandlerFunc) (url string, f *fetch.Fetcher, cache string) {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	srv.Config.ErrorLog = nil
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	cache = t.TempDir()
	f, err := fetch.New(fetch.Config{Cache: cache, Allow: []string{"127.0.0.1"}, Roots: roots, Timeout: 5 * time.Second,
		Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return srv.URL, f, cache
}

// nothing makes sure that nothing was kept.
func nothing(t *testing.T, cache string) {
	t.Helper()
	list, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		t.Errorf("%s was kept", e.Name())
	}
}

func refused(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it was accepted")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("refused with %q, which does not say %q", err, w)
		}
	}
}
