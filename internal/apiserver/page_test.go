package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// What the page of a device shows, in one request as its person sends it: who it is, what it runs, what it should run, how each
// service is, and how old all of this is.
func TestADevicesPageHasEverything(t *testing.T) {
	s := newServer(t)
	fleet := s.fleet(s.admin.APIKey, "harbour")
	old := s.push(s.admin.APIKey, "harbour")
	dev := s.device(s.admin.APIKey, fleet, hexUUID(1))
	target := s.push(s.admin.APIKey, "harbour")
	var release struct {
		D []struct {
			Commit       string
			ReleaseImage []struct {
				Image []struct {
					Location string `json:"is_stored_at__image_location"`
				}
			} `json:"release_image"`
		}
	}
	s.do(s.admin.APIKey, "GET", fmt.Sprintf("/v7/release(%d)?$select=commit&$expand=release_image($expand=image($select=is_stored_at__image_location))", old.ID), nil).
		want(http.StatusOK).into(&release)
	var app struct{ D []struct{ UUID string } }
	s.do(s.admin.APIKey, "GET", fmt.Sprintf("/v7/application(%d)?$select=uuid", fleet), nil).want(http.StatusOK).into(&app)
	uuid, commit := string(dev.UUID), release.D[0].Commit
	s.do(dev.APIKey, "PATCH", "/device/v3/state", map[string]any{uuid: map[string]any{
		"status": "Idle", "os_version": "balenaOS 6.0.24", "supervisor_version": "17.0.1", "ip_address": "198.51.100.7",
		"apps": map[string]any{app.D[0].UUID: map[string]any{"release_uuid": commit, "releases": map[string]any{commit: map[string]any{
			"update_status": "done", "services": map[string]any{"web": map[string]any{
				"image": release.D[0].ReleaseImage[0].Image[0].Location + "@sha256:" + strings.Repeat("a", 64), "status": "Running",
			}},
		}}}},
	}}).want(http.StatusOK)
	began := time.Now().Add(-time.Minute)

	page := s.do(s.admin.APIKey, "GET", fmt.Sprintf("/v7/device(%d)?$select=uuid,device_name,os_version,supervisor_version,ip_address,public_address,is_online,"+
		"overall_status,last_connectivity_event,api_heartbeat_state&$expand=is_of__device_type($select=slug),belongs_to__application($select=app_name),"+
		"is_running__release($select=commit),should_be_running__release($select=commit),"+
		"image_install($select=status,install_date;$expand=image($select=id;$expand=is_a_build_of__service($select=service_name)))", dev.ID), nil).rows()[0]
	one := func(name string) map[string]any {
		t.Helper()
		rows, ok := page[name].([]any)
		if !ok || len(rows) == 0 {
			t.Fatalf("the page lacks %s: %v", name, page)
		}
		return rows[0].(map[string]any)
	}
	for field, want := range map[string]any{
		"uuid": uuid, "os_version": "balenaOS 6.0.24", "supervisor_version": "17.0.1", "ip_address": "198.51.100.7", "public_address": "192.0.2.1",
		"is_online": true, "api_heartbeat_state": "online",
	} {
		if page[field] != want {
			t.Errorf("%s: got %v, want %v", field, page[field], want)
		}
	}
	if name, _ := page["device_name"].(string); name == "" {
		t.Error("the device has no name")
	}
	for nav, want := range map[string][2]string{
		"is_of__device_type": {"slug", "generic-amd64"}, "belongs_to__application": {"app_name", "harbour"}, "is_running__release": {"commit", commit},
		"should_be_running__release": {"commit", target.Commit},
	} {
		if got := one(nav)[want[0]]; got != want[1] {
			t.Errorf("%s: got %v, want %v", nav, got, want[1])
		}
	}
	if got := fmt.Sprint(one("image_install")); !strings.Contains(got, "status:Running") || !strings.Contains(got, "service_name:web") {
		t.Errorf("services: got %v", got)
	}
	if at, err := time.Parse(time.RFC3339, fmt.Sprint(page["last_connectivity_event"])); err != nil || at.Before(began) {
		t.Errorf("how old it is: got %v, %v", page["last_connectivity_event"], err)
	}
}

// What makes no sense is a 400, whoever asks, and never an error of the server; what may not be seen is as if it were not there.
func TestOddQuestions(t *testing.T) {
	s := newServer(t)
	all := s.principals()
	for _, p := range all {
		for _, odd := range []string{
			"$filter=", "$filter=(", "$filter=id eq", "$filter=id eq 'x", "$filter=nothing eq 1", "$filter=id eq 1)", "$filter=slug like 'x'", "$filter=owns__device eq 1",
			"$filter=owns__device/any(", "$filter=id add", "$expand=nothing", "$expand=owns__device(", "$select=nothing", "$orderby=nothing", "$top=x",
			"$top=-1", "$skip=x", "$filter=may_devices eq true", "$filter=may_read", "$select=may_keys", "$filter=id eq 1&$filter=id eq 2",
		} {
			got := s.do(p.token, "GET", "/v7/application?"+q(odd), nil)
			switch p.name {
			case "provisioning key", "frozen device", "half session":
				got.want(http.StatusUnauthorized)
			default:
				if got.status != http.StatusBadRequest {
					t.Errorf("%s asks %s: got %d %.200s, want 400", p.name, odd, got.status, got.body)
				}
			}
		}
	}
	stranger := s.user("mallory")
	for _, token := range []string{"", stranger} {
		for _, query := range []string{
			"/v7/device_type?$top=3&$expand=is_default_for__application($expand=owns__device,application_environment_variable)",
			"/v7/cpu_architecture?$expand=device_type($expand=is_of__device)",
		} {
			got := s.do(token, "GET", query, nil)
			if got.status >= http.StatusInternalServerError || strings.Contains(got.body, "hello") || strings.Contains(got.body, strings.Repeat("a", 32)) {
				t.Errorf("GET %s: got %d %.300s", query, got.status, got.body)
			}
		}
	}
}
