package dashboard

import (
	"net/http"
	"net/url"

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
	v.w.Header().Set("Location", v.s.cfg.Site.URL(string(uuid)+".devices")+"/.roadstead/visit?"+url.Values{"code": {got.Code}, "to": {q.Get("to")}}.Encode())
	v.w.WriteHeader(http.StatusSeeOther)
	return nil
}
