package apiserver

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// A mutant is the declared policy with one thing in it weakened, or taken away. Each must make a cell of the matrix fail: what no
// test would miss is not a rule but a comment.
type mutant struct {
	resource string
	kind     access.Kind
	what     string
	apply    func(r *odata.Resource)
}

// verbWords are the verbs as rules say them.
var verbWords = access.AllVerbs.Columns()

// mutants lists every mutant of a model.
func mutants(t testing.TB, m odata.Model) (all []mutant) {
	for _, r := range m.Resources {
		if _, ok := rowOf(r.Name); !ok {
			t.Errorf("no table speaks of %s: its mutants cannot be tried", r.Name)
			continue
		}
		for _, k := range slices.Sorted(maps.Keys(r.Rules)) {
			add := func(what string, change func(r *odata.Resource, rule *odata.Rule)) {
				all = append(all, mutant{r.Name, k, what, func(r *odata.Resource) {
					rule := r.Rules[k]
					change(r, &rule)
					r.Rules[k] = rule
				}})
			}
			filterMutants(r.Rules[k], add)
			columnMutants(r, k, add)
			for _, act := range slices.Sorted(maps.Keys(r.Actions)) {
				all = append(all, actMutants(r, k, act)...)
			}
			all = append(all, mutant{r.Name, k, "no rule for the kind", func(r *odata.Resource) { delete(r.Rules, k) }})
		}
	}
	return all
}

type addMutant func(what string, change func(r *odata.Resource, rule *odata.Rule))

// filterMutants open and close each filter, and ask for less, and for something else, instead of each verb in it.
func filterMutants(rule odata.Rule, add addMutant) {
	fields := map[string]func(*odata.Rule) *string{
		"read": func(r *odata.Rule) *string { return &r.Read }, "create": func(r *odata.Rule) *string { return &r.Create },
		"update": func(r *odata.Rule) *string { return &r.Update }, "delete": func(r *odata.Rule) *string { return &r.Delete },
	}
	for _, verb := range slices.Sorted(maps.Keys(fields)) {
		field, filter := fields[verb], *fields[verb](&rule)
		set := func(what, to string) {
			if to != filter {
				add(verb+" "+what, func(_ *odata.Resource, r *odata.Rule) { *field(r) = to })
			}
		}
		if filter == "" {
			if verb != "update" || len(rule.Write) > 0 { // without a column to write there is nothing to be changed
				set("for every row, where there was none", "true")
			}
			continue
		}
		set("for every row", "true")
		set("never", "")
		set("for keys of some devices, too", strings.ReplaceAll(filter, access.AllDevices, verbWords[0]))
		for i, word := range verbWords {
			if !strings.Contains(filter, word) {
				continue
			}
			set("with may_read for "+word, strings.ReplaceAll(filter, word, verbWords[0]))
			other := verbWords[(i+1)%len(verbWords)]
			if !access.Given.Has(access.Verbs(1) << i) { // who has one that only administrators have has the other
				other = "may_settings"
			}
			set("with another verb for "+word, strings.ReplaceAll(filter, word, other))
		}
		set("for support too", strings.ReplaceAll(filter, access.OwnDevices, access.On(access.Devices)))
		for _, part := range []string{" or ", " and "} {
			if terms := strings.Split(filter, part); len(terms) > 1 && !strings.Contains(filter, "(") {
				set("without its first condition", strings.Join(terms[1:], part))
			}
		}
	}
}

// actMutants do the same with what canAccess says.
func actMutants(r *odata.Resource, k access.Kind, act string) (all []mutant) {
	filter := r.Actions[act][k]
	set := func(what, to string) {
		if to != filter {
			all = append(all, mutant{r.Name, k, "act " + act + " " + what, func(r *odata.Resource) {
				r.Actions = maps.Clone(r.Actions)
				r.Actions[act] = maps.Clone(r.Actions[act])
				if r.Actions[act][k] = to; to == "" {
					delete(r.Actions[act], k)
				}
			}})
		}
	}
	set("for every row", "true")
	set("never", "")
	for i, word := range verbWords {
		if strings.Contains(filter, word) {
			set("with may_read for "+word, strings.ReplaceAll(filter, word, verbWords[0]))
			set("with another verb for "+word, strings.ReplaceAll(filter, word, verbWords[(i+1)%len(verbWords)]))
		}
	}
	if terms := strings.Split(filter, " and "); len(terms) > 1 && !strings.Contains(filter, "(") {
		set("without its first condition", strings.Join(terms[1:], " and "))
		set("without its last condition", strings.Join(terms[:len(terms)-1], " and "))
	}
	return all
}

// columnMutants show hidden columns, let more columns be written, and drop what is asked beyond the row's own rule.
func columnMutants(r *odata.Resource, k access.Kind, add addMutant) {
	rule := r.Rules[k]
	for _, column := range rule.Hide {
		add("shows "+column, func(_ *odata.Resource, rule *odata.Rule) {
			rule.Hide = slices.DeleteFunc(slices.Clone(rule.Hide), func(n string) bool { return n == column })
		})
	}
	for i, c := range r.Columns {
		if c.Hidden {
			add("shows "+c.Name, func(r *odata.Resource, _ *odata.Rule) { r.Columns[i].Hidden = false })
		}
	}
	for i, c := range r.Columns {
		if k != access.User && k != access.ScopedKey {
			break // the others never see such columns
		}
		stored := "{t}." + c.Name
		if c.Read != "" {
			add("shows strangers "+c.Name, func(r *odata.Resource, _ *odata.Rule) { r.Columns[i].Read = stored })
		}
		if strings.HasPrefix(c.SQL, "CASE WHEN") && strings.HasSuffix(c.SQL, " THEN "+stored+" END") {
			add("shows strangers "+c.Name, func(r *odata.Resource, _ *odata.Rule) { r.Columns[i].SQL = stored })
		}
	}
	if rule.Create != "" || rule.Update != "" {
		for _, column := range inTable(r) {
			if !slices.Contains(rule.Write, column) && !slices.Contains(rule.Ignore, column) {
				add("lets "+column+" be written", func(_ *odata.Resource, rule *odata.Rule) {
					rule.Write = append(slices.Clone(rule.Write), column)
				})
			}
		}
	}
	for column := range rule.Needs {
		add("asks no more for "+column, func(_ *odata.Resource, rule *odata.Rule) {
			rule.Needs = maps.Clone(rule.Needs)
			delete(rule.Needs, column)
		})
	}
	for _, c := range r.Columns {
		mine := inFleets[c.To]["administrator"]+inOrganizations[c.To]["administrator"] != "" || c.To == "user" // no catalogue
		again := strings.Contains(rule.Create+rule.Update, c.Name+"/any(")                                     // the row's own rule says it too
		if c.Type == odata.ForeignKey && c.SQL == "" && slices.Contains(rule.Write, c.Name) && mine && !again {
			add("points "+c.Name+" anywhere", func(_ *odata.Resource, rule *odata.Rule) {
				rule.Refs = maps.Clone(rule.Refs)
				if rule.Refs == nil {
					rule.Refs = map[string]string{}
				}
				rule.Refs[c.Name] = "true"
			})
		}
	}
}

// doubled are mutants that change nothing which can be seen, because a second wall says the same. Each has its reason.
var doubled = map[string]string{
	"image, scoped key: act push never":                                                   "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"image, scoped key: act push with another verb for may_releases":                      "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"image, scoped key: act push with may_read for may_releases":                          "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"image, user: act push never":                                                         "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"image, user: act push with another verb for may_releases":                            "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"image, user: act push with may_read for may_releases":                                "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"device, device: act cloudlink for every row":                                         "a device sees no other one",
	"device, device: act supervisor-proxy-write for every row":                            "a device sees no other one",
	"device, device: act write-log for every row":                                         "a device sees no other one",
	"image, scoped key: update never":                                                     "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"image, scoped key: update with another verb for may_releases":                        "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"image, scoped key: update with may_read for may_releases":                            "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"release, scoped key: points is_created_by__user anywhere":                            "a hook lets it be nobody but the caller",
	"release_image, scoped key: points image anywhere":                                    "a hook lets only images into a release that its maker made for it",
	"image, user: update never":                                                           "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"image, user: update with another verb for may_releases":                              "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"image, user: update with may_read for may_releases":                                  "only an image in quarantine may be changed, and the table has none; see TestNobodyElsePushes",
	"release, user: points is_created_by__user anywhere":                                  "a hook lets it be nobody but the caller",
	"release_image, user: points image anywhere":                                          "a hook lets only images into a release that its maker made for it",
	"image_environment_variable, device: create for every row, where there was none":      "a hook lets only the person add to a release who made it",
	"image_environment_variable, fleet key: create for every row, where there was none":   "a hook lets only the person add to a release who made it",
	"image_label, device: create for every row, where there was none":                     "a hook lets only the person add to a release who made it",
	"image_label, fleet key: create for every row, where there was none":                  "a hook lets only the person add to a release who made it",
	"release_image, anonymous: create for every row, where there was none":                "a hook lets only the person add to a release who made it",
	"release_image, device: create for every row, where there was none":                   "a hook lets only the person add to a release who made it",
	"release_image, fleet key: create for every row, where there was none":                "a hook lets only the person add to a release who made it",
	"api_key, scoped key: delete for every row":                                           "it sees itself alone",
	"api_key, user: delete with may_read for may_keys":                                    "who may not delete it does not see it",
	"api_key, user: update with may_read for may_keys":                                    "who may not change it does not see it",
	"application_membership_role, scoped key: create for every row, where there was none": "no column may be written",
	"application, scoped key: points should_be_running__release anywhere":                 "a hook lets only releases be chosen that the fleet, or the device type, has",
	"application, user: points should_be_running__release anywhere":                       "a hook lets only releases be chosen that the fleet, or the device type, has",
	"application_invite, user: delete for every row":                                      "who may not delete it does not see it",
	"application_invite, user: delete with another verb for may_members":                  "who may not delete it does not see it",
	"application_invite, user: delete with may_read for may_members":                      "who may not delete it does not see it",
	"application_tag, scoped key: create for every row":                                   "the reference to the fleet asks the same, and before",
	"application_tag, scoped key: create with may_read for may_settings":                  "the reference to the fleet asks the same, and before",
	"application_tag, user: create for every row":                                         "the reference to the fleet asks the same, and before",
	"application_tag, user: create with may_read for may_settings":                        "the reference to the fleet asks the same, and before",
	"organization_membership, user: create for every row":                                 "the reference to the organization asks the same, and before",
	"device, device: update for every row":                                                "it sees itself alone",
	"device, scoped key: create for every row":                                            "the reference to the fleet asks the same",
	"device, scoped key: create with may_read for may_devices":                            "the reference to the fleet asks the same",
	"device, scoped key: points belongs_to__application anywhere":                         "the rule of the row holds after the move, too",
	"device, scoped key: points is_pinned_on__release anywhere":                           "a hook lets only releases be chosen that the fleet, or the device type, has",
	"device, scoped key: points should_be_managed_by__release anywhere":                   "a hook lets only releases be chosen that the fleet, or the device type, has",
	"device, scoped key: points should_be_operated_by__release anywhere":                  "a hook lets only releases be chosen that the fleet, or the device type, has",
	"device, scoped key: create for keys of some devices, too":                            "the reference to the fleet asks the same",
	"device, scoped key: create without its first condition":                              "the reference to the fleet asks the same",
	"device, user: create for every row":                                                  "the reference to the fleet asks the same",
	"device, user: create for support too":                                                "the reference to the fleet asks the same",
	"device, user: points belongs_to__application anywhere":                               "the rule of the row holds after the move, too",
	"device, user: points is_pinned_on__release anywhere":                                 "a hook lets only releases be chosen that the fleet, or the device type, has",
	"device, user: points should_be_managed_by__release anywhere":                         "a hook lets only releases be chosen that the fleet, or the device type, has",
	"device, user: points should_be_operated_by__release anywhere":                        "a hook lets only releases be chosen that the fleet, or the device type, has",
	"organization, scoped key: create for every row, where there was none":                "no column may be written",
	"user__has__public_key, user: create never":                                           "keys of people may not, and sessions are asked in the whole table only",
	"user__has__public_key, user: delete for every row":                                   "who may not delete it does not see it",
	"user__has__public_key, user: update for every row":                                   "who may not change it does not see it",
	"user__has__public_key, user: points user anywhere":                                   "the rule of the row holds after the change, too",
	"organization_invite, user: delete for every row":                                     "who may not delete it does not see it",
	"organization_membership, scoped key: delete for every row, where there was none":     "a hook lets no key change members",
	"organization_membership, scoped key: create for every row, where there was none":     "no column may be written",
	"team_application_access, user: create with another verb for may_members":             "administrators of the organization administer its fleets",
	"team_application_access, user: delete with another verb for may_members":             "administrators of the organization administer its fleets",
	"team_application_access, user: update with another verb for may_members":             "administrators of the organization administer its fleets",
	"team_application_access, user: create with may_read for may_members":                 "administrators of the organization administer its fleets",
	"team_application_access, user: delete with may_read for may_members":                 "administrators of the organization administer its fleets",
	"team_application_access, user: update with may_read for may_members":                 "administrators of the organization administer its fleets",
	"team_membership, user: points user anywhere":                                         "a hook lets only members of the organization in",
	"user_application_membership, scoped key: create for every row, where there was none": "no column may be written",
}

// petri is where mutants are tried: a copy of the world's database, made anew whenever one has spoilt it.
type petri struct {
	w        *world
	template string
	file     string
	db       *db.DB
}

func (p *petri) renew(t testing.TB) {
	t.Helper()
	if p.db != nil {
		if err := p.db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, tail := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(p.file + tail)
	}
	data, err := os.ReadFile(p.template)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if p.db, err = db.Open(db.Config{Path: p.file}); err != nil {
		t.Fatal(err)
	}
}

// affected reports whether a cell could notice a mutant.
func (m mutant) affected(c cell) bool {
	first, _, _ := strings.Cut(m.what, " ")
	column := strings.HasPrefix(c.verb, "see ") || strings.HasPrefix(c.verb, "write ") || strings.HasPrefix(c.verb, "point ") || strings.HasPrefix(c.verb, "decide ")
	switch first {
	case "create":
		return c.verb == "create"
	case "act":
		return c.verb == "canAccess"
	case "update", "delete":
		return c.verb == first || c.verb == "canAccess" || c.verb == first+" its own"
	case "read":
		return !column && !c.writes
	case "shows":
		return strings.HasPrefix(c.verb, "see ")
	case "lets":
		return strings.HasPrefix(c.verb, "write ")
	case "points":
		return strings.HasPrefix(c.verb, "point ")
	case "asks":
		return strings.HasPrefix(c.verb, "decide ")
	}
	return !column
}

// try reports which cell catches a mutant; "" is a survivor.
func (p *petri) try(t testing.TB, m mutant) (caught string) {
	t.Helper()
	model := p.w.server.model()
	var def *odata.Resource
	for _, r := range model.Resources {
		if r.Name == m.resource {
			m.apply(r)
			def = r
		}
	}
	e, err := odata.New(odata.Config{Model: model, DB: p.db, Prefixes: []string{"/v7/"}, Files: p.w.server.files()})
	if err != nil {
		return "the model is refused: " + err.Error()
	}
	a := &asker{w: p.w, db: p.db, handler: p.w.server.plain(e), engine: true}
	row, _ := rowOf(m.resource)
	for _, name := range p.w.names() {
		who := p.w.people[name]
		if who.caller.Kind != m.kind || strings.HasPrefix(name, "sam") ||
			strings.HasSuffix(name, "session") && needsSession[m.resource] == "" && !strings.HasPrefix(m.what, "act ") {
			continue // sam's grant is another world; the session asks what the key asks, but for what no key may do
		}
		for _, c := range slices.Concat(p.w.columnCells(who, row, def), p.w.cellsOf(who, row)) {
			if !m.affected(c) {
				continue
			}
			if wrong := c.try(a); wrong != "" {
				if c.writes {
					p.renew(t)
				}
				return c.who.name + " × " + c.verb + " × " + c.place
			}
		}
	}
	return ""
}

// inMemory is a folder in memory where there is one: thousands of writes need not reach a disk.
func inMemory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "roadstead-policy-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestMutantsOfThePolicyAreCaught(t *testing.T) {
	began := time.Now()
	const hands = 2
	var next, caught int
	var survivors []string
	var mu sync.Mutex
	var all []mutant
	var work sync.WaitGroup
	for range hands {
		w := newPolicyWorld(t, "")
		dir := inMemory(t)
		p := &petri{w: w, template: filepath.Join(dir, "template.db"), file: filepath.Join(dir, "mutant.db")}
		if err := w.db.Snapshot(t.Context(), p.template); err != nil {
			t.Fatal(err)
		}
		p.renew(t)
		t.Cleanup(func() { _ = p.db.Close() })
		if all == nil {
			all = mutants(t, w.server.model())
		}
		work.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(all) {
					return
				}
				by := p.try(t, all[i])
				mu.Lock()
				if by != "" {
					caught++
				} else {
					survivors = append(survivors, fmt.Sprintf("%s, %s: %s", all[i].resource, all[i].kind, all[i].what))
				}
				mu.Unlock()
			}
		})
	}
	work.Wait()
	slices.Sort(survivors)
	unexplained := 0
	for _, s := range survivors {
		if doubled[s] == "" {
			unexplained++
		}
		t.Logf("survived: %s: %s", s, cmp.Or(doubled[s], "NO REASON"))
	}
	t.Logf("%d mutants, %d caught (%.1f %%), %d survived, %d of them without a reason, in %s", len(all), caught,
		100*float64(caught)/float64(len(all)), len(survivors), unexplained, time.Since(began).Round(time.Second))
	if unexplained > 0 {
		t.Errorf("%d mutants survive that no second wall stops", unexplained)
	}
	if caught*100 < len(all)*95 {
		t.Errorf("only %d of %d mutants are caught; it must be 95 of 100", caught, len(all))
	}
}
