package signer_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

const trustFleet = "0123456789abcdef0123456789abcdef"

func (b *bench) trustKeys(t *testing.T, fleet string) (k api.TrustFleetKeys) {
	t.Helper()
	if status, body := b.post(t, "api", "/v1/trust/keys", api.TrustKeysAsk{Fleet: fleet}); status != http.StatusOK || json.Unmarshal([]byte(body), &k) != nil {
		t.Fatalf("keys: %d %s", status, body)
	}
	return k
}

func keyOf(t *testing.T, raw json.RawMessage) *metadata.Key {
	t.Helper()
	k := &metadata.Key{}
	if err := json.Unmarshal(raw, k); err != nil {
		t.Fatal(err)
	}
	return k
}

func (b *bench) trustSign(t *testing.T, fleet string, files ...api.TrustSign) (int, string) {
	t.Helper()
	return b.post(t, "api", "/v1/trust/sign", api.TrustSignAsk{Fleet: fleet, Files: files})
}

func trustMark(fleet string) api.TrustMark {
	return api.TrustMark{Fleet: fleet, SignedAt: time.Now().UTC().Truncate(time.Second)}
}

func timestamp(t *testing.T, version int64, life time.Duration, mark api.TrustMark) api.TrustSign {
	t.Helper()
	data, err := tuf.Timestamp{Version: version, Expires: mark.SignedAt.Add(life), Mark: mark, Snapshot: tuf.Meta{Version: 1}}.Make()
	if err != nil {
		t.Fatal(err)
	}
	return api.TrustSign{Role: api.TrustTimestamp, Data: data}
}

func rootFile(t *testing.T, k api.TrustFleetKeys, version int64, heldBy string, change func(x *tuf.Root)) api.TrustSign {
	t.Helper()
	mark := trustMark(trustFleet)
	mark.HeldBy = heldBy
	x := tuf.Root{Version: version, Expires: mark.SignedAt.Add(365 * 24 * time.Hour), Mark: mark,
		Threshold: map[string]int{"root": 1, "targets": 1, "snapshot": 1, "timestamp": 1},
		Keys:      map[string][]*metadata.Key{"root": {keyOf(t, k.Root)}, "targets": {keyOf(t, k.Targets)}, "snapshot": {keyOf(t, k.Snapshot)}, "timestamp": {keyOf(t, k.Timestamp)}}}
	if change != nil {
		change(&x)
	}
	data, err := x.Make()
	if err != nil {
		t.Fatal(err)
	}
	return api.TrustSign{Role: api.TrustRoot, Data: data}
}

// The signer signs what rises, of the fleet that it is said to be of, for no longer than it should live; and it remembers over a restart.
func TestMetadataRise(t *testing.T) {
	b := start(t)
	now := time.Now().Unix()
	want := func(status int, what string, files ...api.TrustSign) {
		t.Helper()
		if got, body := b.trustSign(t, trustFleet, files...); got != status {
			t.Errorf("%s: %d %s, want %d", what, got, body, status)
		}
	}
	mark, week := trustMark(trustFleet), 7*24*time.Hour
	want(200, "a timestamp", timestamp(t, now, week, mark))
	want(409, "the same version again", timestamp(t, now, week, mark))
	want(409, "an older one", timestamp(t, now-10, week, mark))
	want(400, "one of last month", timestamp(t, now-30*24*3600, week, mark))
	want(400, "one far ahead", timestamp(t, now+30*24*3600, week, mark))
	want(400, "one that lives too long", timestamp(t, now+1, 30*24*time.Hour, mark))
	want(403, "one of another fleet", timestamp(t, now+1, week, trustMark(strings.Repeat("f", 32))))
	want(400, "no metadata", api.TrustSign{Role: api.TrustTimestamp, Data: []byte("{}")})
	want(403, "a role that it does not sign", api.TrustSign{Role: api.TrustOwner, Data: timestamp(t, now+1, week, mark).Data})
	want(409, "two of which the second does not rise", timestamp(t, now+2, week, mark), timestamp(t, now+2, week, mark))
	want(200, "what was not signed then", timestamp(t, now+2, week, mark))
	if status, body := b.post(t, "builder", "/v1/trust/sign", api.TrustSignAsk{Fleet: trustFleet}); status != http.StatusForbidden {
		t.Errorf("the builder asks: %d %s", status, body)
	}
	b.run(t, "127.0.0.1:1")
	if k := b.trustKeys(t, trustFleet); k.Version != now+2 {
		t.Errorf("after a restart version %d is remembered, want %d", k.Version, now+2)
	}
	want(409, "the same after a restart", timestamp(t, now+2, week, mark))
	if a, c := b.trustKeys(t, trustFleet), b.trustKeys(t, strings.Repeat("f", 32)); string(a.Builder) == string(c.Builder) || string(a.Builder) == string(a.Director) {
		t.Error("two fleets, or two roles, have the same key")
	}
}

// A root that the server holds has the server's keys; once the fleet is its owner's, the signer signs neither root nor targets.
func TestTheServersRootEndsWithTheOwners(t *testing.T) {
	b := start(t)
	k := b.trustKeys(t, trustFleet)
	other := b.trustKeys(t, strings.Repeat("f", 32))
	want := func(status int, what string, f api.TrustSign) {
		t.Helper()
		if got, body := b.trustSign(t, trustFleet, f); got != status {
			t.Errorf("%s: %d %s, want %d", what, got, body, status)
		}
	}
	want(403, "a root with another's key", rootFile(t, k, 1, api.HeldByServer, func(x *tuf.Root) { x.Keys["targets"] = []*metadata.Key{keyOf(t, other.Targets)} }))
	want(200, "the first root", rootFile(t, k, 1, api.HeldByServer, nil))
	want(409, "another first root", rootFile(t, k, 1, api.HeldByServer, nil))
	owner := func(version int64) api.TrustSign {
		return rootFile(t, k, version, api.HeldByOwner, func(x *tuf.Root) { x.Keys["root"] = []*metadata.Key{keyOf(t, other.Root)} })
	}
	want(403, "an owner's root that does not come next", owner(3))
	handed := owner(2)
	want(200, "the owner's root", handed)
	want(200, "the same again, as its answer got lost", handed)
	b.run(t, "127.0.0.1:1")
	want(200, "the same again after a restart", handed)
	want(403, "another owner's root", owner(3))
	want(403, "the server's root", rootFile(t, k, 3, api.HeldByServer, nil))
	mark := trustMark(trustFleet)
	mark.Approval, mark.Shell = api.ApprovalBuilder, "allowed"
	data, err := tuf.Targets{Version: 5, Expires: mark.SignedAt.Add(time.Hour), Mark: mark, Builder: keyOf(t, k.Builder), Director: keyOf(t, k.Director)}.Make()
	if err != nil {
		t.Fatal(err)
	}
	want(403, "the server's targets", api.TrustSign{Role: api.TrustTargets, Data: data})
}

// Nothing is listed as built here that was not.
func TestABinNeedsTheStatement(t *testing.T) {
	b := start(t)
	commit := strings.Repeat("c", 32)
	path, err := tuf.ReleasePath(commit)
	if err != nil {
		t.Fatal(err)
	}
	doc := []byte(fmt.Sprintf(`{"fleet":%q,"commit":%q,"services":{}}`, trustFleet, commit))
	mark := trustMark(trustFleet)
	bin := func(version int64, signers ...tuf.Signer) []byte {
		data, err := tuf.Bin{Role: tuf.BinRole("builder", path), Version: version, Expires: mark.SignedAt.Add(time.Hour), Mark: mark,
			Listed: map[string]tuf.Listed{path: {Length: int64(len(doc)), SHA256: tuf.Digest(doc), Counter: time.Now().Unix()}}}.Make(signers...)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	ask := api.TrustSign{Role: tuf.BinRole("builder", path), Data: bin(time.Now().Unix())}
	for what, change := range map[string]func(a *api.TrustSign){
		"nothing is shown": func(*api.TrustSign) {},
		"a statement that nobody signed": func(a *api.TrustSign) {
			a.Proofs = []api.TrustShown{{Document: doc, Statement: []byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[]}`)}}
		},
		"a bin before that it did not sign": func(a *api.TrustSign) { a.Before = bin(time.Now().Unix() - 1) },
	} {
		f := ask
		change(&f)
		if status, body := b.trustSign(t, trustFleet, f); status != http.StatusForbidden {
			t.Errorf("%s: %d %s", what, status, body)
		}
	}
}

// What was signed is not forgotten: without its memory, or with a damaged one, the signer does not start; what was torn by a power cut is no damage.
func TestTheMemoryOfWhatWasSigned(t *testing.T) {
	b := start(t)
	now, mark := time.Now().Unix(), trustMark(trustFleet)
	for i := range int64(5) {
		if status, body := b.trustSign(t, trustFleet, timestamp(t, now+i, time.Hour, mark)); status != 200 {
			t.Fatal(body)
		}
	}
	file := filepath.Join(b.dir, "signer", signer.TrustMemoryFile)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	open := func(data []byte) error {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := signer.New(signer.Config{Dir: filepath.Join(b.dir, "signer"), Site: site, Peers: map[string]string{"api": "127.0.0.1:1"}}, b.log.Logger())
		return err
	}
	if err := open(whole[:len(whole)-7]); err != nil {
		t.Errorf("with the last record torn: %v", err)
	}
	bad := append([]byte{}, whole...)
	bad[30] ^= 1
	for name, data := range map[string][]byte{"empty": nil, "damaged": bad, "another file": []byte("hello")} {
		if err := open(data); err == nil || !strings.Contains(err.Error(), "does not know what it signed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.New(signer.Config{Dir: filepath.Join(b.dir, "signer"), Site: site, Peers: map[string]string{"api": "127.0.0.1:1"}}, b.log.Logger()); err == nil {
		t.Error("without its memory it starts")
	}
}

// The log is signed as it grows, and in no other way.
func TestOnlyContinuationsOfTheTrustLogAreSigned(t *testing.T) {
	b := start(t)
	leaf := func(n int) string { return fmt.Sprintf("%064x", n) }
	extend := func(size int64, leaves ...string) (int, api.TrustExtended) {
		t.Helper()
		var out api.TrustExtended
		status, body := b.post(t, "api", "/v1/trust/log", api.TrustExtension{Size: size, Leaves: leaves})
		_ = json.Unmarshal([]byte(body), &out)
		return status, out
	}
	if status, out := extend(0, leaf(1), leaf(2), leaf(3)); status != 200 || out.Size != 3 {
		t.Fatalf("the first leaves: %d, %d", status, out.Size)
	}
	if status, out := extend(1, leaf(2), leaf(3), leaf(4)); status != 200 || out.Size != 4 {
		t.Errorf("some again, and one more: %d, %d", status, out.Size)
	}
	if status, _ := extend(2, leaf(9)); status != 409 {
		t.Errorf("another leaf in the place of one: %d", status)
	}
	if status, _ := extend(9, leaf(9)); status != 409 {
		t.Errorf("after a gap: %d", status)
	}
	b.run(t, "127.0.0.1:1")
	if status, _ := extend(3, leaf(9)); status != 409 {
		t.Errorf("another leaf after a restart: %d", status)
	}
	for n := 5; n <= 40; n++ {
		if status, out := extend(int64(n-1), leaf(n)); status != 200 || out.Size != int64(n) {
			t.Fatalf("leaf %d: %d", n, status)
		}
	}
	var leaves api.TrustLeaves
	if _, body := b.post(t, "api", "/v1/trust/log-leaves", api.TrustLeavesAsk{From: 38}); json.Unmarshal([]byte(body), &leaves) != nil || len(leaves.Leaves) != 2 || leaves.Leaves[1] != leaf(40) {
		t.Errorf("the last leaves: %s", body)
	}
}

// A command says what a host configuration is set to, by its digest; no other verb sets anything.
func TestCommandsSayWhatIsSet(t *testing.T) {
	b := start(t)
	digest := strings.Repeat("a", 64)
	for _, tt := range []struct {
		verb   api.ActionVerb
		digest string
		signed bool
	}{
		{api.ActHostConfig, digest, true}, {api.ActHostConfig, "", false}, {api.ActHostConfig, "x", false}, {api.ActRenewKey, "", true}, {api.ActRenewKey, digest, false},
		{api.ActCleanVolumes, "", true}, {api.ActReboot, digest, false}, {api.ActReboot, "", true}, {"brew", "", false},
	} {
		ask := []api.TrustCommand{{Type: "command", Fleet: trustFleet, Device: api.DeviceUUID(strings.Repeat("d", 32)), Verb: tt.verb, Digest: tt.digest,
			Nonce: "0123456789abcdef", Expires: time.Now().Add(time.Minute)}}
		var out []api.TrustSigned
		if status, body := b.post(t, "api", "/v1/trust/command", ask); status != http.StatusOK || json.Unmarshal([]byte(body), &out) != nil || len(out) != 1 {
			t.Fatalf("%s: %d %s", tt.verb, status, body)
		}
		if (out[0].Refused == "") != tt.signed || tt.signed != (len(out[0].Data) > 0) {
			t.Errorf("%s with the digest %q: %+v", tt.verb, tt.digest, out[0])
		}
	}
	// None holds for longer than an hour, whoever asks.
	for life, signed := range map[time.Duration]bool{-time.Minute: false, time.Minute: true, time.Hour: true, 2 * time.Hour: false, 30 * 24 * time.Hour: false} {
		ask := []api.TrustCommand{{Type: "command", Fleet: trustFleet, Device: api.DeviceUUID(strings.Repeat("d", 32)), Verb: api.ActPurge,
			Nonce: "0123456789abcdef", Expires: time.Now().Add(life)}}
		var out []api.TrustSigned
		if status, body := b.post(t, "api", "/v1/trust/command", ask); status != http.StatusOK || json.Unmarshal([]byte(body), &out) != nil || len(out) != 1 {
			t.Fatalf("%s: %d %s", life, status, body)
		}
		if (out[0].Refused == "") != signed || !signed && !strings.Contains(out[0].Refused, "expires") {
			t.Errorf("a command that holds for %s: %+v", life, out[0])
		}
	}
	// Each is in the signer's log by itself: the api role's own may be a thief's.
	for _, verb := range []api.ActionVerb{api.ActHostConfig, api.ActRenewKey, api.ActCleanVolumes, api.ActReboot} {
		if said := strings.Count(b.log.String(), "verb="+string(verb)); said != 1 {
			t.Errorf("of %s the log has %d lines:\n%s", verb, said, b.log)
		}
	}
}

// A log that was put back to an older day is left behind, also one that cannot be read; where there is none, nothing is.
func TestATrustLogIsLeftBehind(t *testing.T) {
	for text, want := range map[string]string{`{"origin":"roadstead.test/trust-1","size":3}`: "roadstead.test/trust-1 3", `{"origin`: " 0"} {
		dir := t.TempDir()
		file := filepath.Join(dir, signer.TrustLogFile)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		before, err := signer.RenewTrustLog(dir)
		if got := fmt.Sprint(before.Origin, " ", before.Size); err != nil || got != want {
			t.Errorf("of %s: %q, %v; want %q", text, got, err, want)
		}
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("of %s: the file is there still: %v", text, err)
		}
		if _, err := signer.RenewTrustLog(dir); !os.IsNotExist(errors.Unwrap(err)) {
			t.Errorf("of no log: %v", err)
		}
	}
}
