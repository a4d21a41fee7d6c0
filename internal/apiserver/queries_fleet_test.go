package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// TestQueriesOfTheCLI sends what balena-cli 25 sends about fleets, variables, tags, releases and device types, encoded as it
// encodes it, and counts the rows of each answer.
func TestQueriesOfTheCLI(t *testing.T) {
	s := newServer(t)
	token := s.login(s.admin.Username, s.admin.Password)
	id := s.fleet(token, "harbour")
	slug := s.admin.Username + "/harbour"
	b := s.push(token, slug)
	create := func(resource string, body map[string]any) {
		t.Helper()
		s.do(token, "POST", "/v7/"+resource, body).want(http.StatusCreated)
	}
	svc := s.do(token, "GET", "/v7/service?$select=id", nil).rows()[0]["id"]
	create("application_environment_variable", map[string]any{"value": "1", "application": id, "name": "A"})
	create("application_config_variable", map[string]any{"value": "1", "application": id, "name": "RESIN_A"})
	create("service_environment_variable", map[string]any{"value": "1", "service": svc, "name": "A"})
	create("application_tag", map[string]any{"value": "", "application": id, "tag_key": "K"})
	create("release_tag", map[string]any{"value": "", "release": b.ID, "tag_key": "K"})

	s.role(api.RoleAdmin, "POST", "/internal/v1/os-releases", []api.OSRelease{
		{Kind: api.KindOS, DeviceType: "raspberrypi4-64", Version: "6.0.24"}, {Kind: api.KindSupervisor, Arch: "aarch64", Version: "17.0.1"},
	}).want(http.StatusOK)
	const hostReleases = "application?$select=is_for__device_type&$expand=application_tag($select=tag_key,value),is_for__device_type($select=slug)," +
		"owns__release($select=id,known_issue_list,raw_version,variant,phase;$expand=release_tag($select=tag_key,value);" +
		"$filter=is_final eq true and is_invalidated eq false and status eq 'success')" +
		"&$filter=is_host eq true and is_for__device_type/any(dt:dt/slug in ('raspberrypi4-64'))"
	const goodHost = "is_default_for__application/any(idfa:idfa/is_host eq true and idfa/is_archived eq false and idfa/owns__release/any(r:r/status eq 'success' " +
		"and r/is_final eq true and r/is_invalidated eq false))"
	for _, tc := range []struct {
		query string
		rows  int
	}{
		{"application?$filter=is_directly_accessible_by__user/any(dau:1 eq 1)&$orderby=app_name asc&$select=id,app_name,slug" +
			"&$expand=is_for__device_type($select=slug),owns__device($select=is_online)", 1},
		{"application?$filter=slug eq 'SLUG'&$expand=is_for__device_type($select=slug),should_be_running__release($select=commit)", 1},
		{"application?$filter=is_directly_accessible_by__user/any(dau:1 eq 1) and (slug eq 'SLUG' or uuid eq 'SLUG')&$select=id,slug", 1},
		{"application?$filter=is_directly_accessible_by__user/any(dau:1 eq 1) and app_name eq 'harbour'&$select=id&$expand=should_be_running__release($select=commit)", 1},
		{"application(FLEET)?$select=id&$expand=owns__release($select=id;$top=1;$filter=is_final eq true and is_passing_tests eq true " +
			"and is_invalidated eq false and status eq 'success';$orderby=created_at desc)", 1},
		{"application(FLEET)?$filter=is_directly_accessible_by__user/any(dau:1 eq 1)&$select=app_name,slug", 1},
		{"application(FLEET)?$select=id&$expand=is_for__device_type($select=slug;$expand=is_of__cpu_architecture($select=slug))", 1},
		{"application?$select=id,slug&$filter=slug eq 'SLUG'&$expand=application_type($select=name,slug,supports_multicontainer)," +
			"is_for__device_type($select=slug;$expand=is_of__cpu_architecture($select=slug))", 1},
		{"application?$filter=is_directly_accessible_by__user/any(dau:1 eq 1) and is_for__device_type/any(dt:dt/is_of__cpu_architecture in (1,2))" +
			"&$orderby=app_name asc&$select=id,slug,app_name&$expand=is_for__device_type($select=slug)", 1},
		{"application(FLEET)?$select=slug&$expand=owns__device($select=id,uuid,device_name,status,is_online,supervisor_version,os_version;" +
			"$expand=belongs_to__application($select=app_name,slug),is_of__device_type($select=slug),is_running__release($select=commit);$orderby=device_name asc)", 1},
		{"release?$filter=commit eq 'COMMIT' and belongs_to__application eq FLEET and status eq 'success'&$select=id&$top=1",
			1},
		{"release?$filter=commit eq 'COMMIT' and commit eq 'COMMIT' and status eq 'success' and belongs_to__application eq FLEET" +
			"&$select=id&$top=1&$orderby=created_at desc", 1},
		{"release?$filter=belongs_to__application eq FLEET&$orderby=created_at desc&$select=id,commit,created_at,status,raw_version,is_final", 1},
		{"release?$filter=belongs_to__application eq FLEET&$orderby=created_at desc&$expand=release_tag($select=tag_key,value)", 1},
		{"release?$filter=startswith(commit,'COMMIT')&$select=id,commit,created_at,status,raw_version,is_final,build_log,start_timestamp,end_timestamp" +
			"&$expand=release_tag($select=tag_key,value)", 1},
		{"release?$filter=commit eq 'COMMIT'&$select=id&$expand=release_tag($orderby=tag_key asc)", 1},
		{"release(RELEASE)?$select=composition", 1},
		{"application(FLEET)?$select=id&$expand=owns__release($select=id,commit,end_timestamp,composition;$expand=release_image($select=id;" +
			"$expand=image($select=image_size,is_stored_at__image_location));$filter=status eq 'success';$orderby=end_timestamp desc,id desc)", 1},
		{"release?$filter=status eq 'success' and is_final eq true and is_invalidated eq false and semver_major gt 0 and " +
			"belongs_to__application/any(a:startswith(a/slug,'balena_os/') and endswith(a/slug,'-supervisor') and a/is_public eq true and a/is_host eq false " +
			"and a/is_for__device_type/any(dt:dt/is_of__cpu_architecture/any(c:c/slug eq 'aarch64')))" +
			"&$orderby=semver_major desc,semver_minor desc,semver_patch desc,revision desc&$select=id,raw_version", 1},
		{"application_environment_variable?$orderby=name asc&$filter=application eq FLEET", 1},
		{"application_config_variable?$orderby=name asc&$filter=application eq FLEET", 1},
		{"service_environment_variable?$orderby=name asc&$filter=service/any(s:s/application eq FLEET)&$expand=service", 1},
		{"service_environment_variable?$orderby=name asc&$filter=service/any(s:s/application eq FLEET) and service/any(s:s/service_name eq 'web')&$expand=service", 1},
		{"application(FLEET)?$select=id&$expand=service($select=id;$filter=service_name eq 'web')", 1},
		{"service(application=FLEET,service_name='web')?$select=id", 1},
		{"application_tag?$orderby=tag_key asc&$filter=application eq FLEET", 1},
		{"cpu_architecture?$select=id,slug", 7},
		{"device_type?$select=id&$filter=device_type_alias/any(dta:dta/is_referenced_by__alias eq 'nuc')&$expand=is_of__cpu_architecture($select=slug)", 1},
		{"device_type?$orderby=name asc&$select=slug,name&$filter=" + goodHost + "&$expand=is_of__cpu_architecture($select=slug)," +
			"device_type_alias($select=is_referenced_by__alias;$orderby=is_referenced_by__alias asc)", 1},
		{hostReleases, 1},
	} {
		query := strings.NewReplacer("SLUG", slug, "FLEET", fmt.Sprint(id), "COMMIT", b.Commit, "RELEASE", fmt.Sprint(b.ID),
			" ", "%20", "'", "%27").Replace(tc.query)
		if got := s.do(token, "GET", "/v7/"+query, nil).rows(); len(got) != tc.rows {
			t.Errorf("%s: %d rows, want %d", tc.query, len(got), tc.rows)
		}
	}

	// As the CLI pins, tracks, renames, cancels and deletes.
	fleet := fmt.Sprintf("/v7/application(%d)", id)
	s.do(token, "PATCH", fleet, map[string]any{"should_be_running__release": b.ID,
		"should_track_latest_release": false}).want(http.StatusOK)
	s.do(token, "PATCH", fleet, map[string]any{"should_be_running__release": b.ID,
		"should_track_latest_release": true}).want(http.StatusOK)
	s.do(token, "PATCH", fleet, map[string]any{"app_name": "quayside"}).want(http.StatusOK)
	s.do(token, "PATCH", fmt.Sprintf("/v7/release(%d)?$filter=status%%20ne%%20%%27success%%27", b.ID),
		map[string]any{"status": api.StatusCancelled, "end_timestamp": 1700000000000}).want(http.StatusOK)
	s.do(token, "DELETE",
		fmt.Sprintf("/v7/application_tag?$filter=application%%20eq%%20%d%%20and%%20tag_key%%20eq%%20%%27K%%27", id),
		nil).want(http.StatusOK)
	if got := s.do(token, "GET", "/v7/release?$select=status", nil).rows(); got[0]["status"] != api.StatusSuccess {
		t.Errorf("the release is %v", got)
	}
	s.do(token, "DELETE", fleet, nil).want(http.StatusOK)
}
