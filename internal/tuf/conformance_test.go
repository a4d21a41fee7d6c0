package tuf_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// conformance has what the cases of TUF's public client conformance suite describe, for our client and our files. The names are the
// suite's; docs/trust-conformance.md lists them all, and which do not apply.
var conformance = map[string]func(t *testing.T){
	"basic_init_and_refresh": func(t *testing.T) {
		r, c := started(t)
		versions(t, c, 1, 1, 1, 1)
		if _, err := c.Listing(api.TrustBuilder, commit); err != nil {
			t.Error(err)
		}
		_ = r
	},
	"implicit_refresh": func(t *testing.T) {
		r := newRepo(t, api.ApprovalBuilder)
		r.make()
		c := r.client()
		_, err := c.Release(commit) // nothing is used before it was refreshed
		reason(t, err, tuf.ReasonMissing)
		if err := r.update(c); err != nil {
			t.Fatal(err)
		}
		_, err = c.Release(commit)
		reason(t, err, tuf.ReasonUnlisted)
	},
	"invalid_initial_root": func(t *testing.T) {
		r := newRepo(t, api.ApprovalBuilder)
		r.make()
		file := forge(t, r.files[api.TrustRoot], func(s map[string]any) { delete(s, "version") }, r.rootBy...)
		_, err := tuf.Open(fleetID, file)
		reason(t, err, tuf.ReasonVersion)
	},
	"unsigned_initial_root": func(t *testing.T) {
		r := newRepo(t, api.ApprovalBuilder)
		r.make()
		file := strings.Replace(string(r.files[api.TrustRoot]), `"sig":"`, `"sig":"00`, 1)
		_, err := tuf.Open(fleetID, []byte(file))
		reason(t, err, tuf.ReasonSignature)
	},
	"unsigned_metadata[root]": func(t *testing.T) {
		r, c := started(t)
		r.root.Version = 2
		reason(t, c.Root(must[[]byte](t)(r.root.Make())), tuf.ReasonThreshold)
		versions(t, c, 1, 1, 1, 1)
	},
	"unsigned_metadata[timestamp]": func(t *testing.T) { unsigned(t, api.TrustTimestamp, 1, 0, 0, 0) },
	"unsigned_metadata[snapshot]":  func(t *testing.T) { unsigned(t, api.TrustSnapshot, 1, 1, 0, 0) },
	"unsigned_metadata[targets]":   func(t *testing.T) { unsigned(t, api.TrustTargets, 1, 1, 1, 0) },
	"timestamp_content_changes":    contentChanges,
	"timestamp_eq_versions_check":  contentChanges,
	"basic_metadata_hash_support":  hashMismatch,
	"new_targets_hash_mismatch":    hashMismatch,
	"new_targets_version_mismatch": func(t *testing.T) {
		r, c := started(t)
		r.targets.Version = 2
		file := must[[]byte](t)(r.targets.Make(r.targetsBy...))
		reason(t, c.Targets(file), tuf.ReasonVersion)
		versions(t, c, 1, 1, 1, 1)
	},
	"custom_fields": func(t *testing.T) {
		r, c := started(t)
		r.root.Version = 2
		file := forge(t, must[[]byte](t)(r.root.Make(r.rootBy...)), func(s map[string]any) {
			s["custom-field"] = "value"
			for _, key := range at(s, "keys") {
				key.(map[string]any)["extra-field"] = map[string]any{"a": 1, "b": 2}
			}
			at(s, "roles", "root")["another-field"] = "value"
		}, r.rootBy...)
		if err := c.Root(file); err != nil {
			t.Fatal(err)
		}
		versions(t, c, 2, 1, 1, 1)
	},
	"root_version_mismatch": func(t *testing.T) {
		r, c := started(t)
		r.root.Version = 3
		reason(t, c.Root(must[[]byte](t)(r.root.Make(r.rootBy...))), tuf.ReasonVersion)
		r.root.Version = 1
		reason(t, c.Root(must[[]byte](t)(r.root.Make(r.rootBy...))), tuf.ReasonRollback)
	},

	"root_expired": func(t *testing.T) {
		r, c := started(t)
		r.root.Version, r.root.Expires = 2, r.now.Add(time.Minute)
		r.make()
		if err := c.Root(r.files[api.TrustRoot]); err != nil {
			t.Fatal(err)
		}
		reason(t, r.update(c), tuf.ReasonExpired)
		versions(t, c, 2, 1, 1, 1)
	},
	"timestamp_expired": func(t *testing.T) {
		r, c := started(t)
		r.timestamp.Expires = r.now.Add(time.Minute)
		r.make()
		reason(t, r.update(c), tuf.ReasonExpired)
		versions(t, c, 1, 1, 1, 1)
	},
	"snapshot_expired": func(t *testing.T) {
		r, c := started(t)
		r.snapshot.Expires = r.now.Add(time.Minute)
		r.make()
		reason(t, r.update(c), tuf.ReasonExpired)
		versions(t, c, 1, 2, 1, 1)
	},
	"targets_expired": func(t *testing.T) {
		r, c := started(t)
		r.targets.Version, r.targets.Expires = 2, r.now.Add(time.Minute)
		r.make()
		reason(t, r.update(c), tuf.ReasonExpired)
		versions(t, c, 1, 2, 2, 1)
		_, err := c.Release(commit)
		reason(t, err, tuf.ReasonMissing)
	},
	"expired_metadata": func(t *testing.T) {
		r, c := started(t) // timestamp and snapshot of the start are valid until day 7
		r.now = start.AddDate(0, 0, 18)
		r.targets.Version = 2
		r.snapshot.Expires, r.timestamp.Expires = start.AddDate(0, 0, 21), start.AddDate(0, 0, 21)
		r.make()
		c = reopened(t, c)
		c.SetNow(r.now)
		if err := r.update(c); err != nil {
			t.Fatal(err)
		}
		versions(t, c, 1, 2, 2, 2)
	},
	"delegated_targets_expired": func(t *testing.T) {
		r := newRepo(t, api.ApprovalBuilder)
		r.list(api.TrustBuilder, commit, doc)
		for role, bin := range r.bins {
			bin.Expires = r.now.Add(time.Minute)
			r.bins[role] = bin
		}
		r.make()
		c := r.client()
		reason(t, r.update(c), tuf.ReasonExpired)
		_, err := c.Release(commit)
		reason(t, err, tuf.ReasonMissing)
		versions(t, c, 1, 1, 1, 1)
	},
	"expired_local_delegated_targets": func(t *testing.T) {
		r, c := startedWith(t, func(r *repo) { r.binsExpire(start.AddDate(0, 0, 7)) })
		if _, err := c.Release(commit); err != nil {
			t.Fatal(err)
		}
		r.now = start.AddDate(0, 0, 18)
		r.snapshot.Expires, r.timestamp.Expires = r.now.AddDate(0, 0, 7), r.now.AddDate(0, 0, 7)
		r.make()
		c = reopened(t, c)
		c.SetNow(r.now)
		reason(t, r.update(c), tuf.ReasonExpired)
		_, err := c.Release(commit)
		reason(t, err, tuf.ReasonExpired)
	},
	"expired_local_delegated_targets_updates": func(t *testing.T) {
		r, c := startedWith(t, func(r *repo) { r.binsExpire(start.AddDate(0, 0, 7)) })
		r.now = start.AddDate(0, 0, 18)
		r.snapshot.Expires, r.timestamp.Expires = r.now.AddDate(0, 0, 7), r.now.AddDate(0, 0, 7)
		r.list(api.TrustBuilder, commit, doc)
		r.binsExpire(start.AddDate(0, 0, 21))
		r.make()
		c = reopened(t, c)
		c.SetNow(r.now)
		if err := r.update(c); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Release(commit); err != nil {
			t.Error(err)
		}
	},

	"client_downloads_expected_file":            downloads,
	"client_downloads_expected_file_in_sub_dir": downloads,
	"repository_substitutes_target_file": func(t *testing.T) {
		_, c := started(t)
		l, err := c.Release(commit)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"substituted, of another length", strings.Repeat("x", int(l.Length)), ""} {
			if err := l.Check("document", []byte(bad)); err == nil {
				t.Errorf("%q passes", bad)
			}
		}
	},
	"multiple_changes_to_target": func(t *testing.T) {
		r, c := started(t)
		for i := range 11 {
			content := fmt.Sprintf("document %d", i)
			l := tuf.Listed{Length: int64(len(content)), SHA256: tuf.Digest([]byte(content)), Counter: int64(10 + i)}
			r.list(api.TrustBuilder, commit, l)
			r.make()
			if i%5 != 0 {
				continue // the client does not see every version
			}
			if err := r.update(c); err != nil {
				t.Fatal(err)
			}
			got, err := c.Release(commit)
			if err != nil || got.Check("document", []byte(content)) != nil {
				t.Errorf("change %d: %v %v", i, got, err)
			}
			reason(t, got.Check("document", []byte(fmt.Sprintf("malicious%d", i))[:len(content)]), tuf.ReasonDigest)
		}
	},

	"snapshot_does_not_meet_threshold": func(t *testing.T) {
		r, c := started(t)
		r.root.Version = 2
		r.root.Keys[api.TrustSnapshot] = public(signer("snapshot"), signer("s2"), signer("s3"))
		r.root.Threshold[api.TrustSnapshot] = 3
		r.make()
		file := r.files[api.TrustSnapshot]
		if err := c.Root(r.files[api.TrustRoot]); err != nil {
			t.Fatal(err)
		}
		two := must[[]byte](t)(tuf.AddSignature(file, signer("s2")))
		r.announce(two)
		reason(t, r.update(c), tuf.ReasonThreshold)
		r.announce(must[[]byte](t)(tuf.AddSignature(two, signer("s3"))))
		if err := r.update(c); err != nil {
			t.Error(err)
		}
	},
	"root_has_keys_but_not_snapshot": func(t *testing.T) {
		r, c := started(t)
		r.root.Version = 2
		r.root.Keys[api.TrustSnapshot] = public(signer("s2"), signer("s3"))
		r.make() // the snapshot is signed with a key that root does not name any more
		if err := c.Root(r.files[api.TrustRoot]); err != nil {
			t.Fatal(err)
		}
		reason(t, r.update(c), tuf.ReasonThreshold)
	},
	"deprecated_keyid_hash_algorithms": func(t *testing.T) {
		r, c := started(t)
		r.root.Version = 2
		file := forge(t, must[[]byte](t)(r.root.Make(r.rootBy...)), func(s map[string]any) {
			for _, key := range at(s, "keys") {
				key.(map[string]any)["keyid_hash_algorithms"] = []any{"md5"}
			}
		}, r.rootBy...)
		if err := c.Root(file); err != nil {
			t.Fatal(err)
		}
		versions(t, c, 2, 1, 1, 1)
	},
	"snapshot_has_too_few_keys": func(t *testing.T) {
		r, c := started(t)
		r.root.Version = 2
		file := forge(t, must[[]byte](t)(r.root.Make(r.rootBy...)), func(s map[string]any) {
			at(s, "roles", "snapshot")["threshold"] = 2
		}, r.rootBy...)
		reason(t, c.Root(file), tuf.ReasonThreshold) // sooner than the suite asks for: the root itself is refused
		versions(t, c, 1, 1, 1, 1)
	},
	"duplicate_keys_root": func(t *testing.T) {
		r, c := started(t)
		r.root.Version = 2
		file := forge(t, must[[]byte](t)(r.root.Make(r.rootBy...)), func(s map[string]any) {
			role := at(s, "roles", "snapshot")
			id := role["keyids"].([]any)[0]
			role["keyids"], role["threshold"] = []any{id, id, id}, 3
		}, r.rootBy...)
		reason(t, c.Root(file), tuf.ReasonKey)
	},
	"keytype_and_scheme[ed25519]": func(t *testing.T) { keytype(t, signer("second")) },
	"keytype_and_scheme[ecdsa]":   func(t *testing.T) { keytype(t, newECDSA(t)) },

	"unusual_role_name[?]":                func(t *testing.T) { roleName(t, "?") },
	"unusual_role_name[#]":                func(t *testing.T) { roleName(t, "#") },
	"unusual_role_name[/delegatedrole]":   func(t *testing.T) { roleName(t, "/delegatedrole") },
	"unusual_role_name[../delegatedrole]": func(t *testing.T) { roleName(t, "../delegatedrole") },

	"simple_snapshot_rollback": func(t *testing.T) {
		r, c := started(t)
		r.make()
		old := r.files[api.TrustSnapshot]
		r.make()
		if err := r.update(c); err != nil {
			t.Fatal(err)
		}
		reason(t, c.Snapshot(old), tuf.ReasonVersion)
		versions(t, c, 1, 3, 3, 1)
	},
	"new_timestamp_version_rollback": func(t *testing.T) {
		r, c := started(t)
		old := r.files[api.TrustTimestamp]
		r.make()
		if err := r.update(c); err != nil {
			t.Fatal(err)
		}
		reason(t, c.Timestamp(old), tuf.ReasonRollback)
		versions(t, c, 1, 2, 2, 1)
	},
	"snapshot_rollback[basic]":       func(t *testing.T) { snapshotRollback(t, false) },
	"snapshot_rollback[with hashes]": func(t *testing.T) { snapshotRollback(t, true) },
	"new_targets_fast_forward_recovery": func(t *testing.T) {
		r, c := startedWith(t, func(r *repo) { r.targets.Version = 99999 })
		r.targets.Version = 1
		r.make()
		reason(t, r.update(c), tuf.ReasonRollback)
		r.root.Version = 2
		r.root.Keys[api.TrustSnapshot] = public(signer("new snapshot"))
		r.snapshotKey = signer("new snapshot")
		r.make()
		recovered(t, r, c)
		if got := c.Versions()[api.TrustTargets]; got != 1 {
			t.Errorf("targets version %d, want 1", got)
		}
	},
	"new_snapshot_fast_forward_recovery": func(t *testing.T) {
		r, c := startedWith(t, func(r *repo) { r.snapshot.Version = 99998 })
		r.root.Version = 2
		r.root.Keys[api.TrustSnapshot], r.root.Keys[api.TrustTimestamp] = public(signer("new snapshot")), public(signer("new timestamp"))
		r.snapshotKey, r.timestampKey = signer("new snapshot"), signer("new timestamp")
		r.snapshot.Version = 0
		r.make()
		recovered(t, r, c)
		versions(t, c, 2, 2, 1, 1)
	},
	"new_timestamp_fast_forward_recovery": func(t *testing.T) {
		r, c := startedWith(t, func(r *repo) { r.timestamp.Version = 99998 })
		r.root.Version = 2
		r.root.Keys[api.TrustTimestamp] = public(signer("new timestamp"))
		r.timestampKey = signer("new timestamp")
		r.timestamp.Version = 0
		r.make()
		recovered(t, r, c)
		versions(t, c, 2, 1, 2, 1)
	},
	"new_snapshot_version_mismatch": func(t *testing.T) {
		r := newRepo(t, api.ApprovalBuilder)
		r.make()
		c := r.client()
		if err := c.Timestamp(r.files[api.TrustTimestamp]); err != nil {
			t.Fatal(err)
		}
		r.snapshot.Version++
		reason(t, c.Snapshot(must[[]byte](t)(r.snapshot.Make(r.snapshotKey))), tuf.ReasonVersion)
		versions(t, c, 1, 1, 0, 0)
	},
	"targets_rollback[basic]":       func(t *testing.T) { targetsRollback(t, false) },
	"targets_rollback[with hashes]": func(t *testing.T) { targetsRollback(t, true) },

	"graph_traversal[basic-delegation]": func(t *testing.T) {
		_, c := started(t)
		if c.Versions()[api.TrustBuilder] != 1 {
			t.Error("the delegated role is not there")
		}
	},
	"graph_traversal[two-level-delegations]": func(t *testing.T) {
		_, c := started(t)
		if got, err := c.Listing(api.TrustBuilder, commit); err != nil || got != doc {
			t.Errorf("Listing: %v %v", got, err)
		}
	},
	"targetfile_search[targetpath matches wildcard]": downloads,
	"targetfile_search[targetpath is not delegated by all roles in the chain]": func(t *testing.T) {
		r := newRepo(t, api.ApprovalBuilder)
		path := must[string](t)(tuf.ReleasePath(commit))
		role := "builder-00"
		if tuf.BinRole("builder", path) == role {
			role = "builder-01"
		}
		_, err := tuf.Bin{Role: role, Version: 1, Expires: r.now.AddDate(1, 0, 0), Mark: mark(r.now), Listed: map[string]tuf.Listed{path: doc}}.Make(signer("builder"))
		reason(t, err, tuf.ReasonName)
	},
}

// notApplicable are the cases of the suite about what our client does not have.
var notApplicable = []string{
	"keytype_and_scheme[rsa]", "static_repo[sigstore-root-signing]", "static_repo[tuf-on-ci-0.11]",
	"graph_traversal[single-level-delegations]", "graph_traversal[two-level-test-DFS-order-of-traversal]", "graph_traversal[three-level-delegation-test-DFS-order-of-traversal]",
	"graph_traversal[two-level-terminating-ignores-all-but-roles-descendants]", "graph_traversal[three-level-terminating-ignores-all-but-roles-descendants]",
	"graph_traversal[two-level-ignores-all-branches-not-matching-paths]", "graph_traversal[three-level-ignores-all-branches-not-matching-paths]", "graph_traversal[cyclic-graph]",
	"graph_traversal[two-roles-delegating-to-a-third]", "graph_traversal[two-roles-delegating-to-a-third-different-paths]",
	"targetfile_search[no delegations]", "targetfile_search[targetpath with separators x]", "targetfile_search[targetpath with separators y]",
}

// rotation is a version of a role: whose keys it has, how many of them must sign, and who signed.
type rotation struct {
	keys      []int
	threshold int
	sigs      []int
	refused   bool
}

var rootRotations = map[string][]rotation{
	"1-of-1-key-rotation":                   {{[]int{1}, 1, []int{1}, false}, {[]int{2}, 1, []int{2, 1}, false}, {[]int{2}, 1, []int{2}, false}},
	"1-of-1-key-rotation-unused-signatures": {{[]int{1}, 1, []int{3, 1, 4}, false}, {[]int{2}, 1, []int{3, 2, 1, 4}, false}, {[]int{2}, 1, []int{3, 2, 4}, false}},
	"3-of-5-sign-with-different-keycombos": {
		{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}, false}, {[]int{0, 1, 2, 3, 4}, 3, []int{0, 4, 1}, false},
		{[]int{0, 1, 2, 3, 4}, 3, []int{0, 1, 3}, false}, {[]int{0, 1, 2, 3, 4}, 3, []int{0, 1, 3}, false},
	},
	"3-of-5-one-key-rotated":                         {{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}, false}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 1}, false}},
	"3-of-5-one-key-rotated-with-intermediate-step":  {{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}, false}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 2, 4, 5}, false}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 5}, false}},
	"3-of-5-all-keys-rotated-with-intermediate-step": {{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}, false}, {[]int{5, 6, 7, 8, 9}, 3, []int{0, 2, 4, 5, 6, 7}, false}, {[]int{5, 6, 7, 8, 9}, 3, []int{5, 6, 7}, false}},
	"1-of-3-threshold-increase-to-2-of-3":            {{[]int{1, 2, 3}, 1, []int{1}, false}, {[]int{1, 2, 3}, 2, []int{1, 2}, false}},
	"2-of-3-threshold-decrease-to-1-of-3":            {{[]int{1, 2, 3}, 2, []int{1, 2}, false}, {[]int{1, 2, 3}, 1, []int{1, 2}, false}, {[]int{1, 2, 3}, 1, []int{1}, false}},
	"1-of-2-threshold-increase-to-2-of-2":            {{[]int{1}, 1, []int{1}, false}, {[]int{1, 2}, 2, []int{1, 2}, false}},

	"1-of-1-key-rotation-fail-not-signed-with-old-key":                {{[]int{1}, 1, []int{1}, false}, {[]int{2}, 1, []int{2, 3, 4}, true}},
	"1-of-1-key-rotation-fail-not-signed-with-new-key":                {{[]int{1}, 1, []int{1}, false}, {[]int{2}, 1, []int{1, 3, 4}, true}},
	"3-of-5-one-key-rotate-fails-not-signed-with-3-new-keys":          {{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}, false}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 2, 4}, true}},
	"3-of-5-one-key-rotate-fails-not-signed-with-3-old-keys":          {{[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}, false}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 5}, true}},
	"1-of-3-threshold-bump-to-2-of-3-fails-new-threshold-not-reached": {{[]int{1, 2, 3}, 1, []int{1}, false}, {[]int{1, 2, 3}, 2, []int{2}, true}},
	"2-of-3-threshold-decr-to-1-of-3-fails-old-threshold-not-eached":  {{[]int{1, 2, 3}, 2, []int{1, 2}, false}, {[]int{1, 2, 3}, 1, []int{1}, true}},
}

var otherRotations = map[string]rotation{
	"1-of-1-key-rotation":                                            {[]int{2}, 1, []int{2}, false},
	"1-of-1-key-rotation-unused-signatures":                          {[]int{1}, 1, []int{3, 1, 4}, false},
	"1-of-1-key-rotation-fail-not-signed-with-new-key":               {[]int{2}, 1, []int{1, 3, 4}, true},
	"3-of-5-one-key-signature-wrong-not-signed-with-3-expected-keys": {[]int{0, 1, 3, 4, 5}, 3, []int{0, 2, 4}, true},
	"2-of-5-one-key-signature-mising-threshold-not-reached":          {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4}, true},
	"3-of-5-sign-first-combo":                                        {[]int{0, 1, 2, 3, 4}, 3, []int{0, 2, 4}, false},
	"3-of-5-sign-second-combo":                                       {[]int{0, 1, 2, 3, 4}, 3, []int{0, 4, 1}, false},
	"3-of-5-sign-third-combo":                                        {[]int{0, 1, 2, 3, 4}, 3, []int{0, 1, 3}, false},
	"3-of-5-sign-fourth-combo":                                       {[]int{0, 1, 2, 3, 4}, 3, []int{1, 2, 3}, false},
	"3-of-5-sign-fifth-combo":                                        {[]int{0, 1, 2, 3, 4}, 3, []int{2, 3, 4}, false},
}

func signersOf(numbers []int) []tuf.Signer {
	var all []tuf.Signer
	for _, n := range numbers {
		all = append(all, signer(fmt.Sprint("number ", n)))
	}
	return all
}

// TestConformance runs the cases of the public suite that apply, and compares their names with the page that lists them.
func TestConformance(t *testing.T) {
	all := map[string]func(*testing.T){}
	for name, run := range conformance {
		all[name] = run
	}
	for name, list := range rootRotations {
		all["root_rotation["+name+"]"] = func(t *testing.T) { rotateRoot(t, list) }
	}
	for name, one := range otherRotations {
		all["non_root_rotations["+name+"]"] = func(t *testing.T) { rotateOthers(t, one) }
	}
	page, err := os.ReadFile("../../docs/trust-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for line := range strings.Lines(string(page)) {
		if f := strings.Split(line, "|"); len(f) == 5 && strings.HasPrefix(strings.TrimSpace(f[1]), "`") {
			listed[strings.Trim(strings.TrimSpace(f[1]), "`")] = strings.TrimSpace(f[3])
		}
	}
	for _, name := range notApplicable {
		if !strings.HasPrefix(listed[name], "does not apply") {
			t.Errorf("docs/trust-conformance.md says of %s: %q", name, listed[name])
		}
	}
	if len(listed) != len(all)+len(notApplicable) {
		t.Errorf("docs/trust-conformance.md lists %d cases, there are %d and %d that do not apply", len(listed), len(all), len(notApplicable))
	}
	if count := fmt.Sprintf("%d cases, of which %d apply and pass and %d do not apply", len(listed), len(all), len(notApplicable)); !strings.Contains(string(page), count) {
		t.Errorf("docs/trust-conformance.md does not say %q", count)
	}
	for name, run := range all {
		if !strings.HasPrefix(listed[name], "passes") {
			t.Errorf("docs/trust-conformance.md says of %s: %q", name, listed[name])
		}
		t.Run(name, run)
	}
}

// started is a repository with one release, and a client that has it.
func started(t *testing.T) (*repo, *tuf.Trusted) { return startedWith(t, func(*repo) {}) }

func startedWith(t *testing.T, change func(*repo)) (*repo, *tuf.Trusted) {
	t.Helper()
	r := newRepo(t, api.ApprovalBuilder)
	r.list(api.TrustBuilder, commit, doc)
	change(r)
	r.make()
	c := r.client()
	if err := r.update(c); err != nil {
		t.Fatal(err)
	}
	return r, c
}

func (r *repo) binsExpire(when time.Time) {
	for role, bin := range r.bins {
		bin.Expires = when
		r.bins[role] = bin
	}
}

// announce puts another snapshot in place, and says so in a new timestamp.
func (r *repo) announce(snapshot []byte) {
	r.t.Helper()
	r.files[api.TrustSnapshot] = snapshot
	r.timestamp.Version++
	r.timestamp.Snapshot = tuf.MetaOf(must[tuf.Snapshot](r.t)(tuf.ReadSnapshot(snapshot)).Version, snapshot)
	r.files[api.TrustTimestamp] = must[[]byte](r.t)(r.timestamp.Make(r.timestampKey))
}

func reopened(t *testing.T, c *tuf.Trusted) *tuf.Trusted {
	t.Helper()
	again, err := tuf.Reopen(fleetID, c.Files())
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// versions compares what a client has of the four top roles; 0 is nothing.
func versions(t *testing.T, c *tuf.Trusted, want ...int64) {
	t.Helper()
	for _, client := range []*tuf.Trusted{c, reopened(t, c)} {
		have := client.Versions()
		for i, role := range []string{api.TrustRoot, api.TrustTimestamp, api.TrustSnapshot, api.TrustTargets} {
			if have[role] != want[i] {
				t.Errorf("%s is of version %d, want %d", role, have[role], want[i])
			}
		}
	}
}

// recovered lets a client take a new root and all that it leads to.
func recovered(t *testing.T, r *repo, c *tuf.Trusted) {
	t.Helper()
	if err := c.Root(r.files[api.TrustRoot]); err != nil {
		t.Fatal(err)
	}
	if err := r.update(c); err != nil {
		t.Fatal(err)
	}
}

func unsigned(t *testing.T, role string, want ...int64) {
	r := newRepo(t, api.ApprovalBuilder)
	r.make()
	bare := forge(t, r.files[role], func(map[string]any) {})
	r.files[role] = bare
	switch role {
	case api.TrustTargets: // snapshot and timestamp announce it as it is
		r.snapshot.Files[role] = tuf.MetaOf(1, bare)
		r.files[api.TrustSnapshot] = must[[]byte](t)(r.snapshot.Make(r.snapshotKey))
		r.timestamp.Version--
		r.announce(r.files[api.TrustSnapshot])
	case api.TrustSnapshot:
		r.timestamp.Version--
		r.announce(bare)
	}
	c := r.client()
	reason(t, r.update(c), tuf.ReasonThreshold)
	versions(t, c, want...)
}

func contentChanges(t *testing.T) {
	r, c := started(t)
	r.timestamp.Snapshot.Version = 100
	if err := c.Timestamp(must[[]byte](t)(r.timestamp.Make(r.timestampKey))); err != nil {
		t.Errorf("Timestamp: %v", err)
	}
	kept := must[tuf.Timestamp](t)(tuf.ReadTimestamp(c.Files()[1].Data))
	if kept.Snapshot.Version != 1 {
		t.Errorf("the client has taken a timestamp of the same version, about snapshot %d", kept.Snapshot.Version)
	}
	reason(t, c.Timestamp(must[[]byte](t)(r.timestamp.Make(signer("foreign")))), tuf.ReasonThreshold)
}

func hashMismatch(t *testing.T) {
	r, c := started(t)
	r.targets.Version = 2
	r.make()
	m := r.snapshot.Files[api.TrustTargets]
	m.SHA256 = tuf.Digest([]byte("another"))
	r.snapshot.Version++
	r.snapshot.Files[api.TrustTargets] = m
	r.announce(must[[]byte](t)(r.snapshot.Make(r.snapshotKey)))
	reason(t, r.update(c), tuf.ReasonDigest)
	versions(t, c, 1, 3, 3, 1)
}

func downloads(t *testing.T) {
	content := []byte("target file contents")
	l := tuf.Listed{Length: int64(len(content)), SHA256: tuf.Digest(content), Counter: 1}
	_, c := startedWith(t, func(r *repo) { r.list(api.TrustBuilder, commit, l) })
	got, err := c.Release(commit)
	if err != nil || got.Check("document", content) != nil {
		t.Errorf("Release: %v %v", got, err)
	}
}

func roleName(t *testing.T, name string) {
	r, c := started(t)
	r.targets.Version = 2
	file := forge(t, must[[]byte](t)(r.targets.Make(r.targetsBy...)), func(s map[string]any) {
		at(s, "delegations")["roles"].([]any)[0].(map[string]any)["name"] = name
	}, r.targetsBy...)
	_, err := tuf.ReadTargets(file)
	reason(t, err, tuf.ReasonName)
	reason(t, c.Delegated(name, api.TrustTargets, r.files[api.TrustBuilder]), tuf.ReasonName)
	snapshot := forge(t, r.files[api.TrustSnapshot], func(s map[string]any) { at(s, "meta")[name+".json"] = map[string]any{"version": 1} }, r.snapshotKey)
	_, err = tuf.ReadSnapshot(snapshot)
	reason(t, err, tuf.ReasonName)
}

func snapshotRollback(t *testing.T, hashes bool) {
	r, c := started(t)
	r.make()
	if err := r.update(c); err != nil {
		t.Fatal(err)
	}
	r.snapshot.Version = 0
	r.make()
	if !hashes {
		r.timestamp.Version++
		r.timestamp.Snapshot = tuf.Meta{Version: 1}
		r.files[api.TrustTimestamp] = must[[]byte](t)(r.timestamp.Make(r.timestampKey))
	}
	reason(t, r.update(c), tuf.ReasonRollback)
	versions(t, c, 1, 2, 2, 1)
}

func targetsRollback(t *testing.T, hashes bool) {
	r, c := startedWith(t, func(r *repo) { r.targets.Version = 2 })
	r.targets.Version = 1
	r.make()
	if !hashes {
		r.snapshot.Files[api.TrustTargets] = tuf.Meta{Version: 1}
		r.snapshot.Version++
		r.announce(must[[]byte](t)(r.snapshot.Make(r.snapshotKey)))
	}
	reason(t, r.update(c), tuf.ReasonRollback)
	if got := c.Versions()[api.TrustTargets]; got != 2 {
		t.Errorf("targets version %d, want 2", got)
	}
}

func rotateRoot(t *testing.T, list []rotation) {
	r := newRepo(t, api.ApprovalBuilder)
	var c *tuf.Trusted
	for i, one := range list {
		r.root.Version = int64(i + 1)
		r.root.Keys[api.TrustRoot], r.root.Threshold[api.TrustRoot] = public(signersOf(one.keys)...), one.threshold
		file := must[[]byte](t)(r.root.Make(signersOf(one.sigs)...))
		var err error
		if i == 0 {
			if c, err = tuf.Open(fleetID, file); err != nil {
				t.Fatal(err)
			}
			continue
		}
		before := c.RootDigest()
		err = c.Root(file)
		switch {
		case one.refused:
			reason(t, err, tuf.ReasonThreshold)
			if c.RootDigest() != before {
				t.Error("the client has the refused root")
			}
		case err != nil || c.RootDigest() != tuf.Digest(file):
			t.Errorf("version %d: %v", i+1, err)
		}
	}
}

func rotateOthers(t *testing.T, one rotation) {
	r, c := started(t)
	for _, role := range []string{api.TrustTimestamp, api.TrustSnapshot, api.TrustTargets} {
		r.root.Version++
		r.root.Keys[role], r.root.Threshold[role] = public(signersOf(one.keys)...), one.threshold
		if role == api.TrustTargets {
			r.targets.Version++
			r.targetsBy = signersOf(one.sigs)
		}
		r.make()
		if err := c.Root(r.files[api.TrustRoot]); err != nil {
			t.Fatal(err)
		}
		resign := func(role string) []byte {
			return forge(t, r.files[role], func(map[string]any) {}, signersOf(one.sigs)...)
		}
		switch role {
		case api.TrustTimestamp:
			r.files[role] = resign(role)
		case api.TrustSnapshot:
			r.announce(resign(role))
		}
		err := r.update(c)
		if one.refused {
			reason(t, err, tuf.ReasonThreshold)
		} else if err != nil {
			t.Errorf("%s: %v", role, err)
		}
		// The next role is tried with this one as it was.
		r.root.Keys[role], r.root.Threshold[role] = public(signer(role)), 1
		if role == api.TrustTargets {
			return
		}
	}
}

// ecdsaSigner signs as the tokens of owners do.
type ecdsaSigner struct {
	t   *testing.T
	key *ecdsa.PrivateKey
}

func newECDSA(t *testing.T) tuf.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ecdsaSigner{t, key}
}

func (s ecdsaSigner) Public() *metadata.Key {
	return must[*metadata.Key](s.t)(tuf.ECDSAKey(&s.key.PublicKey))
}

func (s ecdsaSigner) Sign(message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	return ecdsa.SignASN1(rand.Reader, s.key, sum[:])
}

// keytype adds a root key, without which nothing is taken from then on; a signature of it that looks right and is not, is refused.
func keytype(t *testing.T, second tuf.Signer) {
	r, c := started(t)
	r.root.Version = 2
	r.root.Keys[api.TrustRoot] = append(r.root.Keys[api.TrustRoot], second.Public())
	r.root.Threshold[api.TrustRoot] = 2
	r.rootBy = append(r.rootBy, second)
	if err := c.Root(must[[]byte](t)(r.root.Make(r.rootBy...))); err != nil {
		t.Fatal(err)
	}
	r.root.Version = 3
	file := must[[]byte](t)(r.root.Make(r.rootBy...))
	other := must[[]byte](t)(second.Sign([]byte("something else")))
	bad := forge(t, file, func(map[string]any) {}, r.rootBy[0], wrongSigner{second, other})
	err := c.Root(bad)
	reason(t, err, tuf.ReasonSignature)
	if rejection, _ := tuf.Rejection(err); rejection.Key != tuf.KeyID(second.Public()) {
		t.Errorf("the refusal names key %s, want %s", rejection.Key, tuf.KeyID(second.Public()))
	}
	if err := c.Root(file); err != nil {
		t.Error(err)
	}
}

// wrongSigner gives a signature of something else.
type wrongSigner struct {
	tuf.Signer
	sig []byte
}

func (w wrongSigner) Sign([]byte) ([]byte, error) { return w.sig, nil }
