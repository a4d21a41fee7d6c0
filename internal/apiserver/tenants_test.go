package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// tenant is a user with one of everything, by resource.
type tenant struct {
	session string
	ids     map[string]any
	uuid    api.DeviceUUID
}

// tenant makes a user who has a fleet with a release, and a device with variables and tags.
func (s *server) tenant(name, digit string) *tenant {
	s.Helper()
	tn := &tenant{session: s.user(name), ids: map[string]any{}, uuid: api.DeviceUUID(strings.Repeat(digit, 32))}
	fleet := s.fleet(tn.session, name+"fleet")
	tn.ids["application"] = fleet
	var build api.Build
	s.role(api.RoleBuilder, "POST", "/internal/v1/builds", api.BuildRequest{Slug: name + "fleet"}, "Authorization: Bearer "+tn.session).
		want(http.StatusCreated).into(&build)
	path := fmt.Sprintf("/internal/v1/builds/%d", build.ID)
	var images []api.BuildImage
	s.role(api.RoleBuilder, "POST", path+"/images", api.BuildImagesRequest{Composition: []byte(`{"services":{"web":{}}}`), Services: []string{"web"}}).
		want(http.StatusOK).into(&images)
	s.role(api.RoleBuilder, "POST", path+"/finish", api.BuildResult{Status: api.StatusSuccess, Images: []api.BuildImageResult{{
		ID: images[0].ID, Status: api.StatusSuccess, Digest: "sha256:" + strings.Repeat(digit, 64), Size: 1,
		Labels: map[string]string{"com.example.label": "x"},
	}}}).want(http.StatusOK)
	tn.ids["device"] = s.device(tn.session, fleet, tn.uuid).ID
	for _, resource := range []string{"organization", "user", "actor", "organization_membership", "service", "release", "image", "release_image",
		"service_install", "api_key"} {
		rows := s.do(tn.session, "GET", "/v7/"+resource+"?$select=id&$top=1", nil).rows()
		if len(rows) == 0 {
			s.Fatalf("%s has no %s", name, resource)
		}
		tn.ids[resource] = rows[0]["id"]
	}
	for resource, parent := range map[string]string{
		"application_environment_variable": "application", "application_config_variable": "application",
		"build_environment_variable": "application", "application_tag": "application", "service_environment_variable": "service",
		"service_label": "service", "device_environment_variable": "device", "device_config_variable": "device", "device_tag": "device",
		"device_service_environment_variable": "service_install", "release_tag": "release",
	} {
		var made struct{ ID any }
		s.do(tn.session, "POST", "/v7/"+resource, row(resource, parent, tn.ids[parent], "ONE")).want(http.StatusCreated).into(&made)
		tn.ids[resource] = made.ID
	}
	return tn
}

// row is one that hangs on another.
func row(resource, parent string, id any, name string) map[string]any {
	key := "name"
	switch {
	case strings.HasSuffix(resource, "_tag"):
		key = "tag_key"
	case resource == "service_label":
		key, name = "label_name", "com.example."+strings.ToLower(name)
	case strings.Contains(resource, "config"):
		name = "RESIN_HOST_" + name
	}
	return map[string]any{parent: id, key: name, "value": "mallory was here"}
}

// The attack: a second tenant, who knows every id of the first, reads, changes and deletes his rows, ties rows of her own to
// them, ties his to hers, and looks through them from rows that she may see. One resource and one reference at a time.
func TestATenantReachesNothingOfAnother(t *testing.T) {
	s := newServer(t)
	alice, mallory := s.tenant("alice", "a"), s.tenant("mallory", "b")
	before := s.everything(alice)
	refused := func(method, path string, body any) {
		t.Helper()
		got := s.do(mallory.session, method, path, body)
		if method != http.MethodPost && got.status == http.StatusOK {
			return // of no row; what it may have done is compared at the end
		}
		if got.status < 400 || got.status >= 500 {
			t.Errorf("%s %s %v: got %d %s", method, path, body, got.status, got.body)
		}
	}
	for resource, id := range alice.ids {
		path := "/v7/" + resource + "(" + itoa(id) + ")"
		if rows := s.do(mallory.session, "GET", path, nil).rows(); len(rows) != 0 {
			t.Errorf("GET %s: got %v", path, rows)
		}
		for _, body := range []map[string]any{{"value": "x"}, {"name": "x"}, {"note": "x"}, {"device_name": "x"}, {"app_name": "xxxx"},
			{"status": "cancelled"}, {"is_invalidated": true}, {"handle": "x"}, {"expiry_date": "2020-01-01"}} {
			refused("PATCH", path, body)
		}
		refused("DELETE", path, nil)
		refused("DELETE", "/v7/"+resource+q("?$filter=id eq ")+itoa(id), nil)
	}
	references := map[string][]string{ // column → resources that have it; each points to a resource of that name or to the one after "="
		"device":                              {"device_environment_variable", "device_config_variable", "device_tag"},
		"application":                         {"application_environment_variable", "application_config_variable", "build_environment_variable", "application_tag", "service"},
		"service":                             {"service_environment_variable", "service_label"},
		"service_install":                     {"device_service_environment_variable"},
		"release":                             {"release_tag"},
		"belongs_to__application=application": {"device"},
		"is_pinned_on__release=release":       {"device"},
		"should_be_running__release=release":  {"application"},
		"organization":                        {"application"},
		"user":                                {"organization_membership"},
		"is_member_of__organization=organization": {"organization_membership"},
	}
	for column, resources := range references {
		column, target, _ := strings.Cut(column, "=")
		if target == "" {
			target = column
		}
		for _, resource := range resources {
			refused("PATCH", "/v7/"+resource+"("+itoa(mallory.ids[resource])+")", map[string]any{column: alice.ids[target]})
			body := row(resource, column, alice.ids[target], "TWO")
			switch resource {
			case "service":
				body = map[string]any{column: alice.ids[target], "service_name": "two"}
			case "device":
				body = map[string]any{"belongs_to__application": mallory.ids["application"], "is_of__device_type": s.deviceType("generic-amd64")}
				body[column] = alice.ids[target]
			case "application":
				body = map[string]any{"organization": mallory.ids["organization"], "app_name": "stolen", "is_for__device_type": s.deviceType("generic-amd64")}
				body[column] = alice.ids[target]
			case "organization_membership":
				body = map[string]any{"user": mallory.ids["user"], "is_member_of__organization": mallory.ids["organization"]}
				body[column] = alice.ids[target]
			}
			refused("POST", "/v7/"+resource, body)
		}
	}
	for _, path := range []string{
		fmt.Sprintf("/device/v3/%s/state", alice.uuid), fmt.Sprintf("/device/v2/%s/logs", alice.uuid),
		fmt.Sprintf("/device/v2/%s/logs?stream=1", alice.uuid), "/download-config?version=2.100.0&appId=" + itoa(alice.ids["application"]),
	} {
		if got := s.do(mallory.session, "GET", path, nil); got.status != http.StatusNotFound && got.status != http.StatusUnauthorized {
			t.Errorf("GET %s: got %d %s", path, got.status, got.body)
		}
	}
	for path, body := range map[string]any{
		"/api-key/application/" + itoa(alice.ids["application"]) + "/provisioning": api.NewKey{},
		"/api-key/device/" + itoa(alice.ids["device"]) + "/device-key":             api.NewKey{},
		"/api-key/v1":      map[string]any{"actorType": "user", "actorTypeId": alice.ids["user"], "roles": []string{"named-user-api-key"}},
		"/api-key/v2":      map[string]any{"actorType": "device", "actorTypeId": alice.ids["device"], "roles": []string{"device-api-key"}},
		"/device/register": map[string]any{"application": alice.ids["application"], "uuid": strings.Repeat("c", 32), "device_type": "generic-amd64"},
	} {
		refused("POST", path, body)
	}
	if after := s.everything(alice); after != before {
		t.Errorf("the other tenant changed something:\n%s\n%s", before, after)
	}
	s.seesNothing(mallory, alice)
}

// seesNothing looks for one tenant through what the other may read.
func (s *server) seesNothing(mallory, alice *tenant) {
	s.Helper()
	for _, query := range []string{
		"/v7/device?$expand=belongs_to__application($expand=owns__device,owns__release),belongs_to__user,is_of__device_type($expand=device,is_default_for__application)",
		"/v7/cpu_architecture?$expand=device_type($expand=device($expand=device_environment_variable),is_default_for__application)",
		"/v7/organization?$expand=application($expand=service($expand=service_environment_variable)),organization_membership($expand=user)",
		"/v7/organization_membership_role?$expand=is_of__organization_membership($expand=user,is_member_of__organization)",
		"/v7/application_type?$expand=is_of__application", "/v7/actor?$expand=api_key,is_of__device,is_of__application,is_of__user",
	} {
		body := s.do(mallory.session, "GET", query, nil).want(http.StatusOK).body
		for _, word := range []string{"alice", string(alice.uuid)} {
			if strings.Contains(body, word) {
				s.Errorf("%s shows %q: %s", query, word, body)
			}
		}
	}
	for _, filter := range []string{ // a question about what cannot be seen is answered as if it were not there
		"device_type?$filter=device/any(d:d/uuid eq '" + string(alice.uuid) + "')",
		"cpu_architecture?$filter=device_type/any(t:t/device/any(d:startswith(d/device_name,'')  and d/uuid eq '" + string(alice.uuid) + "'))",
		"application_type?$filter=is_of__application/any(a:a/slug eq 'alice/alicefleet')",
		"organization_membership_role?$filter=is_of__organization_membership/any(m:m/user/any(u:u/username eq 'alice'))",
	} {
		if rows := s.do(mallory.session, "GET", "/v7/"+q(filter), nil).rows(); len(rows) != 0 {
			s.Errorf("%s: got %v", filter, rows)
		}
	}
}

// everything is all that a tenant has.
func (s *server) everything(tn *tenant) string {
	s.Helper()
	var all strings.Builder
	for _, resource := range []string{"organization", "organization_membership", "application", "service", "release", "image", "release_image",
		"image_label", "device", "service_install", "device_environment_variable", "device_config_variable", "device_tag",
		"device_service_environment_variable", "application_environment_variable", "application_config_variable", "build_environment_variable",
		"application_tag", "service_environment_variable", "service_label", "release_tag"} {
		all.WriteString(resource + ": " + s.do(tn.session, "GET", "/v7/"+resource+q("?$orderby=id asc"), nil).want(http.StatusOK).body)
	}
	return all.String() + s.do(tn.session, "GET", "/v7/api_key/$count", nil).want(http.StatusOK).body
}
