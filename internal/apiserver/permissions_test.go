package apiserver

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/odata/reference"
	"github.com/roadstead-io/roadstead/internal/pki"
)

var update = flag.Bool("update", false, "write docs/permissions.md")

const permissionPage = "../../docs/permissions.md"

const permissionHead = `# Who may do what

Everything that the server allows, and nothing else: this page is made from what the server enforces
(` + "`go test ./internal/apiserver -run PermissionPage -update`" + `), and a test fails when it is not current. What is not listed is refused.
What somebody may not see does not exist for them: an empty list, or 404. Decisions: ` + "`docs/decisions/0001`, `0004`, `0008`" + `.

## Who asks

| principal | is known by | in short |
|---|---|---|
| nobody | no token | reads the catalogue and the public face of public fleets |
| person | a session, or a named key without limits | what their organizations and fleets give them, see the verbs below. A key does nothing of what the tables say is done *in a session* |
| limited key | a person's key with some verbs, some fleets, some devices, or several of these; every key of a service account | at most its verbs, in its fleets only and with its devices; of the account the key itself, its user's name and memberships, nothing else; makes keys of fleets and devices for a day at most |
| device | its own key | reads itself, its fleet and its fleet's releases, and what everybody may; writes its own state, logs and progress |
| frozen device | the key of a device that is frozen | learns who it is, nothing else |
| fleet key | a key made for reading one fleet | reads the fleet, its devices and releases |
| provisioning key | a key made for one fleet | registers devices into it, nothing else |
| support staff | a person's session, flagged by the operator of the server | reads, and has devices, actions and shell on a fleet, or one device, from when its owner opens it until the time given; makes, deletes and moves no device, and opens none to support; never by a key |
| role of the server | its certificate, on the internal listener | the internal routes that name it; no resource at all |

Keys of a fleet end with the right of the person who made them. Every key and session is looked up at its use, and verbs with every
request: who leaves an organization, a team or a fleet has lost it with the next one.

## Verbs in a fleet

What people may do in a fleet is a set of verbs: of the role that they, or one of their teams, have in it, see [access.md](access.md).
Administrators of an organization have all of them in all its fleets. A member of an organization has none in its fleets by that alone,
but may make a fleet in it and becomes its developer. A membership past its end date gives nothing.

| verb | observer | operator | developer | administrator | support | lets somebody |
|---|---|---|---|---|---|---|
| ` + "`read`" + ` | x | x | x | x | x | see all of the fleet: devices, releases, variables, logs, build logs |
| ` + "`devices`" + ` | | x | x | x | x | make, change, move, pin and delete devices, their variables and tags |
| ` + "`actions`" + ` | | x | x | x | x | act on devices: restart, reboot, purge |
| ` + "`shell`" + ` | | x | x | x | x | enter devices |
| ` + "`keys`" + ` | | x | x | x | | make, see and end keys of the fleet and its devices; with ` + "`devices`" + `, register devices, which are given a key, and open them to support |
| ` + "`releases`" + ` | | | x | x | | push, change and delete releases, their tags and files |
| ` + "`settings`" + ` | | | x | x | | change the fleet's settings, services, variables and tags, and its target |
| ` + "`members`" + ` | | | | x | | decide about members, teams and invitations, making it public, opening it to support |
| ` + "`ownership`" + ` | | | | x | | delete the fleet |

Other roles, of verbs up to ` + "`settings`" + `, are an organization's own. Another organization gets a fleet only from an administrator of the first.

Everybody may read of a **public** fleet: the fleet, its services, its tags, and its releases of builds that succeeded with their images,
tags and assets. Not its devices, variables, members, what builds said, where its sources are, or until when support may enter.

`

// The manual's permission page says what the server enforces, no more and no less.
func TestPermissionPageIsCurrent(t *testing.T) {
	dir := t.TempDir()
	if err := pki.NewTestIdentities(dir, api.RoleAPI); err != nil {
		t.Fatal(err)
	}
	role := filepath.Join(dir, api.RoleAPI)
	if err := os.WriteFile(filepath.Join(role, "pepper"), make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Dir: role, Site: api.Site{Domain: "roadstead.test"}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var page bytes.Buffer
	page.WriteString(permissionHead)
	filters := writeResources(&page, s.model())
	writeRoutes(&page, s.list())
	writeFilters(&page, filters)
	if *update {
		if err := os.WriteFile(permissionPage, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(permissionPage)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, page.Bytes()) {
		t.Errorf("%s is not current; run this test with -update and read what changed", permissionPage)
	}
}

// writeResources writes one table per resource, the kinds that may do the same in one line, and gives the filters that were said in words.
func writeResources(page *bytes.Buffer, m odata.Model) map[string]string {
	page.WriteString("## Resources\n\nUnder `/v7/`, and in older forms `/v6/` and `/v5/`. Whoever a table does not list has nothing to do " +
		"with the resource.\nThe exact filters stand at the end of the page.\n\n" +
		"How to read a table: a cell says which rows. *their own*, *itself*, *its own* are the caller's; *of fleets where they may `read`* are those that " +
		"belong\nto a fleet in which the caller has that verb, whatever lies between; of several, joined by *or*, one is enough. *all* is every row, – is none. " +
		"A row that\none may not read is not there for the other columns either. The lines below a table say what holds beyond it: *writes* are the columns " +
		"that may be\ngiven when a row is made or changed, and any other is refused by name; a column that somebody *never sees* can't be selected, filtered, " +
		"ordered or\ncounted by, also not through a link; *may give without effect* is what old clients send. Whatever a row is pointed to must be a row that " +
		"its writer reads.\n")
	filters := map[string]string{}
	say := func(filter string) string {
		w := words(filter)
		if filter != "" && filter != "true" {
			filters[filter] = w
		}
		return w
	}
	last := ""
	var lines, notes []string
	var who [][]string
	flush := func() {
		for i, line := range lines {
			fmt.Fprintf(page, "| %s | %s\n", strings.Join(who[i], ", "), line)
		}
		if len(notes) > 0 {
			page.WriteString("\n" + strings.Join(notes, "\n") + "\n")
		}
		lines, notes, who = nil, nil, nil
	}
	for _, p := range reference.Permissions(m) {
		if p.Resource != last {
			flush()
			last = p.Resource
			fmt.Fprintf(page, "\n### %s\n\n| who | reads | makes | changes | deletes |\n|---|---|---|---|---|\n", p.Resource)
		}
		name := kindNames[p.Kind]
		line := fmt.Sprintf("%s | %s | %s | %s |", say(p.Read), say(p.Create), say(p.Update), say(p.Delete))
		if i := slices.Index(lines, line); i >= 0 {
			who[i] = append(who[i], name)
		} else {
			lines, who = append(lines, line), append(who, []string{name})
		}
		for _, n := range append(permissionNotes(p, say), loginNotes(p)...) {
			if i := slices.IndexFunc(notes, func(s string) bool { return strings.HasSuffix(s, n) }); i >= 0 {
				notes[i] = strings.Replace(notes[i], ":", ", "+name+":", 1)
			} else {
				notes = append(notes, "- "+name+":"+n)
			}
		}
	}
	flush()
	return filters
}

// permissionNotes are what a rule says of columns.
func permissionNotes(p reference.Permission, say func(string) string) (notes []string) {
	list := func(word string, names []string) {
		if len(names) > 0 {
			notes = append(notes, " "+word+" `"+strings.Join(names, "` `")+"`")
		}
	}
	list("writes", p.Write)
	list("may give without effect", p.Ignored)
	list("never sees", p.Hidden)
	for _, column := range slices.Sorted(maps.Keys(p.Needs)) {
		notes = append(notes, fmt.Sprintf(" writes `%s` only %s", column, say(p.Needs[column])))
	}
	for _, column := range slices.Sorted(maps.Keys(p.Refs)) {
		notes = append(notes, fmt.Sprintf(" points `%s` only to a row %s", column, say(p.Refs[column])))
	}
	byRows := map[string][]string{} // acts on the same rows stand together
	for _, act := range slices.Sorted(maps.Keys(p.Acts)) {
		byRows[say(p.Acts[act])] = append(byRows[say(p.Acts[act])], act)
	}
	for _, rows := range slices.Sorted(maps.Keys(byRows)) {
		notes = append(notes, fmt.Sprintf(" `canAccess` says yes to `%s` %s", strings.Join(byRows[rows], "` `"), rows))
	}
	return notes
}

// loginNotes are the writes that ask a person for more than a key.
func loginNotes(p reference.Permission) (notes []string) {
	if p.Kind != access.User {
		return nil
	}
	for _, op := range []odata.Op{odata.Create, odata.Update, odata.Delete} {
		always, columns := rights.FreshWrite(p.Resource, op)
		switch word := map[odata.Op]string{odata.Create: "makes", odata.Update: "changes", odata.Delete: "deletes"}[op]; {
		case always:
			notes = append(notes, " "+word+" in a fresh session only, never by a key")
		case len(columns) > 0:
			notes = append(notes, fmt.Sprintf(" %s `%s` in a fresh session only, never by a key", word, strings.Join(columns, "` `")))
		}
	}
	return notes
}

// loginWords say what login a route asks of a person.
var loginWords = map[rights.Login]string{rights.NoLogin: "in", rights.AnyLogin: "in a session", rights.FreshLogin: "in a fresh session"}

// writeRoutes writes who gets in at which route: the public ones by principal, the internal ones by role.
func writeRoutes(page *bytes.Buffer, list []route.Route) {
	kinds := []access.Kind{access.User, access.HalfUser, access.ScopedKey, access.Device, access.FrozenDevice, access.FleetKey, access.Provisioning}
	page.WriteString("\n## Routes\n\nWho gets in; what they find behind the door is decided by the tables above, or by the verb that the manual " +
		"of the route names (`docs/api.md`). Where it says *in a session*, no key gets in, however whole; a session is *fresh* when its user " +
		"proved within 20 minutes who they are. A half session waits for the second factor of its user (`docs/accounts.md`).\n\n| route | nobody |")
	for _, k := range kinds {
		page.WriteString(" " + kindNames[k] + " |")
	}
	page.WriteString("\n|---|" + strings.Repeat("---|", len(kinds)+1) + "\n")
	for _, rt := range list {
		if len(rt.Roles) > 0 {
			continue
		}
		if slices.Equal(rt.Who, route.Anybody) {
			fmt.Fprintf(page, "| %s | in; no token is looked at |%s\n", routeName(rt), strings.Repeat(" |", len(kinds)))
			continue
		}
		fmt.Fprintf(page, "| %s |", routeName(rt))
		for _, k := range append([]access.Kind{access.Anonymous}, kinds...) {
			switch {
			case k == access.User && slices.Contains(rt.Who, k):
				page.WriteString(" " + loginWords[rt.Login] + " |")
			case slices.Contains(rt.Who, k):
				page.WriteString(" in |")
			default:
				page.WriteString(" |")
			}
		}
		page.WriteString("\n")
	}
	page.WriteString("\n## Routes between the roles of the server\n\nOn a listener of their own, with mutual TLS. Nobody else learns that they exist.\n\n" +
		"| route | roles |\n|---|---|\n")
	for _, rt := range list {
		if len(rt.Roles) > 0 {
			fmt.Fprintf(page, "| %s | %s |\n", routeName(rt), strings.Join(rt.Roles, ", "))
		}
	}
}

func routeName(rt route.Route) string {
	method, path := rt.Method, strings.TrimSuffix(rt.Path, "{$}")
	if method == "" {
		method = "any"
	}
	return "`" + method + " " + path + "`"
}

// writeFilters writes what the words above stand for.
func writeFilters(page *bytes.Buffer, filters map[string]string) {
	page.WriteString("\n## The filters, exactly\n\n`may_read` and its like are columns that the database computes for the caller, see " +
		"`internal/account/rights/rights.go`; they leave the server in no way. `@user`, `@device`, `@fleet`, `@actor` and `@key` stand for the caller.\n\n" +
		"| words | filter |\n|---|---|\n")
	for _, f := range slices.SortedFunc(maps.Keys(filters), func(a, b string) int {
		return cmp.Or(strings.Compare(filters[a], filters[b]), strings.Compare(a, b))
	}) {
		fmt.Fprintf(page, "| %s | `%s` |\n", filters[f], strings.ReplaceAll(f, "|", `\|`))
	}
}
