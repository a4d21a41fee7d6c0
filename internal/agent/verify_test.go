package agent_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/trust/trusttest"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// attack is something that a thief of the server, the registry or the network tries, and what the device says to it.
type attack struct {
	name   string
	setup  func(f *trusttest.Fleet)
	do     func(v *verifying) // tells the device to run the release B, somehow wrongly
	reason string
	words  []string
	alone  bool               // it needs nobody to see that
	undo   func(v *verifying) // nil: there is nothing more to undo
}

// change has the server send something else than it signed.
func change(f func(v *verifying, have api.TrustHave, b *api.TrustBundle)) func(*verifying) {
	return func(v *verifying) {
		v.fleet.Alter(func(fleet *trusttest.Fleet) {
			fleet.Change = func(have api.TrustHave, b *api.TrustBundle) { f(v, have, b) }
		})
		v.release(commitB, 2)
	}
}

// wrongly tells the device a target state that was changed after it was signed.
func wrongly(f func(rel *api.ReleaseTarget)) func(*verifying) {
	return func(v *verifying) {
		v.build(commitB, 2)
		told := target(commitB, 2)
		f(releaseOf(told, commitB))
		v.w.setTarget(told)
	}
}

func file(b *api.TrustBundle, role string) *api.TrustFile {
	for i := range b.Files {
		if b.Files[i].Role == role {
			return &b.Files[i]
		}
	}
	return &api.TrustFile{}
}

// forged changes what is signed in a file, and signs it again with the given keys.
func forged(data []byte, change func(signed map[string]any), keys ...tuf.Ed25519Signer) []byte {
	var whole struct {
		Signed     map[string]any `json:"signed"`
		Signatures []any          `json:"signatures"`
	}
	if err := json.Unmarshal(data, &whole); err != nil {
		panic(err)
	}
	change(whole.Signed)
	message, err := tuf.Canonical(whole.Signed)
	if err != nil {
		panic(err)
	}
	whole.Signatures = []any{}
	for _, key := range keys {
		sig, err := key.Sign(message)
		if err != nil {
			panic(err)
		}
		const digits = "0123456789abcdef"
		var hex strings.Builder
		for _, b := range sig {
			hex.WriteByte(digits[b>>4])
			hex.WriteByte(digits[b&15])
		}
		whole.Signatures = append(whole.Signatures, map[string]any{"keyid": tuf.KeyID(key.Public()), "sig": hex.String()})
	}
	out, err := json.Marshal(map[string]any{"signed": json.RawMessage(message), "signatures": whole.Signatures})
	if err != nil {
		panic(err)
	}
	return out
}

// nextRoot sends a forged root as the next one.
func nextRoot(edit func(signed map[string]any), keys ...string) func(*verifying) {
	return func(v *verifying) {
		root := forged(v.fleet.Root(1), func(signed map[string]any) {
			signed["version"] = 2
			edit(signed)
		}, func() (all []tuf.Ed25519Signer) {
			for _, name := range keys {
				all = append(all, trusttest.Key(name))
			}
			return all
		}()...)
		change(func(_ *verifying, _ api.TrustHave, b *api.TrustBundle) { b.Roots = [][]byte{root} })(v)
	}
}

func role(signed map[string]any, name string) map[string]any {
	return signed["roles"].(map[string]any)[name].(map[string]any)
}

var targetAttacks = []attack{
	{name: "another digest in the target state", do: wrongly(func(r *api.ReleaseTarget) { r.Services["web"].Image = ref(3) }), reason: "digest", words: []string{"image of service web"}},
	{
		name: "a composition field flipped", reason: "composition", words: []string{"privileged of composition of service web", "false", "true"},
		do: wrongly(func(r *api.ReleaseTarget) {
			r.Services["web"].Composition = json.RawMessage(`{"ports":["80:80"],"privileged":true}`)
		}),
	},
	{
		name: "a member of a composition twice", reason: "malformed", words: []string{"composition of service web"},
		do: wrongly(func(r *api.ReleaseTarget) {
			r.Services["web"].Composition = json.RawMessage(`{"privileged":true,"ports":["80:80"],"privileged":false}`)
		}),
	},
	{
		name: "a label that opens the engine", reason: "composition", words: []string{"label io.balena.features.balena-socket of service web"},
		do: wrongly(func(r *api.ReleaseTarget) {
			r.Services["web"].Labels = map[string]string{"io.balena.features.balena-socket": "1"}
		}),
	},
	{name: "a contract", do: wrongly(func(r *api.ReleaseTarget) { r.Services["web"].Contract = json.RawMessage(`{"type":"x"}`) }), reason: "composition", words: []string{"contract of service web"}},
	{
		name: "one more service", reason: "composition", words: []string{"services", "evil, web"},
		do: wrongly(func(r *api.ReleaseTarget) { r.Services["evil"] = r.Services["web"] }),
	},
	{
		name: "a network", reason: "composition", words: []string{"networks"},
		do: wrongly(func(r *api.ReleaseTarget) { r.Networks = map[string]json.RawMessage{"n": json.RawMessage(`{}`)} }),
	},
	{
		name: "a volume with a driver", reason: "composition", words: []string{"volume data"},
		do: wrongly(func(r *api.ReleaseTarget) {
			r.Volumes = map[string]json.RawMessage{"data": json.RawMessage(`{"driver_opts":{"device":"/"}}`)}
		}),
	},
	{
		name: "a release of a second fleet beside the own", alone: true, reason: "fleet", words: []string{otherUUID},
		do: func(v *verifying) {
			v.build(commitB, 2)
			told := target(commitB, 2)
			told.Apps[otherUUID] = target(commitC, 3).Apps[fleetUUID]
			v.w.setTarget(told)
		},
	},
	{
		name: "another fleet that nobody let it go to", reason: "fleet", words: []string{otherUUID, "does not let this device go"},
		do: func(v *verifying) {
			told := target(commitC, 3)
			told.Apps = map[string]*api.AppTarget{otherUUID: told.Apps[fleetUUID]}
			v.w.setTarget(told)
		},
	},
	{
		name: "another fleet, and no metadata of the own", reason: "fleet", words: []string{otherUUID, "does not let this device go"}, alone: true,
		do: func(v *verifying) {
			v.w.mu.Lock()
			defer v.w.mu.Unlock()
			v.w.fleets = map[string]*trusttest.Fleet{}
			told := target(commitC, 3)
			told.Apps = map[string]*api.AppTarget{otherUUID: told.Apps[fleetUUID]}
			for _, k := range v.w.devices {
				k.target = string(made(json.Marshal(told)))
			}
		},
		undo: func(v *verifying) {
			v.w.mu.Lock()
			defer v.w.mu.Unlock()
			v.w.fleets = map[string]*trusttest.Fleet{fleetUUID: v.fleet}
		},
	},
	{
		name: "nothing to run, which the director did not say", reason: "director", words: []string{"none in the target state"},
		do: func(v *verifying) {
			v.fleet.Alter(func(f *trusttest.Fleet) { f.Director = commitA })
			v.w.setTarget(api.DeviceTarget{Name: "a-name", Config: map[string]string{}, Apps: map[string]*api.AppTarget{}})
		},
	},
	{
		name: "a stolen director with a release that nobody listed", reason: "unlisted", words: []string{"release " + commitC},
		do: func(v *verifying) {
			v.build(commitB, 2)
			v.fleet.Alter(func(f *trusttest.Fleet) {
				f.Change = func(have api.TrustHave, b *api.TrustBundle) {
					rel := target(commitC, 3)
					b.Document = f.Document(commitC, releaseOf(rel, commitC))
					said := tuf.Director{
						Version: f.Now().Unix(), Expires: f.Now().Add(time.Hour), Commit: commitC,
						Mark:    api.TrustMark{Fleet: f.UUID, SignedAt: f.Now(), Device: v.uuid(), Nonce: have.Nonce, Channel: &api.TrustChannel{}},
						Release: &tuf.Listed{Length: int64(len(b.Document)), SHA256: tuf.Digest(b.Document), Counter: f.Now().Unix() + 1000},
					}
					b.Director = made(said.Make(f.Key("director")))
				}
			})
			v.w.setTarget(target(commitC, 3))
		},
	},
	{
		name: "a director that names another release", reason: "director", words: []string{commitA, commitB},
		do: func(v *verifying) {
			v.fleet.Alter(func(f *trusttest.Fleet) { f.Director = commitA })
			v.release(commitB, 2)
		},
	},
}

func made[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (v *verifying) uuid() api.DeviceUUID {
	v.w.mu.Lock()
	defer v.w.mu.Unlock()
	for uuid := range v.w.devices {
		return uuid
	}
	return ""
}

var metadataAttacks = []attack{
	{
		name: "counter reused with another document", reason: "counter", words: []string{"counter of release " + commitB},
		do: func(v *verifying) {
			v.fleet.List(commitB, v.fleet.Document(commitB, releaseOf(target(commitB, 2), commitB)), v.w.said().Counter)
			v.fleet.Publish()
			v.w.setTarget(target(commitB, 2))
		},
	},
	{
		name: "an older release", reason: "rollback", words: []string{"counter of release " + commitB},
		do: func(v *verifying) {
			v.fleet.List(commitB, v.fleet.Document(commitB, releaseOf(target(commitB, 2), commitB)), v.w.said().Counter-1)
			v.fleet.Publish()
			v.w.setTarget(target(commitB, 2))
		},
	},
	{
		name: "metadata of another fleet", reason: "fleet", words: []string{fleetUUID, otherUUID},
		do: change(func(v *verifying, have api.TrustHave, b *api.TrustBundle) {
			other := foreign(v)
			*b = other.Answer(v.uuid(), have)
		}),
	},
	{
		name: "metadata of another fleet under the name of this one", reason: "fleet", words: []string{"timestamp", otherUUID},
		do: change(func(v *verifying, have api.TrustHave, b *api.TrustBundle) {
			other := foreign(v)
			*b = other.Answer(v.uuid(), api.TrustHave{Nonce: have.Nonce, Commit: have.Commit, Root: tuf.Digest(other.Root(1))})
			b.Fleet = fleetUUID
		}),
	},
	{
		name: "a statement for another device", reason: "device", words: []string{"director", strings.Repeat("d", 32)},
		do: change(func(v *verifying, have api.TrustHave, b *api.TrustBundle) {
			said := made(tuf.ReadDirector(b.Director))
			said.Mark.Device = api.DeviceUUID(strings.Repeat("d", 32))
			b.Director = made(said.Make(v.fleet.Key("director")))
		}),
	},
	{
		name: "a statement that answers another question", reason: "nonce", words: []string{"director"},
		do: change(func(v *verifying, have api.TrustHave, b *api.TrustBundle) {
			said := made(tuf.ReadDirector(b.Director))
			said.Mark.Nonce = "0123456789abcdef0123"
			b.Director = made(said.Make(v.fleet.Key("director")))
		}),
	},
	{
		name: "a statement signed by the builder", reason: "threshold", words: []string{"director"},
		do: change(func(v *verifying, have api.TrustHave, b *api.TrustBundle) {
			b.Director = made(made(tuf.ReadDirector(b.Director)).Make(v.fleet.Key("builder")))
		}),
	},
	{
		name: "a snapshot without its timestamp", reason: "version", words: []string{"snapshot"},
		do: change(func(_ *verifying, _ api.TrustHave, b *api.TrustBundle) {
			b.Files = slices.DeleteFunc(b.Files, func(f api.TrustFile) bool { return f.Role == api.TrustTimestamp })
		}),
	},
	{
		name: "a timestamp without its snapshot", reason: "missing", words: []string{"snapshot"},
		do: change(func(_ *verifying, _ api.TrustHave, b *api.TrustBundle) {
			b.Files = slices.DeleteFunc(b.Files, func(f api.TrustFile) bool { return f.Role == api.TrustSnapshot })
		}),
	},
	{
		name: "a byte of a bin flipped", reason: "signature", words: []string{"builder-"},
		do: change(func(_ *verifying, have api.TrustHave, b *api.TrustBundle) {
			path, _ := tuf.ReleasePath(commitB)
			bin := file(b, tuf.BinRole("builder", path))
			bin.Data = []byte(strings.Replace(string(bin.Data), `"length":`, `"length":1`, 1))
		}),
	},
	{
		name: "a path as a role", reason: "name", words: []string{"../../../etc/cron.d/x"},
		do: change(func(_ *verifying, _ api.TrustHave, b *api.TrustBundle) {
			b.Files = append(b.Files, api.TrustFile{Role: "../../../etc/cron.d/x", Data: []byte("{}")})
		}),
	},
	{
		name: "a path in a bin", reason: "name",
		do: change(func(v *verifying, _ api.TrustHave, b *api.TrustBundle) {
			path, _ := tuf.ReleasePath(commitB)
			bin := file(b, tuf.BinRole("builder", path))
			bin.Data = forged(bin.Data, func(signed map[string]any) {
				targets := signed["targets"].(map[string]any)
				targets["releases/../../../etc/passwd"] = targets[path]
			}, v.fleet.Key("builder"))
		}),
	},
	{
		name: "another document", reason: "digest", words: []string{"document of release " + commitB},
		do: change(func(_ *verifying, _ api.TrustHave, b *api.TrustBundle) {
			b.Document = []byte(strings.Replace(string(b.Document), commitB, commitC, 1))
		}),
	},
	{
		name: "no document", reason: "missing", words: []string{"document of release " + commitB},
		do: change(func(_ *verifying, _ api.TrustHave, b *api.TrustBundle) { b.Document = nil }),
	},
	{
		name: "one key twice towards a threshold", reason: "signature", words: []string{"root version 2"},
		setup: func(f *trusttest.Fleet) { f.Owners, f.Threshold = []string{"one", "two"}, 2 },
		do:    nextRoot(func(map[string]any) {}, "one", "one"),
	},
	{
		name: "one key of two", reason: "threshold", words: []string{"root version 2", "2 of 2"},
		setup: func(f *trusttest.Fleet) { f.Owners, f.Threshold = []string{"one", "two"}, 2 },
		do:    nextRoot(func(map[string]any) {}, "one"),
	},
	{name: "a threshold of 0", do: nextRoot(func(s map[string]any) { role(s, "targets")["threshold"] = 0 }, "owner"), reason: "threshold", words: []string{"root version 2"}},
	{
		name: "an unknown algorithm", reason: "key", words: []string{"root version 2"},
		do: nextRoot(func(s map[string]any) {
			for _, key := range s["keys"].(map[string]any) {
				key.(map[string]any)["keytype"], key.(map[string]any)["scheme"] = "rot13", "rot13"
			}
		}, "owner"),
	},
	{name: "a root of the server's own", do: nextRoot(func(map[string]any) {}, "thief"), reason: "threshold", words: []string{"root version 2"}},
	{name: "a root that leaves one out", do: nextRoot(func(s map[string]any) { s["version"] = 3 }, "owner"), reason: "version", words: []string{"root version 3"}},
	{
		name: "a file of 2 MB", reason: "size", words: []string{"timestamp"},
		do: change(func(_ *verifying, _ api.TrustHave, b *api.TrustBundle) {
			file(b, api.TrustTimestamp).Data = []byte(`{"signed":{"x":"` + strings.Repeat("A", 2_000_000) + `"}}`)
		}),
	},
	{
		name: "a release that the log does not have", reason: "missing", words: []string{"log"},
		do: change(func(_ *verifying, _ api.TrustHave, b *api.TrustBundle) { b.Proof = nil }),
	},
	{
		name: "the log's entry of another release", reason: "log", words: []string{commitA},
		do: change(func(v *verifying, have api.TrustHave, b *api.TrustBundle) {
			var entry api.TrustEntry
			if err := json.Unmarshal(v.fleet.Log.Leaves[0], &entry); err != nil {
				panic(err)
			}
			b.Proof = v.fleet.Log.Prove(have.Log, entry)
		}),
	},
	{
		name: "a second history of the log", reason: "log", words: []string{"checkpoint"},
		do: change(func(v *verifying, have api.TrustHave, b *api.TrustBundle) {
			var entry api.TrustEntry
			if err := json.Unmarshal(b.Proof.Entry, &entry); err != nil {
				panic(err)
			}
			other := trusttest.NewLog(v.fleet.Log.Origin)
			for range have.Log {
				other.Add([]byte(`{"kind":"release"}`))
			}
			other.Add(b.Proof.Entry)
			b.Proof = other.Prove(have.Log, entry)
		}),
	},
	{
		name: "a signed time after the end of the root's life", reason: "clock",
		do: change(func(v *verifying, have api.TrustHave, b *api.TrustBundle) {
			said := made(tuf.ReadDirector(b.Director))
			said.Mark.SignedAt, said.Expires = time.Now().Add(1000*24*time.Hour), time.Now().Add(2000*24*time.Hour)
			b.Director = made(said.Make(v.fleet.Key("director")))
		}),
	},
}

// foreign is another fleet of the same server, which has a release of the same commit.
func foreign(v *verifying) *trusttest.Fleet {
	other := trusttest.New(otherUUID)
	other.Names, other.Now = fleetUUID, v.clock.ofServer // even the same keys do not help
	other.Rotate()
	other.Build(commitB, releaseOf(target(commitB, 2), commitB))
	other.Publish()
	return other
}

// Each attack changes nothing on the device; it says by name what it refuses; once the attack ends, the genuine release runs.
func TestAttacksChangeNothing(t *testing.T) {
	for _, a := range slices.Concat(targetAttacks, metadataAttacks) {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			v := newVerifying(t, a.setup)
			a.do(v)
			v.refuses("a", a.reason, a.words...)
			if !a.alone {
				v.asked(1) // it tries again, and is not worn down
			}
			v.refuses("a", a.reason)
			if a.undo != nil {
				a.undo(v)
			}
			v.fleet.Alter(func(f *trusttest.Fleet) { f.Change, f.Director = nil, "" })
			v.release(commitB, 2)
			v.runs("b")
		})
	}
}

// What a server sends is bounded before it is looked at.
func TestHundredMegabytesOfMetadata(t *testing.T) {
	v := newVerifying(t, nil)
	sent := make(chan int, 100)
	v.w.setInstead(func(rw http.ResponseWriter) {
		n := 0
		chunk := []byte(`{"fleet":"` + strings.Repeat("A", 1_000_000))
		for n < 100<<20 {
			k, err := rw.Write(chunk)
			chunk = chunk[len(chunk)-1_000_000:]
			if n += k; err != nil {
				break
			}
		}
		select {
		case sent <- n:
		default:
		}
	})
	v.release(commitB, 2)
	roletest.Eventually(t, "it says why", func() bool { return v.w.logged("larger than 3145728 bytes") })
	if n := <-sent; n > 50<<20 {
		t.Errorf("the device took %d bytes", n)
	}
	if got := v.running(); !slices.Equal(got, []string{"web a"}) {
		t.Errorf("runs %v", got)
	}
	v.w.setInstead(nil)
	v.runs("b")
}
