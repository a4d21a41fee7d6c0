package identity_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
)

func TestParseConfigNamesTheKey(t *testing.T) {
	for text, want := range map[string]string{
		``:                                       "line 1: unexpected end of JSON input",
		"{\n\"a\": 1,\n}":                        "line 3:",
		`[]`:                                     "is not a JSON object",
		`null`:                                   "is not a JSON object",
		`"x"`:                                    "is not a JSON object",
		`{}`:                                     "apiEndpoint is missing",
		`{"apiEndpoint":5}`:                      "apiEndpoint must be a text",
		`{"apiEndpoint":"http://a.example.com"}`: "apiEndpoint must be an https address",
		`{"apiEndpoint":"api.example.com"}`:      "apiEndpoint must be an https address",
		`{"apiEndpoint":"https://"}`:             "apiEndpoint must be an https address",
		`{"apiEndpoint":"https://a","apiKey":{}}`:                                       "apiKey must be a text",
		`{"apiEndpoint":"https://a","uuid":"xyz"}`:                                      "uuid must be 32 or 62",
		`{"apiEndpoint":"https://a","applicationId":"seven"}`:                           "applicationId must be a whole number",
		`{"apiEndpoint":"https://a","applicationId":-1}`:                                "applicationId must be a whole number",
		`{"apiEndpoint":"https://a","applicationId":1.5}`:                               "applicationId must be a whole number",
		`{"apiEndpoint":"https://a","appUpdatePollInterval":[]}`:                        "appUpdatePollInterval must be a whole number",
		`{"apiEndpoint":"https://a","developmentMode":"maybe"}`:                         "developmentMode must be true or false",
		`{"apiEndpoint":"https://a","deviceKeyProtection":1}`:                           "deviceKeyProtection must be a text",
		`{"apiEndpoint":"https://a","deviceKeyProtection":"TPM"}`:                       `deviceKeyProtection must be "file", "tpm" or "tpm-if-present", not "TPM"`,
		`{"apiEndpoint":"https://a","deviceKeyPCRs":[7]}`:                               "deviceKeyPCRs needs deviceKeyProtection",
		`{"apiEndpoint":"https://a","deviceKeyProtection":"tpm","deviceKeyPCRs":7}`:     "deviceKeyPCRs must be a list",
		`{"apiEndpoint":"https://a","deviceKeyProtection":"tpm","deviceKeyPCRs":[24]}`:  "deviceKeyPCRs there is no PCR 24",
		`{"apiEndpoint":"https://a","deviceKeyProtection":"tpm","deviceKeyPCRs":[7,7]}`: "deviceKeyPCRs PCR 7 is there twice",
		`{"apiEndpoint":"https://a","balenaRootCA":"!"}`:                                "balenaRootCA must be base64",
		`{"apiEndpoint":"https://a","balenaRootCA":"aGVsbG8="}`:                         "balenaRootCA must be base64 of a certificate",
		`{"apiEndpoint":"https://a","registryEndpoint":"https://"}`:                     "registryEndpoint must be a host",
		`{"apiEndpoint":"https://a","logsEndpoint":"ftp://x"}`:                          "logsEndpoint must be an https address",
	} {
		if _, err := identity.ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestParseConfigTakesOldForms(t *testing.T) {
	c, err := identity.ParseConfig([]byte(`{"apiEndpoint":"https://a","applicationId":"7","deviceId":"9","developmentMode":"on",
		"appUpdatePollInterval":"60000","registered_at":1.7e12,"apiKey":null,"unknown":[1]}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.ApplicationID != 7 || c.DeviceID != 9 || !c.DevelopmentMode || c.AppUpdatePollInterval != 60000 || c.RegisteredAt != 1.7e12 || c.APIKey != "" {
		t.Errorf("got %+v", c.DeviceConfig)
	}
}

func TestDestroyOverwritesInPlaceBeforeItReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	text := `{ "apiKey" : "sec\"ret\u0041key", "apiEndpoint":"https://a", "nested":{"apiKey":"other"}, "apiKey":"secretagain" }`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	var seen []string
	who := identity.Identity{UUID: api.DeviceUUID(strings.Repeat("a", 32)), Key: "device-key", ID: 5, RegisteredAt: 6}
	err = identity.DestroyProvisioningKey(path, who, func(step string) error {
		now := make([]byte, 4096)
		n, _ := old.ReadAt(now, 0) // the old file, also when the name points to a new one
		seen = append(seen, step+" "+strings.Trim(string(now[:n]), "\x00"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{ "apiKey" : "00000000000000000", "apiEndpoint":"https://a", "nested":{"apiKey":"other"}, "apiKey":"00000000000" }`
	if len(seen) != 2 || seen[0] != "key overwritten "+want || seen[1] != "config rewritten " { // what the file was is overwritten as a whole
		t.Errorf("saw %q", seen)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var conf map[string]any
	if err := json.Unmarshal(got, &conf); err != nil {
		t.Fatal(err)
	}
	if conf["apiKey"] != nil || conf["uuid"] != string(who.UUID) || conf["deviceApiKey"] != "device-key" || conf["deviceId"] != 5.0 || conf["nested"] == nil {
		t.Errorf("config.json is now %s", got)
	}
	if bytes.Contains(got, []byte("secret")) {
		t.Errorf("the key is still there: %s", got)
	}
}

type registrar struct{ err error }

func (r registrar) Register(context.Context, string, api.Register) (api.Registered, error) {
	return api.Registered{}, r.err
}

func (r registrar) FindSelf(context.Context, api.DeviceUUID, string) (int64, error) { return 0, nil }

func TestRegisteredByAnotherAgentBefore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	text := `{"apiEndpoint":"https://a","uuid":"` + strings.Repeat("b", 32) + `","deviceApiKey":"k","deviceId":"12","registered_at":"1700000000"}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := identity.Provisioner{
		ConfigPath: path, StateDir: dir, Log: slog.New(slog.DiscardHandler),
		Server: registrar{&remote.StatusError{Status: http.StatusTeapot}},
	}
	who, err := p.Run(t.Context())
	if err != nil || who.ID != 12 || who.Key != "k" {
		t.Errorf("got %+v, %v", who, err)
	}
	other := strings.ReplaceAll(text, strings.Repeat("b", 32), strings.Repeat("c", 32))
	if err := os.WriteFile(path, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "to take the other identity") {
		t.Errorf("another device's config.json: %v", err)
	}
}

func TestUnreadableIdentityIsAnError(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte(`{"apiEndpoint":"https://a"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "identity.json"), []byte(`{"uuid`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := identity.Provisioner{ConfigPath: path, StateDir: dir, Log: slog.New(slog.DiscardHandler), Server: registrar{errors.New("no")}}
	if _, err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "identity.json") {
		t.Errorf("got %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{
		`{"apiEndpoint":"https://a","apiKey":"k","applicationId":1}`, `{}`, `[`, "{\"a\":\"\\ud800\"}", `{"apiKey":"a","apiKey":"b"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := identity.ParseConfig(text)
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := identity.DestroyProvisioningKey(path, identity.Identity{UUID: api.DeviceUUID(strings.Repeat("a", 32)), ID: 1}, func(string) error { return nil }); err != nil {
			t.Fatalf("cannot destroy the key of %q: %v", text, err)
		}
		again, err := identity.LoadConfig(path)
		if err != nil || again.APIKey != "" || again.APIEndpoint != c.APIEndpoint {
			t.Errorf("%q became %+v, %v", text, again, err)
		}
	})
}
