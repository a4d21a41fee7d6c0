package apiserver_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// A device with an SSH server of its own, as balenaOS has, gets the gateway's key for a session when it asks for those of whoever comes; everybody
// else gets what they did before.
func TestTheGatewayEntersADeviceWithItsOwnServer(t *testing.T) {
	c := newCrew(t)
	mine, gateways, host := publicKey(t, "owner@laptop"), strings.TrimSpace(publicKey(t, "")), strings.TrimSpace(publicKey(t, ""))
	me := c.id(c.owner, "user?$select=id&$filter=username%20eq%20%27owner%27")
	c.made(c.owner, "user__has__public_key", map[string]any{"title": "laptop", "public_key": mine, "user": me})
	asks := func(key, name string) string {
		t.Helper()
		return c.do(key, "GET", "/auth/v1/public-keys/"+name, nil).want(http.StatusOK).body
	}
	if got := asks(c.dev.APIKey, "owner"); strings.TrimSpace(got) != mine {
		t.Errorf("before: %q", got)
	}
	var way api.SSHWay
	a := c.do(c.owner, "GET", "/ssh/v1/device/"+string(c.dev.UUID)+"/way", nil)
	if a.status == http.StatusOK { // where there is a signer
		a.into(&way)
	} else {
		a.want(http.StatusServiceUnavailable)
	}
	c.do(c.owner, "POST", "/ssh/v1/certificate", api.SSHCertificateAsk{Device: c.dev.UUID, PublicKey: gateways}).want(http.StatusConflict)

	var made api.SSHCertificate
	enter := api.SSHGatewayAsk{Fingerprint: fingerprint(t, mine), Device: string(c.dev.UUID), PublicKey: gateways, From: "192.0.2.7"}
	c.role(api.RoleVPN, "POST", "/internal/ssh/certificate", enter).want(http.StatusOK).into(&made)
	if made.Own == nil || made.Own.User != "owner" || made.Own.HostKey != "" || made.Certificate != "" {
		t.Fatalf("the gateway is told %+v", made)
	}
	if got := strings.Split(strings.TrimSpace(asks(c.dev.APIKey, "owner")), "\n"); len(got) != 2 || got[0] != gateways || got[1] != mine {
		t.Errorf("the device is given %q", got)
	}
	if got := asks(c.owner, "owner"); strings.Contains(got, gateways) {
		t.Errorf("the person is given %q", got)
	}
	var saw api.SSHSawHostKey
	c.role(api.RoleVPN, "POST", "/internal/ssh/host-key", api.SSHSawHostKey{Device: string(c.dev.UUID), PublicKey: host}).want(http.StatusOK).into(&saw)
	if saw.PublicKey != host {
		t.Errorf("remembered: %q", saw.PublicKey)
	}
	c.role(api.RoleVPN, "POST", "/internal/ssh/certificate", enter).want(http.StatusOK).into(&made)
	if made.Own == nil || made.Own.HostKey != host {
		t.Errorf("the next time the gateway is told %+v", made.Own)
	}

	// The gateway tells of the session, for the device does not.
	var begun api.SSHBegun
	c.role(api.RoleVPN, "POST", "/internal/ssh/begin", api.SSHGatewayBegin{Device: string(c.dev.UUID), Grant: made.Own.Grant}).want(http.StatusOK).into(&begun)
	progress := api.SSHProgress{Session: begun.Session, Token: begun.Token, Kind: "shell", Target: "host", BytesIn: 5}
	var still api.SSHStill
	c.role(api.RoleVPN, "POST", "/internal/ssh/still", api.SSHGatewayStill{Device: string(c.dev.UUID), SSHProgress: progress}).want(http.StatusOK).into(&still)
	if len(still.End) > 0 {
		t.Errorf("it must end: %+v", still)
	}
	c.role(api.RoleVPN, "POST", "/internal/ssh/end", progress).want(http.StatusOK)
	var sessions []api.SSHSession
	c.do(c.owner, "GET", "/ssh/v1/device/"+string(c.dev.UUID)+"/sessions", nil).want(http.StatusOK).into(&sessions)
	if len(sessions) != 1 || sessions[0].User != "owner" || sessions[0].BytesIn != 5 || sessions[0].EndedAt == "" || sessions[0].From != enter.From {
		t.Errorf("listed: %+v", sessions)
	}
	var shown api.SSHHostKey
	path := "/ssh/v1/device/" + string(c.dev.UUID) + "/host-key"
	c.do(c.owner, "GET", path, nil).want(http.StatusOK).into(&shown)
	if shown.Kind != api.HostKeyRemembered || shown.PublicKey != host {
		t.Errorf("shown: %+v", shown)
	}
	c.do(c.user("mallory"), "DELETE", path, nil).want(http.StatusNotFound)
	c.do(c.owner, "DELETE", path, nil).want(http.StatusOK)
	c.do(c.owner, "DELETE", path, nil).want(http.StatusNotFound)
}
