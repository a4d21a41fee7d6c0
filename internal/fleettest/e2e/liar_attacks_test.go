package e2e_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// What the network can do, and who has the server's keys but not the owner's.
var liesAboutTargets = []siegeAttack{
	{
		name: "a digest in the target state", reason: tuf.ReasonDigest, words: []string{"image of service web"},
		lie: tells(func(s *siege, _ *api.DeviceTarget, web *api.ServiceTarget) {
			last := "0"
			if strings.HasSuffix(web.Image, last) {
				last = "1"
			}
			web.Image = web.Image[:len(web.Image)-1] + last
		}),
	},
	{
		name: "a composition field", reason: "composition", words: []string{"privileged of composition of service web", "true"},
		lie: tells(func(_ *siege, _ *api.DeviceTarget, web *api.ServiceTarget) {
			var fields map[string]any
			if json.Unmarshal(web.Composition, &fields) != nil || fields == nil {
				fields = map[string]any{}
			}
			fields["privileged"] = true
			web.Composition = made(json.Marshal(fields))
		}),
	},
	{
		name: "a label that opens the engine", reason: "composition", words: []string{"label io.balena.features.balena-socket of service web"},
		lie: tells(func(_ *siege, _ *api.DeviceTarget, web *api.ServiceTarget) {
			web.Labels = map[string]string{"io.balena.features.balena-socket": "1"}
		}),
	},
	{
		name: "another fleet, which nobody lets it go to", reason: tuf.ReasonFleet, words: []string{"does not let this device go"},
		lie: tells(func(s *siege, mine *api.DeviceTarget, _ *api.ServiceTarget) {
			mine.Apps = map[string]*api.AppTarget{s.strangers: mine.Apps[s.fleetUUID]}
		}),
	},
	{
		name: "a stolen director with a release that nobody listed", reason: tuf.ReasonUnlisted, words: []string{"release " + strings.Repeat("c", 32)},
		lie: func(s *siege) lie {
			alien := strings.Repeat("c", 32)
			return lie{
				state: func(mine *api.DeviceTarget) {
					app := mine.Apps[s.fleetUUID]
					app.Releases = map[string]*api.ReleaseTarget{alien: app.Releases[s.third]}
				},
				answer: func(_ api.DeviceUUID, have api.TrustHave, b *api.TrustBundle) {
					b.Document = []byte(strings.ReplaceAll(string(b.Document), s.third, alien))
					l := tuf.Listed{Length: int64(len(b.Document)), SHA256: tuf.Digest(b.Document), Counter: time.Now().Unix()}
					b.Proof = s.forger.prove(have, api.TrustEntry{Kind: "release", Fleet: s.fleetUUID, Name: alien, Version: l.Counter, SHA256: l.SHA256, By: api.TrustOwner})
					s.forger.direct(b, func(d *tuf.Director) { d.Commit, d.Release = alien, &l })
				},
			}
		},
	},
	{
		name: "an older release, which the owner signed", reason: tuf.ReasonRollback, words: []string{"counter of release "},
		tell: func(s *siege) string { return s.first },
		lie:  func(*siege) lie { return lie{} },
	},
	{
		name: "metadata of before, with an answer of now", reason: tuf.ReasonRollback, words: []string{"timestamp"},
		lie: func(s *siege) lie {
			return lie{
				state: func(mine *api.DeviceTarget) { *mine = *clone((*s.oldTold)[api.DeviceUUID(s.uuid)]) },
				answer: func(_ api.DeviceUUID, have api.TrustHave, b *api.TrustBundle) {
					now := b.Director
					*b = *clone(s.old)
					was := made(tuf.ReadDirector(b.Director))
					b.Director, b.Roots = now, nil
					s.forger.direct(b, func(d *tuf.Director) { d.Commit, d.Release = was.Commit, was.Release })
				},
			}
		},
	},
}

// What only who has the fleet's keys can sign, and one thing is wrong about it.
var liesAboutMetadata = []siegeAttack{
	{
		name: "metadata of another fleet", reason: tuf.ReasonFleet, words: []string{"bundle"},
		lie: func(s *siege) lie {
			return lie{answer: func(_ api.DeviceUUID, have api.TrustHave, b *api.TrustBundle) {
				*b = s.bundleOf(strangerUUID, s.stranger, api.TrustHave{Nonce: have.Nonce})
			}}
		},
	},
	{
		name: "metadata of another fleet under this one's name", reason: tuf.ReasonFleet, words: []string{"timestamp"},
		lie: func(s *siege) lie {
			return lie{answer: func(_ api.DeviceUUID, have api.TrustHave, b *api.TrustBundle) {
				*b = s.bundleOf(strangerUUID, s.stranger, api.TrustHave{Nonce: have.Nonce})
				b.Fleet, b.Roots = s.fleetUUID, nil
			}}
		},
	},
	{
		name: "the statement for another device", reason: "device", words: []string{neighbourUUID},
		lie: func(s *siege) lie {
			return lie{answer: func(_ api.DeviceUUID, have api.TrustHave, b *api.TrustBundle) {
				b.Director = s.bundleOf(neighbourUUID, s.neighbour, api.TrustHave{Nonce: have.Nonce}).Director
			}}
		},
	},
	{
		name: "a statement that answers another question", reason: "nonce",
		lie: answers(func(s *siege, _ api.TrustHave, b *api.TrustBundle) {
			s.forger.direct(b, func(d *tuf.Director) { d.Mark.Nonce = strings.Repeat("0", 26) })
		}),
	},
	{
		name: "a statement about another release", reason: "director",
		lie: answers(func(s *siege, _ api.TrustHave, b *api.TrustBundle) {
			s.forger.direct(b, func(d *tuf.Director) { d.Commit = s.second })
		}),
	},
	{
		name: "a statement that the builder signed", reason: tuf.ReasonThreshold, words: []string{"director"},
		lie: answers(func(s *siege, _ api.TrustHave, b *api.TrustBundle) {
			b.Director = made(made(tuf.ReadDirector(b.Director)).Make(s.forger.key(s.fleetUUID, api.TrustBuilder)))
		}),
	},
	{
		name: "a snapshot without its timestamp", reason: tuf.ReasonVersion, words: []string{"snapshot"},
		lie: answers(func(s *siege, _ api.TrustHave, b *api.TrustBundle) {
			s.forger.anew(b, map[string]func(map[string]any){})
			b.Files = slices.DeleteFunc(b.Files, func(f api.TrustFile) bool { return f.Role == api.TrustTimestamp })
		}),
	},
	{
		name: "a timestamp without its snapshot", reason: tuf.ReasonMissing, words: []string{"snapshot"},
		lie: answers(func(s *siege, _ api.TrustHave, b *api.TrustBundle) {
			s.forger.anew(b, map[string]func(map[string]any){})
			b.Files = slices.DeleteFunc(b.Files, func(f api.TrustFile) bool { return f.Role == api.TrustSnapshot })
		}),
	},
	{
		name: "a byte of a signed file", reason: tuf.ReasonSignature, words: []string{"timestamp"},
		lie: answers(func(_ *siege, _ api.TrustHave, b *api.TrustBundle) {
			file := fileOf(b, api.TrustTimestamp)
			file.Data = []byte(strings.Replace(string(file.Data), `"version":`, `"version":1`, 1))
		}),
	},
	{
		name: "another document", reason: tuf.ReasonDigest, words: []string{"document of release "},
		lie: answers(func(s *siege, _ api.TrustHave, b *api.TrustBundle) {
			b.Document = []byte(strings.Replace(string(b.Document), s.third, s.first, 1))
		}),
	},
	{
		name: "a path as a role", reason: "name", words: []string{"../../../etc/cron.d/x"},
		lie: answers(func(_ *siege, _ api.TrustHave, b *api.TrustBundle) {
			b.Files = append(b.Files, api.TrustFile{Role: "../../../etc/cron.d/x", Data: b.Files[0].Data})
		}),
	},
	{
		name: "a path in a bin", reason: "name", words: []string{"releases/../../../etc/passwd"},
		lie: answers(func(s *siege, _ api.TrustHave, b *api.TrustBundle) {
			path := made(tuf.ReleasePath(s.third))
			s.forger.anew(b, map[string]func(map[string]any){tuf.BinRole(api.TrustOwner, path): func(signed map[string]any) {
				targets := member(signed, "targets")
				targets["releases/../../../etc/passwd.json"] = targets[path]
			}})
		}),
	},
	{name: "100 MB of metadata", reason: "unavailable", words: []string{"larger than 3145728 bytes"}, lie: func(*siege) lie { return lie{flood: true} }},
	{
		name: "one key twice towards a threshold of two", reason: tuf.ReasonSignature, words: []string{"root version 3"},
		lie: root(func(_ *siege, signed map[string]any) {
			key := another("another owner").Public()
			addKey(signed, api.TrustRoot, tuf.KeyID(key), key)
			member(signed, "roles", api.TrustRoot)["threshold"] = 2
		}, "owner", "owner"),
	},
	{
		name: "one key of two", reason: tuf.ReasonThreshold, words: []string{"root version 3"},
		lie: root(func(_ *siege, signed map[string]any) {
			key := another("another owner").Public()
			addKey(signed, api.TrustRoot, tuf.KeyID(key), key)
			member(signed, "roles", api.TrustRoot)["threshold"] = 2
		}, "owner"),
	},
	{
		name: "one key under two names", reason: "key", words: []string{"root version 3"},
		lie: root(func(s *siege, signed map[string]any) {
			addKey(signed, api.TrustRoot, strings.Repeat("ab", 32), s.forger.owner.Public())
			member(signed, "roles", api.TrustRoot)["threshold"] = 2
		}, "owner"),
	},
	{
		name: "a threshold of 0", reason: tuf.ReasonThreshold, words: []string{"root version 3"},
		lie: root(func(_ *siege, signed map[string]any) { member(signed, "roles", api.TrustTargets)["threshold"] = 0 }, "owner"),
	},
	{
		name: "an unknown algorithm", reason: "key", words: []string{"root version 3", "rot13"},
		lie: root(func(_ *siege, signed map[string]any) {
			key := another("rot13").Public()
			key.Type, key.Scheme = "rot13", "rot13"
			addKey(signed, api.TrustTargets, made(key.ID()), key)
		}, "owner"),
	},
	{name: "a root that the owner did not sign", reason: tuf.ReasonThreshold, words: []string{"root version 3"}, lie: root(func(*siege, map[string]any) {}, "thief")},
	{
		name: "a root that leaves one out", reason: tuf.ReasonVersion, words: []string{"root version 4"},
		lie: root(func(_ *siege, signed map[string]any) { signed["version"] = signed["version"].(float64) + 1 }, "owner"),
	},
	{
		name: "a release that the log does not have", reason: tuf.ReasonMissing, words: []string{"log"},
		lie: answers(func(_ *siege, _ api.TrustHave, b *api.TrustBundle) { b.Proof = nil }),
	},
	{
		name: "the log's entry of another counter", reason: "log", words: []string{"entry of the log"},
		lie: answers(func(s *siege, have api.TrustHave, b *api.TrustBundle) {
			l := s.forger.listed(b, s.third)
			b.Proof = s.forger.prove(have, api.TrustEntry{Kind: "release", Fleet: s.fleetUUID, Name: s.third, Version: l.Counter + 1, SHA256: l.SHA256, By: api.TrustOwner})
		}),
	},
}

// What is wrong with the counter: here every key that counts has signed it.
var liesAboutCounters = []siegeAttack{
	{
		name: "a stolen director with a genuine release, an older one", reason: tuf.ReasonRollback, words: []string{"counter of release "},
		tell: func(s *siege) string { return s.first },
		lie: answers(func(s *siege, have api.TrustHave, b *api.TrustBundle) {
			s.forger.list(have, b, s.first, b.Document, s.forger.listed(s.old, s.first).Counter)
		}),
	},
	{
		name: "a counter that another document has", reason: tuf.ReasonCounter, words: []string{"counter of release "},
		tell: func(s *siege) string { return s.second },
		lie: answers(func(s *siege, have api.TrustHave, b *api.TrustBundle) {
			s.forger.list(have, b, s.second, b.Document, have.Counter)
		}),
	},
	{
		name: "a counter below", reason: tuf.ReasonRollback, words: []string{"counter of release "},
		tell: func(s *siege) string { return s.second },
		lie: answers(func(s *siege, have api.TrustHave, b *api.TrustBundle) {
			s.forger.list(have, b, s.second, b.Document, have.Counter-1)
		}),
	},
}

// Each is told to a real device by who has the server's TLS key, and the fleet's keys where it takes them: the same container goes on, the engine gets nothing, the
// device says what it refuses, and takes the truth afterwards. At the end a release that is genuine runs: it was not deaf.
func TestALiarBeforeADevice(t *testing.T) {
	s := besieged(t, "besieged")
	s.forgesWell(t)
	for n, a := range slices.Concat(liesAboutTargets, liesAboutMetadata) {
		t.Run(a.name, func(t *testing.T) { s.suffers(t, a) })
		if n%10 == 9 {
			s.calm(t)
		}
	}
	s.calm(t)
	t.Run("files of trust", s.wrongFiles)
	t.Run("lost files", s.lostFiles)
	t.Run("a full disk", s.fullDisk)
	t.Run("a root that was replaced while the device was off", s.newRoots)
	t.Run("images", s.wrongImages)
	// Last, for what a thief of the signer's key signs has versions of which the server knows nothing until it signs newer ones.
	t.Run("counters that the builder signed", func(t *testing.T) {
		s.owner.run("", "trust", "approval", s.fleet, "builder", "--yes")
		s.forger.alone = true
		for _, a := range liesAboutCounters {
			t.Run(a.name, func(t *testing.T) { s.suffers(t, a) })
		}
	})
}

// wrongImages has the registry change a byte of each kind of thing that an image consists of. The release is accepted, and none of it arrives until the registry is honest.
func (s *siege) wrongImages(t *testing.T) {
	var index, manifest string
	doc := api.ReleaseDocument{}
	s.hide()
	s.pin(t, s.third)
	b := s.bundleOf(s.uuid, s.key, api.TrustHave{Nonce: strings.Repeat("n", 20), Commit: s.third})
	if err := json.Unmarshal(b.Document, &doc); err != nil {
		t.Fatal(err)
	}
	for _, image := range doc.Services["web"].Images {
		switch image.Platform {
		case "":
			index = image.Digest
		case "linux/amd64":
			manifest = image.Digest
		}
	}
	for _, lie := range []struct {
		kind, names string
		of          func(path string) bool
	}{
		{"index", index, func(path string) bool { return strings.HasSuffix(path, "/manifests/"+index) }},
		{"manifest", manifest, func(path string) bool { return strings.HasSuffix(path, "/manifests/"+manifest) }},
		{"layer", "layer", func(path string) bool { return strings.Contains(path, "/blobs/") }},
	} {
		t.Run("a byte of the "+lie.kind, func(t *testing.T) {
			after, _ := s.liar.tell(flipped(lie.of))
			at := len(s.log(t))
			s.rejects(t, after, at, tuf.ReasonDigest, lie.names)
		})
	}
	s.liar.tell(lie{})
	s.says(t, "third")
	s.box, s.images = s.runs(t)
}

// flipped changes a byte of what the registry gives out.
func flipped(of func(path string) bool) lie {
	return lie{registry: func(path string, body []byte) []byte {
		if of(path) && len(body) > 0 {
			body = slices.Clone(body)
			body[len(body)/2] ^= 1
		}
		return body
	}}
}

// forgesWell looks that what is forged is refused for nothing but what is wrong with it: with nothing wrong, a device with the same files takes it.
func (s *siege) forgesWell(t *testing.T) {
	t.Helper()
	s.hide()
	s.pin(t, s.third)
	eventually(t, time.Minute, "the server tells the device to run the third", func() bool {
		told, _ := s.liar.truth()
		return (*told)[api.DeviceUUID(s.uuid)].Apps[s.fleetUUID].Releases[s.third] != nil
	})
	for name, change := range map[string]func(have api.TrustHave, b *api.TrustBundle){
		"as the server answers":  func(api.TrustHave, *api.TrustBundle) {},
		"with another statement": func(_ api.TrustHave, b *api.TrustBundle) { s.forger.direct(b, func(*tuf.Director) {}) },
		"signed anew":            func(_ api.TrustHave, b *api.TrustBundle) { s.forger.anew(b, map[string]func(map[string]any){}) },
		"listed anew": func(have api.TrustHave, b *api.TrustBundle) {
			s.forger.list(have, b, s.third, b.Document, s.forger.listed(b, s.third).Counter+1)
		},
		"under another root": func(have api.TrustHave, b *api.TrustBundle) {
			next := s.forger.nextRoot(func(map[string]any) {}, s.forger.owner)
			if float64(have.Versions[api.TrustRoot]) < versionOf(next[0]) {
				b.Roots = next
			}
		},
	} {
		if err := s.would(t, change); err != nil {
			t.Errorf("what the forger makes is refused though nothing is wrong with it, %s: %v", name, err)
		}
	}
	s.pin(t, s.second)
	s.liar.tell(lie{})
	s.unharmed(t)
}
