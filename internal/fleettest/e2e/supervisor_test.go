package e2e_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// exchange is one request that a real balena supervisor 19, or a script of balenaOS, makes of the API, and what must come back.
// Words such as UUID are replaced by the device's own; see recording.words.
type exchange struct {
	name   string
	line   string // METHOD PATH
	key    string // whose: "device" unless it says "provisioning", "user", "basic" or "nobody"
	kind   string // of the body; "" is application/json
	gzip   bool
	body   string
	status int
	want   string // a regular expression that the body matches; "" does not look
}

const form = "application/x-www-form-urlencoded"

// recording replays exchanges as one device.
type recording struct {
	t     *testing.T
	words map[string]string
	keys  map[string]string
	etag  string
}

// TestSupervisorRequests replays what balenaOS and its supervisor say to the API from the first boot to the end of the device, in
// their order, against the real server. A device that gets another answer than it knows retries for ever, or forgets who it is.
func TestSupervisorRequests(t *testing.T) {
	r := newRecording(t)
	for _, part := range []struct {
		name      string
		exchanges []exchange
	}{
		{"before it is anybody", beforeRegistration}, {"registration", registration}, {"first boot", firstBoot},
		{"reports", reports}, {"old supervisors", oldSupervisors}, {"logs", deviceLogs}, {"operating system", operatingSystem},
	} {
		t.Run(part.name, func(t *testing.T) {
			for _, x := range part.exchanges {
				t.Run(x.name, func(t *testing.T) { r.play(t, x) })
			}
		})
	}
	t.Run("what it reported is there", r.shown)
	t.Run("a poll that nothing changed for", r.unchanged)
	t.Run("after it was deleted", func(t *testing.T) {
		r.play(t, exchange{line: "DELETE /v7/device(DEVICE)", key: "user", status: 200})
		for _, x := range afterDeletion {
			t.Run(x.name, func(t *testing.T) { r.play(t, x) })
		}
	})
}

// newRecording makes a fleet with a release of one service, and a provisioning key for it.
func newRecording(t *testing.T) *recording {
	t.Helper()
	admin := folk(t)["admin"]
	name := "recorded-" + randomHex()[:8]
	types, err := p.row(t.Context(), http.MethodGet, "/v7/device_type?$filter=slug%20eq%20'generic-amd64'", admin.session, nil)
	if err != nil {
		t.Fatal(err)
	}
	org, err := p.row(t.Context(), http.MethodGet, "/v7/organization(handle='"+admin.Username+"')", admin.session, nil)
	if err != nil {
		t.Fatal(err)
	}
	fleet, err := p.row(t.Context(), http.MethodPost, "/v7/application", admin.session, map[string]any{
		"app_name": name, "organization": org["id"], "is_for__device_type": types["id"],
	})
	if err != nil {
		t.Fatal(err)
	}
	project := t.TempDir()
	image := filepath.Join(t.TempDir(), "image.tar")
	if err := saveImage(image); err != nil {
		t.Fatal(err)
	}
	if _, err := said(p.command("roadstead", "deploy", name, project, "--archive", "main="+image)); err != nil {
		t.Fatal(err)
	}
	release, err := p.row(t.Context(), http.MethodGet,
		"/v7/release?$expand=release_image($expand=image)&$filter=belongs_to__application%20eq%20"+number(fleet["id"]), admin.session, nil)
	if err != nil {
		t.Fatal(err)
	}
	stored := release["release_image"].([]any)[0].(map[string]any)["image"].([]any)[0].(map[string]any)
	key := p.call(t, http.MethodPost, "api", "/api-key/v2/", admin.session, map[string]any{
		"actorType": "application", "actorTypeId": fleet["id"], "roles": []string{"provisioning-api-key"}, "expiryDate": nil,
	})
	var provisioning string
	if err := json.Unmarshal([]byte(key.body), &provisioning); err != nil {
		t.Fatalf("provisioning key: %d %s", key.status, key.body)
	}
	uuid, deviceKey := randomHex(), randomHex()
	return &recording{
		t: t,
		words: map[string]string{
			"UUID": uuid, "KEY": deviceKey, "OTHER": randomHex(), "FLEETUUID": fleet["uuid"].(string), "FLEET": number(fleet["id"]),
			"COMMIT": release["commit"].(string), "RELEASE": number(release["id"]), "USERNAME": admin.Username,
			"LOCATION": stored["is_stored_at__image_location"].(string), "HASH": stored["content_hash"].(string),
			"REPOSITORY": strings.TrimPrefix(stored["is_stored_at__image_location"].(string), "registry2."+p.domain+"/"),
			"DOMAIN":     p.domain,
		},
		keys: map[string]string{"device": deviceKey, "provisioning": provisioning, "user": admin.session, "nobody": ""},
	}
}

func number(v any) string { return fmt.Sprintf("%.0f", v) }

// fill puts the device's own words into a text.
func (r *recording) fill(text string) string {
	return regexp.MustCompile(`\b[A-Z]{3,}\b`).ReplaceAllStringFunc(text, func(word string) string {
		if v, ok := r.words[word]; ok {
			return v
		}
		return word
	})
}

// play makes one request and looks at its answer.
func (r *recording) play(t *testing.T, x exchange) {
	t.Helper()
	res, body := r.send(t, x, nil)
	if res.StatusCode != x.status {
		t.Fatalf("%s: got %d %s, want %d", r.fill(x.line), res.StatusCode, body, x.status)
	}
	if !regexp.MustCompile(r.fill(x.want)).MatchString(body) {
		t.Fatalf("%s: got %s, want %s in it", r.fill(x.line), body, r.fill(x.want))
	}
	if strings.HasPrefix(x.line, "POST /device/register") && res.StatusCode == http.StatusCreated {
		var made struct {
			ID int64 `json:"id"`
		}
		if err := json.Unmarshal([]byte(body), &made); err != nil || made.ID == 0 {
			t.Fatalf("register: %s", body)
		}
		r.words["DEVICE"] = fmt.Sprint(made.ID)
	}
	if strings.HasSuffix(x.line, "/v3/UUID/state") {
		r.etag = res.Header.Get("ETag")
	}
}

func (r *recording) send(t *testing.T, x exchange, header map[string]string) (*http.Response, string) {
	t.Helper()
	method, path, _ := strings.Cut(r.fill(x.line), " ")
	path = strings.ReplaceAll(path, " ", "%20")
	var body io.Reader
	if x.body != "" {
		body = strings.NewReader(r.fill(x.body))
	}
	if x.gzip {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, r.fill(x.body)) // into memory
		_ = w.Close()
		body = &b
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "https://api."+p.domain+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", "Supervisor/19.0.5 (Linux; balenaOS 6.6.0+rev1; prod)")
	if x.gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	if x.kind != "" {
		req.Header.Set("Content-Type", x.kind)
	} else if x.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	switch x.key {
	case "":
		req.Header.Set("Authorization", "Bearer "+r.keys["device"])
	case "basic":
		req.SetBasicAuth("d_"+r.words["UUID"], r.keys["device"])
	case "nobody":
	default:
		req.Header.Set("Authorization", "Bearer "+r.keys[x.key])
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := p.http.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", x.line, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: %v", x.line, err)
	}
	return res, string(data)
}

// shown compares what people see with what the device said last.
func (r *recording) shown(t *testing.T) {
	row, err := p.row(t.Context(), http.MethodGet, r.fill("/v7/device(uuid='UUID')?$expand=is_running__release($select=commit),"+
		"image_install($select=status;$filter=status%20ne%20'deleted'),device_config_variable($select=name,value;$orderby=name%20asc)"),
		r.keys["user"], nil)
	if err != nil {
		t.Fatal(err)
	}
	for column, want := range map[string]any{
		"os_version": "balenaOS 6.6.0+rev1", "os_variant": "prod", "supervisor_version": "19.0.5", "ip_address": "192.0.2.10 2001:db8::10",
		"mac_address": "00:11:22:33:44:55", "memory_total": 7821.0, "storage_block_device": "/dev/mmcblk0p6", "cpu_id": "10000000deadbeef",
		"provisioning_progress": 25.0, "provisioning_state": "Preparing OS update", "is_active": true,
	} {
		if row[column] != want {
			t.Errorf("%s: got %v, want %v", column, row[column], want)
		}
	}
	var got struct {
		Running  []struct{ Commit string }      `json:"is_running__release"`
		Installs []struct{ Status string }      `json:"image_install"`
		Config   []struct{ Name, Value string } `json:"device_config_variable"`
	}
	data, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Running) != 1 || got.Running[0].Commit != r.words["COMMIT"] {
		t.Errorf("it runs %v, want %s", got.Running, r.words["COMMIT"])
	}
	if len(got.Installs) != 1 || got.Installs[0].Status != "Running" {
		t.Errorf("installed: %v, want one that is Running", got.Installs)
	}
	// What the device proposes as its configuration is taken, not kept: a device sets no variables.
	if len(got.Config) != 1 || got.Config[0].Name != "RESIN_SUPERVISOR_LOCAL_MODE" || got.Config[0].Value != "" {
		t.Errorf("variables of its configuration: %v, want the user's empty one alone", got.Config)
	}
}

// unchanged polls with the ETag of the last poll.
func (r *recording) unchanged(t *testing.T) {
	x := exchange{line: "GET /device/v3/UUID/state"}
	res, first := r.send(t, x, nil)
	etag := res.Header.Get("ETag")
	if res.StatusCode != 200 || etag == "" {
		t.Fatalf("state: %d, ETag %q", res.StatusCode, etag)
	}
	if res, second := r.send(t, x, nil); second != first || res.Header.Get("ETag") != etag {
		t.Errorf("two polls in a row differ:\n%s\n%s", first, second)
	}
	for _, match := range []string{etag, "W/" + strings.TrimPrefix(etag, "W/")} {
		if res, body := r.send(t, x, map[string]string{"If-None-Match": match}); res.StatusCode != 304 || body != "" {
			t.Errorf("If-None-Match %s: got %d %q, want 304", match, res.StatusCode, body)
		}
	}
	if res, _ := r.send(t, x, map[string]string{"If-None-Match": `"another"`}); res.StatusCode != 200 {
		t.Errorf("If-None-Match of another: got %d, want 200", res.StatusCode)
	}
}
