package fleettest_test

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what authenticator apps compute
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// oneTime is the code that an authenticator app shows some steps from now.
func oneTime(t *testing.T, secret string, steps int64) string {
	t.Helper()
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.TrimRight(secret, "="))
	if err != nil {
		t.Fatal(err)
	}
	m := hmac.New(sha1.New, key)
	m.Write(binary.BigEndian.AppendUint64(nil, uint64(time.Now().Unix()/30+steps)))
	sum := m.Sum(nil)
	at := sum[len(sum)-1] & 15
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:])&0x7fffffff)%1_000_000)
}

// A real browser enrols an authenticator app and a passkey, and signs in with each, and with a recovery code.
func TestSecondFactorsInTheBrowser(t *testing.T) {
	h := newHarbour(t)
	h.login("/account/totp")
	p := h.b.Shows("/account/totp", "Secret:")
	if len(p.Wrong) > 0 {
		t.Errorf("the browser complains: %v", p.Wrong)
	}
	secret := regexp.MustCompile(`Secret: ([A-Z2-7]{16,})`).FindStringSubmatch(p.Text)
	if secret == nil {
		t.Fatalf("no secret:\n%s", p.Text)
	}
	h.b.Fill("input[name=code]", oneTime(t, secret[1], 0))
	h.b.Click("form.card button")
	recovery := regexp.MustCompile(`\b[A-Za-z0-9]{4,}-[A-Za-z0-9-]{4,}\b`).FindString(h.b.Shows("/account/totp", "lets you in once").Text)
	if recovery == "" {
		t.Fatalf("no recovery code:\n%s", h.b.Do("state").Text)
	}
	h.b.Do("fresh")
	h.login("/account")
	h.b.Shows("/login/factor", "Second factor")
	h.b.Open(h.pages + "/account") // nothing else is open
	h.b.Shows("/login/factor", "Second factor")
	h.b.Fill("input[name=code]", "000000")
	h.b.Click("form.card button")
	h.b.Shows("/login/factor", "wrong")
	h.b.Fill("input[name=code]", oneTime(t, secret[1], 1))
	h.b.Click("form.card button")
	h.b.Open(h.pages + "/account")
	h.b.Shows("/account", "An authenticator app is asked")

	h.b.Do("fresh")
	h.b.Do("passkey")
	h.login("/account")
	h.b.Shows("/login/factor", "Second factor")
	h.b.Fill("input[name=code]", recovery)
	h.b.Click("form.card button")
	h.b.Shows("/account", "Add a passkey")
	h.b.Fill("input[name=name]", "key ring")
	h.b.Click("text=Add a passkey")
	h.b.Shows("/account", "Passkey key ring")
	h.b.Click("text=Log out")
	h.b.Shows("/login", "Forgotten password?")
	h.login("/account")
	h.b.Shows("/login/factor", "Second factor")
	h.b.Click("text=Use a passkey")
	h.b.Shows("/account", "Passkey key ring")
}
