package e2e_test

import (
	"crypto/tls"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// registeredByHand registers a device over the API, as a device would, without booting one.
func registeredByHand(t *testing.T, fleet, uuid string) (id int64, key, provisioning string) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config.json")
	p.roadstead(t, "device", "init", fleet, "--force", "-o", config)
	var c struct {
		APIKey        string `json:"apiKey"`
		ApplicationID int64  `json:"applicationId"`
	}
	readJSON(t, config, &c)
	a := p.call(t, "POST", "api", "/device/register", c.APIKey, map[string]any{"application": c.ApplicationID, "uuid": uuid, "device_type": "generic-amd64"})
	var made struct {
		ID     int64  `json:"id"`
		APIKey string `json:"api_key"`
	}
	if a.status != 201 || json.Unmarshal([]byte(a.body), &made) != nil {
		t.Fatalf("register: %d %s", a.status, a.body)
	}
	p.secrets = append(p.secrets, c.APIKey, made.APIKey)
	return made.ID, made.APIKey, c.APIKey
}

// What a device key may do, tried with everything it must not.
func TestDeviceKeyRights(t *testing.T) {
	const mine, other, foreign = "aaaa0000aaaa0000aaaa0000aaaa0000", "aaaa0000aaaa0000aaaa0000aaaa0001", "bbbb0000bbbb0000bbbb0000bbbb0000"
	p.roadstead(t, "fleet", "create", "rights-a", "--type", "generic-amd64")
	p.roadstead(t, "fleet", "create", "rights-b", "--type", "generic-amd64")
	p.roadstead(t, "push", "rights-a", filepath.Join(p.top, "examples/single"))
	p.roadstead(t, "push", "rights-b", filepath.Join(p.top, "examples/single"))
	id, key, _ := registeredByHand(t, "rights-a", mine)
	otherID, _, _ := registeredByHand(t, "rights-a", other)
	foreignID, foreignKey, _ := registeredByHand(t, "rights-b", foreign)
	for _, v := range [][]string{{"--fleet", "rights-a"}, {"--fleet", "rights-b"}, {"--device", mine}, {"--device", other}, {"--device", foreign}} {
		p.roadstead(t, append([]string{"env", "set", "SECRET", "of " + v[1]}, v...)...)
	}
	get := func(path string) answer { return p.call(t, "GET", "api", path, key, nil) }

	t.Run("reads its own", func(t *testing.T) {
		if a := get("/device/v3/" + mine + "/state"); a.status != 200 || !strings.Contains(a.body, "of "+mine) {
			t.Errorf("own state: %d %s", a.status, a.body)
		}
		for path, want := range map[string]int{
			"/v7/device": 1, "/v7/device_environment_variable": 1, "/v7/application_environment_variable": 1,
			// Besides, a device reads what is public, as everybody does.
			"/v7/application?$filter=is_public%20eq%20false":                              1,
			"/v7/release?$filter=belongs_to__application/any(a:a/is_public%20eq%20false)": 1,
			fmt.Sprintf("/v7/device(%d)", id):                                             1, fmt.Sprintf("/v7/device(%d)", otherID): 0, fmt.Sprintf("/v7/device(%d)", foreignID): 0,
			"/v7/application?$filter=app_name%20eq%20%27rights-b%27":                             0,
			"/v7/device?$filter=belongs_to__application/any(a:a/app_name%20eq%20%27rights-b%27)": 0,
			"/v7/application?$filter=is_public%20eq%20false&$expand=owns__device":                1,
		} {
			if a := get(path); a.rows() != want {
				t.Errorf("GET %s: got %d rows (%d %s), want %d", path, a.rows(), a.status, a.body, want)
			}
		}
		if a := get("/v7/application?$expand=owns__device($select=uuid)"); strings.Contains(a.body, other) {
			t.Errorf("the fleet's expanded devices show another device: %s", a.body)
		}
		if a := get("/v7/application?$select=app_name&$filter=owns__device/$count%20gt%201"); a.rows() != 0 {
			t.Errorf("counting the fleet's devices shows that there are others: %s", a.body)
		}
	})
	t.Run("sees nobody else's state, logs and variables", func(t *testing.T) {
		for _, uuid := range []string{other, foreign} {
			for _, path := range []string{"/device/v3/" + uuid + "/state", "/device/v2/" + uuid + "/logs"} {
				if a := get(path); a.status != 401 && a.status != 403 && a.status != 404 {
					t.Errorf("GET %s: got %d %s", path, a.status, a.body)
				}
			}
			if a := p.call(t, "PATCH", "api", "/device/v3/state", key, map[string]any{uuid: map[string]any{"status": "Idle"}}); a.status < 400 {
				t.Errorf("reporting for %s: got %d", uuid, a.status)
			}
			if a := p.call(t, "POST", "api", "/device/v2/"+uuid+"/logs", key, []any{}); a.status < 400 {
				t.Errorf("logging for %s: got %d", uuid, a.status)
			}
		}
		for _, list := range []string{"api_key", "user", "organization", "organization_membership"} {
			if a := get("/v7/" + list); a.rows() > 0 {
				t.Errorf("GET /v7/%s with a device key: %s", list, a.body)
			}
		}
		if a := p.call(t, "GET", "api", "/v7/device_environment_variable?$filter=device%20eq%20"+fmt.Sprint(id), foreignKey, nil); a.rows() > 0 {
			t.Errorf("a device of another fleet reads the variables of %s: %s", mine, a.body)
		}
	})
	t.Run("writes its state and logs, and nothing else", func(t *testing.T) {
		if a := p.call(t, "PATCH", "api", "/device/v3/state", key, map[string]any{mine: map[string]any{"status": "Idle", "cpu_usage": 7}}); a.status != 200 {
			t.Errorf("own report: %d %s", a.status, a.body)
		}
		if a := p.call(t, "POST", "api", "/device/v2/"+mine+"/logs", key, []map[string]any{{"message": "x", "timestamp": 1700000000000, "isSystem": true}}); a.status != 201 {
			t.Errorf("own log: %d %s", a.status, a.body)
		}
		before := get(fmt.Sprintf("/v7/device(%d)?$select=device_name,note,is_pinned_on__release,belongs_to__application", id)).body
		for _, w := range []struct {
			method, path string
			body         map[string]any
		}{
			{"PATCH", fmt.Sprintf("/v7/device(%d)", id), map[string]any{"note": "stolen"}},
			{"PATCH", fmt.Sprintf("/v7/device(%d)", id), map[string]any{"belongs_to__application": 2}},
			{"PATCH", fmt.Sprintf("/v7/device(%d)", otherID), map[string]any{"note": "stolen"}},
			{"DELETE", fmt.Sprintf("/v7/device(%d)", id), nil},
			{"POST", "/v7/device_tag", map[string]any{"device": id, "tag_key": "k", "value": "v"}},
			{"POST", "/v7/device_environment_variable", map[string]any{"device": id, "name": "K", "value": "v"}},
			{"POST", "/v7/application_environment_variable", map[string]any{"application": 1, "name": "K", "value": "v"}},
			{"POST", "/v7/application", map[string]any{"app_name": "stolen", "organization": 1, "is_for__device_type": 1}},
			{"POST", "/v7/release", map[string]any{"belongs_to__application": 1, "commit": "x", "status": "success"}},
			{"POST", "/v7/api_key", map[string]any{"name": "x"}},
			{"POST", "/api-key/user/full", map[string]any{"name": "x", "expiryDate": nil}},
			{"POST", fmt.Sprintf("/api-key/device/%d/device-key", otherID), map[string]any{}},
			{"POST", "/device/register", map[string]any{"application": 1, "uuid": strings.Repeat("c", 32), "device_type": "generic-amd64"}},
			{"POST", "/download-config", map[string]any{"appId": 1, "version": "6.0.0"}},
		} {
			var body any
			if w.body != nil {
				body = w.body
			}
			a := p.call(t, w.method, "api", w.path, key, body)
			// Another device's row is invisible, so a PATCH of it changes nothing and says so with an empty 200, as balena's API does.
			silent := w.method == "PATCH" && strings.Contains(w.path, fmt.Sprint("(", otherID, ")")) && a.status == 200
			if a.status < 400 && !silent {
				t.Errorf("%s %s %v with a device key: got %d %s", w.method, w.path, w.body, a.status, a.body)
			}
		}
		if after := get(fmt.Sprintf("/v7/device(%d)?$select=device_name,note,is_pinned_on__release,belongs_to__application", id)).body; after != before {
			t.Errorf("the row changed from %s to %s", before, after)
		}
		if a := p.call(t, "GET", "api", fmt.Sprintf("/v7/device(%d)?$select=note", otherID), p.admin.APIKey, nil); strings.Contains(a.body, "stolen") {
			t.Errorf("another device's note was written: %s", a.body)
		}
	})
	t.Run("what a real supervisor must be able to send is accepted and ignored", func(t *testing.T) { supervisorWrites(t, id, key) })
	t.Run("pulls its own image, pushes nothing, pulls nobody else's", func(t *testing.T) { registryRights(t, mine, key) })
}

// supervisorWrites sends what a real supervisor sends once at first boot, and for ever if it were refused.
func supervisorWrites(t *testing.T, id int64, key string) {
	get := func(path string) answer { return p.call(t, "GET", "api", path, key, nil) }
	before := get(fmt.Sprintf("/v7/device(%d)?$select=device_name,is_pinned_on__release", id)).body
	for _, body := range []map[string]any{{"device_name": "stolen"}, {"is_pinned_on__release": 1}} {
		if a := p.call(t, "PATCH", "api", fmt.Sprintf("/v7/device(%d)", id), key, body); a.status != 200 {
			t.Errorf("PATCH %v: %d %s", body, a.status, a.body)
		}
	}
	if after := get(fmt.Sprintf("/v7/device(%d)?$select=device_name,is_pinned_on__release", id)).body; after != before {
		t.Errorf("the ignored write changed the row from %s to %s", before, after)
	}
	a := p.call(t, "POST", "api", "/v7/device_config_variable", key, map[string]any{"device": id, "name": "RESIN_HOST_FIREWALL_MODE", "value": ""})
	if a.status != 201 {
		t.Errorf("initial configuration: %d %s", a.status, a.body)
	}
	if a := get("/v7/device_config_variable"); a.rows() != 0 {
		t.Errorf("the ignored variable was stored: %s", a.body)
	}
}

// registryRights tries a device's key at the registry, with a real client.
func registryRights(t *testing.T, uuid, key string) {
	own, foreign := imageOf(t, "rights-a"), imageOf(t, "rights-b")
	auth := remote.WithAuth(authn.FromConfig(authn.AuthConfig{Username: "d_" + uuid, Password: key}))
	transport := remote.WithTransport(&http.Transport{TLSClientConfig: p.http.Transport.(*http.Transport).TLSClientConfig.Clone()})
	pull := func(ref string, options ...remote.Option) error {
		r, err := name.ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		_, err = remote.Get(r, append(options, transport)...)
		return err
	}
	if err := pull(own, auth); err != nil {
		t.Errorf("pull of its own image %s: %v", own, err)
	}
	if err := pull(foreign, auth); err == nil {
		t.Errorf("pull of another fleet's image %s succeeds", foreign)
	}
	if err := pull(own); err == nil {
		t.Error("an anonymous pull succeeds")
	}
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	for what, cfg := range map[string]authn.AuthConfig{
		"device key": {Username: "d_" + uuid, Password: key}, "administrator's key": {Username: p.admin.Username, Password: p.admin.APIKey}, "nothing": {},
	} {
		for _, repo := range []string{strings.SplitN(own, "@", 2)[0], "registry2." + p.domain + "/v2/" + strings.Repeat("d", 32)} {
			tag, err := name.NewTag(repo + ":latest")
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(tag, img, remote.WithAuth(authn.FromConfig(cfg)), transport); err == nil {
				t.Errorf("push to %s with %s succeeds", repo, what)
			}
		}
	}
	for _, path := range []string{"/v2/", "/v2/_catalog"} {
		if a := p.call(t, "GET", "registry2", path, "", nil); a.status != 401 {
			t.Errorf("GET %s at the registry without a token: got %d", path, a.status)
		}
	}
}

// imageOf gives the reference of a fleet's newest image, as devices get it.
func imageOf(t *testing.T, fleet string) string {
	t.Helper()
	q := "$select=is_stored_at__image_location,content_hash&$orderby=id%20desc&$top=1&$filter=" +
		url.PathEscape("is_part_of__release/any(ri:ri/is_part_of__release/any(r:r/belongs_to__application/any(a:a/app_name eq '"+fleet+"')))")
	a := p.call(t, "GET", "api", "/v7/image?"+q, p.admin.APIKey, nil)
	var list struct {
		D []struct {
			Location string `json:"is_stored_at__image_location"`
			Hash     string `json:"content_hash"`
		} `json:"d"`
	}
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || len(list.D) != 1 {
		t.Fatalf("image of %s: %d %s", fleet, a.status, a.body)
	}
	return list.D[0].Location + "@" + list.D[0].Hash
}

// A provisioning key registers devices into its own fleet, and does nothing else at all.
func TestProvisioningKeyRights(t *testing.T) {
	p.roadstead(t, "fleet", "create", "provision-a", "--type", "generic-amd64")
	p.roadstead(t, "fleet", "create", "provision-b", "--type", "generic-amd64")
	id, _, key := registeredByHand(t, "provision-a", "cccc0000cccc0000cccc0000cccc0000")
	for _, path := range []string{
		"/v7/device", fmt.Sprintf("/v7/device(%d)", id), "/v7/application", "/v7/release", "/v7/image", "/v7/device_environment_variable", "/v7/application_environment_variable",
		"/v7/user", "/v7/organization", "/v7/api_key", "/actor/v1/whoami", "/user/v1/whoami", "/device/v3/cccc0000cccc0000cccc0000cccc0000/state", "/auth/v1/token?scope=repository:v2/x:pull",
		"/device/v2/cccc0000cccc0000cccc0000cccc0000/logs", "/user/v1/refresh-token", "/download-config?appId=1&version=6.0.0",
	} {
		if a := p.call(t, "GET", "api", path, key, nil); a.status != 401 && a.status != 403 && a.status != 404 {
			t.Errorf("GET %s with a provisioning key: got %d %s", path, a.status, a.body)
		}
	}
	other := p.call(t, "GET", "api", "/v7/application?$select=id&$filter=app_name%20eq%20%27provision-b%27", p.admin.APIKey, nil)
	var list struct {
		D []struct {
			ID int64 `json:"id"`
		} `json:"d"`
	}
	if err := json.Unmarshal([]byte(other.body), &list); err != nil || len(list.D) != 1 {
		t.Fatal(other.body)
	}
	for what, body := range map[string]map[string]any{
		"another fleet": {"application": list.D[0].ID, "uuid": strings.Repeat("d", 32), "device_type": "generic-amd64"},
		"a taken uuid":  {"application": 1, "uuid": "cccc0000cccc0000cccc0000cccc0000", "device_type": "generic-amd64"},
		"a bad uuid":    {"application": 1, "uuid": "../../etc", "device_type": "generic-amd64"},
	} {
		if a := p.call(t, "POST", "api", "/device/register", key, body); a.status < 400 || a.status >= 500 {
			t.Errorf("register with %s: got %d %s", what, a.status, a.body)
		}
	}
}

// A copy of everything that the api role has on disk opens nothing.
func TestDatabaseHoldsNoUsableSecret(t *testing.T) {
	session := p.call(t, "POST", "api", "/login_", "", map[string]string{"username": p.admin.Email, "password": p.admin.Password})
	if session.status != 200 {
		t.Fatalf("login: %d %s", session.status, session.body)
	}
	named := strings.TrimSpace(p.roadstead(t, "whoami")) // proves that the key works before we search for it
	if named == "" {
		t.Fatal("whoami says nothing")
	}
	secrets := append([]string{session.body}, p.secrets...)
	secrets = append(secrets, strings.Split(session.body, ".")...)
	factors, err := enrolUser(t.Context(), "sealed", "quite a strange sentence")
	if err != nil {
		t.Fatal(err)
	}
	seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(factors.seed)
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, "quite a strange sentence", factors.token, factors.seed, hex.EncodeToString(seed), base64.RawStdEncoding.EncodeToString(seed))
	for _, code := range factors.recovery {
		secrets = append(secrets, code, strings.ReplaceAll(code, "-", ""))
	}
	api := filepath.Join(p.data, "roles", "api")
	searched := 0
	for _, s := range secrets {
		if len(s) < 12 || strings.HasPrefix(s, "eyJhbGciOi") && len(s) < 60 { // the header of a token is no secret
			continue
		}
		searched++
		if out, err := exec.Command("grep", "-rlaF", "--", s, api).Output(); err == nil {
			t.Errorf("a secret (%.8s…) stands in %s", s, out)
		}
	}
	if searched < 4 {
		t.Fatalf("searched for %d secrets only", searched)
	}
	if _, err := os.Stat(filepath.Join(api, "roadstead.db")); err != nil && p.sqlFile == "" {
		t.Fatal(err)
	}
	if log, err := os.ReadFile(filepath.Join(p.dir, "server.log")); err != nil {
		t.Fatal(err)
	} else {
		for _, s := range secrets {
			if len(s) >= 20 && strings.Contains(string(log), s) && !strings.HasPrefix(s, "eyJhbGciOi") {
				t.Errorf("a secret (%.8s…) stands in the server's log", s)
			}
		}
	}
}

// Nothing but TLS is spoken on the public port, and old versions are refused.
func TestTLSOnly(t *testing.T) {
	config := p.http.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "api." + p.domain
	config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if c, err := tls.Dial("tcp", p.address+":443", config); err == nil {
		c.Close()
		t.Error("TLS 1.1 is accepted")
	}
	res, err := http.Get("http://" + p.address + ":443/ping")
	if err == nil {
		res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP on the public port: got %d", res.StatusCode)
		}
	}
}
