package dashboard

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// deviceURL lets whoever is signed in open the public address of a device that asks who comes. They go back there with a code, good for
// that one address in this one browser; the session stays here.
func deviceURL(v *visit) error {
	uuid := api.DeviceUUID(v.r.PathValue("uuid"))
	if !uuid.Valid() {
		return api.Errorf(api.NotFound, "There is no such page.")
	}
	q := v.r.URL.Query()
	var got api.ReachVisit
	if err := v.call(http.MethodPost, "/device-url/v1/"+string(uuid)+"/visit", api.ReachVisit{State: q.Get("state")}, &got); err != nil {
		if api.AsError(err).Code == api.NotFound {
			return api.Errorf(api.NotFound, "There is no such device, or its address is closed.")
		}
		return err
	}
	site := v.s.cfg.Site.URL(string(uuid) + ".devices")
	return v.away(site+"/.roadstead/visit?"+url.Values{"code": {got.Code}, "to": {q.Get("to")}}.Encode(), strings.TrimPrefix(site, "https://"))
}

// away sends the browser to another place with a page in between. A redirect would not do: where it is the answer to a form, as after a login,
// browsers hold it against the policy of the form's page, which lets forms lead nowhere but here.
func (v *visit) away(to, host string) error {
	v.w.Header().Set("Refresh", "0; url="+to)
	return v.show(http.StatusOK, "away", view{Title: "On to " + host, Data: map[string]string{"URL": to, "Host": host}})
}
