package dashboard_test

import (
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/dashboard/devices"
)

// Whose word the devices of a fleet take is shown in the lists and on the pages of fleets, releases and devices: the weaker states as weaker.
func TestTrustIsShownEverywhere(t *testing.T) {
	h := newHarbour(t, devices.Limits{})
	b := h.browser()
	b.get("/fleets/"+strings.Repeat("0", 32)).want(t, 303, "/login")
	b.login()
	var found struct{ D []struct{ UUID string } }
	h.ask(h.admin.APIKey, "GET", "/v7/application?$select=uuid&$filter=slug%20eq%20'"+strings.ReplaceAll(h.slug, "/", "%2F")+"'", nil, &found)
	fleet := "/fleets/" + found.D[0].UUID
	b.get("/").want(t, 200, `href="`+fleet+`"`)
	b.get("/").want(t, 200, "1 unverified")
	b.get("/devices").want(t, 200, `<span class="mark unverified">unverified</span>`)
	page := b.get(fleet)
	for _, want := range []string{"The root is held by the server, the weaker state", "held by the server (weaker)", "1 unverified", "balena's supervisors", "It has no releases yet", "opens devices"} {
		page.want(t, 200, want)
	}
	b.get("/").want(t, 200, "held by the server (weaker)") // it was signed when somebody looked

	commit := strings.Repeat("ab", 20)
	h.exec(`INSERT INTO "release" (created_at, belongs_to__application, "commit", composition, status, source, start_timestamp, update_timestamp, raw_version, version,
		is_final, revision, semver_patch) SELECT created_at, id, ?, '{}', 'success', 'cloud', created_at, created_at, '0.0.0', '{}', 1, 1, 1 FROM application WHERE slug = ?`, commit, h.slug)
	b.get(fleet).want(t, 200, "nobody yet: the builder lists it")
	b.get(fleet+"/releases/"+commit).want(t, 200, "nobody yet: the builder lists it")
	h.ask(h.device.APIKey, "POST", "/trust/v1/device/"+string(h.device.UUID)+"/report", api.TrustReport{State: api.TrustRejected, HeldBy: api.HeldByServer,
		Rejection: &api.TrustRejection{What: "image of " + evil, Reason: "digest", Expected: "sha256:aa", Got: "sha256:bb"}}, nil)
	page = b.get(fleet)
	for _, want := range []string{`<span class="mark rejected">1 rejected</span>`, "Refused last", "image of &lt;img", "expected sha256:aa, got sha256:bb", "Devices that refuse"} {
		page.want(t, 200, want)
	}
	if strings.Contains(page.text, "<img") {
		t.Error("what a device says is more than text")
	}
	b.get("/").want(t, 200, `<span class="mark rejected">1 rejected</span>`)
	list := b.get("/devices")
	list.want(t, 200, `<span class="mark rejected">rejected</span>`)
	list.want(t, 200, "root held by the server")
	b.get("/devices/"+string(h.device.UUID)+"/summary").want(t, 200, `href="`+fleet+`"`)

	if strings.Contains(page.text, "Have still to leave") {
		t.Error("a device is said to leave that does not")
	}
	h.exec(`INSERT INTO trust_leave (created_at, application, device, goes_to) SELECT created_at, belongs_to__application, id, belongs_to__application FROM device WHERE uuid = ?`, string(h.device.UUID))
	b.get(fleet).want(t, 200, "Have still to leave</th><td>"+string(h.device.UUID))
	h.exec(`DELETE FROM trust_leave`)

	// The owner's root and approval, as an upload leaves them.
	h.exec(`UPDATE trust_fleet SET held_by = 'owner', approval = 'builder+owner', shell = 'forbidden'`)
	h.ask(h.device.APIKey, "POST", "/trust/v1/device/"+string(h.device.UUID)+"/report", api.TrustReport{State: api.TrustVerified, HeldBy: api.HeldByOwner}, nil)
	page = b.get(fleet)
	for _, want := range []string{"held by the owner", "waits for the owner&#39;s signature", "1 verified", "forbidden to the server"} {
		page.want(t, 200, want)
	}
	if strings.Contains(page.text, "weaker") || strings.Contains(page.text, "Refused last") {
		t.Error("what is the owner's is said to be the weaker state, or a refusal that is over is shown")
	}
	b.get(fleet+"/releases/"+commit).want(t, 200, "roadstead release sign abababa")

	bob := h.member("bob", "")
	bob.get(fleet).want(t, 404, "no such fleet")
	bob.get(fleet+"/releases/"+commit).want(t, 404, "no such fleet")
	if text := bob.get("/").text; strings.Contains(text, h.slug) {
		t.Error("somebody else sees the fleet")
	}
	ann := h.member("ann", "observer")
	ann.get(fleet).want(t, 200, "held by the owner")
	ann.get("/").want(t, 200, "held by the owner")
	for _, path := range []string{"/fleets/x", fleet + "/releases/x", fleet + "/releases/" + strings.Repeat("cd", 20), "/fleets/" + strings.Repeat("f", 32)} {
		b.get(path).want(t, 404, "no such")
	}
}

// Without a signer nothing can be said of the trust, and the pages say why.
func TestAFleetWithoutASigner(t *testing.T) {
	y := newYard(t)
	y.device(1, "kitchen")
	b := y.browser()
	b.login()
	var found struct{ D []struct{ UUID string } }
	y.ask(y.admin.APIKey, "GET", "/v7/application?$select=uuid", nil, &found)
	b.get("/fleets/"+found.D[0].UUID).want(t, 200, "It is not known: this server has no signer")
	b.get("/").want(t, 200, "nothing signed yet")
}
