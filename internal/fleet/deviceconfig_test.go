package fleet_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

func TestDeviceConfig(t *testing.T) {
	w := releasetest.New(t)
	id := w.Fleet(w.Alice, "harbour", "raspberrypi3")
	ask := func(by access.Caller, a fleet.Answers) (config map[string]any, err error) {
		err = w.DB.Write(t.Context(), func(tx *db.Tx) (err error) {
			config, err = w.Fleets.DeviceConfig(t.Context(), tx, by, a)
			return err
		})
		return config, err
	}
	got, err := ask(w.Alice, fleet.Answers{
		"appId": float64(id), "version": "6.0.0+rev1", "network": "wifi", "wifiSsid": "dock", "wifiKey": "secret",
		"appUpdatePollInterval": "10",
		"developmentMode":       true, "provisioningKeyName": "crate 7", "provisioningKeyMaxUses": "3",
		"deviceType":                "raspberrypi4-64",
		"provisioningKeyExpiryDate": w.Now().Add(time.Hour).Format(time.RFC3339), "apiEndpoint": "https://evil.example.com",
		"uuid": "1", "hostname": "h", "ip": "192.0.2.7", "gateway": "192.0.2.1", "netmask": "255.255.255.0",
	})
	if err != nil {
		t.Fatal(err)
	}
	key, _ := got["apiKey"].(string)
	delete(got, "apiKey")
	want := map[string]any{
		"applicationId": float64(id), "applicationName": "harbour", "deviceType": "raspberrypi4-64", "version": "6.0.0+rev1",
		"userId": float64(w.Alice.User), "username": "alice", "apiEndpoint": "https://api.roadstead.test",
		"registryEndpoint": "registry2.roadstead.test", "deltaEndpoint": "https://delta.roadstead.test",
		"vpnEndpoint": "vpn.roadstead.test",
		"vpnPort":     443.0, "listenPort": 48484.0, "appUpdatePollInterval": 600000.0, "developmentMode": true,
		"balenaRootCA": "YSByb290IGNlcnRpZmljYXRl", "wifiSsid": "dock", "wifiKey": "secret", "hostname": "h",
		"ip": "192.0.2.7", "gateway": "192.0.2.1", "netmask": "255.255.255.0", "mixpanelToken": "",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	var caller access.Caller
	w.Write(func(tx *db.Tx) (err error) {
		caller, err = w.Accounts.Authenticate(t.Context(), tx, key)
		return err
	})
	if caller.Kind != access.Provisioning || caller.Fleet != id {
		t.Errorf("the key is %+v", caller)
	}
	w.Want(w.Alice, "GET", "api_key?$filter=name eq 'crate 7'&$select=expiry_date", nil, 200, "2026-11-21T13:00:00.000Z")

	w.Want(w.Alice, "PATCH", "application(1)", map[string]any{"is_public": true}, 200, "") // what is public is not open
	got, err = ask(w.Alice, fleet.Answers{"appId": "1", "version": "6.0.0"})
	if err != nil || got["appUpdatePollInterval"] != 10000.0 || got["deviceType"] != "raspberrypi3" {
		t.Errorf("defaults: %v %v", got, err)
	}
	w.Want(w.Alice, "PATCH", "application(1)", map[string]any{"is_also_built_for": "amd64"}, 200, "")
	if got, err := ask(w.Alice, fleet.Answers{"appId": "1", "version": "6.0.0", "deviceType": "generic-amd64"}); err != nil || got["deviceType"] != "generic-amd64" {
		t.Errorf("a type of an architecture that the fleet is also built for: %v %v", got, err)
	}
	w.Want(w.Alice, "PATCH", "application(1)", map[string]any{"is_also_built_for": nil}, 200, "")
	for _, name := range []string{"secureBoot", "secureboot"} { // the CLI says it one way, balena's server the other
		again, err := ask(w.Alice, fleet.Answers{"appId": "1", "version": "v6.0.0", name: true})
		if err != nil || again["apiKey"] == got["apiKey"] || cmp.Diff(map[string]any{"secureboot": true},
			again["installer"]) != "" || again[name] != nil {
			t.Errorf("%s: %v %v", name, again, err)
		}
	}
	if got, err := ask(w.Alice, fleet.Answers{"appId": "1", "version": "1.2.1", "secureBoot": "false"}); err != nil || got["installer"] != nil {
		t.Errorf("the oldest that is served, without secure boot: %v %v", got, err)
	}

	for _, tc := range []struct {
		name string
		by   access.Caller
		ask  fleet.Answers
		code api.Code
		text string
	}{
		{"no fleet", w.Alice, fleet.Answers{"version": "6.0.0"}, api.Invalid, "An appId is required."},
		{"no version", w.Alice, fleet.Answers{"appId": float64(id)}, api.Invalid, "A version is required."},
		{"old", w.Alice, fleet.Answers{"appId": float64(id), "version": "1.2.0"}, api.Invalid,
			"balenaOS versions <= 1.2.0 are no longer supported, please update"},
		{"older", w.Alice, fleet.Answers{"appId": float64(id), "version": "1.1.9+rev3.prod"}, api.Invalid,
			"balenaOS versions <= 1.2.0 are no longer supported, please update"},
		{"secure boot", w.Alice, fleet.Answers{"appId": float64(id), "version": "6.0.0", "secureBoot": "maybe"}, api.Invalid, "secureBoot"},
		{"a public fleet of others", w.Bob, fleet.Answers{"appId": float64(id), "version": "6.0.0"}, api.NotFound, ""},
		{"not a version", w.Alice, fleet.Answers{"appId": float64(id), "version": "new"}, api.Invalid, `"new"`},
		{"wrong number", w.Alice, fleet.Answers{"appId": "x", "version": "6.0.0"}, api.Invalid, "appId"},
		{"object", w.Alice, fleet.Answers{"appId": map[string]any{}, "version": "6.0.0"}, api.Invalid, "appId"},
		{"nested answer", w.Alice, fleet.Answers{"appId": "1", "version": "6.0.0", "x": []any{}}, api.Invalid, `"x"`},
		{"long answer", w.Alice, fleet.Answers{"appId": "1", "version": "6.0.0", "x": strings.Repeat("x", 5000)},
			api.TooLarge, `"x"`},
		{"interval", w.Alice, fleet.Answers{"appId": "1", "version": "6.0.0", "appUpdatePollInterval": "-1"}, api.Invalid,
			"appUpdatePollInterval"},
		{"type", w.Alice, fleet.Answers{"appId": "1", "version": "6.0.0", "deviceType": "toaster"}, api.Invalid, "toaster"},
		{"architecture", w.Alice, fleet.Answers{"appId": "1", "version": "6.0.0", "deviceType": "intel-nuc"}, api.Invalid,
			"cannot run"},
		{"expired", w.Alice, fleet.Answers{"appId": "1", "version": "6.0.0", "provisioningKeyExpiryDate": "2001-01-01"},
			api.Invalid, "past"},
		{"stranger", w.Bob, fleet.Answers{"appId": "1", "version": "6.0.0"}, api.NotFound, ""},
		{"device", w.Device(id), fleet.Answers{"appId": "1", "version": "6.0.0"}, api.Forbidden, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ask(tc.by, tc.ask)
			if !errors.Is(err, &api.Error{Code: tc.code}) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, want %s %q", err, tc.code, tc.text)
			}
		})
	}
}
