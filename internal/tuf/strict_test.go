package tuf_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// readers has every reader, by role. Each gives only its error.
var readers = map[string]func([]byte) error{
	api.TrustRoot:      func(b []byte) error { _, err := tuf.ReadRoot(b); return err },
	api.TrustTimestamp: func(b []byte) error { _, err := tuf.ReadTimestamp(b); return err },
	api.TrustSnapshot:  func(b []byte) error { _, err := tuf.ReadSnapshot(b); return err },
	api.TrustTargets:   func(b []byte) error { _, err := tuf.ReadTargets(b); return err },
	api.TrustBuilder:   func(b []byte) error { _, err := tuf.ReadDelegator(api.TrustBuilder, b); return err },
	api.TrustOwner:     func(b []byte) error { _, err := tuf.ReadDelegator(api.TrustOwner, b); return err },
	api.TrustDirector:  func(b []byte) error { _, err := tuf.ReadDirector(b); return err },
	"bin":              func(b []byte) error { _, err := tuf.ReadBin(binRole(), b); return err },
	"command":          func(b []byte) error { _, err := tuf.ReadCommand(b); return err },
}

func binRole() string {
	path, _ := tuf.ReleasePath(commit)
	return tuf.BinRole(api.TrustBuilder, path)
}

func command() api.TrustCommand {
	return api.TrustCommand{Fleet: fleetID, Device: device, Verb: "reboot", Nonce: nonce, Expires: start.AddDate(0, 0, 1)}
}

// good gives one right file of each kind.
func good(t testing.TB) map[string][]byte {
	t.Helper()
	r := newRepo(t, api.ApprovalBoth)
	r.list(api.TrustBuilder, commit, doc)
	r.make()
	files := map[string][]byte{"bin": r.files[binRole()], api.TrustDirector: r.statement(nil)}
	for _, role := range []string{api.TrustRoot, api.TrustTimestamp, api.TrustSnapshot, api.TrustTargets, api.TrustBuilder, api.TrustOwner} {
		files[role] = r.files[role]
	}
	files["command"] = must[[]byte](t)(tuf.SignCommand(command(), signer("director")))
	return files
}

// What no file may be, whoever signed it.
func TestEveryReaderIsStrict(t *testing.T) {
	for kind, file := range good(t) {
		read := readers[kind]
		if err := read(file); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		text := string(file)
		for name, bad := range map[string]string{
			"nothing":                        "",
			"not JSON":                       "hello",
			"a list":                         "[" + text + "]",
			"null":                           "null",
			"bytes after the end":            text + "x",
			"a second value":                 text + text,
			"a NUL after the end":            text + "\x00",
			"cut off":                        text[:len(text)-1],
			"a member twice":                 strings.Replace(text, `"_type":`, `"_type":"x","_type":`, 1),
			"a member twice, one hidden":     strings.Replace(text, `"_type":`, `"\u005ftype":"x","_type":`, 1),
			"a member with a capital letter": strings.Replace(text, `"_type":`, `"_Type":"x","_type":`, 1),
			"capital letters":                strings.Replace(text, `"signed":`, `"SIGNED":`, 1),
			"a member that is not ASCII":     strings.Replace(text, `"_type":`, `"ſigned":1,"_type":`, 1),
			"a value that is not ASCII":      strings.Replace(text, `"_type":`, `"x":"é","_type":`, 1),
			"an escaped one":                 strings.Replace(text, `"_type":`, `"x":"\u0000","_type":`, 1),
			"half a surrogate":               strings.Replace(text, `"_type":`, `"x":"\ud800","_type":`, 1),
			"invalid UTF-8":                  strings.Replace(text, `"_type":`, "\"x\":\"\xff\",\"_type\":", 1),
			"a number with a point":          strings.Replace(text, `"_type":`, `"x":1.0,"_type":`, 1),
			"a number with an exponent":      strings.Replace(text, `"_type":`, `"x":1e3,"_type":`, 1),
			"a number with a zero before":    strings.Replace(text, `"_type":`, `"x":01,"_type":`, 1),
			"minus nothing":                  strings.Replace(text, `"_type":`, `"x":-0,"_type":`, 1),
			"a number beyond 2^53":           strings.Replace(text, `"_type":`, `"x":9007199254740993,"_type":`, 1),
			"depth":                          strings.Replace(text, `"_type":`, `"x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`,"_type":`, 1),
			"no signed part":                 `{"signatures":[]}`,
			"an empty signed part":           `{"signed":{},"signatures":[]}`,
			"a signed part that is text":     `{"signed":"x","signatures":[]}`,
			"another type":                   strings.Replace(text, `"_type":"`, `"_type":"x`, 1),
			"a signature that is no number":  strings.Replace(text, `"sig":"`, `"sig":"zz`, 1),
			"a key's id that climbs":         strings.Replace(text, `"keyid":"`, `"keyid":"../`, 1),
			"an unterminated string":         `{"signed":"`,
			"an escape at the end":           `{"signed":"\`,
			"a comment":                      "/* */" + text,
			"a byte order mark":              "\ufeff" + text,
			"a comma too many":               strings.Replace(text, `}`, `,}`, 1),
			"more bytes than any may have":   text[:len(text)-1] + strings.Repeat(" ", 2<<20) + "}",
			"no expiry":                      strings.Replace(text, `"expires":"`, `"expired":"`, 1),
			"an expiry that is no time":      strings.Replace(text, `"expires":"2`, `"expires":"x`, 1),
			"two signatures of the same key": double(text),
		} {
			if bad == text {
				t.Fatalf("%s, %s: nothing was changed", kind, name)
			}
			err := read([]byte(bad))
			if r, ok := tuf.Rejection(err); !ok || r.What == "" || r.Reason == "" {
				t.Errorf("%s, %s: %v, want a refusal", kind, name, err)
			}
			if c, err := tuf.Open(fleetID, []byte(bad)); err == nil {
				t.Errorf("Open of %s, %s: %v", kind, name, c)
			}
		}
		// Nothing reads what another wrote.
		for other, readOther := range readers {
			if other != kind && readOther(file) == nil {
				t.Errorf("%s is read as %s", kind, other)
			}
		}
	}
}

// double repeats the signatures.
func double(text string) string {
	var e struct {
		Signed     json.RawMessage   `json:"signed"`
		Signatures []json.RawMessage `json:"signatures"`
	}
	_ = json.Unmarshal([]byte(text), &e)
	e.Signatures = append(e.Signatures, e.Signatures...)
	out, _ := json.Marshal(e)
	return string(out)
}

// A huge file is refused before it is looked at: it costs no more than its length.
func TestHugeFilesAreNotParsed(t *testing.T) {
	huge := bytes.Repeat([]byte("["), 100<<20)
	for kind, read := range readers {
		allocated := testing.AllocsPerRun(1, func() { reason(t, read(huge), tuf.ReasonSize) })
		if allocated > 200 {
			t.Errorf("%s: %v allocations", kind, allocated)
		}
	}
}

// said is something that a file may not say, though it is rightly signed and written.
type said struct {
	kind, name, reason string
	change             func(m)
}

type m = map[string]any

// publicPEM writes a public key as metadata would have it.
func publicPEM(t testing.TB, key any) string {
	t.Helper()
	der := must[[]byte](t)(x509.MarshalPKIXPublicKey(key))
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// listedKey is a key as metadata list it, of whatever kind.
func listedKey(kind, scheme, value string) m {
	return m{"keytype": kind, "scheme": scheme, "keyval": m{"public": value}}
}

// rename gives a member of an object another name.
func rename(member, from, to string) func(m) {
	return func(s m) {
		inner := at(s, member)
		inner[to] = inner[from]
		delete(inner, from)
	}
}

// saidInRoots are such things about root, and about every file.
func saidInRoots(t testing.TB) []said {
	second := signer("second").Public()
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	p256, p384 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	return []said{
		{api.TrustRoot, "version 0", tuf.ReasonVersion, func(s m) { s["version"] = 0 }},
		{api.TrustRoot, "a negative version", tuf.ReasonVersion, func(s m) { s["version"] = -1 }},
		{api.TrustRoot, "a huge version", tuf.ReasonVersion, func(s m) { s["version"] = int64(1)<<40 + 1 }},
		{api.TrustRoot, "a version that is text", tuf.ReasonMalformed, func(s m) { s["version"] = "1" }},
		{api.TrustRoot, "no mark", tuf.ReasonMissing, func(s m) { delete(s, "x-roadstead") }},
		{api.TrustRoot, "no fleet", tuf.ReasonFleet, func(s m) { delete(at(s, "x-roadstead"), "fleet") }},
		{api.TrustRoot, "a fleet that climbs", tuf.ReasonFleet, func(s m) { at(s, "x-roadstead")["fleet"] = "../../../../../../../../../../etc" }},
		{api.TrustRoot, "another role", tuf.ReasonType, func(s m) { at(s, "x-roadstead")["role"] = "targets" }},
		{api.TrustRoot, "no time of signing", tuf.ReasonMissing, func(s m) { delete(at(s, "x-roadstead"), "signed_at") }},
		{api.TrustRoot, "signed after it expires", tuf.ReasonExpired, func(s m) { at(s, "x-roadstead")["signed_at"] = "2099-01-01T00:00:00Z" }},
		{api.TrustRoot, "held by nobody", tuf.ReasonMalformed, func(s m) { delete(at(s, "x-roadstead"), "held_by") }},
		{api.TrustRoot, "an expiry in another zone", tuf.ReasonMalformed, func(s m) { s["expires"] = "2028-01-01T00:00:00+01:00" }},
		{api.TrustRoot, "an expiry with a fraction", tuf.ReasonMalformed, func(s m) { s["expires"] = "2028-01-01T00:00:00.5Z" }},
		{api.TrustRoot, "another specification", tuf.ReasonMalformed, func(s m) { s["spec_version"] = "2.0.0" }},
		{api.TrustRoot, "no consistent snapshot", tuf.ReasonMalformed, func(s m) { s["consistent_snapshot"] = false }},
		{api.TrustRoot, "threshold 0", tuf.ReasonThreshold, func(s m) { at(s, "roles", "root")["threshold"] = 0 }},
		{api.TrustRoot, "a negative threshold", tuf.ReasonThreshold, func(s m) { at(s, "roles", "root")["threshold"] = -1 }},
		{api.TrustRoot, "a threshold above the keys", tuf.ReasonThreshold, func(s m) { at(s, "roles", "root")["threshold"] = 2 }},
		{api.TrustRoot, "a role without keys", tuf.ReasonThreshold, func(s m) { at(s, "roles", "root")["keyids"] = []any{} }},
		{api.TrustRoot, "a key that is not listed", tuf.ReasonKey, func(s m) { at(s, "roles", "root")["keyids"] = []any{strings.Repeat("a", 64)} }},
		{api.TrustRoot, "one id twice", tuf.ReasonKey, func(s m) {
			ids := at(s, "roles", "root")["keyids"].([]any)
			at(s, "roles", "root")["keyids"], at(s, "roles", "root")["threshold"] = append(ids, ids...), 2
		}},
		{api.TrustRoot, "one key under two ids", tuf.ReasonKey, func(s m) {
			for _, k := range at(s, "keys") {
				at(s, "keys")[strings.Repeat("b", 64)] = k
				return
			}
		}},
		{api.TrustRoot, "one key with two names of its kind", tuf.ReasonKey, func(s m) {
			at(s, "keys")[strings.Repeat("b", 64)] = listedKey("ecdsa", "ecdsa-sha2-nistp256", publicPEM(t, &p256.PublicKey))
			at(s, "keys")[strings.Repeat("c", 64)] = listedKey("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256", publicPEM(t, &p256.PublicKey))
		}},
		{api.TrustRoot, "an unknown kind of key", tuf.ReasonKey, func(s m) { at(s, "keys")["ab"] = listedKey("none", "none", "00") }},
		{api.TrustRoot, "an unknown scheme", tuf.ReasonKey, func(s m) { at(s, "keys")["ab"] = listedKey("ed25519", "ed25519ph", second.Value.PublicKey) }},
		{api.TrustRoot, "an RSA key", tuf.ReasonKey, func(s m) {
			at(s, "keys")["ab"] = listedKey("rsa", "rsassa-pss-sha256", publicPEM(t, &rsaKey.PublicKey))
		}},
		{api.TrustRoot, "an RSA key that says it is ECDSA", tuf.ReasonKey, func(s m) {
			at(s, "keys")["ab"] = listedKey("ecdsa", "ecdsa-sha2-nistp256", publicPEM(t, &rsaKey.PublicKey))
		}},
		{api.TrustRoot, "a key on P-384", tuf.ReasonKey, func(s m) {
			at(s, "keys")["ab"] = listedKey("ecdsa", "ecdsa-sha2-nistp256", publicPEM(t, &p384.PublicKey))
		}},
		{api.TrustRoot, "a short key", tuf.ReasonKey, func(s m) { at(s, "keys")["ab"] = listedKey("ed25519", "ed25519", "00") }},
		{api.TrustRoot, "a key in capital letters", tuf.ReasonKey, func(s m) {
			at(s, "keys")["ab"] = listedKey("ed25519", "ed25519", strings.ToUpper(second.Value.PublicKey))
		}},
		{api.TrustRoot, "a key's id that is none", tuf.ReasonKey, func(s m) { at(s, "keys")["../x"] = listedKey("ed25519", "ed25519", second.Value.PublicKey) }},
		{api.TrustRoot, "too many keys", tuf.ReasonKey, func(s m) {
			for i := range 100 {
				at(s, "keys")[fmt.Sprintf("%04x", i)] = listedKey("ed25519", "ed25519", signer(fmt.Sprint("many ", i)).Public().Value.PublicKey)
			}
		}},
		{api.TrustRoot, "a role too many", tuf.ReasonName, func(s m) { at(s, "roles")["mirrors"] = at(s, "roles", "root") }},
		{api.TrustRoot, "a role too few", tuf.ReasonMissing, func(s m) { delete(at(s, "roles"), "snapshot") }},
	}
}

// saidBelow are such things about the files below root, and commands.
func saidBelow() []said {
	path, _ := tuf.ReleasePath(commit)
	return []said{
		{api.TrustTargets, "no approval", tuf.ReasonMalformed, func(s m) { delete(at(s, "x-roadstead"), "approval") }},
		{api.TrustTargets, "an unknown approval", tuf.ReasonMalformed, func(s m) { at(s, "x-roadstead")["approval"] = "none" }},
		{api.TrustTargets, "no word about the shell", tuf.ReasonMalformed, func(s m) { delete(at(s, "x-roadstead"), "shell") }},
		{api.TrustTargets, "a release", tuf.ReasonName, func(s m) {
			at(s, "targets")[path] = m{"length": 1, "hashes": m{"sha256": strings.Repeat("a", 64)}, "custom": m{"counter": 1}}
		}},
		{api.TrustTargets, "no delegations", tuf.ReasonMissing, func(s m) { delete(s, "delegations") }},
		{api.TrustTargets, "a delegation to everything", tuf.ReasonName, func(s m) { at(s, "delegations")["roles"].([]any)[0].(m)["paths"] = []any{"*"} }},
		{api.TrustTargets, "a delegation that ends the search", tuf.ReasonName, func(s m) { at(s, "delegations")["roles"].([]any)[0].(m)["terminating"] = true }},
		{api.TrustTargets, "a delegation to root", tuf.ReasonName, func(s m) { at(s, "delegations")["roles"].([]any)[0].(m)["name"] = "root" }},
		{api.TrustTargets, "a delegation in capital letters", tuf.ReasonName, func(s m) { at(s, "delegations")["roles"].([]any)[0].(m)["name"] = "Builder" }},
		{api.TrustTargets, "a delegation twice", tuf.ReasonName, func(s m) {
			roles := at(s, "delegations")["roles"].([]any)
			roles[1].(m)["name"] = roles[0].(m)["name"]
		}},
		{api.TrustTargets, "a delegation with threshold 0", tuf.ReasonThreshold, func(s m) { at(s, "delegations")["roles"].([]any)[0].(m)["threshold"] = 0 }},

		{api.TrustBuilder, "other bins", tuf.ReasonName, func(s m) { at(s, "delegations", "succinct_roles")["bit_length"] = 9 }},
		{api.TrustBuilder, "bins of another", tuf.ReasonName, func(s m) { at(s, "delegations", "succinct_roles")["name_prefix"] = "owner" }},
		{api.TrustBuilder, "bins with threshold 0", tuf.ReasonThreshold, func(s m) { at(s, "delegations", "succinct_roles")["threshold"] = 0 }},
		{api.TrustBuilder, "two kinds of delegation", tuf.ReasonMalformed, func(s m) { at(s, "delegations")["roles"] = []any{} }},

		{"bin", "a path that climbs", tuf.ReasonName, rename("targets", path, "releases/../"+commit+".json")},
		{"bin", "a path from the top", tuf.ReasonName, rename("targets", path, "/"+path)},
		{"bin", "a path without a directory", tuf.ReasonName, rename("targets", path, commit+".json")},
		{"bin", "a path with more after it", tuf.ReasonName, rename("targets", path, path+"/x")},
		{"bin", "a release of another bin", tuf.ReasonName, rename("targets", path, "releases/"+strings.Repeat("b", 40)+".json")},
		{"bin", "delegations", tuf.ReasonMalformed, func(s m) { s["delegations"] = m{"keys": m{}, "roles": []any{}} }},
		{"bin", "no digest", tuf.ReasonMalformed, func(s m) { at(s, "targets", path)["hashes"] = m{} }},
		{"bin", "an unknown digest", tuf.ReasonDigest, func(s m) { at(s, "targets", path)["hashes"] = m{"md5": "00"} }},
		{"bin", "a second digest", tuf.ReasonDigest, func(s m) { at(s, "targets", path, "hashes")["md5"] = "00" }},
		{"bin", "a short digest", tuf.ReasonDigest, func(s m) { at(s, "targets", path)["hashes"] = m{"sha256": "00"} }},
		{"bin", "length 0", tuf.ReasonSize, func(s m) { at(s, "targets", path)["length"] = 0 }},
		{"bin", "a huge length", tuf.ReasonSize, func(s m) { at(s, "targets", path)["length"] = int64(1) << 40 }},
		{"bin", "no counter", tuf.ReasonCounter, func(s m) { delete(at(s, "targets", path), "custom") }},
		{"bin", "counter 0", tuf.ReasonCounter, func(s m) { at(s, "targets", path, "custom")["counter"] = 0 }},
		{"bin", "a target that is null", tuf.ReasonMalformed, func(s m) { at(s, "targets")[path] = nil }},

		{api.TrustSnapshot, "a file that climbs", tuf.ReasonName, rename("meta", "builder.json", "../builder.json")},
		{api.TrustSnapshot, "a file of no role", tuf.ReasonName, rename("meta", "builder.json", "builder-zz.json")},
		{api.TrustSnapshot, "a file of root", tuf.ReasonName, rename("meta", "builder.json", "root.json")},
		{api.TrustSnapshot, "no targets", tuf.ReasonMissing, func(s m) { delete(at(s, "meta"), "targets.json") }},
		{api.TrustSnapshot, "version 0 of a file", tuf.ReasonVersion, func(s m) { at(s, "meta", "targets.json")["version"] = 0 }},
		{api.TrustSnapshot, "a huge file", tuf.ReasonSize, func(s m) { at(s, "meta", "targets.json")["length"] = int64(1) << 40 }},
		{api.TrustSnapshot, "an unknown digest", tuf.ReasonDigest, func(s m) { at(s, "meta", "targets.json")["hashes"] = m{"md5": "00"} }},
		{api.TrustTimestamp, "another file", tuf.ReasonName, rename("meta", "snapshot.json", "targets.json")},
		{api.TrustTimestamp, "a second file", tuf.ReasonName, func(s m) { at(s, "meta")["targets.json"] = m{"version": 1} }},
		{api.TrustTimestamp, "no file", tuf.ReasonName, func(s m) { s["meta"] = m{} }},

		{api.TrustDirector, "two releases", tuf.ReasonMalformed, func(s m) {
			at(s, "targets")["releases/"+strings.Repeat("b", 40)+".json"] = at(s, "targets")[path]
		}},
		{api.TrustDirector, "a path that climbs", tuf.ReasonName, rename("targets", path, "../"+path)},

		{"command", "another type", tuf.ReasonType, func(s m) { s["_type"] = "targets" }},
		{"command", "something that is not known", tuf.ReasonMalformed, func(s m) { s["until"] = "x" }},
		{"command", "no fleet", tuf.ReasonMissing, func(s m) { delete(s, "fleet") }},
		{"command", "no device", tuf.ReasonMissing, func(s m) { delete(s, "device") }},
		{"command", "no verb", tuf.ReasonMissing, func(s m) { delete(s, "verb") }},
		{"command", "no nonce", tuf.ReasonNonce, func(s m) { delete(s, "nonce") }},
		{"command", "a short nonce", tuf.ReasonNonce, func(s m) { s["nonce"] = "x" }},
		{"command", "no expiry", tuf.ReasonMissing, func(s m) { delete(s, "expires") }},
	}
}

func TestContentIsStrict(t *testing.T) {
	files := good(t)
	for _, tt := range append(saidInRoots(t), saidBelow()...) {
		err := readers[tt.kind](forge(t, files[tt.kind], tt.change, signer("root")))
		if r, ok := tuf.Rejection(err); !ok || r.Reason != tt.reason {
			t.Errorf("%s with %s: %v, want a refusal because of %s", tt.kind, tt.name, err, tt.reason)
		}
	}
}

// Files of other fleets, other devices, other questions and other keys.
func TestForeign(t *testing.T) {
	r, c := started(t)
	other := strings.Repeat("f", 32)
	if _, err := tuf.Open(other, r.files[api.TrustRoot]); err == nil {
		t.Error("a root of another fleet is taken")
	} else {
		reason(t, err, tuf.ReasonFleet)
	}
	foreign := func(s map[string]any) { at(s, "x-roadstead")["fleet"] = other }
	r.root.Version = 2
	reason(t, c.Root(forge(t, must[[]byte](t)(r.root.Make(r.rootBy...)), foreign, r.rootBy...)), tuf.ReasonFleet)
	r.make()
	reason(t, c.Timestamp(forge(t, r.files[api.TrustTimestamp], foreign, r.timestampKey)), tuf.ReasonFleet)

	for _, tt := range []struct {
		name, reason string
		change       func(*tuf.Director)
	}{
		{"another device", tuf.ReasonDevice, func(d *tuf.Director) { d.Mark.Device = "another" }},
		{"another question", tuf.ReasonNonce, func(d *tuf.Director) { d.Mark.Nonce = "another" }},
		{"no question", tuf.ReasonNonce, func(d *tuf.Director) { d.Mark.Nonce = "" }},
		{"another fleet", tuf.ReasonFleet, func(d *tuf.Director) { d.Mark.Fleet = other }},
		{"expired", tuf.ReasonExpired, func(d *tuf.Director) { d.Expires = start.Add(time.Minute) }},
	} {
		if _, err := c.Director(r.statement(tt.change), device, nonce); err == nil {
			t.Errorf("%s: no error", tt.name)
		} else {
			reason(t, err, tt.reason)
		}
	}
	_, err := c.Director(r.statement(nil), device, "")
	reason(t, err, tuf.ReasonNonce)
	_, err = c.Director(forge(t, r.statement(nil), func(map[string]any) {}, signer("builder")), device, nonce)
	reason(t, err, tuf.ReasonThreshold)
	if _, err := c.Director(r.statement(nil), device, nonce); err != nil {
		t.Fatal(err)
	}
	_, err = c.Director(r.statement(func(d *tuf.Director) { d.Version-- }), device, nonce)
	reason(t, err, tuf.ReasonRollback)
	again := reopened(t, c)
	again.SetNow(start.Add(time.Hour))
	_, err = again.Director(r.statement(func(d *tuf.Director) { d.Version-- }), device, nonce)
	reason(t, err, tuf.ReasonRollback)
}

func TestCommands(t *testing.T) {
	_, c := started(t)
	sign := func(change func(*api.TrustCommand), by tuf.Signer) []byte {
		what := command()
		if change != nil {
			change(&what)
		}
		return must[[]byte](t)(tuf.SignCommand(what, by))
	}
	got, err := c.Command(sign(nil, signer("director")), device)
	if err != nil || got.Verb != "reboot" {
		t.Errorf("Command: %v %v", got, err)
	}
	for _, tt := range []struct {
		name, reason string
		file         []byte
	}{
		{"of another key", tuf.ReasonThreshold, sign(nil, signer("builder"))},
		{"changed", tuf.ReasonSignature, bytes.Replace(sign(nil, signer("director")), []byte("reboot"), []byte("purge!"), 1)},
		{"of another fleet", tuf.ReasonFleet, sign(func(c *api.TrustCommand) { c.Fleet = strings.Repeat("f", 32) }, signer("director"))},
		{"for another device", tuf.ReasonDevice, sign(func(c *api.TrustCommand) { c.Device = "another" }, signer("director"))},
		{"expired", tuf.ReasonExpired, sign(func(c *api.TrustCommand) { c.Expires = start }, signer("director"))},
	} {
		_, err := c.Command(tt.file, device)
		if r, ok := tuf.Rejection(err); !ok || r.Reason != tt.reason {
			t.Errorf("a command %s: %v, want a refusal because of %s", tt.name, err, tt.reason)
		}
	}
	r := newRepo(t, api.ApprovalBuilder)
	r.make()
	_, err = r.client().Command(sign(nil, signer("director")), device)
	reason(t, err, tuf.ReasonMissing)
}

// Without a time nothing is taken; and time does not go back behind what was signed.
func TestTime(t *testing.T) {
	r := newRepo(t, api.ApprovalBuilder)
	r.list(api.TrustBuilder, commit, doc)
	r.make()
	c := must[*tuf.Trusted](t)(tuf.Open(fleetID, r.files[api.TrustRoot]))
	reason(t, c.Timestamp(r.files[api.TrustTimestamp]), tuf.ReasonClock)
	c.SetNow(time.Unix(0, 0)) // a clock without a battery
	if err := r.update(c); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Release(commit); err != nil || got != doc {
		t.Errorf("in 1970: %v %v", got, err)
	}
	if !c.Now().Equal(start) {
		t.Errorf("it is %v, want %v", c.Now(), start)
	}
	late := reopened(t, c)
	late.SetNow(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC))
	_, err := late.Release(commit)
	reason(t, err, tuf.ReasonExpired)
	if p, err := late.Policy(); err != nil || p.Approval != api.ApprovalBuilder {
		t.Errorf("Policy in 2040: %v %v", p, err)
	}
	// The right time again: a clock that was wrong has spoilt nothing.
	late.SetNow(start.Add(time.Hour))
	if _, err := late.Release(commit); err != nil {
		t.Error(err)
	}
	// Last month's metadata cannot come back with an old clock.
	r.now = start.AddDate(0, 1, 0)
	r.snapshot.Mark, r.timestamp.Mark = mark(r.now), mark(r.now)
	r.snapshot.Expires, r.timestamp.Expires = r.now.AddDate(0, 0, 7), r.now.AddDate(0, 0, 7)
	r.make()
	late.SetNow(r.now)
	if err := r.update(late); err != nil {
		t.Fatal(err)
	}
	late.SetNow(start)
	if !late.Now().Equal(r.now) {
		t.Errorf("it is %v, want %v", late.Now(), r.now)
	}
}

// Where two must list a release, they must say the same.
func TestBothListings(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		owner        tuf.Listed
	}{
		{"another document", tuf.ReasonDigest, tuf.Listed{Length: doc.Length, SHA256: tuf.Digest([]byte("x")), Counter: doc.Counter}},
		{"another length", tuf.ReasonSize, tuf.Listed{Length: doc.Length + 1, SHA256: doc.SHA256, Counter: doc.Counter}},
		{"another counter", tuf.ReasonCounter, tuf.Listed{Length: doc.Length, SHA256: doc.SHA256, Counter: doc.Counter + 1}},
	} {
		r := newRepo(t, api.ApprovalBoth)
		r.list(api.TrustBuilder, commit, doc)
		r.list(api.TrustOwner, commit, tt.owner)
		r.make()
		c := r.client()
		if err := r.update(c); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Release(commit); err == nil {
			t.Errorf("%s: no error", tt.name)
		} else {
			reason(t, err, tt.reason)
		}
	}
	r := newRepo(t, api.ApprovalBoth)
	r.list(api.TrustBuilder, commit, doc)
	r.make()
	c := r.client()
	if err := r.update(c); err != nil {
		t.Fatal(err)
	}
	_, err := c.Release(commit)
	reason(t, err, tuf.ReasonUnlisted)
}

// What is stored and was damaged, or lost, is not taken; nothing is made of what is left.
func TestReopenRefuses(t *testing.T) {
	_, c := started(t)
	files := c.Files()
	for i, f := range files {
		damaged := append([]api.TrustFile{}, files...)
		damaged[i].Data = bytes.Replace(bytes.Clone(f.Data), []byte(`"version":`), []byte(`"version":1`), 1)
		if _, err := tuf.Reopen(fleetID, damaged); err == nil {
			t.Errorf("a damaged %s is taken", f.Role)
		}
		damaged[i].Data = nil
		if _, err := tuf.Reopen(fleetID, damaged); err == nil {
			t.Errorf("an empty %s is taken", f.Role)
		}
		if f.Role == api.TrustRoot || f.Role == api.TrustOwner { // the builder's word is enough in this fleet
			continue
		}
		less := append(append([]api.TrustFile{}, files[:i]...), files[i+1:]...)
		again, err := tuf.Reopen(fleetID, less)
		if err != nil {
			continue
		}
		again.SetNow(start.Add(time.Hour))
		if _, err := again.Release(commit); err == nil {
			t.Errorf("without %s the release is found", f.Role)
		}
	}
	if _, err := tuf.Reopen(fleetID, append(files, files[0])); err == nil {
		t.Error("a file twice is taken")
	}
	if _, err := tuf.Reopen(fleetID, append(files, api.TrustFile{Role: "../x", Data: []byte("{}")})); err == nil {
		t.Error("a file of no role is taken")
	}
}

func TestTrim(t *testing.T) {
	r, c := startedWith(t, func(r *repo) {
		for _, digit := range "bcdef" {
			r.list(api.TrustBuilder, strings.Repeat(string(digit), 40), doc)
		}
	})
	if len(c.Versions()) < 8 {
		t.Fatalf("only %v", c.Versions())
	}
	c.Trim(commit)
	if got := len(c.Versions()); got != 7 { // four at the top, builder, owner, one bin
		t.Errorf("%d files after Trim: %v", got, c.Versions())
	}
	if _, err := reopened(t, c).Policy(); err != nil {
		t.Error(err)
	}
	if err := r.update(c); err != nil {
		t.Error(err)
	}
}

func FuzzReaders(f *testing.F) {
	for _, file := range good(f) {
		f.Add(file)
	}
	f.Add([]byte(`{"signed":{},"signatures":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for kind, read := range readers {
			if err := read(data); err != nil {
				if r, ok := tuf.Rejection(err); !ok || r.What == "" || r.Reason == "" {
					t.Errorf("%s: %v is no refusal", kind, err)
				}
				continue
			}
			// What is read once is read again after it was signed by somebody, with what is signed unchanged.
			before, _, err := tuf.Signed(data)
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			signed, err := tuf.AddSignature(data, signer("fuzz"))
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			after, _, err := tuf.Signed(signed)
			if err != nil || !bytes.Equal(before, after) {
				t.Errorf("%s: %v: %q became %q", kind, err, before, after)
			}
		}
	})
}

func FuzzTrusted(f *testing.F) {
	r := newRepo(f, api.ApprovalBuilder)
	r.list(api.TrustBuilder, commit, doc)
	r.make()
	for role, file := range r.files {
		f.Add(role, file)
	}
	r.targets.Version = 2
	r.make()
	for role, file := range r.files {
		f.Add(role, file)
	}
	first := newRepo(f, api.ApprovalBuilder)
	first.list(api.TrustBuilder, commit, doc)
	first.make()
	c := first.client()
	if err := first.update(c); err != nil {
		f.Fatal(err)
	}
	stored, now := c.Files(), c.Now()
	f.Fuzz(func(t *testing.T, role string, data []byte) {
		c, err := tuf.Reopen(fleetID, stored)
		if err != nil {
			t.Fatal(err)
		}
		c.SetNow(now)
		before := fmt.Sprint(c.Versions())
		if err := c.Take(api.TrustFile{Role: role, Data: data}); err != nil {
			if _, ok := tuf.Rejection(err); !ok {
				t.Errorf("%v is no refusal", err)
			}
			if after := fmt.Sprint(c.Versions()); after != before {
				t.Errorf("what was refused changed %s to %s", before, after)
			}
		}
		if _, err := tuf.Reopen(fleetID, c.Files()); err != nil {
			t.Errorf("Reopen: %v", err)
		}
	})
}
