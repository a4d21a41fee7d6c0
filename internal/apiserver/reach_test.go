package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// permit asks for a connection as the vpn role does.
func (s *server) permit(ask api.ReachRequest) *answer {
	s.Helper()
	if ask.From == "" {
		ask.From = "192.0.2.7"
	}
	return s.role(api.RoleVPN, "POST", "/internal/reach/permit", ask)
}

func (s *server) tunnelTo(credential string, uuid api.DeviceUUID, port int) *answer {
	s.Helper()
	return s.permit(api.ReachRequest{Kind: api.ReachTunnel, Credential: credential, UUID: uuid, Port: port})
}

// opens gives the permit of a connection that must be let through.
func (s *server) opens(a *answer) string {
	s.Helper()
	var got api.ReachPermit
	a.want(http.StatusOK).into(&got)
	return got.Permit
}

// ends says why a permit must end; "" while it may go on.
func (s *server) ends(permit string, ended ...api.ReachEnded) string {
	s.Helper()
	var got api.ReachEnd
	s.role(api.RoleVPN, "POST", "/internal/reach/still", api.ReachStill{Permits: []string{permit}, Ended: ended}).want(http.StatusOK).into(&got)
	if len(got.End) == 0 {
		return ""
	}
	return got.End[0].Why
}

// Who may have a tunnel, to which port: everything else is refused, and to whom a device is another's it is not there.
func TestWhoReachesADevice(t *testing.T) {
	c := newCrew(t)
	mallory := c.user("mallory")
	absent := c.tunnelTo(mallory, hexUUID(99), 80)
	absent.want(http.StatusNotFound)
	none := c.tunnelTo("", c.dev.UUID, 80)
	none.want(http.StatusUnauthorized)
	c.tunnelTo("rsu_nonsense", c.dev.UUID, 80).want(http.StatusUnauthorized)
	c.tunnelTo(c.half("halfway"), c.dev.UUID, 80).want(http.StatusUnauthorized)
	if a := c.tunnelTo(mallory, c.dev.UUID, 80); a.status != absent.status || a.body != absent.body {
		t.Errorf("another's device: %d %s; one that is not there: %d %s", a.status, a.body, absent.status, absent.body)
	}
	c.opens(c.tunnelTo(c.owner, c.dev.UUID, 80))

	membership := c.join("observer")
	c.tunnelTo(c.worker, c.dev.UUID, 80).want(http.StatusForbidden)
	c.do(c.owner, "DELETE", membership, nil).want(http.StatusOK)
	c.join("operator")
	c.opens(c.tunnelTo(c.worker, c.dev.UUID, api.PortSSH))
	c.opens(c.tunnelTo(c.key, c.dev.UUID, api.PortDevice))
	c.tunnelTo(c.limited(c.worker, api.NewKey{Verbs: []string{"devices"}}), c.dev.UUID, 80).want(http.StatusForbidden)
	shell := c.limited(c.worker, api.NewKey{Verbs: []string{"shell"}})
	c.opens(c.tunnelTo(shell, c.dev.UUID, 80))
	c.tunnelTo(shell, c.dev.UUID, api.PortDevice).want(http.StatusForbidden) // acts on the device
	c.tunnelTo(c.limited(c.worker, api.NewKey{Channels: []string{"api", "git"}}), c.dev.UUID, 80).want(http.StatusForbidden)
	c.tunnelTo(c.limited(c.worker, api.NewKey{Networks: []string{"198.51.100.0/24"}}), c.dev.UUID, 80).want(http.StatusUnauthorized)

	// The fleet names the ports that are open; a device closes more, and opens none.
	c.made(c.owner, "application_config_variable", map[string]any{"application": c.fleet, "name": "ROADSTEAD_TUNNEL_PORTS", "value": "22222, 8000-8080"})
	c.tunnelTo(c.worker, c.dev.UUID, 80).want(http.StatusForbidden)
	c.opens(c.tunnelTo(c.worker, c.dev.UUID, 8080))
	variable := c.made(c.worker, "device_config_variable", map[string]any{"device": c.dev.ID, "name": "ROADSTEAD_TUNNEL_PORTS", "value": "80"})
	c.tunnelTo(c.worker, c.dev.UUID, 8080).want(http.StatusForbidden)
	c.tunnelTo(c.worker, c.dev.UUID, 80).want(http.StatusForbidden)
	c.do(c.owner, "DELETE", fmt.Sprintf("/v7/device_config_variable(%d)", variable), nil).want(http.StatusOK)

	// A device reaches no other, nor does a key of the fleet; whose device it is reads that it tried.
	other := c.device(c.owner, c.fleet, hexUUID(2))
	if a := c.tunnelTo(other.APIKey, c.dev.UUID, 8080); a.status != http.StatusNotFound || a.body != absent.body {
		t.Errorf("a device: %d %s", a.status, a.body)
	}
	c.tunnelTo(c.provisioning(c.owner, c.fleet, 5), c.dev.UUID, 8080).want(http.StatusNotFound)
	if got := c.entries(c.owner, "act eq 'tunnel.open' and result eq 'refused' and by_kind eq 'device'"); len(got) != 1 {
		t.Errorf("the attempt of a device is told as %v", got)
	}
	for _, wrong := range []api.ReachRequest{
		{Kind: api.ReachTunnel, UUID: c.dev.UUID, Port: 0}, {Kind: api.ReachTunnel, UUID: c.dev.UUID, Port: 65536}, {Kind: api.ReachSSH, UUID: c.dev.UUID, Port: 80},
		{Kind: "telnet", UUID: c.dev.UUID, Port: 23}, {Kind: api.ReachTunnel, UUID: "127.0.0.1", Port: 80},
	} {
		wrong.Credential = c.owner
		c.permit(wrong).want(http.StatusBadRequest)
	}

	// As many as may be at a time, and no more; one that ended makes place.
	few := api.ReachRequest{Kind: api.ReachTunnel, Credential: mallory, Port: 80, PerUser: 2, UUID: c.device(mallory, c.fleetOf(mallory), hexUUID(3)).UUID}
	one := c.opens(c.permit(few))
	c.opens(c.permit(few))
	c.permit(few).want(http.StatusTooManyRequests)
	c.ends(one, api.ReachEnded{Permit: one, BytesIn: 1, Why: "closed"})
	c.opens(c.permit(few))
}

func (s *server) fleetOf(session string) int64 { return s.fleet(session, "of-its-own") }

// What is open ends with the right to it: each of these takes one away, and the next question is answered with an end.
func TestAnOpenConnectionEndsWithItsRight(t *testing.T) {
	c := newCrew(t)
	membership := c.join("operator")
	gone := c.device(c.owner, c.fleet, hexUUID(4))
	for what, tt := range map[string]struct {
		credential string
		uuid       api.DeviceUUID
		end        func()
	}{
		"logging out": {c.do(c.owner, "POST", "/user/v1/sessions", nil).want(http.StatusOK).body, c.dev.UUID, nil},
		"a key deleted": {c.key, c.dev.UUID, func() {
			c.do(c.worker, "DELETE", fmt.Sprintf("/v7/api_key(%d)", c.id(c.worker, "api_key?$filter=name%20eq%20'ci'&$select=id")), nil).want(http.StatusOK)
		}},
		"a device deleted": {c.owner, gone.UUID, func() { c.do(c.owner, "DELETE", fmt.Sprintf("/v7/device(%d)", gone.ID), nil).want(http.StatusOK) }},
	} {
		permit := c.opens(c.tunnelTo(tt.credential, tt.uuid, 80))
		if why := c.ends(permit); why != "" {
			t.Errorf("before %s: %s", what, why)
		}
		if tt.end == nil {
			c.do(tt.credential, "POST", "/user/v1/logout", nil).want(http.StatusOK)
		} else {
			tt.end()
		}
		if c.ends(permit) == "" {
			t.Errorf("after %s it may go on", what)
		}
	}
	permit := c.opens(c.tunnelTo(c.worker, c.dev.UUID, 80))
	if why := c.another().ends(permit); why != "" {
		t.Errorf("another process of the role: %s", why)
	}
	c.do(c.owner, "DELETE", membership, nil).want(http.StatusOK)
	if c.ends(permit) == "" || c.ends("made up") == "" {
		t.Error("after the role is gone, or without a permit, it may go on")
	}
	c.ends(permit, api.ReachEnded{Permit: permit, BytesIn: 100, BytesOut: 2000, Why: "the right to it ended"})
	closed := c.entries(c.owner, "act eq 'tunnel.close' and by_name eq 'worker'")
	if len(closed) != 1 || len(c.entries(c.owner, "act eq 'tunnel.open' and by_name eq 'worker'")) != 2 {
		t.Fatalf("the audit log has %v", closed)
	}
	text, _ := json.Marshal(closed[0])
	for _, part := range []string{`bytes_in`, `100`, `2000`, "192.0.2.7", "the right to it ended", string(c.dev.UUID)} {
		if !strings.Contains(string(text), part) {
			t.Errorf("the audit log does not say %s: %s", part, text)
		}
	}
}

// Support staff come in with an SSH key while a grant lasts, in no other way, and are out when it ends. Without one there is nothing.
func TestSupportEntersByKeyOnly(t *testing.T) {
	o := newOpened(t)
	const line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUcmdWCVk9NuPfX2ohoKYbEpZZ8X0vQZlTFYBLqWbkG"
	o.do(o.sue, "POST", "/v7/user__has__public_key", map[string]any{"title": "sue's", "public_key": line, "user": o.number(`SELECT id FROM "user" WHERE username = 'sue'`)}).want(http.StatusCreated)
	var sum string
	for _, row := range o.do(o.sue, "GET", "/v7/user__has__public_key?$select=fingerprint", nil).want(http.StatusOK).rows() {
		sum, _ = row["fingerprint"].(string)
	}
	ssh := api.ReachRequest{Kind: api.ReachSSH, Fingerprint: sum, UUID: o.dev.UUID, Port: api.PortSSH}
	o.tunnelTo(o.sue, o.dev.UUID, 80).want(http.StatusForbidden)
	o.tunnelTo(o.sue, o.dev.UUID, api.PortSSH).want(http.StatusForbidden)
	o.permit(api.ReachRequest{Kind: api.ReachSSH, Credential: o.sue, UUID: o.dev.UUID, Port: api.PortSSH}).want(http.StatusForbidden)
	var got api.ReachPermit
	o.permit(ssh).want(http.StatusOK).into(&got)
	if !got.Support || got.Until == nil || got.Username != "sue" {
		t.Errorf("the permit of support: %+v", got)
	}
	if why := o.ends(got.Permit); why != "" {
		t.Errorf("while the grant lasts: %s", why)
	}
	if len(o.entries(o.alice, "act eq 'ssh.open' and is_support eq true")) != 1 {
		t.Error("the customer is not shown that support came in")
	}
	o.do(o.alice, "PATCH", fmt.Sprintf("/v7/application(%d)", o.fleet), map[string]any{"is_accessible_by_support_until__date": nil}).want(http.StatusOK)
	if why := o.ends(got.Permit); why != "the support grant ended" {
		t.Errorf("after the grant: %q", why)
	}
	o.permit(ssh).want(http.StatusNotFound)
}

// The public address of a device is not there until it is switched on, lets in whom it says, and ends what is open when it changes.
func TestPublicAddress(t *testing.T) {
	c := newCrew(t)
	c.join("observer")
	ask := api.ReachRequest{Kind: api.ReachURL, UUID: c.dev.UUID}
	path := "/device-url/v1/" + string(c.dev.UUID)
	nothing := c.permit(api.ReachRequest{Kind: api.ReachURL, UUID: hexUUID(99)})
	off := func(when string) {
		t.Helper()
		if a := c.permit(ask); a.status != http.StatusNotFound || a.body != nothing.body {
			t.Errorf("%s: %d %s; of no device: %s", when, a.status, a.body, nothing.body)
		}
	}
	off("at first")
	set := func(change api.PublicURLChange) (now api.PublicURL) {
		t.Helper()
		c.do(c.owner, "PUT", path, change).want(http.StatusOK).into(&now)
		return now
	}
	on, yes, no, port := true, true, false, 8080
	c.do(c.worker, "PUT", path, api.PublicURLChange{Enabled: &on}).want(http.StatusForbidden)
	for _, agents := range []int{api.PortSSH, api.PortDevice, 0} {
		c.do(c.owner, "PUT", path, api.PublicURLChange{Enabled: &on, Port: &agents}).want(http.StatusBadRequest)
	}

	// The switch that balena's clients know.
	c.do(c.owner, "PATCH", fmt.Sprintf("/v7/device(%d)", c.dev.ID), map[string]any{"is_web_accessible": true}).want(http.StatusOK)
	var got api.ReachPermit
	c.permit(ask).want(http.StatusOK).into(&got)
	if got.Port != 80 || got.User != 0 {
		t.Errorf("with nothing set: %+v", got)
	}
	if now := set(api.PublicURLChange{Port: &port}); !now.Enabled || now.URL != "https://"+string(c.dev.UUID)+".devices.roadstead.test" {
		t.Errorf("it is %+v", now)
	}
	if c.ends(got.Permit) == "" {
		t.Error("what was open to another port may go on")
	}

	// A token, which is told once.
	token := set(api.PublicURLChange{Token: &yes}).Token
	var shown api.PublicURL
	c.do(c.worker, "GET", path, nil).want(http.StatusOK).into(&shown)
	if token == "" || shown.Token != "" || !shown.HasToken || shown.Port != 8080 {
		t.Errorf("the token is %q, and then %+v", token, shown)
	}
	c.permit(ask).want(http.StatusUnauthorized)
	withToken := ask
	withToken.Token = token
	c.opens(c.permit(withToken))
	withToken.Token += "x"
	c.permit(withToken).want(http.StatusUnauthorized)
	set(api.PublicURLChange{Token: &no, Login: &yes})

	// A login, through a code that is good for one device in one browser.
	visit := func(session string) (v api.ReachVisit) {
		c.do(session, "POST", path+"/visit", api.ReachVisit{State: "of the browser"}).want(http.StatusOK).into(&v)
		return v
	}
	exchange := func(uuid api.DeviceUUID, code, state string) *answer {
		return c.role(api.RoleVPN, "POST", "/internal/reach/visit", api.ReachVisit{UUID: uuid, Code: code, State: state})
	}
	c.do(c.key, "POST", path+"/visit", api.ReachVisit{State: "x"}).want(http.StatusForbidden)
	c.do(c.user("mallory"), "POST", path+"/visit", api.ReachVisit{State: "x"}).want(http.StatusNotFound)
	code := visit(c.worker).Code
	exchange(c.dev.UUID, code, "of another browser").want(http.StatusUnauthorized)
	exchange(hexUUID(99), code, "of the browser").want(http.StatusUnauthorized)
	exchange(c.dev.UUID, code+"A", "of the browser").want(http.StatusUnauthorized)
	var pass api.ReachVisit
	exchange(c.dev.UUID, code, "of the browser").want(http.StatusOK).into(&pass)
	login := ask
	login.Visit = code
	c.permit(login).want(http.StatusUnauthorized) // a code is no visit
	login.Visit = pass.Visit
	permit := c.opens(c.permit(login))
	c.tunnelTo(pass.Visit, c.dev.UUID, 80).want(http.StatusUnauthorized) // nor is a visit a session
	c.do(pass.Visit, "GET", path, nil).want(http.StatusUnauthorized)
	c.do(c.worker, "POST", "/user/v1/logout", nil).want(http.StatusOK)
	if c.ends(permit) == "" {
		t.Error("after logging out the visit may go on")
	}
	c.permit(login).want(http.StatusUnauthorized)

	// Networks, and an end.
	networks, soon := []string{"198.51.100.0/24"}, time.Now().Add(time.Hour)
	set(api.PublicURLChange{Login: &no, Allow: &networks})
	off("from elsewhere")
	near := ask
	near.From = "198.51.100.9"
	c.opens(c.permit(near))
	all := []string{}
	set(api.PublicURLChange{Allow: &all, Until: &soon})
	permit = c.opens(c.permit(ask))
	c.exec(`UPDATE device_public_url SET until = '2026-01-01T00:00:00.000Z' WHERE device = ?`, c.dev.ID)
	off("when its time is over")
	if c.ends(permit) == "" {
		t.Error("when its time is over what is open may go on")
	}
	set(api.PublicURLChange{Enabled: &on})
	c.opens(c.permit(ask))
	c.do(c.owner, "PATCH", fmt.Sprintf("/v7/device(%d)", c.dev.ID), map[string]any{"is_web_accessible": false}).want(http.StatusOK)
	off("switched off")
}

// Connections of a process that went away end in the audit log, and an address whose time is over is off in the device's row too.
func TestWhatNobodySpeaksOfEnds(t *testing.T) {
	c := newCrew(t)
	permit := c.opens(c.tunnelTo(c.owner, c.dev.UUID, 80))
	on, soon := true, time.Now().Add(time.Hour)
	path := "/device-url/v1/" + string(c.dev.UUID)
	c.do(c.owner, "PUT", path, api.PublicURLChange{Enabled: &on, Until: &soon}).want(http.StatusOK)
	c.must(c.running.TidyReach(t.Context()))
	if why := c.ends(permit); why != "" {
		t.Errorf("what is spoken of ends: %s", why)
	}
	c.exec(`UPDATE reach_permit SET seen_at = '2026-01-01T00:00:00.000Z'`)
	c.exec(`UPDATE device_public_url SET until = '2026-01-01T00:00:00.000Z'`)
	c.must(c.running.TidyReach(t.Context()))
	if n := len(c.entries(c.owner, "act eq 'tunnel.close'")); n != 1 || c.ends(permit) == "" {
		t.Errorf("%d ends are told, and it ends with %q", n, c.ends(permit))
	}
	row := c.do(c.owner, "GET", fmt.Sprintf("/v7/device(%d)?$select=is_web_accessible", c.dev.ID), nil).want(http.StatusOK).rows()[0]
	if row["is_web_accessible"] != false {
		t.Errorf("the device says %v", row)
	}
}
