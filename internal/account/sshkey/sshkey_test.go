package sshkey_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"math/big"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/sshkey"
)

func line(t *testing.T, key any) string {
	t.Helper()
	k, err := ssh.NewPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

// made is a key of a given wire form.
func made(form any) string {
	wire := ssh.Marshal(form)
	var name struct {
		Name string
		Rest []byte `ssh:"rest"`
	}
	_ = ssh.Unmarshal(wire, &name)
	return name.Name + " " + base64.StdEncoding.EncodeToString(wire)
}

type rsaForm struct {
	Name string
	E, N *big.Int
}

func TestKeysThatAreLetIn(t *testing.T) {
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]string{"ed25519": line(t, edPublic)}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		good[name] = line(t, &key.PublicKey)
		if name == "p256" {
			point, err := key.PublicKey.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			good["security key, ecdsa"] = made(struct {
				Name, Curve string
				Point       []byte
				App         string
			}{ssh.KeyAlgoSKECDSA256, "nistp256", point, "ssh:"})
		}
	}
	good["security key, ed25519"] = made(struct {
		Name  string
		Point []byte
		App   string
	}{ssh.KeyAlgoSKED25519, edPublic, "ssh:"})
	large, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	good["rsa 3072"] = line(t, &large.PublicKey)
	for name, text := range good {
		k, err := sshkey.Parse(" " + text + " a comment\n")
		if err != nil || k.Line != text+" a comment" || !strings.HasPrefix(k.Fingerprint, "SHA256:") {
			t.Errorf("%s: got %+v, %v", name, k, err)
		}
		if other, err := sshkey.Parse(text); err != nil || other.Fingerprint != k.Fingerprint || sshkey.Fingerprint(text+" x") != k.Fingerprint {
			t.Errorf("%s: the comment changes the fingerprint: %+v, %v", name, other, err)
		}
	}
	odd := new(big.Int).SetBit(big.NewInt(1), 3071, 1)
	dsaForm := struct {
		Name       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", new(big.Int).SetBit(big.NewInt(1), 1023, 1), new(big.Int).SetBit(big.NewInt(1), 159, 1), big.NewInt(2), big.NewInt(3)}
	for name, text := range map[string]string{
		"nothing": "", "rubbish": "ssh-ed25519 AAAA", "private": "-----BEGIN OPENSSH PRIVATE KEY-----", "two": good["p256"] + "\n" + good["p384"],
		"options": `command="id" ` + good["p256"], "control characters": good["p256"] + " \x1b[2J", "a long comment": good["p256"] + " " + strings.Repeat("x", sshkey.MaxLen),
		"dsa": made(dsaForm), "rsa 2048": made(rsaForm{"ssh-rsa", big.NewInt(65537), new(big.Int).SetBit(big.NewInt(1), 2047, 1)}),
		"rsa 3071":            made(rsaForm{"ssh-rsa", big.NewInt(65537), new(big.Int).SetBit(big.NewInt(1), 3070, 1)}),
		"rsa 20000":           made(rsaForm{"ssh-rsa", big.NewInt(65537), new(big.Int).SetBit(big.NewInt(1), 19999, 1)}),
		"rsa with exponent 1": made(rsaForm{"ssh-rsa", big.NewInt(1), odd}), "rsa with exponent 4": made(rsaForm{"ssh-rsa", big.NewInt(4), odd}),
		"rsa, even": made(rsaForm{"ssh-rsa", big.NewInt(65537), new(big.Int).SetBit(big.NewInt(0), 3071, 1)}),
	} {
		if k, err := sshkey.Parse(text); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "public_key") {
			t.Errorf("%s: got %+v, %v", name, k, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPn3SAl0XNepBrKIwqu97e8GN6u41trFccff+VLRF3Dz somebody@example.com")
	f.Add("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQ==")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := sshkey.Parse(text)
		if err != nil {
			return
		}
		again, err := sshkey.Parse(k.Line)
		if err != nil || again != k || strings.ContainsAny(k.Line, "\r\n") {
			t.Errorf("%q: got %+v, then %+v, %v", text, k, again, err)
		}
	})
}
