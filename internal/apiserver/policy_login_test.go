package apiserver

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
)

// explained asks a key what it can do.
func (a *asker) explained(p *who) (k api.KeyExplanation) {
	a.w.Helper()
	status, answer := a.send(p, "GET", "/api-key/v1/self/explain", "")
	if status != 200 {
		a.w.Fatalf("%s explains itself: %d %s", p.name, status, answer)
	}
	a.w.must(json.Unmarshal([]byte(answer), &k))
	return k
}

// What a key is said to do is what it does: every resource, read, made, changed and deleted, and every route. The tables of the policy
// tell what may be; each write is done, or refused.
func TestAKeyDoesWhatIsSaidOfIt(t *testing.T) {
	w := newPolicyWorld(t, policySQL(t))
	a := w.asker()
	tried := 0
	for _, name := range w.names() {
		p := w.people[name]
		if p.caller.Key == 0 || !p.isPerson() || p.caller.User != w.users["ann"] || p.own == "tagless" {
			// others' keys, and one without a device, have less than could be said of them
			continue
		}
		k := a.explained(p)
		for _, r := range allRows() {
			for _, of := range []struct {
				letters, word string
				list          []string
				try           func(p *who, r policyRow, place string) string
			}{
				{"ro", "reads", k.Reads, nil}, {"c", "makes", k.Makes, a.create}, {"uvq", "changes", k.Changes, a.update},
				{"d", "deletes", k.Deletes, a.remove},
			} {
				may := false
				for _, place := range placesOf(r.name) {
					may = may || strings.ContainsAny(p.may(r.name, place), of.letters) && !p.needsSession(r.name, of.letters[:1])
					if of.try == nil || place == "absent" {
						continue
					}
					tried++
					if wrong := of.try(p, r, place); wrong != "" {
						t.Errorf("%s %s %s in %s: %s", name, of.word, r.name, place, wrong)
					}
				}
				if said := slices.Contains(of.list, r.name); said != may {
					t.Errorf("%s %s %s: it is said %v, and is %v", name, of.word, r.name, said, may)
				}
			}
		}
		for _, rt := range w.server.list() {
			if len(rt.Roles) > 0 || slices.Equal(rt.Who, route.Anybody) || strings.HasPrefix(rt.Path, "/v") {
				continue
			}
			tried++
			a.door(p, rt, k.Routes)
		}
	}
	t.Logf("%d tries", tried)
}

// bodies are what gets past the first look of routes that keys may use for some things and not for others.
var bodies = map[string]string{
	"POST /api-key/v1":  `{"actorType":"application","actorTypeId":{fleet},"roles":["fleet-api-key"]}`,
	"POST /api-key/v2":  `{"actorType":"application","actorTypeId":{fleet},"roles":["fleet-api-key"]}`,
	"POST /transfer/v1": `{"fleet":"{slug}","organization":"nothing"}`, "POST /service-account/v1": `{"name":"robot","organization":"nothing"}`,
	"POST /auth/v1/providers/{name}/start":  `{"purpose":"login"}`,
	"POST /auth/v1/providers/{name}/finish": `{"state":"x","binding":"x","code":"x"}`,
}

// door tries a route with a key. Whether it lets the key in is one thing that is said of the key, and the other what the route asks for.
func (a *asker) door(p *who, rt route.Route, said []string) {
	a.w.Helper()
	own := a.w.places["own"]
	fill := strings.NewReplacer("{$}", "", "{id}", "99999", "{uuid}", strings.Repeat("b", 32), "{path...}", "v1/blink", "{username}", "nobody",
		"{token}", "x", "{name}", "nothing", "{slug}", own.text["slug"], "{fleet}", fmt.Sprint(own.ids["fleet"]))
	name := strings.TrimSuffix(rt.Method+" "+rt.Path, "{$}")
	body := bodies[strings.TrimSuffix(name, "/")]
	if body == "" && rt.Method != "GET" {
		body = "{}"
	}
	status, answer := a.send(p, rt.Method, fill.Replace(rt.Path), fill.Replace(body))
	shut := status == 403 && (strings.Contains(answer, "this is not for a") || strings.Contains(answer, "an API key may not do this"))
	in := slices.Contains(said, name)
	if rt.Verb != access.NoVerbs && p.caller.Kind == access.ScopedKey && !in {
		return // it is let in, to find that it may nothing behind the door
	}
	if in == shut {
		a.w.Errorf("%s with %s: it is said to be let in: %v; got %d %.200s", name, p.name, in, status, answer)
	}
	if strings.Contains(answer, "API key") && rt.Login == rights.NoLogin {
		a.w.Errorf("%s asks for a session and does not say so: %.200s", name, answer)
	}
}
