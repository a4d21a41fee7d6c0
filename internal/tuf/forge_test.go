package tuf_test

import (
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/roadstead-io/roadstead/internal/tuf"
)

// forge changes the signed part of a file, past all that Make would refuse, and signs it again.
func forge(t testing.TB, file []byte, change func(signed map[string]any), signers ...tuf.Signer) []byte {
	t.Helper()
	var e struct {
		Signed     map[string]any      `json:"signed"`
		Signatures []map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(file, &e); err != nil {
		t.Fatal(err)
	}
	change(e.Signed)
	message, err := tuf.Canonical(e.Signed)
	if err != nil {
		t.Fatal(err)
	}
	e.Signatures = []map[string]string{}
	for _, s := range signers {
		sig, err := s.Sign(message)
		if err != nil {
			t.Fatal(err)
		}
		e.Signatures = append(e.Signatures, map[string]string{"keyid": tuf.KeyID(s.Public()), "sig": hex.EncodeToString(sig)})
	}
	out, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// at goes into nested objects.
func at(m map[string]any, path ...string) map[string]any {
	for _, name := range path {
		m = m[name].(map[string]any)
	}
	return m
}

// reason fails the test unless an error is a refusal for this reason.
func reason(t testing.TB, err error, want string) {
	t.Helper()
	r, ok := tuf.Rejection(err)
	if !ok || r.Reason != want || r.What == "" {
		t.Errorf("got %v, want a refusal because of %s", err, want)
	}
}
