package fleet_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
)

// grant makes a person a member of a fleet, at a level.
func grant(t *testing.T, w *releasetest.World, to access.Caller, fleetID int64, level access.Level) {
	t.Helper()
	w.Write(func(tx *db.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO user_application_membership (created_at, "user",
			is_member_of__application, application_membership_role) VALUES (?, ?, ?, ?)`, tx.NowText(), to.User, fleetID, int64(level))
		return err
	})
}

// Who else gets to a fleet is decided by its administrators alone.
func TestOnlyAdministratorsOpenAFleet(t *testing.T) {
	w := releasetest.New(t)
	id := w.Fleet(w.Alice, "harbour", "intel-nuc")
	one := fmt.Sprintf("application(%d)", id)
	grant(t, w, w.Bob, id, access.Developer)
	until := w.Now().Add(time.Hour)
	for column, value := range map[string]any{
		"is_public": true, "is_discoverable": false, "is_accessible_by_support_until__date": until.UnixMilli(),
	} {
		w.Want(w.Bob, "PATCH", one, map[string]any{column: value}, 403, "you may not write")
		w.Want(w.Alice, "PATCH", one, map[string]any{column: value}, 200, "")
	}
	w.Want(w.Bob, "PATCH", one, map[string]any{"is_archived": true, "app_name": "haven"}, 200, "")
	w.Want(w.Alice, "GET", one+"?$select=is_public,is_discoverable,is_archived,is_accessible_by_support_until__date", nil, 200,
		`"is_public":true,"is_discoverable":false,"is_archived":true,"is_accessible_by_support_until__date":"`+db.FormatTime(until)+`"`)
	w.Want(w.Alice, "PATCH", one, map[string]any{"is_accessible_by_support_until__date": nil}, 200, "")
	w.Want(w.Alice, "GET", one+"?$select=is_accessible_by_support_until__date", nil, 200, `"is_accessible_by_support_until__date":null`)

	// A fleet that is public from the start.
	w.Want(w.Alice, "POST", "application", map[string]any{
		"app_name": "beacon", "is_public": true, "is_for__device_type": w.ID(w.Alice, "device_type(slug='intel-nuc')?$select=id"),
		"organization": w.ID(w.Alice, "organization(handle='alice')?$select=id"),
	}, 201, `"is_public":true`)
}

// Strangers see the face of a public fleet: what it is and its good releases, not what it is told or who is in it.
func TestAPublicFleetShowsItsFace(t *testing.T) {
	w := releasetest.New(t)
	id, hidden := w.Fleet(w.Alice, "harbour", "intel-nuc"), w.Fleet(w.Alice, "depot", "intel-nuc")
	for _, f := range []int64{id, hidden} {
		w.Create(w.Alice, "application_environment_variable", map[string]any{"application": f, "name": "SECRET", "value": "1"})
		w.Create(w.Alice, "application_config_variable", map[string]any{"application": f, "name": "BALENA_A", "value": "1"})
		w.Create(w.Alice, "build_environment_variable", map[string]any{"application": f, "name": "SECRET", "value": "1"})
		w.Create(w.Alice, "application_tag", map[string]any{"application": f, "tag_key": "line", "value": "esr"})
	}
	good := w.Release(w.Alice, "alice/harbour", false, "web")
	w.Open(w.Alice, "alice/harbour", false, "web")
	w.Release(w.Alice, "alice/depot", false, "web")
	w.Want(w.Alice, "PATCH", fmt.Sprintf("application(%d)", id), map[string]any{"is_public": true,
		"is_accessible_by_support_until__date": w.Now().Add(time.Hour).UnixMilli()}, 200, "")
	w.Device(id)
	for _, by := range []access.Caller{access.Nobody(), w.Bob} {
		w.Want(by, "GET", "application?$select=id", nil, 200, fmt.Sprintf(`{"d":[{"id":%d}]}`, id))
		w.Want(by, "GET", "release?$select=id", nil, 200, fmt.Sprintf(`{"d":[{"id":%d}]}`, good))
		w.Want(by, "GET", "application_tag?$select=value", nil, 200, `{"d":[{"value":"esr"}]}`)
		w.Want(by, "GET", "service?$select=service_name", nil, 200, `{"d":[{"service_name":"web"}]}`)
		for _, resource := range []string{"application_environment_variable", "application_config_variable",
			"build_environment_variable", "device"} {
			status := 200
			if by.Kind == access.Anonymous {
				status = 401
			}
			if _, body := w.Do(by, "GET", resource, nil); status == 200 && body != `{"d":[]}` {
				t.Errorf("%s reads %s: %s", by.Name, resource, body)
			}
			w.Want(by, "GET", resource, nil, status, "")
		}
		// It is not among one's own fleets, and there is no way in.
		if by.Kind == access.User {
			w.Want(by, "GET", "application?$filter=is_directly_accessible_by__user/any(dau:1 eq 1)", nil, 200, `{"d":[]}`)
			w.Want(by, "PATCH", fmt.Sprintf("application(%d)", id), map[string]any{"app_name": "mine"}, 403, "")
			w.Want(by, "DELETE", fmt.Sprintf("release(%d)", good), nil, 403, "")
			w.Want(by, "POST", "application_tag", map[string]any{"application": id, "tag_key": "k", "value": ""}, 401, "")
		}
	}
	w.Want(access.Nobody(), "GET", "application?$select=is_accessible_by_support_until__date", nil, 400, "")
}
