package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
)

func TestDeviceTypeDocuments(t *testing.T) {
	s := newServer(t)
	var docs []struct {
		Slug, Name, Arch string
		Aliases          []string
		Options          []any
	}
	s.do("", "GET", "/device-types/v1", nil).want(http.StatusOK).into(&docs)
	if len(docs) < 8 || len(docs[0].Options) == 0 || docs[0].Arch == "" {
		t.Errorf("%d device types, first %+v", len(docs), docs[0])
	}
	var one struct{ Slug string }
	s.do("", "GET", "/device-types/v1/nuc", nil).want(http.StatusOK).into(&one)
	if one.Slug != "intel-nuc" {
		t.Errorf("nuc is %q", one.Slug)
	}
	s.do("", "GET", "/device-types/v1/toaster", nil).want(http.StatusNotFound)
	list := s.do("", "GET", "/device-types/v1", nil).want(http.StatusOK)
	etag := list.header.Get("ETag")
	if again := s.do("", "GET", "/device-types/v1", nil, "If-None-Match: "+etag); etag == "" || again.status != http.StatusNotModified || again.body != "" {
		t.Errorf("asked again with %q: %d, %d bytes", etag, again.status, len(again.body))
	}

	// This server keeps no images; who asks is told which one is not there.
	for path, want := range map[string]string{
		"/device-types/v1/nuc/images/6.0.0/download-size":                  "No image found for device type intel-nuc, version 6.0.0",
		"/device-types/v1/toaster/images/6.0.0/download-size":              `Unknown device type \"toaster\"`,
		"/download?deviceType=nuc&version=6.0.0&imageType=flasher":         "No image found for device type intel-nuc",
		"/download?deviceType=toaster&version=6.0.0":                       `Unknown device type \"toaster\"`,
		"/device-types/v1/nuc/images/%2e%2e%2fpepper/download-size?x=%00x": "No image found for device type intel-nuc",
	} {
		if got := s.do("", "GET", path, nil).want(http.StatusNotFound); !strings.Contains(got.body, want) {
			t.Errorf("%s: %s, want %s", path, got.body, want)
		}
	}
	s.do("", "GET", "/download", nil).want(http.StatusBadRequest)
}

func TestConfigVariablesOfBoards(t *testing.T) {
	s := newServer(t)
	for board, want := range map[string]string{
		"raspberrypi0-2w-64": "BALENA_HOST_CONFIG_gpu_mem", "raspberrypi5": "BALENA_HOST_CONFIG_dtoverlay", "jetson-nano": "BALENA_HOST_EXTLINUX_fdt",
		"up-board": "BALENA_HOST_CONFIGFS_ssdt", "raspberrypi": "BALENA_HOST_CONFIG_hdmi_mode", "toaster": "", "": "", "generic-amd64": "",
	} {
		var vars struct {
			ConfigVarSchema struct {
				Properties map[string]struct {
					WillReboot bool `json:"will_reboot"`
				}
			}
		}
		s.do("", "GET", "/config/vars?deviceType="+board, nil).want(http.StatusOK).into(&vars)
		own := vars.ConfigVarSchema.Properties
		if v, ok := own[want]; want != "" && (!ok || !v.WillReboot) {
			t.Errorf("%s: %s is %+v, %v", board, want, v, ok)
		}
		if _, ok := own["BALENA_SUPERVISOR_HARDWARE_METRICS"]; !ok {
			t.Errorf("%s: a variable that all have is missing", board)
		}
		for name := range own {
			if want == "" && strings.HasPrefix(name, "BALENA_HOST_CONFIG") {
				t.Errorf("%s has %s", board, name)
			}
		}
	}
}

func TestDownloadConfig(t *testing.T) {
	s := newServer(t)
	token, stranger := s.login(s.admin.Username, s.admin.Password), s.user("mallory")
	id := s.fleet(token, "harbour")
	ask := map[string]any{"appId": id, "version": "6.0.0", "deviceType": "generic-amd64", "network": "ethernet",
		"provisioningKeyMaxUses": 1}
	var config api.DeviceConfig
	got := s.do(token, "POST", "/download-config", ask).want(http.StatusOK)
	got.into(&config)
	if got.header.Get("Cache-Control") != "no-store" {
		t.Error("caches may keep the answer")
	}
	if config.ApplicationID != id || config.APIEndpoint != "https://api.roadstead.test" || config.RegistryEndpoint != "registry2.roadstead.test" ||
		config.AppUpdatePollInterval != 60_000 || config.DeviceType != "generic-amd64" || config.RootCA == "" {
		t.Errorf("config.json: %+v", config)
	}
	var again, form api.DeviceConfig
	s.do(s.admin.APIKey, "GET", fmt.Sprintf("/download-config?appId=%d&version=6.0.0&appUpdatePollInterval=10", id),
		nil).want(http.StatusOK).into(&again)
	if again.APIKey == "" || again.APIKey == config.APIKey || again.AppUpdatePollInterval != 600_000 {
		t.Errorf("by GET, with a named key: %+v", again)
	}
	s.do(token, "POST", "/download-config", fmt.Sprintf("appId=%d&version=6.0.0", id),
		"Content-Type: application/x-www-form-urlencoded").
		want(http.StatusOK).into(&form)

	s.do(stranger, "POST", "/download-config", ask).want(http.StatusNotFound)
	s.do("", "POST", "/download-config", ask).want(http.StatusUnauthorized)
	s.do(config.APIKey, "POST", "/download-config", ask).want(http.StatusUnauthorized)
	s.do(token, "POST", "/download-config", map[string]any{"version": "6.0.0"}).want(http.StatusBadRequest)
	s.do(token, "POST", "/download-config", "[").want(http.StatusBadRequest)

	// The key does what it says, once.
	reg := api.Register{Application: id, DeviceType: "generic-amd64"}
	for i, want := range []int{http.StatusCreated, http.StatusUnauthorized} {
		reg.UUID = api.DeviceUUID(strings.Repeat(fmt.Sprint(i+1), 32))
		s.do(config.APIKey, "POST", "/device/register", reg).want(want)
	}
}

// push runs a whole build as the builder does, for the person with a token.
func (s *server) push(token, slug string) api.Build {
	s.Helper()
	var b api.Build
	s.role(api.RoleBuilder, "POST", "/internal/v1/builds", api.BuildRequest{Slug: slug}, "Authorization: Bearer "+token).
		want(http.StatusCreated).into(&b)
	path := fmt.Sprintf("/internal/v1/builds/%d", b.ID)
	var images []api.BuildImage
	s.role(api.RoleBuilder, "POST", path+"/images", api.BuildImagesRequest{Composition: []byte(`{"services":{"web":{}}}`),
		Services: []string{"web"}}).
		want(http.StatusOK).into(&images)
	s.role(api.RoleBuilder, "POST", path+"/heartbeat", nil).want(http.StatusOK).into(&b)
	if b.Status != api.StatusRunning || len(b.Repositories) != 1 || b.Repositories[0] != images[0].Repository {
		s.Fatalf("a running build: %+v", b)
	}
	s.role(api.RoleSigner, "GET", path, nil).want(http.StatusOK)
	s.role(api.RoleBuilder, "POST", path+"/finish", api.BuildResult{Status: api.StatusSuccess, Log: strings.Repeat("line\n",
		1<<18)}).
		want(http.StatusBadRequest)
	var done api.Build
	s.role(api.RoleBuilder, "POST", path+"/finish", api.BuildResult{
		Status: api.StatusSuccess, Log: strings.Repeat("line\n", 1<<18),
		Images: []api.BuildImageResult{{ID: images[0].ID, Status: api.StatusSuccess, Digest: "sha256:" + strings.Repeat("a",
			64), Size: 1}},
	}).want(http.StatusOK).into(&done)
	return done
}

func TestBuildRoutes(t *testing.T) {
	s := newServer(t)
	token, stranger := s.login(s.admin.Username, s.admin.Password), s.user("mallory")
	id := s.fleet(token, "harbour")
	slug := s.admin.Username + "/harbour"
	done := s.push(token, slug)
	if done.Status != api.StatusSuccess || done.Fleet.ID != id || done.Fleet.Arch != "amd64" {
		t.Errorf("build: %+v", done)
	}
	rows := s.do(token, "GET", "/v7/application?$expand=should_be_running__release($select=id)", nil).rows()
	if target := rows[0]["should_be_running__release"].([]any); len(target) != 1 {
		t.Errorf("the fleet runs %v", target)
	}
	if b := s.push(s.admin.APIKey, "harbour"); b.Status != api.StatusSuccess {
		t.Errorf("with a named key and the bare name: %+v", b)
	}

	// Who pushes is the person, not the builder.
	open := func(want int, headers ...string) *answer {
		return s.role(api.RoleBuilder, "POST", "/internal/v1/builds", api.BuildRequest{Slug: slug}, headers...).want(want)
	}
	open(http.StatusUnauthorized)
	open(http.StatusUnauthorized, "Authorization: Bearer nonsense")
	for _, p := range s.principals() {
		switch p.kind {
		case access.Provisioning:
			open(http.StatusUnauthorized, "Authorization: Bearer "+p.token)
		case access.Device:
			open(http.StatusForbidden, "Authorization: Bearer "+p.token)
		}
	}
	if body := open(http.StatusNotFound, "Authorization: Bearer "+stranger).body; !strings.Contains(body, "harbour") {
		t.Errorf("the refusal does not name the fleet: %s", body)
	}

	// Nobody else gets in: not the public, not another role.
	for _, path := range []string{"", "/1/images", "/1/heartbeat", "/1/watch", "/1/finish"} {
		s.do(token, "POST", "/internal/v1/builds"+path, api.BuildRequest{Slug: slug}).want(http.StatusNotFound)
		for _, role := range []string{api.RoleSigner, api.RoleRegistry, api.RoleParent} {
			s.role(role, "POST", "/internal/v1/builds"+path, api.BuildRequest{Slug: slug},
				"Authorization: Bearer "+token).want(http.StatusNotFound)
		}
	}
	s.role(api.RoleRegistry, "GET", "/internal/v1/builds/1", nil).want(http.StatusNotFound)
	s.role(api.RoleBuilder, "GET", "/internal/v1/builds/999", nil).want(http.StatusNotFound)
	s.role(api.RoleBuilder, "GET", "/internal/v1/builds/x", nil).want(http.StatusBadRequest)
	s.role(api.RoleBuilder, "POST", "/internal/v1/builds/1/finish", `{"status":`).want(http.StatusBadRequest)
}

func TestPinnedReleaseStays(t *testing.T) {
	s := newServer(t)
	token := s.login(s.admin.Username, s.admin.Password)
	s.fleet(token, "harbour")
	old := s.push(token, "harbour")
	s.push(token, "harbour")
	var dev struct{ ID int64 }
	rows := s.do(token, "GET", "/v7/application?$select=id", nil).rows()
	s.do(token, "POST", "/v7/device", map[string]any{
		"belongs_to__application": rows[0]["id"], "is_of__device_type": s.deviceType("generic-amd64"),
		"uuid": strings.Repeat("a", 32),
	}).want(http.StatusCreated).into(&dev)
	s.do(token, "PATCH", fmt.Sprintf("/v7/device(%d)", dev.ID),
		map[string]any{"is_pinned_on__release": old.ID}).want(http.StatusOK)
	refused := s.do(token, "DELETE", fmt.Sprintf("/v7/release(%d)", old.ID), nil).want(http.StatusBadRequest)
	if !strings.Contains(refused.body, "Unable to delete a release because device(s) are pinned to it.") {
		t.Error(refused.body)
	}
	s.do(token, "DELETE", fmt.Sprintf("/v7/application(%v)", rows[0]["id"]), nil).want(http.StatusOK)
	if n := len(s.do(token, "GET", "/v7/device?$select=id", nil).rows()); n != 0 {
		t.Errorf("%d devices outlive their fleet", n)
	}
}
