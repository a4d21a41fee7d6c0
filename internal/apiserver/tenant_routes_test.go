package apiserver_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/db"
)

// The routes beside the resources, which the policy tables are about: whoever names what is another tenant's at any of them is told what they
// are told of what is not there, and changes nothing; also who is in both organizations, of what is not theirs in either.

// things are what requests can name of one tenant.
type things struct {
	who, handle, slug           string
	fleet, device, key, session int64
	uuid, fleetUUID             string
	doomed, keyed               int64  // service accounts: to be deleted, and to be given keys
	toOrganization, toFleet     int64  // invitations
	outgoing, incoming, other   int64  // offers of fleets: made, and two received
	spareSlug                   string // of a fleet to be offered
	passkey, identity           int64
	source, doomedSource        int64
	action                      int64   // that was done, with a result
	sibling                     *things // another fleet of the same organization, and its device
}

// absent are things that nobody has.
var absent = &things{
	who: "nobody-there", handle: "nobody-there", slug: "nobody-there/nothing", spareSlug: "nobody-there/spare", uuid: strings.Repeat("9", 32), fleetUUID: strings.Repeat("9", 32),
	fleet: 99_001, device: 99_002, key: 99_003, session: 99_004, doomed: 99_006, keyed: 99_007, toOrganization: 99_008, toFleet: 99_009,
	outgoing: 99_010, incoming: 99_011, other: 99_012, passkey: 99_013, identity: 99_014, source: 99_015, doomedSource: 99_016, action: 99_017,
}

// What a thing belongs to says who may name it.
const (
	ofFleet  = "fleet" // and by whom: an observer reads
	reading  = "reading a fleet"
	ofOrg    = "organization"
	member   = "being in an organization" // every member reads
	ofPerson = "person"
)

// naming is how a route names things; n is a number that no request had before.
type naming struct {
	of  string
	ask func(b *things, n int) (path string, body any)
	// offline: nobody gets more than an error here, as no device can be called in these tests, and no signer asked.
	offline bool
}

func at(format string, what func(b *things) any) func(b *things, n int) (string, any) {
	return func(b *things, _ int) (string, any) { return fmt.Sprintf(format, what(b)), nil }
}

func posting(path string, body func(b *things, n int) any) func(b *things, n int) (string, any) {
	return func(b *things, n int) (string, any) { return path, body(b, n) }
}

func uuidOf(b *things) any      { return b.uuid }
func fleetOf(b *things) any     { return b.fleet }
func fleetUUIDOf(b *things) any { return b.fleetUUID }

func switching(format string, what func(b *things) any) func(b *things, n int) (string, any) {
	return func(b *things, _ int) (string, any) {
		return fmt.Sprintf(format, what(b)), api.ChannelSwitch{Mode: api.ChannelOff}
	}
}

func variableOf(b *things, n int) any {
	return map[string]any{"device": b.device, "name": fmt.Sprintf("RESIN_HOST_N%d", n), "value": "v"}
}

func keyFor(actor, role string, id func(b *things) int64) func(b *things, n int) any {
	return func(b *things, _ int) any {
		return map[string]any{"actorType": actor, "actorTypeId": id(b), "roles": []string{role}}
	}
}

var routesThatName = map[string]naming{
	"GET /device/v3/fleet/{uuid}/state":     {of: reading, ask: at("/device/v3/fleet/%s/state", fleetUUIDOf)},
	"GET /device/v3/fleet/{uuid}/state/{$}": {of: reading, ask: at("/device/v3/fleet/%s/state/", fleetUUIDOf)},
	"GET /device/v3/{uuid}/state":           {of: reading, ask: at("/device/v3/%s/state", uuidOf)},
	"GET /device/v2/{uuid}/state":           {of: reading, ask: at("/device/v2/%s/state", uuidOf)},
	"GET /device/v2/{uuid}/logs":            {of: reading, ask: at("/device/v2/%s/logs", uuidOf)},
	"POST /api-key/user/full": {of: reading, ask: posting("/api-key/user/full", func(b *things, n int) any {
		return api.NewKey{Name: fmt.Sprintf("key %d", n), Fleets: []string{b.slug}}
	})},
	"GET /device-url/v1/{uuid}": {of: reading, ask: at("/device-url/v1/%s", uuidOf)},
	"PUT /device-url/v1/{uuid}": {of: ofFleet, ask: func(b *things, n int) (string, any) {
		return "/device-url/v1/" + b.uuid, map[string]any{"port": 8000 + n}
	}},
	"POST /device-url/v1/{uuid}/visit": {of: ofFleet, offline: true, ask: func(b *things, _ int) (string, any) {
		return "/device-url/v1/" + b.uuid + "/visit", api.ReachVisit{State: "x"}
	}},
	"GET /access/v1/hostos/{uuid}": {of: ofFleet, ask: at("/access/v1/hostos/%s", uuidOf)},
	"POST /supervisor/{path...}": {of: ofFleet, offline: true, ask: posting("/supervisor/v1/blink", func(b *things, _ int) any {
		return map[string]any{"deviceId": b.device, "uuid": b.uuid}
	})},
	"POST /application/{id}/restart":              {of: ofFleet, offline: true, ask: at("/application/%d/restart", func(b *things) any { return b.fleet })},
	"POST /api-key/application/{id}/provisioning": {of: ofFleet, ask: at("/api-key/application/%d/provisioning", func(b *things) any { return b.fleet })},
	"POST /api-key/device/{id}/device-key":        {of: ofFleet, ask: at("/api-key/device/%d/device-key", func(b *things) any { return b.device })},
	"POST /api-key/v1":                            {of: ofFleet, ask: posting("/api-key/v1", keyFor("application", "provisioning-api-key", func(b *things) int64 { return b.fleet }))},
	"POST /api-key/v1/{$}":                        {of: ofFleet, ask: posting("/api-key/v1/", keyFor("device", "device-api-key", func(b *things) int64 { return b.device }))},
	"POST /api-key/v2":                            {of: ofFleet, ask: posting("/api-key/v2", keyFor("application", "fleet-api-key", func(b *things) int64 { return b.fleet }))},
	"POST /api-key/v2/{$}":                        {of: ofFleet, ask: posting("/api-key/v2/", keyFor("application", "provisioning-api-key", func(b *things) int64 { return b.fleet }))},
	"GET /download-config":                        {of: ofFleet, ask: at("/download-config?version=2.100.0&appId=%d", func(b *things) any { return b.fleet })},
	"POST /download-config":                       {of: ofFleet, ask: posting("/download-config", func(b *things, _ int) any { return map[string]any{"version": "2.100.0", "appId": b.fleet} })},
	"POST /device/register": {of: ofFleet, ask: posting("/device/register", func(b *things, n int) any {
		return map[string]any{"application": b.fleet, "uuid": fmt.Sprintf("%032x", 0xfeed000+n), "device_type": "generic-amd64"}
	})},
	"POST /v7/device_config_variable": {of: ofFleet, ask: posting("/v7/device_config_variable", variableOf)},
	"POST /v6/device_config_variable": {of: ofFleet, ask: posting("/v6/device_config_variable", variableOf)},

	"POST /service-account/v1": {of: ofOrg, ask: posting("/service-account/v1", func(b *things, n int) any {
		return api.ServiceAccount{Name: fmt.Sprintf("robot-n%d", n), Organization: b.handle}
	})},
	"DELETE /service-account/v1/{id}": {of: ofOrg, ask: at("/service-account/v1/%d", func(b *things) any { return b.doomed })},
	"POST /service-account/v1/{id}/key": {of: ofOrg, ask: func(b *things, n int) (string, any) {
		return fmt.Sprintf("/service-account/v1/%d/key", b.keyed), api.NewKey{Name: fmt.Sprintf("key %d", n)}
	}},
	"POST /org/v1/invitations/{id}/link":  {of: ofOrg, ask: at("/org/v1/invitations/%d/link", func(b *things) any { return b.toOrganization })},
	"POST /user/v1/invitations/{id}/link": {of: ofOrg, ask: at("/user/v1/invitations/%d/link", func(b *things) any { return b.toFleet })},
	"GET /storage/v1/organization/{name}": {of: member, ask: at("/storage/v1/organization/%s", func(b *things) any { return b.handle })},
	"POST /transfer/v1": {of: ofOrg, ask: posting("/transfer/v1", func(b *things, _ int) any {
		return api.NewTransfer{Fleet: b.spareSlug, Organization: "dave"}
	})},
	"DELETE /transfer/v1/{id}":       {of: ofOrg, ask: at("/transfer/v1/%d", func(b *things) any { return b.outgoing })},
	"POST /transfer/v1/{id}/accept":  {of: ofOrg, ask: at("/transfer/v1/%d/accept", func(b *things) any { return b.incoming })},
	"POST /transfer/v1/{id}/decline": {of: ofOrg, ask: at("/transfer/v1/%d/decline", func(b *things) any { return b.other })},

	"GET /build-source/v1": {of: ofFleet, ask: at("/build-source/v1?fleet=%s", func(b *things) any { return url.QueryEscape(b.slug) })},
	"POST /build-source/v1": {of: ofFleet, ask: posting("/build-source/v1", func(b *things, _ int) any {
		return api.NewBuildSource{Fleet: b.slug, URL: "https://git.example.com/app.git", Form: api.FormGitea}
	})},
	"GET /build-source/v1/{id}":            {of: ofFleet, ask: at("/build-source/v1/%d", func(b *things) any { return b.source })},
	"GET /build-source/v1/{id}/deliveries": {of: ofFleet, ask: at("/build-source/v1/%d/deliveries", func(b *things) any { return b.source })},
	"POST /build-source/v1/{id}/rotate":    {of: ofFleet, ask: at("/build-source/v1/%d/rotate", func(b *things) any { return b.source })},
	"POST /build-source/v1/{id}/build":     {of: ofFleet, ask: at("/build-source/v1/%d/build", func(b *things) any { return b.source })},
	"DELETE /build-source/v1/{id}":         {of: ofFleet, ask: at("/build-source/v1/%d", func(b *things) any { return b.doomedSource })},

	"GET /ssh/v1/device/{uuid}/way":         {of: ofFleet, offline: true, ask: at("/ssh/v1/device/%s/way", uuidOf)},
	"GET /ssh/v1/device/{uuid}/host-key":    {of: ofFleet, ask: at("/ssh/v1/device/%s/host-key", uuidOf)},
	"DELETE /ssh/v1/device/{uuid}/host-key": {of: ofFleet, offline: true, ask: at("/ssh/v1/device/%s/host-key", uuidOf)},
	"GET /ssh/v1/device/{uuid}/sessions":    {of: ofFleet, ask: at("/ssh/v1/device/%s/sessions", uuidOf)},
	"POST /ssh/v1/certificate": {of: ofFleet, offline: true, ask: posting("/ssh/v1/certificate", func(b *things, _ int) any {
		return api.SSHCertificateAsk{Device: api.DeviceUUID(b.uuid), PublicKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPn3SAl0XNepBrKIwqu97e8GN6u41trFccff+VLRF3Dz"}
	})},
	"GET /channel/v1/device/{uuid}":        {of: reading, ask: at("/channel/v1/device/%s", uuidOf)},
	"PUT /channel/v1/device/{uuid}":        {of: ofFleet, ask: switching("/channel/v1/device/%s", uuidOf)},
	"POST /channel/v1/device/{uuid}/reset": {of: ofFleet, ask: at("/channel/v1/device/%s/reset", uuidOf)},
	"GET /channel/v1/fleet/{id}":           {of: reading, ask: at("/channel/v1/fleet/%d", fleetOf)},
	"PUT /channel/v1/fleet/{id}":           {of: ofFleet, ask: switching("/channel/v1/fleet/%d", fleetOf)},
	"POST /device-actions/v1": {of: ofFleet, ask: posting("/device-actions/v1", func(b *things, _ int) any {
		return api.NewAction{Devices: []api.DeviceUUID{api.DeviceUUID(b.uuid)}, Verb: api.ActPing}
	})},
	"POST /device-actions/v1/{id}/cancel": {of: ofFleet, offline: true, ask: at("/device-actions/v1/%d/cancel", func(b *things) any { return b.action })},
	"GET /device-actions/v1/{id}/result":  {of: ofFleet, ask: at("/device-actions/v1/%d/result", func(b *things) any { return b.action })},

	"GET /trust/v1/fleets/{fleet}":                 {of: reading, offline: true, ask: at("/trust/v1/fleets/%s", slugInPath)},
	"GET /trust/v1/fleets/{fleet}/proofs/{commit}": {of: reading, offline: true, ask: at("/trust/v1/fleets/%s/proofs/"+strings.Repeat("c", 32), slugInPath)},
	"POST /trust/v1/fleets/{fleet}/upload": {of: ofFleet, offline: true, ask: func(b *things, _ int) (string, any) {
		return "/trust/v1/fleets/" + url.PathEscape(b.slug) + "/upload", api.TrustUpload{Files: []api.TrustFile{{Role: api.TrustRoot, Data: []byte("{}")}}}
	}},
	"POST /trust/v1/fleets/{fleet}/withdraw": {of: ofFleet, offline: true, ask: func(b *things, _ int) (string, any) {
		return "/trust/v1/fleets/" + url.PathEscape(b.slug) + "/withdraw", api.TrustWithdrawal{Files: []string{"1.root"}}
	}},
	"GET /trust/v1/fleets/{fleet}/keys":                        {of: reading, offline: true, ask: at("/trust/v1/fleets/%s/keys", slugInPath)},
	"GET /trust/v1/fleets/{fleet}/metadata/{file}":             {of: reading, offline: true, ask: at("/trust/v1/fleets/%s/metadata/root.json", slugInPath)},
	"GET /trust/v1/fleets/{fleet}/targets/releases/{document}": {of: reading, offline: true, ask: at("/trust/v1/fleets/%s/targets/releases/"+strings.Repeat("c", 32)+".json", slugInPath)},

	"GET /api-key/v1/{id}/explain":        {of: ofPerson, ask: at("/api-key/v1/%d/explain", func(b *things) any { return b.key })},
	"DELETE /user/v1/sessions/{id}":       {of: ofPerson, ask: at("/user/v1/sessions/%d", func(b *things) any { return b.session })},
	"GET /auth/v1/public-keys/{username}": {of: ofPerson, ask: at("/auth/v1/public-keys/%s", func(b *things) any { return b.who })},
	"DELETE /user/v1/identities/{id}":     {of: ofPerson, ask: at("/user/v1/identities/%d", func(b *things) any { return b.identity })},
	"DELETE /auth/webauthn/{id}":          {of: ofPerson, ask: at("/auth/webauthn/%d", func(b *things) any { return b.passkey })},
}

func slugInPath(b *things) any { return url.PathEscape(b.slug) }

// routesThatNameNothing are about the caller alone, or about a secret that whoever has it may use; and what tells so.
var routesThatNameNothing = map[string]string{
	" /v7/": "TestPolicyMatrix", " /v6/": "TestPolicyMatrix", " /v5/": "TestPolicyMatrix",
	"GET /auth/v1/token": "TestRegistryToken", "GET /audit/v1/export": "TestTheLogIsForItsOwn",
	"POST /org/v1/invitation/{token}": "TestInvitations", "POST /user/v1/invitation/{token}": "TestInvitations",
	"POST /auth/v1/device/lookup": "signin.TestLoginByCode", "POST /auth/v1/device/approve": "signin.TestLoginByCode",
	"POST /auth/v1/providers/{name}/start": "signin.TestWhoMayLink", "POST /auth/v1/providers/{name}/finish": "signin.TestWhoMayLink",
	"GET /ssh/v1/session/{id}/recording": "devicessh.TestWhoSeesSessions", "POST /ssh/v1/session/{id}/end": "devicessh.TestAnOrderEndsASession",
	"GET /trust/v1/log/checkpoint": "trust.TestTheLogTellsOnlyWhatOneMayRead", "GET /trust/v1/log/entries": "trust.TestTheLogTellsOnlyWhatOneMayRead",
	"GET /trust/v1/log/inclusion": "trust.TestTheLogTellsOnlyWhatOneMayRead", "GET /trust/v1/log/consistency": "trust.TestTheLogTellsOnlyWhatOneMayRead",
	"GET /trust/v1/fleets":          "trust.TestFleetsInShort",
	"POST /trust/v1/log/checkpoint": "trust.TestAnotherHistoryIsKept", "POST /trust/v1/log/cosignature": "trust.TestAWitnessSigns",
	"GET /base/v1/images": "bases.TestRoutes", "GET /base/v1/images/{digest}/{what}": "bases.TestRoutes", // the same for everybody
	"GET /actor/v1/whoami": "", "GET /user/v1/whoami": "", "GET /user/v1/refresh-token": "", "POST /user/v1/refresh-token": "", "POST /user/v1/logout": "",
	"GET /user/v1/sessions": "", "POST /user/v1/sessions": "", "DELETE /user/v1/sessions": "", "GET /user/v1/identities": "", "POST /user/v1/password": "",
	"POST /user/v1/delete": "", "GET /service-account/v1": "", "GET /transfer/v1": "", "GET /user/v1/factors": "",
	"GET /auth/totp/setup": "", "POST /auth/totp/enable": "", "POST /auth/totp/verify": "", "POST /auth/totp/disable": "", "POST /auth/totp/recovery-codes": "",
	"POST /auth/webauthn/register/start": "", "POST /auth/webauthn/register": "",
}

// furnish makes a tenant who has everything that a route can name. dave, of a third organization, is who offers and is offered fleets.
func (s *server) furnish(name, digit, dave string) (session string, b *things) {
	s.Helper()
	session = s.user(name)
	b = &things{who: name, handle: name, slug: name + "/" + name + "fleet", spareSlug: name + "/" + name + "spare", uuid: strings.Repeat(digit, 32)}
	org := s.id(session, "organization?$select=id")
	s.fleet(session, name+"given")
	b.sibling = &things{handle: name, slug: b.spareSlug, spareSlug: b.spareSlug, uuid: digit + strings.Repeat("7", 31)}
	for _, in := range []*things{b, b.sibling} {
		in.fleet = s.fleet(session, strings.TrimPrefix(in.slug, name+"/"))
		s.device(session, in.fleet, api.DeviceUUID(in.uuid))
		in.device = s.number(`SELECT id FROM device WHERE uuid = ?`, in.uuid)
		for _, id := range []*int64{&in.source, &in.doomedSource} {
			var made api.BuildSourceSecret
			s.do(session, "POST", "/build-source/v1", api.NewBuildSource{Fleet: in.slug, URL: "https://git.example.com/app.git", Form: api.FormGitea}).
				want(http.StatusCreated).into(&made)
			*id = made.ID
		}
		s.exec(`INSERT INTO device_action (created_at, device, verb, state, expires_at, try_at, result)
			VALUES ('2026-01-01T00:00:00.000Z', ?, 'ping', 'done', '2026-01-01T00:00:00.000Z', '', '"so it is"')`, in.device)
		in.action = s.number(`SELECT max(id) FROM device_action WHERE device = ?`, in.device)
		in.fleetUUID = s.do(session, "GET", fmt.Sprintf("/v7/application(%d)?$select=uuid", in.fleet), nil).rows()[0]["uuid"].(string)
	}
	user := s.number(`SELECT id FROM "user" WHERE username = ?`, name)
	s.key(session, name+"s key", nil)
	b.key = s.number(`SELECT id FROM api_key WHERE name = ?`, name+"s key")
	s.do(session, "POST", "/user/v1/sessions", nil).want(http.StatusOK)
	b.session = s.number(`SELECT max(id) FROM session WHERE "user" = ?`, user)
	for robot, id := range map[string]*int64{"doomed": &b.doomed, "keyed": &b.keyed} {
		var made api.ServiceAccount
		s.do(session, "POST", "/service-account/v1", api.ServiceAccount{Name: name + "-" + robot, Organization: name}).want(http.StatusCreated).into(&made)
		*id = made.ID
	}
	b.toOrganization = s.made(session, "organization_invite", map[string]any{"invitee": "zoe@example.com", "is_invited_to__organization": org})
	b.toFleet = s.made(session, "application_invite", map[string]any{"invitee": "zoe@example.com", "is_invited_to__application": b.fleet})
	offer := func(token, fleet, to string) int64 {
		var o api.Transfer
		s.do(token, "POST", "/transfer/v1", api.NewTransfer{Fleet: fleet, Organization: to}).want(http.StatusCreated).into(&o)
		return o.ID
	}
	b.outgoing = offer(session, name+"/"+name+"given", "dave")
	for what, id := range map[string]*int64{"accepted": &b.incoming, "declined": &b.other} {
		s.fleet(dave, what+"by"+name)
		*id = offer(dave, "dave/"+what+"by"+name, name)
	}
	s.exec(`INSERT INTO passkey ("user", created_at, name, credential, public_key, sign_count, is_way_in) VALUES (?, '2026-01-01T00:00:00.000Z', 'key', ?, 'none', 0, 0)`,
		user, name)
	b.passkey = s.number(`SELECT id FROM passkey WHERE "user" = ?`, user)
	s.exec(`INSERT INTO user_identity ("user", provider, issuer, subject, label, created_at) VALUES (?, 'google', 'https://issuer.example.com', ?, 'x',
		'2026-01-01T00:00:00.000Z')`, user, name)
	b.identity = s.number(`SELECT id FROM user_identity WHERE "user" = ?`, user)
	return session, b
}

// holdings is what the routes could change, of everybody.
func (s *server) holdings() string {
	s.Helper()
	var all strings.Builder
	for _, query := range []string{
		`SELECT count(*) FROM session`, `SELECT count(*) FROM api_key`, `SELECT count(*) FROM "user"`, `SELECT count(*) FROM device`,
		`SELECT count(*) FROM fleet_transfer`, `SELECT sum(id * organization) FROM application`, `SELECT count(*) FROM device_config_variable`,
		`SELECT count(*) FROM organization_membership`, `SELECT count(*) FROM user_application_membership`, `SELECT count(*) FROM passkey`,
		`SELECT count(*) FROM user_identity`, `SELECT sum(id * made_by) FROM build_source`, `SELECT count(*) FROM build_delivery`,
		`SELECT count(*) FROM device_action`,
	} {
		fmt.Fprintf(&all, "%s: %d\n", query, s.number(query))
	}
	for _, query := range []string{`SELECT max(token_hash) FROM organization_invite`, `SELECT min(token_hash) FROM organization_invite`,
		`SELECT max(token_hash) FROM application_invite`, `SELECT min(token_hash) FROM application_invite`} {
		var hash string
		s.must(s.running.ReadElsewhere(s.Context(), func(tx *db.Tx) error { return tx.QueryRowContext(s.Context(), query).Scan(&hash) }))
		fmt.Fprintf(&all, "%s: %s\n", query, hash)
	}
	return all.String()
}

var (
	hexes  = regexp.MustCompile(`[0-9a-f]{32}`)
	digits = regexp.MustCompile(`[0-9]+`)
)

// blank takes out of an answer what the question named.
func (b *things) blank(body string) string {
	for _, name := range []string{b.spareSlug, b.slug, b.handle} {
		body = strings.ReplaceAll(body, name, "…")
	}
	return digits.ReplaceAllString(hexes.ReplaceAllString(body, "…"), "…")
}

// asking sends what a route takes about some things. Its number tells requests apart.
func (s *server) asking(route string, n naming, token string, b *things) *answer {
	s.Helper()
	s.asked++
	path, body := n.ask(b, s.asked)
	method, _, _ := strings.Cut(route, " ")
	return s.do(token, method, path, body)
}

func TestNoRouteReachesAnotherTenant(t *testing.T) {
	for _, rt := range apiserver.Routes() {
		name := rt.Method + " " + rt.Path
		_, names := routesThatName[name]
		if _, nothing := routesThatNameNothing[name]; slices.Contains(rt.Who, access.User) && names == nothing {
			t.Errorf("what %s names of a tenant is in no table, or in two", name)
		}
	}
	s := newServer(t)
	dave := s.user("dave")
	alice, hers := s.furnish("alice", "a", dave)
	bob, his := s.furnish("bob", "b", dave)
	// Carol is in both organizations: an observer of one fleet of the first, and an administrator of the second.
	carol := s.user("carol")
	s.invite(alice, carol, "carol@example.com", "org", "organization_invite", map[string]any{"is_invited_to__organization": s.number(`SELECT id FROM organization WHERE handle = 'alice'`)})
	s.invite(alice, carol, "carol@example.com", "user", "application_invite", map[string]any{"is_invited_to__application": hers.fleet})
	s.invite(bob, carol, "carol@example.com", "org", "organization_invite", map[string]any{
		"is_invited_to__organization": s.number(`SELECT id FROM organization WHERE handle = 'bob'`), "organization_membership_role": 1,
	})

	before := s.holdings()
	for name, n := range routesThatName {
		nothing := map[string]*answer{}
		for who, token := range map[string]string{"alice": alice, "bob": bob, "carol": carol} {
			nothing[who] = s.asking(name, n, token, absent)
			if nothing[who].status >= http.StatusInternalServerError || nothing[who].status < 400 && nothing[who].body != "" {
				t.Errorf("%s of what is not there: got %d %s", name, nothing[who].status, nothing[who].body)
			}
		}
		// strange holds of somebody to whom the things are not there.
		strange := func(who, token, whose string, b *things) {
			t.Helper()
			a := s.asking(name, n, token, b)
			if a.status != nothing[who].status || b.blank(a.body) != absent.blank(nothing[who].body) {
				t.Errorf("%s, by %s of what is %s: got %d %s, of what is not there %d %s", name, who, whose, a.status, a.body, nothing[who].status, nothing[who].body)
			}
		}
		strange("alice", alice, "bob's", his)
		strange("bob", bob, "alice's", hers)
		switch n.of {
		case ofPerson:
			strange("carol", carol, "alice's", hers)
			strange("carol", carol, "bob's", his)
		case ofFleet, ofOrg:
			if a := s.asking(name, n, carol, hers); a.status < 400 || a.status >= 500 {
				t.Errorf("%s, by carol, who observes: got %d %s", name, a.status, a.body)
			}
		}
		if n.of == ofFleet || n.of == reading {
			strange("carol", carol, "in the fleet beside hers", hers.sibling)
		}
	}
	if after := s.holdings(); after != before {
		t.Errorf("somebody changed what is another's:\n%s\nbefore:\n%s", after, before)
	}
	for _, list := range []string{"/transfer/v1", "/service-account/v1", "/user/v1/sessions", "/user/v1/identities", "/user/v1/factors"} {
		if body := s.do(bob, "GET", list, nil).want(http.StatusOK).body; strings.Contains(body, "alice") {
			t.Errorf("bob's %s: %s", list, body)
		}
	}
	s.rightful(map[string]string{"alice": alice, "bob": bob, "carol": carol}, hers, his)
}

// rightful asks the same of who may: the requests above were refused for whose the things are, and for nothing else.
func (s *server) rightful(tokens map[string]string, hers, his *things) {
	s.Helper()
	// What takes away how somebody signs in may end sessions: it comes last.
	waysIn := []string{"DELETE /user/v1/identities/{id}", "DELETE /auth/webauthn/{id}"}
	others := slices.DeleteFunc(slices.Sorted(maps.Keys(routesThatName)), func(name string) bool { return slices.Contains(waysIn, name) })
	for _, name := range append(others, waysIn...) {
		n := routesThatName[name]
		asks := map[string]*things{"alice": hers, "carol": his}
		switch n.of {
		case ofPerson:
			asks = map[string]*things{"alice": hers, "bob": his}
		case reading:
			asks["bob"] = his
		}
		for who, b := range asks {
			if a := s.asking(name, n, tokens[who], b); a.status >= 400 && !n.offline {
				s.Errorf("%s, by %s, who may: got %d %s", name, who, a.status, a.body)
			}
		}
		if n.of == reading {
			if a := s.asking(name, n, tokens["carol"], hers); a.status != http.StatusOK && !n.offline {
				s.Errorf("%s, by carol, who observes: got %d %s", name, a.status, a.body)
			}
		}
	}
}
