package apiserver_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/db"
)

// principal is one kind of credential, as the matrix tries it.
type principal struct {
	name  string
	kind  access.Kind
	token string
}

// principals makes one credential of each kind: all about one fleet.
func (s *server) principals() []principal {
	s.Helper()
	session := s.user("alice")
	fleet := s.fleet(session, "hello")
	var provisioning, named, scoped, reader string
	s.do(session, "POST", "/api-key/application/"+itoa(fleet)+"/provisioning", api.NewKey{}).want(http.StatusOK).into(&provisioning)
	s.do(session, "POST", "/api-key/user/full", api.NewKey{Name: "ci"}).want(http.StatusOK).into(&named)
	s.do(session, "POST", "/api-key/user/full", api.NewKey{Name: "less", Level: "developer"}).want(http.StatusOK).into(&scoped)
	s.do(session, "POST", "/api-key/v1", api.NewKey{ActorType: "application", ActorTypeID: fleet, Roles: []string{"fleet-api-key"}}).
		want(http.StatusOK).into(&reader)
	all := []principal{
		{"nobody", access.Anonymous, ""}, {"session", access.User, session}, {"named key", access.User, named}, {"scoped key", access.ScopedKey, scoped},
		{"device key", access.Device, s.device(session, fleet, api.DeviceUUID(strings.Repeat("a", 32))).APIKey},
		{"frozen device", access.FrozenDevice, s.device(session, fleet, api.DeviceUUID(strings.Repeat("f", 32))).APIKey},
		{"fleet key", access.FleetKey, reader}, {"provisioning key", access.Provisioning, provisioning},
		{"support staff", access.User, s.user("sue")}, {"half session", access.HalfUser, s.half("hal")},
	}
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "sue", Support: true}).want(http.StatusOK)
	for level, name := range []string{"olga", "otto", "dora"} {
		all = append(all, principal{"member of level " + itoa(level+1), access.User, s.user(name)})
		s.exec(`INSERT INTO user_application_membership (created_at, "user", is_member_of__application, application_membership_role)
			SELECT '2026-01-01T00:00:00.000Z', id, CAST(? AS BIGINT), CAST(? AS BIGINT) FROM "user" WHERE username = ?`, fleet, level+1, name)
	}
	s.exec(`UPDATE device SET is_frozen = 1 WHERE uuid = ?`, strings.Repeat("f", 32))
	return all
}

// half makes a user with a second factor and gives a session that waits for it.
func (s *server) half(name string) string {
	s.Helper()
	var made api.NewUser
	s.role(api.RoleAdmin, "POST", "/internal/v1/users", api.NewUser{Email: name + "@example.com", Username: name}).want(http.StatusCreated).into(&made)
	s.exec(`INSERT INTO passkey ("user", created_at, name, credential, public_key, sign_count, is_way_in)
		SELECT id, '2026-01-01T00:00:00.000Z', 'key', username, 'none', 0, 0 FROM "user" WHERE username = ?`, name)
	return s.login(name, made.Password)
}

// exec changes the database behind the server's back.
func (s *server) exec(query string, args ...any) {
	s.Helper()
	s.must(s.running.WriteElsewhere(s.Context(), func(tx *db.Tx) error {
		_, err := tx.ExecContext(s.Context(), query, args...)
		return err
	}))
}

// Who gets in at each route, as somebody would tell it who never saw the list. Whoever is let in is then judged row by row.
const publicDoors = `
                                                            nobody person limited device frozen fleet_key provisioning half
GET    /ping                                                | x x x x x x x x
GET    /connectivity-check                                  | x x x x x x x x
GET    /config                                              | x x x x x x x x
GET    /provenance/v1/keys                                  | x x x x x x x x
GET    /config/vars                                         | x x x x x x x x
GET    /device-types/v1                                     | x x x x x x x x
GET    /device-types/v1/{slug}                              | x x x x x x x x
GET    /device-types/v1/{slug}/images/{version}/download-size | x x x x x x x x
GET    /download                                            | x x x x x x x x
GET    /os/v1/config                                        | x x x x x x x x
GET    /.well-known/security.txt                            | x x x x x x x x
POST   /login_                                              | x x x x x x x x
GET    /auth/v1/providers                                   | x x x x x x x x
POST   /auth/v1/device/code                                 | x x x x x x x x
POST   /auth/v1/device/token                                | x x x x x x x x
POST   /auth/v1/providers/{name}/start                      | x x - - - - - -
POST   /auth/v1/providers/{name}/finish                     | x x - - - - - -
POST   /auth/v1/device/lookup                               | - x - - - - - -
POST   /auth/v1/device/approve                              | - x - - - - - -
GET    /user/v1/identities                                  | - x - - - - - -
DELETE /user/v1/identities/{id}                             | - x - - - - - -
POST   /user/v1/sessions                                    | - x - - - - - -
POST   /user/v1/password/forgot                             | x x x x x x x x
POST   /user/v1/password/reset                              | x x x x x x x x
GET    /blobs/{id}                                          | x x x x x x x x
PUT    /blobs/uploads/{upload}/{part}                       | x x x x x x x x
*      /v7/                                                 | x x x x - x - -
*      /v6/                                                 | x x x x - x - -
*      /v5/                                                 | x x x x - x - -
POST   /v7/device_config_variable                           | x x x x - x - -
POST   /v6/device_config_variable                           | x x x x - x - -
GET    /device/v3/fleet/{uuid}/state                        | x x x x - x - -
GET    /device/v3/fleet/{uuid}/state/{$}                    | x x x x - x - -
GET    /audit/v1/keys                                       | x x x x x x x x
GET    /audit/v1/export                                     | - x - - - - - -
GET    /actor/v1/whoami                                     | - x x x x x - -
GET    /user/v1/whoami                                      | - x x - - - - -
GET    /user/v1/refresh-token                               | - x - - - - - x
POST   /user/v1/refresh-token                               | - x - - - - - -
POST   /user/v1/logout                                      | - x - - - - - -
GET    /user/v1/sessions                                    | - x - - - - - -
DELETE /user/v1/sessions/{id}                               | - x - - - - - -
POST   /api-key/user/full                                   | - x - - - - - -
POST   /api-key/v1                                          | - x x - - - - -
POST   /api-key/v1/{$}                                      | - x x - - - - -
POST   /api-key/v2                                          | - x x - - - - -
POST   /api-key/v2/{$}                                      | - x x - - - - -
POST   /api-key/application/{id}/provisioning               | - x x - - - - -
POST   /api-key/device/{id}/device-key                      | - x x - - - - -
GET    /api-key/v1/{id}/explain                             | - x x - - - - -
GET    /base/v1/images                                      | - x x - - - - -
GET    /base/v1/images/{digest}/{what}                      | - x x - - - - -
GET    /service-account/v1                                  | - x - - - - - -
POST   /service-account/v1                                  | - x - - - - - -
DELETE /service-account/v1/{id}                             | - x - - - - - -
POST   /service-account/v1/{id}/key                         | - x - - - - - -
POST   /user/v1/invitation/{token}                          | - x - - - - - -
POST   /org/v1/invitation/{token}                           | - x - - - - - -
POST   /user/v1/invitations/{id}/link                       | - x - - - - - -
POST   /org/v1/invitations/{id}/link                        | - x - - - - - -
GET    /storage/v1/organization/{name}                      | - x - - - - - -
GET    /transfer/v1                                         | - x - - - - - -
POST   /transfer/v1                                         | - x - - - - - -
POST   /transfer/v1/{id}/accept                             | - x - - - - - -
POST   /transfer/v1/{id}/decline                            | - x - - - - - -
DELETE /transfer/v1/{id}                                    | - x - - - - - -
GET    /build-source/v1                                     | - x x - - - - -
POST   /build-source/v1                                     | - x - - - - - -
GET    /build-source/v1/{id}                                | - x x - - - - -
DELETE /build-source/v1/{id}                                | - x - - - - - -
POST   /build-source/v1/{id}/rotate                         | - x - - - - - -
POST   /build-source/v1/{id}/build                          | - x x - - - - -
GET    /build-source/v1/{id}/deliveries                     | - x x - - - - -
POST   /hooks/v1/{token}                                    | x x x x x x x x
GET    /download-config                                     | - x x - - - - -
POST   /download-config                                     | - x x - - - - -
POST   /device/register                                     | - x x - - - x -
GET    /device/v3/{uuid}/state                              | - x x x - - - -
GET    /device/v2/{uuid}/state                              | - x x x - - - -
PATCH  /device/v3/state                                     | - - - x - - - -
PATCH  /device/v2/{uuid}/state                              | - - - x - - - -
PATCH  /device/v3/tags                                      | - - - x - - - -
POST   /device/v2/{uuid}/log-stream                         | - - - x - - - -
POST   /device/v2/{uuid}/logs                               | - - - x - - - -
GET    /device/v2/{uuid}/logs                               | - x x x - - - -
POST   /supervisor/{path...}                                | - x x x - - - -
POST   /application/{id}/restart                            | - x x - - - - -
POST   /device-actions/v1                                   | - x x - - - - -
POST   /device-actions/v1/{id}/cancel                       | - x x - - - - -
GET    /device-actions/v1/{id}/result                       | - x x - - - - -
POST   /device/v3/actions                                   | - - - x - - - -
POST   /device/v3/channel                                   | - - - x - - - -
GET    /channel/v1/device/{uuid}                            | - x x - - - - -
PUT    /channel/v1/device/{uuid}                            | - x x - - - - -
POST   /channel/v1/device/{uuid}/reset                      | - x x - - - - -
GET    /channel/v1/fleet/{id}                               | - x x - - - - -
PUT    /channel/v1/fleet/{id}                               | - x x - - - - -
GET    /auth/v1/public-keys/{username}                      | - x x x - - - -
GET    /access/v1/hostos/{uuid}                             | - x x - - - - -
GET    /device-url/v1/{uuid}                                | - x x - - - - -
PUT    /device-url/v1/{uuid}                                | - x x - - - - -
POST   /device-url/v1/{uuid}/visit                          | - x - - - - - -
GET    /auth/v1/token                                       | - x x x - - - -
GET    /trust/v1/fleets                                     | - x x - - - - -
GET    /trust/v1/fleets/{fleet}                             | - x x - - - - -
POST   /trust/v1/fleets/{fleet}/upload                      | - x x - - - - -
POST   /trust/v1/fleets/{fleet}/withdraw                    | - x x - - - - -
GET    /trust/v1/fleets/{fleet}/proofs/{commit}             | - x x - - - - -
GET    /trust/v1/fleets/{fleet}/keys                        | - x x - - - - -
GET    /trust/v1/fleets/{fleet}/metadata/{file}             | - x x x - x - -
GET    /trust/v1/fleets/{fleet}/targets/releases/{document} | - x x x - x - -
POST   /trust/v1/device/{uuid}/bundle                       | - - - x - - - -
POST   /trust/v1/device/{uuid}/report                       | - - - x - - - -
GET    /trust/v1/log/checkpoint                             | - x x x - x - -
POST   /trust/v1/log/checkpoint                             | - x x x - x - -
POST   /trust/v1/log/cosignature                            | - x x - - - - -
GET    /trust/v1/log/entries                                | - x x - - - - -
GET    /trust/v1/log/inclusion                              | - x x x - x - -
GET    /trust/v1/log/consistency                            | - x x x - x - -
GET    /ssh/v1/authorities                                  | x x x x x x x x
POST   /ssh/v1/certificate                                  | - x x - - - - -
GET    /ssh/v1/device/{uuid}/way                            | - x x - - - - -
GET    /ssh/v1/device/{uuid}/host-key                       | - x x - - - - -
DELETE /ssh/v1/device/{uuid}/host-key                       | - x x - - - - -
GET    /ssh/v1/device/{uuid}/sessions                       | - x x - - - - -
GET    /ssh/v1/session/{id}/recording                       | - x x - - - - -
POST   /ssh/v1/session/{id}/end                             | - x x - - - - -
POST   /device/v3/ssh/key                                   | - - - x - - - -
POST   /device/v3/ssh/begin                                 | - - - x - - - -
POST   /device/v3/ssh/still                                 | - - - x - - - -
POST   /device/v3/ssh/end                                   | x x x x x x x x
PUT    /device/v3/ssh/session/{id}/recording                | x x x x x x x x
POST   /user/v1/delete                                      | - x - - - - - -
POST   /user/v1/password                                    | - x - - - - - -
DELETE /user/v1/sessions                                    | - x - - - - - -
GET    /user/v1/factors                                     | - x - - - - - -
POST   /auth/totp/verify                                    | - x - - - - - x
GET    /auth/totp/setup                                     | - x - - - - - x
POST   /auth/totp/enable                                    | - x - - - - - x
POST   /auth/totp/disable                                   | - x - - - - - -
POST   /auth/totp/recovery-codes                            | - x - - - - - -
POST   /auth/webauthn/register/start                        | - x - - - - - x
POST   /auth/webauthn/register                              | - x - - - - - x
DELETE /auth/webauthn/{id}                                  | - x - - - - - -
POST   /auth/webauthn/verify/start                          | - - - - - - - x
POST   /auth/webauthn/verify                                | - - - - - - - x
POST   /auth/webauthn/login/start                           | x x x x x x x x
POST   /auth/webauthn/login                                 | x x x x x x x x
`

var doorKinds = []access.Kind{
	access.Anonymous, access.User, access.ScopedKey, access.Device, access.FrozenDevice, access.FleetKey, access.Provisioning,
	access.HalfUser,
}

// internalDoors are the routes of the listener between roles, with the roles that get in.
const internalDoors = `
GET  /healthz                           | edge api signer registry builder bus parent admin dashboard git vpn
GET  /internal/v1/load                  | parent admin
POST /internal/channel/login            | vpn
POST /internal/channel/sessions         | vpn
POST /internal/v1/bootstrap             | parent
POST /internal/v1/users                 | admin
POST /internal/v1/users/password        | admin
POST /internal/v1/users/support         | admin
POST /internal/v1/users/support/list    | admin
POST /internal/v1/audit/export          | admin
POST /internal/v1/audit/checkpoint      | admin
POST /internal/v1/mail                  | admin
POST /internal/v1/mail/test             | admin
POST /internal/v1/users/list            | admin
POST /internal/v1/users/show            | admin
POST /internal/v1/users/change          | admin
POST /internal/v1/users/delete          | admin
POST /internal/v1/check                 | admin
POST /internal/v1/backup                | admin
POST /internal/v1/os-releases           | admin
POST /internal/v1/registry/room         | registry
POST /internal/v1/registry/link         | registry
POST /internal/v1/registry/collect      | registry
POST /internal/v1/registry/found        | registry
POST /internal/v1/registry/usage        | admin
POST /internal/v1/registry/quota        | admin
POST /internal/v1/builds                | builder
POST /internal/v1/builders/ask          | builder
GET  /internal/v1/builds/{id}           | builder signer
POST /internal/v1/builds/{id}/images    | builder
POST /internal/v1/builds/{id}/heartbeat | builder
POST /internal/v1/builds/{id}/watch     | builder
POST /internal/v1/builds/{id}/finish    | builder
POST /internal/v1/builds/{id}/emptied   | builder
POST /internal/v1/quarantine/next       | builder
POST /internal/v1/git/key               | git
POST /internal/v1/git/open              | git
POST /internal/v1/git/tickets           | git
POST /internal/v1/git/fleets            | git
POST /internal/ssh/key                  | vpn
POST /internal/ssh/certificate          | vpn
POST /internal/ssh/host                 | vpn
POST /internal/ssh/host-key             | vpn
POST /internal/ssh/begin                | vpn
POST /internal/ssh/still                | vpn
POST /internal/ssh/end                  | vpn
POST /internal/v1/witnesses/list        | admin
POST /internal/v1/witnesses/remove      | admin
POST /internal/v1/workers/add           | admin
POST /internal/v1/workers/list          | admin
POST /internal/v1/workers/remove        | admin
POST /internal/v1/workers/join          | builder
POST /internal/v1/workers/open          | builder
POST /internal/v1/workers/live          | builder
POST /internal/v1/sources/next          | git
POST /internal/reach/permit             | vpn
POST /internal/reach/still              | vpn
POST /internal/reach/visit              | vpn
POST /internal/v1/sources/renew         | git
POST /internal/v1/sources/finish        | git
`

// doors reads a table: "METHOD path" → who gets in.
func doors(text string) map[string][]string {
	out := map[string][]string{}
	for _, line := range strings.Split(text, "\n") {
		if route, who, ok := strings.Cut(line, "|"); ok {
			f := strings.Fields(route)
			out[strings.TrimPrefix(f[0], "*")+" "+f[1]] = strings.Fields(who)
		}
	}
	return out
}

// Every route with every credential, against the table above: who is not in it is refused before the handler runs, with 401 for
// nobody and for keys that open one door or none, 403 for the others. A route that is in no table fails, and so does a line
// without a route.
func TestEveryRouteWithEveryCredential(t *testing.T) {
	s := newServer(t)
	all := s.principals()
	public, internal := doors(publicDoors), doors(internalDoors)
	tried := 0
	for _, rt := range apiserver.Routes() {
		name := rt.Method + " " + rt.Path
		line, known := public[name]
		roles, inside := internal[name]
		delete(public, name)
		delete(internal, name)
		switch {
		case rt.Internal && !inside, !rt.Internal && !known:
			t.Errorf("no table speaks of %s", name)
			continue
		case rt.Internal:
			tried += s.doorsOfRoles(rt, roles)
			continue
		}
		for _, p := range all {
			tried++
			s.tryDoor(rt, p, line[slices.Index(doorKinds, p.kind)] == "x")
		}
	}
	for name := range public {
		t.Errorf("there is no route %s", name)
	}
	for name := range internal {
		t.Errorf("there is no route %s", name)
	}
	t.Logf("%d cells", tried)
}

// fillRoute gives a route's wildcards values of nothing that is there.
func fillRoute(rt apiserver.RouteInfo) (method, path string) {
	method, path = rt.Method, strings.NewReplacer("{$}", "", "{id}", "99999", "{uuid}", strings.Repeat("b", 32), "{slug}", "nothing", "{version}", "6.0.0",
		"{upload}", strings.Repeat("a", 32), "{part}", "1", "{path...}", "v1/blink", "{name}", "nothing", "{username}", "nobody", "{token}", "x").Replace(rt.Path)
	if method == "" {
		method, path = "GET", path+"application"
	}
	return method, path
}

// tryDoor asks at a route as somebody.
func (s *server) tryDoor(rt apiserver.RouteInfo, p principal, in bool) {
	s.Helper()
	method, path := fillRoute(rt)
	declared := slices.Contains(rt.Who, p.kind) || slices.Equal(rt.Who, []access.Kind{access.Anonymous})
	if in != declared {
		s.Errorf("%s %s with a %s: the table says %v, the list %v", rt.Method, rt.Path, p.name, in, declared)
	}
	if in && (strings.Contains(path, "logout") || strings.Contains(path, "refresh-token")) {
		return // it would end the session that the test needs
	}
	got := s.do(p.token, method, path, nil)
	want := http.StatusForbidden
	if slices.Contains([]access.Kind{access.Anonymous, access.Provisioning, access.FrozenDevice, access.HalfUser}, p.kind) {
		want = http.StatusUnauthorized
	}
	switch {
	case !in && got.status != want:
		s.Errorf("%s %s with a %s: got %d %s, want %d", rt.Method, rt.Path, p.name, got.status, got.body, want)
	case in && (strings.Contains(got.body, "this is not for a") || got.status == http.StatusInternalServerError):
		s.Errorf("%s %s with a %s: got %d %s, want it let in", rt.Method, rt.Path, p.name, got.status, got.body)
	}
}

// everyRole has a certificate of the server's authority.
var everyRole = []string{
	api.RoleEdge, api.RoleAPI, api.RoleSigner, api.RoleRegistry, api.RoleBuilder, api.RoleBus, api.RoleParent, api.RoleAdmin, api.RoleDashboard,
	api.RoleGit, api.RoleVPN,
}

// doorsOfRoles asks at an internal route as each role that may not; for the public, through the edge, there is no such route.
func (s *server) doorsOfRoles(rt apiserver.RouteInfo, roles []string) (tried int) {
	s.Helper()
	method, path := fillRoute(rt)
	if got := rt.Roles; !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(roles))) {
		s.Errorf("%s %s: the table says %v, the list %v", method, path, roles, got)
	}
	for _, role := range everyRole {
		if slices.Contains(roles, role) {
			continue // what it does then is told by other tests
		}
		tried++
		if got := s.role(role, method, path, nil, "Authorization: Bearer "+s.admin.APIKey); got.status != http.StatusNotFound {
			s.Errorf("%s %s as the %s: got %d %s, want 404", method, path, role, got.status, got.body)
		}
	}
	return tried
}

// No role has a way to the data but the edge and the dashboard, which bring other people's tokens: with a certificate of its own, even with an
// administrator's key in its hand, a role gets no row of any resource, and writes none.
func TestNoRoleReachesTheResources(t *testing.T) {
	s := newServer(t)
	for _, role := range everyRole {
		for _, token := range []string{"", s.admin.APIKey} {
			for _, what := range []string{
				"GET /v7/device", "GET /v7/application", "GET /v7/api_key", "GET /v7/device_type", "GET /v6/device", "GET /v7/$metadata",
				"POST /v7/application", "PATCH /v7/device(1)", "DELETE /v7/device(1)",
			} {
				if brings(role) && (token != "" || strings.Contains(what, "device_type") || strings.Contains(what, "metadata") ||
					what == "GET /v7/application") {
					continue // what anybody may
				}
				method, path, _ := strings.Cut(what, " ")
				var headers []string
				if token != "" {
					headers = append(headers, "Authorization: Bearer "+token)
				}
				got := s.role(role, method, path, nil, headers...)
				if got.status != http.StatusForbidden && (!brings(role) || got.status != http.StatusUnauthorized) {
					t.Errorf("%s as the %s: got %d %s, want 403", what, role, got.status, got.body)
				}
			}
		}
	}
}

// brings reports whether a role brings other people's requests.
func brings(role string) bool { return role == api.RoleEdge || role == api.RoleDashboard }

// A provisioning key gets in at one door.
func TestDoorsOfAProvisioningKey(t *testing.T) {
	var doors []string
	for _, rt := range apiserver.Routes() {
		if slices.Contains(rt.Who, access.Provisioning) {
			doors = append(doors, rt.Method+" "+rt.Path)
		}
	}
	if !slices.Equal(doors, []string{"POST /device/register"}) {
		t.Errorf("doors: got %v", doors)
	}
}
