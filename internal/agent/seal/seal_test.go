package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/roadstead-io/roadstead/internal/agent/seal"
	"github.com/roadstead-io/roadstead/internal/agent/seal/sealtest"
)

// secrets of a device before it is sealed, and the files that they stand in.
var secrets = []string{"device-key-0123456789", "local-key-0123456789", "fleet-secret-0123456789", "BEGIN channel-key", "BEGIN host-key"}

// device writes the state of a device with plain keys.
func device(t *testing.T) seal.Config {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "channel"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"identity.json":         `{"uuid":"u","device_api_key":"` + secrets[0] + `","device_id":12345678901234567}`,
		"keys.json":             `{"device":"` + secrets[1] + `","secret":"` + secrets[2] + `","renewed":{"f":1}}`,
		"channel/identity.json": `{"key":"` + secrets[3] + `","answer":{"host":"h"}}`,
		"ssh_host_ed25519_key":  secrets[4] + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return seal.Config{StateDir: dir, ConfigPath: filepath.Join(dir, "config.json"), Wanted: seal.TPM, Log: slog.New(slog.DiscardHandler)}
}

// plain answers which secrets can be read in a directory.
func plain(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, s := range secrets {
			if bytes.Contains(text, []byte(s)) {
				found = append(found, s+" in "+path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func field(t *testing.T, dir, file, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	if name == "" {
		return string(text)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	s, _ := fields[name].(string)
	return s
}

// reveals checks that every secret of the device opens.
func reveals(t *testing.T, v *seal.Vault, dir string) {
	t.Helper()
	for i, p := range []struct {
		place       seal.Place
		file, field string
	}{
		{seal.DeviceKey, "identity.json", "device_api_key"}, {seal.LocalKey, "keys.json", "device"}, {seal.FleetSecret, "keys.json", "secret"},
		{seal.ChannelKey, "channel/identity.json", "key"}, {seal.SSHHostKey, "ssh_host_ed25519_key", ""},
	} {
		got, err := v.Reveal(p.place, field(t, dir, p.file, p.field))
		if err != nil || strings.TrimSpace(got) != secrets[i] {
			t.Errorf("%s: %q, %v; want %q", p.place, got, err, secrets[i])
		}
	}
	if text := field(t, dir, "identity.json", ""); !strings.Contains(text, "12345678901234567") || !strings.Contains(text, `"u"`) {
		t.Errorf("what is no secret was changed: %s", text)
	}
}

func must(t *testing.T, cfg seal.Config) *seal.Vault {
	t.Helper()
	v, err := seal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSealAndBack(t *testing.T) {
	tpm := sealtest.New(t)
	cfg := device(t)
	cfg.Device = tpm.Path
	if v := must(t, seal.Config{StateDir: cfg.StateDir, ConfigPath: cfg.ConfigPath, Log: cfg.Log}); v.Sealed() || len(plain(t, cfg.StateDir)) != len(secrets) {
		t.Error("without the option something was sealed")
	}
	if text, err := seal.State(cfg.StateDir); err != nil || !strings.Contains(text, "not encrypted") {
		t.Errorf("State: %q, %v", text, err)
	}

	v := must(t, cfg)
	if found := plain(t, cfg.StateDir); !v.Sealed() || len(found) > 0 {
		t.Errorf("sealed %v, in plain: %q", v.Sealed(), found)
	}
	reveals(t, v, cfg.StateDir)
	if text, err := seal.State(cfg.StateDir); err != nil || text != "sealed in the TPM" {
		t.Errorf("State: %q, %v", text, err)
	}

	t.Log("again, after the TPM lost its power, and without the option")
	tpm.Stop()
	tpm.Start(t)
	cfg.Device = tpm.Path
	reveals(t, must(t, cfg), cfg.StateDir)
	cfg.Wanted = ""
	reveals(t, must(t, cfg), cfg.StateDir)

	t.Log("and back")
	cfg.Wanted = seal.File
	if v := must(t, cfg); v.Sealed() || len(plain(t, cfg.StateDir)) != len(secrets) {
		t.Errorf("in plain: %q", plain(t, cfg.StateDir))
	}
	reveals(t, nil, cfg.StateDir)
	if _, err := os.Stat(filepath.Join(cfg.StateDir, seal.KeyFile)); err == nil {
		t.Error("the data key is still there")
	}
}

func TestAnotherTPMOpensNothing(t *testing.T) {
	cfg := device(t)
	cfg.Device = sealtest.New(t).Path
	must(t, cfg)
	before := field(t, cfg.StateDir, "identity.json", "")
	for _, wanted := range []string{seal.TPM, seal.TPMIfPresent, seal.File, ""} {
		cfg.Wanted, cfg.Device = wanted, sealtest.New(t).Path
		if _, err := seal.Open(cfg); !errors.Is(err, seal.ErrOther) || !strings.Contains(seal.Advice(err), "its own device") {
			t.Errorf("%q with another TPM: %v", wanted, err)
		}
		cfg.Device = filepath.Join(cfg.StateDir, "none")
		if _, err := seal.Open(cfg); !errors.Is(err, seal.ErrAbsent) {
			t.Errorf("%q without a TPM: %v", wanted, err)
		}
	}
	if after := field(t, cfg.StateDir, "identity.json", ""); after != before {
		t.Errorf("the identity was changed: %s", after)
	}
}

func TestWithoutATPM(t *testing.T) {
	cfg := device(t)
	cfg.Device = filepath.Join(cfg.StateDir, "none")
	if _, err := seal.Open(cfg); !errors.Is(err, seal.ErrAbsent) {
		t.Errorf("tpm: %v", err)
	}
	cfg.Wanted = seal.TPMIfPresent
	if v := must(t, cfg); v.Sealed() {
		t.Error("sealed without a TPM")
	}
	reveals(t, nil, cfg.StateDir)
	cfg.Device = filepath.Join(cfg.StateDir, "keys.json")
	cfg.Wanted = seal.TPM
	if _, err := seal.Open(cfg); err == nil || !strings.Contains(err.Error(), "neither a device nor a socket") {
		t.Errorf("a file as TPM: %v", err)
	}
}

// extend measures something into a register.
func extend(t *testing.T, path string, pcr uint32) {
	t.Helper()
	tpm, err := linuxudstpm.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: bytes.Repeat([]byte{7}, 32)}}},
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
}

func TestBoundToRegisters(t *testing.T) {
	tpm := sealtest.New(t)
	cfg := device(t)
	cfg.Device = tpm.Path
	must(t, cfg)
	extend(t, tpm.Path, 7)

	t.Log("bound later, in any order")
	cfg.PCRs = []uint{7, 0}
	must(t, cfg)
	if text, err := seal.State(cfg.StateDir); err != nil || text != "sealed in the TPM, bound to PCR [0 7]" {
		t.Errorf("State: %q, %v", text, err)
	}
	reveals(t, must(t, cfg), cfg.StateDir)

	t.Log("another start")
	extend(t, tpm.Path, 7)
	if _, err := seal.Open(cfg); !errors.Is(err, seal.ErrChanged) || !strings.Contains(err.Error(), "PCR [7]") {
		t.Errorf("with another PCR 7: %v", err)
	}
	cfg.PCRs = nil
	if _, err := seal.Open(cfg); !errors.Is(err, seal.ErrChanged) {
		t.Errorf("with another PCR 7, and bound to none any more: %v", err)
	}

	t.Log("the same start as before")
	tpm.Stop()
	tpm.Start(t)
	extend(t, tpm.Path, 7)
	cfg.Device = tpm.Path
	reveals(t, must(t, cfg), cfg.StateDir)
	extend(t, tpm.Path, 7)
	reveals(t, must(t, cfg), cfg.StateDir) // bound to none now
}

// A TPM has room for three keys and three sessions at a time; what is not given back would fill it.
func TestNothingStaysInTheTPM(t *testing.T) {
	tpm := sealtest.New(t)
	cfg := device(t)
	cfg.Device = tpm.Path
	for i := range 6 {
		cfg.PCRs = []uint{uint(i)} //nolint:gosec // small
		must(t, cfg)
	}
	for range 6 {
		extend(t, tpm.Path, 5)
		if _, err := seal.Open(cfg); !errors.Is(err, seal.ErrChanged) {
			t.Fatal(err)
		}
	}
}

// tap stands between the agent and the TPM and keeps what passes.
func TestTheWayToTheTPMShowsNothing(t *testing.T) {
	tpm := sealtest.New(t)
	path, passed := tap(t, tpm.Path)
	cfg := device(t)
	cfg.Device = path
	key := seal.DataKey(must(t, cfg))
	must(t, cfg)
	if seen := passed(); len(seen) < 1000 || bytes.Contains(seen, key) {
		t.Errorf("the data key is among %d bytes that passed", len(seen))
	}
}

func TestWhatWasChangedDoesNotOpen(t *testing.T) {
	tpm := sealtest.New(t)
	cfg := device(t)
	cfg.Device = tpm.Path
	v := must(t, cfg)

	t.Log("a secret in another's place")
	stored := field(t, cfg.StateDir, "keys.json", "device")
	if _, err := v.Reveal(seal.FleetSecret, stored); err == nil || !strings.Contains(err.Error(), "keys.json secret was changed, or belongs elsewhere") {
		t.Errorf("Reveal: %v", err)
	}
	t.Log("each letter")
	for i := len("roadstead-sealed:1:"); i < len(stored); i++ {
		bad := []byte(stored)
		bad[i] ^= 1
		if got, err := v.Reveal(seal.LocalKey, string(bad)); err == nil {
			t.Errorf("letter %d changed: %q", i, got)
		}
	}
	if got, err := v.Reveal(seal.LocalKey, stored[:len(stored)-4]); err == nil {
		t.Errorf("cut: %q", got)
	}

	t.Log("the file with the sealed data key")
	path := filepath.Join(cfg.StateDir, seal.KeyFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"cut":     good[:len(good)/2],
		"empty":   {},
		"flipped": flip(t, good),
		"newer":   bytes.Replace(good, []byte(`"version": 1`), []byte(`"version": 2`), 1),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.Open(cfg); err == nil || !strings.Contains(err.Error(), seal.KeyFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Open(cfg); !errors.Is(err, seal.ErrLost) || !strings.Contains(err.Error(), "identity.json is sealed") {
		t.Errorf("removed: %v", err)
	}
	if _, err := seal.State(cfg.StateDir); !errors.Is(err, seal.ErrLost) {
		t.Errorf("State: %v", err)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	reveals(t, must(t, cfg), cfg.StateDir)

	t.Log("the device's own key")
	who := field(t, cfg.StateDir, "identity.json", "")
	if err := os.WriteFile(filepath.Join(cfg.StateDir, "identity.json"), []byte(strings.Replace(who, field(t, cfg.StateDir, "identity.json", "device_api_key"), stored, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Open(cfg); err == nil || !strings.Contains(err.Error(), "identity.json device_api_key was changed") {
		t.Errorf("Open: %v", err)
	}
}

// flip changes one bit of what the TPM encrypted.
func flip(t *testing.T, text []byte) []byte {
	t.Helper()
	var f map[string]any
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	tpm, _ := f["tpm"].(map[string]any)
	private, _ := tpm["private"].(string)
	b := []byte(private)
	if b[40]++; b[40] == 'z'+1 || b[40] == 'Z'+1 || b[40] == '9'+1 || b[40] == '+'+1 || b[40] == '/'+1 {
		b[40] = 'A'
	}
	tpm["private"] = string(b)
	out, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var errCut = errors.New("the power is gone")

// The power fails after each step, twice; then the device is whole and no key of it is left in plain.
func TestSealingSurvivesPowerCutsAnywhere(t *testing.T) {
	tpm := sealtest.New(t)
	var steps []string
	for _, wanted := range []string{seal.TPM, seal.File} {
		cfg := device(t)
		cfg.Device, steps = tpm.Path, nil
		if wanted == seal.File {
			must(t, cfg)
		}
		cfg.Wanted, cfg.Step = wanted, func(s string) error { steps = append(steps, s); return nil }
		must(t, cfg)
		if len(steps) < 5 {
			t.Fatalf("to %s: only the steps %q", wanted, steps)
		}
		for _, first := range steps {
			for _, second := range append([]string{""}, steps...) {
				cfg := device(t)
				cfg.Device = tpm.Path
				if wanted == seal.File {
					must(t, cfg)
				}
				cfg.Wanted = wanted
				for _, until := range []string{first, second} {
					cfg.Step = func(now string) error {
						if now == until {
							return errCut
						}
						return nil
					}
					if _, err := seal.Open(cfg); err != nil && !errors.Is(err, errCut) {
						t.Fatalf("to %s, cut after %q, then %q: %v", wanted, first, second, err)
					}
				}
				cfg.Step = nil
				v := must(t, cfg)
				reveals(t, v, cfg.StateDir)
				if found := plain(t, cfg.StateDir); v.Sealed() != (wanted == seal.TPM) || v.Sealed() && len(found) > 0 {
					t.Errorf("to %s, cut after %q, then %q: in plain: %q", wanted, first, second, found)
				}
			}
		}
	}
}

// A data key that was made before the power failed, and that the TPM does not open any more, stops nobody: nothing is sealed with it.
func TestUnusedDataKeyIsMadeAnew(t *testing.T) {
	cfg := device(t)
	cfg.Device = sealtest.New(t).Path
	cfg.Step = func(string) error { return errCut }
	if _, err := seal.Open(cfg); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	cfg.Step, cfg.Device = nil, sealtest.New(t).Path
	reveals(t, must(t, cfg), cfg.StateDir)
}

func TestCheckPCRs(t *testing.T) {
	for _, tt := range []struct {
		pcrs []uint
		want string
	}{{nil, ""}, {[]uint{7, 0}, ""}, {[]uint{24}, "no PCR 24"}, {[]uint{7, 7}, "twice"}} {
		err := seal.CheckPCRs(tt.pcrs)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("CheckPCRs(%v): got %v, want %q", tt.pcrs, err, tt.want)
		}
	}
}

func FuzzParseKeyFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"tpm":{"parent":"AAA=","public":"AAA=","private":"AAA=","pcrs":[7],"values":["AAA="]}}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"tpm":{}} {}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := seal.ParseKeyFile(text); err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}

func FuzzReveal(f *testing.F) {
	f.Add("roadstead-sealed:1:AAAA")
	f.Add("plain")
	v := seal.NewVault(f)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := v.Reveal(seal.DeviceKey, text)
		if err == nil && got != text {
			t.Errorf("%q opens as %q", text, got)
		}
		again, err := v.Reveal(seal.DeviceKey, v.Protect(seal.DeviceKey, text))
		if err != nil || again != text {
			t.Errorf("%q came back as %q, %v", text, again, err)
		}
	})
}
