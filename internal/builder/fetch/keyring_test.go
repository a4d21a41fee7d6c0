package fetch_test

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // for signatures that must not count
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/roadstead-io/roadstead/internal/builder/fetch"
)

func TestSignaturesThatCount(t *testing.T) {
	k, other := key(t, 0), key(t, 0)
	r := ring(t, other, k)
	by, err := r.Verify("file", strings.NewReader(good), sign(t, k, good, now, crypto.SHA512), []string{print(other), print(k)}, now)
	if err != nil || by != print(k) {
		t.Errorf("got %s, %v", by, err)
	}
}

func TestSignaturesThatDoNotCount(t *testing.T) {
	k := key(t, 0)
	expired := key(t, 30)
	revoked := key(t, 0)
	signedBefore := sign(t, revoked, good, made.Add(time.Hour), crypto.SHA256)
	if err := revoked.Revoke(packet.KeySuperseded, "", &packet.Config{Time: func() time.Time { return now.AddDate(0, -1, 0) }}); err != nil {
		t.Fatal(err)
	}
	stranger := key(t, 0)
	r := ring(t, k, expired, revoked)
	fresh := sign(t, k, good, now, crypto.SHA256)
	for name, c := range map[string]struct {
		text string
		sig  []byte
		by   []string
		want string
	}{
		"of another text":          {good, sign(t, k, strings.ToUpper(good), now, crypto.SHA256), []string{print(k)}, "does not count"},
		"one byte of the text":     {strings.Replace(good, "w", "v", 1), fresh, []string{print(k)}, "does not count"},
		"a key not in the keyring": {good, sign(t, stranger, good, now, crypto.SHA256), []string{print(k)}, "signed by none of the keys"},
		"named, not in the ring":   {good, sign(t, stranger, good, now, crypto.SHA256), []string{print(stranger)}, "is not in the keyring"},
		"in the ring, not named":   {good, fresh, []string{print(expired)}, "signed by none of the keys"},
		"an expired key":           {good, sign(t, expired, good, now, crypto.SHA256), []string{print(expired)}, "expired"},
		// Whoever has an expired key can date a signature back.
		"an expired key, dated back": {good, sign(t, expired, good, made.Add(time.Hour), crypto.SHA256), []string{print(expired)}, "expired"},
		"a revoked key":              {good, sign(t, revoked, good, now, crypto.SHA256), []string{print(revoked)}, "revoked"},
		"a revoked key, dated back":  {good, signedBefore, []string{print(revoked)}, "revoked"},
		"made in the future":         {good, sign(t, k, good, now.AddDate(0, 0, 3), crypto.SHA256), []string{print(k)}, "does not count"},
		"SHA-1":                      {good, sign(t, k, good, now, crypto.SHA1), []string{print(k)}, "SHA-1"},
		"a short id":                 {good, fresh, []string{print(k)[24:]}, "40 hexadecimal digits"},
		"a very short id":            {good, fresh, []string{print(k)[32:]}, "40 hexadecimal digits"},
		"nobody named":               {good, fresh, nil, "nobody is named"},
		"nothing":                    {good, nil, []string{print(k)}, "signature"},
		"rubbish":                    {good, []byte("-----BEGIN PGP SIGNATURE-----\nrubbish"), []string{print(k)}, "is no PGP SIGNATURE"},
		"endless":                    {good, make([]byte, 1<<20), []string{print(k)}, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Verify("prog.tar", strings.NewReader(c.text), c.sig, c.by, now)
			refused(t, err, "prog.tar", c.want)
		})
	}
}

func TestATextThatCarriesItsSignature(t *testing.T) {
	k := key(t, 0)
	r := ring(t, k)
	clear := func(text string) []byte {
		var b bytes.Buffer
		w, err := clearsign.Encode(&b, k.PrivateKey, &packet.Config{Time: func() time.Time { return now }, DefaultHash: crypto.SHA256})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, text)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	signed := clear("Suite: stable\n- dashed\n")
	plain, by, err := r.Open("InRelease", signed, []string{print(k)}, now)
	if err != nil || by != print(k) || string(plain) != "Suite: stable\n- dashed\n" {
		t.Errorf("got %q by %s, %v", plain, by, err)
	}
	for name, text := range map[string][]byte{
		"not signed":         []byte("Suite: stable\n"),
		"something before":   append([]byte("Suite: other\n"), signed...),
		"something after":    append(bytes.Clone(signed), "\nSuite: other\n"...),
		"one byte":           bytes.Replace(signed, []byte("stable"), []byte("stably"), 1),
		"a line added":       bytes.Replace(signed, []byte("Suite:"), []byte("X: y\nSuite:"), 1),
		"no signature in it": []byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSuite: stable\n"),
	} {
		if _, _, err := r.Open("InRelease", text, []string{print(k)}, now); err == nil {
			t.Errorf("%s: it was accepted", name)
		}
	}
}

func TestKeyringsThatAreRefused(t *testing.T) {
	k := key(t, 0)
	var secret bytes.Buffer
	w, _ := armor.Encode(&secret, "PGP PRIVATE KEY BLOCK", nil)
	if err := k.SerializePrivate(w, nil); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	for name, text := range map[string]string{"empty": "", "no armour": "abc", "a private key": secret.String(),
		"damaged": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"} {
		if _, err := fetch.ReadKeyring([]byte(text)); err == nil {
			t.Errorf("%s: it was accepted", name)
		}
	}
}

func TestAResourceIsFollowedByItsSignature(t *testing.T) {
	k := key(t, 0)
	served := map[string]string{"/prog": good, "/prog.asc": string(sign(t, k, good, now, crypto.SHA256))}
	url, f, cache := mirror(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, served[r.URL.Path]) })
	s := fetch.Signed{Name: "prog", URL: url + "/prog", Signature: url + "/prog.asc", By: []string{print(k)}}
	r := ring(t, k)
	l, by, err := f.Signed(t.Context(), r, s)
	if err != nil || by != print(k) || l.SHA256 != sum(good) || l.Size != int64(len(good)) {
		t.Fatalf("got %+v by %s, %v", l, by, err)
	}
	if _, err := os.Stat(cache + "/" + l.SHA256); err != nil {
		t.Error(err)
	}
	served["/prog"] = strings.Replace(good, "w", "v", 1)
	_ = os.Remove(cache + "/" + l.SHA256)
	_, _, err = f.Signed(t.Context(), r, s)
	refused(t, err, "prog", "does not count")
	nothing(t, cache)
}
