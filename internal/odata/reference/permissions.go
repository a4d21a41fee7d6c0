package reference

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Permission is what one kind of caller may do with one resource. An empty filter is never, "true" is every row.
type Permission struct {
	Resource                     string
	Kind                         access.Kind
	Read, Create, Update, Delete string
	Write                        []string          // columns
	Ignored                      []string          // accepted without effect
	Hidden                       []string          // columns that are never shown to this kind
	Needs, Refs                  map[string]string // by column, see [odata.Rule]
	Acts                         map[string]string // what `canAccess` answers besides: act → filter
}

// Permissions lists every rule, resources in the order of the model, kinds in that of [access.Kinds].
func Permissions(m odata.Model) []Permission {
	var out []Permission
	for _, r := range m.Resources {
		for _, k := range access.Kinds() {
			ru, ok := r.Rules[k]
			if !ok {
				continue
			}
			p := Permission{
				Resource: r.Name, Kind: k, Read: ru.Read, Create: ru.Create, Update: ru.Update, Delete: ru.Delete,
				Write: ru.Write, Ignored: ru.Ignore, Hidden: slices.Clone(ru.Hide), Needs: ru.Needs, Refs: ru.Refs, Acts: map[string]string{},
			}
			for act, kinds := range r.Actions {
				if filter := kinds[k]; filter != "" {
					p.Acts[act] = filter
				}
			}
			for _, c := range r.Columns {
				if c.Hidden {
					p.Hidden = append(p.Hidden, c.Name)
				}
			}
			out = append(out, p)
		}
	}
	return out
}

// WritePermissions writes the permission page of the manual.
func WritePermissions(w io.Writer, m odata.Model) error {
	var b strings.Builder
	b.WriteString("Kinds that a table does not list get nothing. A filter says for which rows; `@user`, `@device`, `@fleet`, " +
		"`@actor` and `@key` stand for the caller.\n")
	last := ""
	for _, p := range Permissions(m) {
		if p.Resource != last {
			last = p.Resource
			fmt.Fprintf(&b, "\n## %s\n\n| who | read | create | update | delete | columns |\n|---|---|---|---|---|---|\n", p.Resource)
		}
		var notes []string
		for _, n := range []struct {
			word  string
			names []string
		}{{"writes", p.Write}, {"ignored", p.Ignored}, {"never sees", p.Hidden}} {
			if len(n.names) > 0 {
				notes = append(notes, n.word+" `"+strings.Join(n.names, "` `")+"`")
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", p.Kind, filterCell(p.Read), filterCell(p.Create), filterCell(p.Update),
			filterCell(p.Delete), strings.Join(notes, "; "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func filterCell(filter string) string {
	switch filter {
	case "":
		return "–"
	case "true":
		return "all"
	}
	return "`" + strings.ReplaceAll(filter, "|", `\|`) + "`"
}
