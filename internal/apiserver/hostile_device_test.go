package apiserver_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// Whatever a device or a client sends, the answer is a refusal with a reason or nothing at all: never an error of ours, and
// never half of a write.
func TestHostileInputOfDevices(t *testing.T) {
	s := newServer(t)
	fleet := s.fleet(s.admin.APIKey, "harbour")
	dev := s.device(s.admin.APIKey, fleet, hexUUID(1))
	key := s.provisioning(s.admin.APIKey, fleet, 0)
	uuid := string(dev.UUID)
	texts := []string{`\u0000`, `\ud800`, `'; DROP TABLE device; --`, `%00`, strings.Repeat("A", 70_000), `\u202e`, `../../etc/passwd`, "\xff\xfe"}
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
	var reports []string
	for _, text := range texts {
		for _, form := range []string{
			`{"%[1]s":{"status":"half","os_version":"%[2]s"}}`,
			`{"%[1]s":{"status":"half","apps":{"%[2]s":{"release_uuid":"x","releases":{}}}}}`,
			`{"%[1]s":{"status":"half","apps":{"x":{"release_uuid":"%[2]s"}}}}`,
			`{"%[1]s":{"status":"half","apps":{"x":{"releases":{"%[2]s":{"update_status":"%[2]s","services":{"%[2]s":{"image":"%[2]s","status":"%[2]s"}}}}}}}}`,
			`{"%[2]s":{"status":"half"}}`, `{"%[1]s":{"status":"half","unsupported_features":["%[2]s"]}}`, `{"%[1]s":{"cpu_id":"%[2]s"}}`,
		} {
			reports = append(reports, fmt.Sprintf(form, uuid, text))
		}
	}
	reports = append(reports, deep, `{"`+uuid+`":`+deep+`}`, `{"`+uuid+`":{"apps":`+deep+`}}`, `{"`+uuid+`":{"x":`+deep+`}}`,
		`{"`+uuid+`":{"cpu_usage":1e400}}`, `{"`+uuid+`":{"memory_usage":-9e99,"cpu_temp":9007199254740993}}`,
		`{"`+uuid+`":{"status":"a","status":"b"}}`, strings.Repeat(`{"a":`, 5000)+"1"+strings.Repeat("}", 5000), "\x00", "", "nul", `{"`+uuid+`":{}}x`)
	for _, body := range reports {
		for _, path := range []string{"/device/v3/state", "/device/v2/" + uuid + "/state", "/device/v3/tags"} {
			if path == "/device/v2/"+uuid+"/state" {
				body = strings.Replace(body, `{"`+uuid+`":`, `{"local":`, 1)
			}
			if a := s.do(dev.APIKey, "PATCH", path, body); a.status >= 500 {
				t.Errorf("PATCH %s %.200q: %d %s", path, body, a.status, a.body)
			}
		}
	}
	huge := `{"` + uuid + `":{"status":"` + strings.Repeat("x", 600<<10) + `"}}`
	s.do(dev.APIKey, "PATCH", "/device/v3/state", huge).want(http.StatusRequestEntityTooLarge)
	for _, text := range []string{"%00", "%ff", "%ed%a0%80", "'%20or%201=1", "..%2f..", strings.Repeat("a", 3000), "%22"} {
		for _, a := range []*answer{
			s.do(s.admin.APIKey, "GET", "/device/v3/"+text+"/state", nil), s.do(s.admin.APIKey, "GET", "/device/v2/"+text+"/state", nil),
			s.do(s.admin.APIKey, "GET", "/device/v3/fleet/"+text+"/state", nil),
			s.do(s.admin.APIKey, "GET", "/device/v3/fleet/x/state/?releaseUuid="+text, nil),
			s.do(s.admin.APIKey, "GET", "/device/v2/"+text+"/logs", nil), s.do(s.admin.APIKey, "GET", "/device/v2/"+uuid+"/logs?service="+text, nil),
			s.do(s.admin.APIKey, "GET", "/device/v2/"+uuid+"/logs?start="+text, nil),
			s.do(dev.APIKey, "GET", "/auth/v1/public-keys/"+text, nil), s.do(s.admin.APIKey, "GET", "/access/v1/hostos/"+text, nil),
			s.do(s.admin.APIKey, "GET", "/auth/v1/token?scope=repository:"+text+":pull", nil),
			s.do(dev.APIKey, "PATCH", "/device/v2/"+text+"/state", `{"local":{"status":"half"}}`),
			s.do(key, "POST", "/device/register", "application="+fmt.Sprint(fleet)+"&uuid="+text+"&device_type="+text+"&api_key="+text+"&device_name="+text,
				"Content-Type: application/x-www-form-urlencoded"),
			s.do(key, "POST", "/device/register", "application="+fmt.Sprint(fleet)+"&uuid="+string(hexUUID(7))+"&device_type="+text,
				"Content-Type: application/x-www-form-urlencoded"),
			s.do(s.admin.APIKey, "POST", "/supervisor/"+text, `{"uuid":"`+text+`"}`),
			s.do(s.admin.APIKey, "POST", "/download-config?"+url.Values{"appId": {fmt.Sprint(fleet)}, "version": {text}, "deviceType": {text}}.Encode(), nil),
			s.do(s.admin.APIKey, "GET", "/download-config?appId="+fmt.Sprint(fleet)+"&version=2.98.33&provisioningKeyName="+text+"&deviceType="+text, nil),
		} {
			if a.status >= 500 && a.status != http.StatusServiceUnavailable { // there is no signer in this test
				t.Errorf("%.120s: %d %s", a.what, a.status, a.body)
			}
		}
	}
	for _, mac := range []string{"%00", "%ff", "%ed%a0%80"} { // registered all the same, without what no text can hold
		n := hexUUID(100 + len(mac))
		a := s.do(key, "POST", "/device/register", fmt.Sprintf("application=%d&uuid=%s&device_type=generic-amd64&mac_address=%s&os_version=%s",
			fleet, n, mac, mac), "Content-Type: application/x-www-form-urlencoded")
		if a.status >= 500 {
			t.Errorf("register with %s: %d %s", mac, a.status, a.body)
		}
	}
	row := s.do(s.admin.APIKey, "GET", fmt.Sprintf("/v7/device(%d)?$select=status,os_version&$expand=image_install,device_tag", dev.ID), nil).rows()[0]
	if len(row["image_install"].([]any)) != 0 || len(row["device_tag"].([]any)) != 0 {
		t.Errorf("something was kept: %v", row)
	}
}
