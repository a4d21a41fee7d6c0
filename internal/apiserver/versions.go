package apiserver

import (
	"strings"

	"github.com/roadstead-io/roadstead/internal/odata"
)

// The versions of the API before the one of the model, as far as old supervisors and the scripts of operating systems still use
// them. What is not said here was as it is now.

func olderVersions(m odata.Model) []odata.Version {
	resources := []odata.Older{
		{Name: "user", Columns: []odata.OlderColumn{plainActor("actor")}},
		{Name: "api_key", Columns: []odata.OlderColumn{plainActor("is_of__actor")}},
		{Name: "application", Columns: []odata.OlderColumn{plainActor("actor"), gone("depends_on__application")}},
		{Name: "my_application", Of: "application", Only: "is_directly_accessible_by__user/any(u:u/user eq @user)",
			Columns: []odata.OlderColumn{plainActor("actor")}},
		olderDevice(m),
		{Name: "release", Columns: []odata.OlderColumn{
			asText("contract"), asText("composition"),
			computed("release_type", odata.String, "CASE WHEN {t}.is_final = 1 THEN 'final' ELSE 'draft' END"),
		}},
		{Name: "image", Columns: []odata.OlderColumn{asText("contract"), {Column: odata.Column{Name: "image_size"}, Of: "image_size"}}},
		{Name: "device_type", Columns: []odata.OlderColumn{asText("contract")}},
		supervisorRelease(),
	}
	return []odata.Version{{Prefix: "/v6/", Resources: resources}, {Prefix: "/v5/", Resources: resources}}
}

// plainActor is a link to an actor that was the actor's number.
func plainActor(name string) odata.OlderColumn {
	return odata.OlderColumn{Column: odata.Column{Name: name, Type: odata.Integer}, Of: name}
}

// asText is a JSON value that was its text.
func asText(name string) odata.OlderColumn {
	return odata.OlderColumn{Column: odata.Column{Name: name, Type: odata.String}, Of: name}
}

// gone is a column that clients may still ask for and that holds nothing any more.
func gone(name string) odata.OlderColumn { return computed(name, odata.String, "CAST(NULL AS TEXT)") }

func computed(name string, t odata.Type, sql string) odata.OlderColumn {
	return odata.OlderColumn{Column: odata.Column{Name: name, Type: t, SQL: sql, Null: true, Explicit: true}}
}

// olderDevice had its pin under the name that is now the release it should run, pinned or not; its status in other words; and
// its supervisor among releases of a kind of their own.
func olderDevice(m odata.Model) odata.Older {
	status := "(" + columnSQL(m, "device", "overall_status") + ")"
	words := "CASE " + status + " WHEN 'operational' THEN 'idle' WHEN 'reduced-functionality' THEN 'idle'" +
		" WHEN 'disconnected' THEN 'offline' ELSE " + status + " END"
	return odata.Older{
		Name: "device", Gone: []string{"is_pinned_on__release"},
		Columns: []odata.OlderColumn{
			plainActor("actor"),
			{Of: "is_pinned_on__release", Column: odata.Column{
				Name: "should_be_running__release", Type: odata.ForeignKey, To: "release", Reverse: []string{"should_be_running_on__device"},
			}},
			{Of: "should_be_managed_by__release", Column: odata.Column{
				Name: "should_be_managed_by__supervisor_release", Type: odata.ForeignKey, To: "supervisor_release",
				Reverse: []string{"should_manage__device"},
			}},
			computed("overall_status", odata.String, words),
			gone("is_managed_by__device"), gone("logs_channel"), gone("vpn_address"),
		},
	}
}

// supervisorRelease is a release of a fleet that holds a device's own software, with the place of its one image.
func supervisorRelease() odata.Older {
	const ofFleet = `(SELECT %s FROM application f WHERE f.id = {t}.belongs_to__application)`
	return odata.Older{
		Name: "supervisor_release", Of: "release",
		Only: "status eq 'success' and is_final and is_invalidated eq false and belongs_to__application/any(a:a/is_host eq false" +
			" and startswith(a/slug,'balena_os/') and endswith(a/slug,'-supervisor'))",
		Columns: []odata.OlderColumn{
			computed("supervisor_version", odata.String, `'v' || {t}.raw_version`),
			computed("image_name", odata.String, `(SELECT i.is_stored_at__image_location FROM release_image r
				JOIN image i ON i.id = r.image WHERE r.is_part_of__release = {t}.id ORDER BY i.id LIMIT 1)`),
			{Column: odata.Column{
				Name: "is_for__device_type", Type: odata.ForeignKey, To: "device_type", Null: true,
				SQL: strings.Replace(ofFleet, "%s", "f.is_for__device_type", 1),
			}},
			computed("device_type", odata.String, `(SELECT y.slug FROM application f JOIN device_type y ON y.id = f.is_for__device_type
				WHERE f.id = {t}.belongs_to__application)`),
		},
	}
}

// columnSQL is how the model computes a column.
func columnSQL(m odata.Model, resource, column string) string {
	for _, r := range m.Resources {
		if r.Name != resource {
			continue
		}
		for _, c := range r.Columns {
			if c.Name == column {
				return c.SQL
			}
		}
	}
	return "CAST(NULL AS TEXT)"
}
