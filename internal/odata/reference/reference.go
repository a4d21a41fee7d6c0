// Package reference describes a model for people and programs: a page of the manual, and an OpenAPI document. It only reads the
// declaration; the words about each resource come from whoever declares it.
package reference

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Words are what a declaration does not say.
type Words struct {
	About    map[string]string // resource → one sentence
	Units    map[string]string // "resource.column" → the unit of its number, or what its text means
	Examples map[string]Example
}

// Example is a request with its answer.
type Example struct {
	Request string
	Answer  json.RawMessage
}

// types are the words for the types of columns.
var types = map[odata.Type]string{
	odata.Integer: "whole number", odata.BigInteger: "whole number, as a text", odata.Real: "number", odata.Boolean: "true or false",
	odata.String: "text", odata.Date: "date", odata.JSON: "JSON", odata.ForeignKey: "link", odata.WebResource: "file",
}

// kindWords are the kinds of callers that are named as writers, in the order of the page.
var kindWords = map[access.Kind]string{
	access.User: "people", access.ScopedKey: "scoped keys", access.Device: "the device", access.Provisioning: "provisioning keys",
}

// Check names what the words lack or say of something that is not there.
func (w Words) Check(m odata.Model) error {
	known := map[string]bool{}
	for _, r := range m.Resources {
		known[r.Name] = true
		if w.About[r.Name] == "" {
			return fmt.Errorf("resource %s: nothing is said about it", r.Name)
		}
		if _, ok := w.Examples[r.Name]; !ok {
			return fmt.Errorf("resource %s: it has no example", r.Name)
		}
		for _, c := range r.Columns {
			known[r.Name+"."+c.Name] = true
		}
	}
	for _, names := range []map[string]string{w.About, w.Units} {
		for name := range names {
			if !known[name] {
				return fmt.Errorf("%s: something is said about it, but there is none", name)
			}
		}
	}
	return nil
}

// WriteMarkdown writes the page: a table of all resources, then each with its columns, links and an example.
func WriteMarkdown(out io.Writer, m odata.Model, w Words) error {
	if err := w.Check(m); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("| resource | what it is |\n|---|---|\n")
	list := slices.SortedFunc(slices.Values(m.Resources), func(a, b *odata.Resource) int { return strings.Compare(a.Name, b.Name) })
	for _, r := range list {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", r.Name, r.Name, w.About[r.Name])
	}
	reverse := reverses(m)
	for _, r := range list {
		writeResource(&b, r, w, reverse[r.Name])
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func writeResource(b *strings.Builder, r *odata.Resource, w Words, reverse map[string]string) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n", r.Name, w.About[r.Name])
	if len(r.Synonyms) > 0 {
		fmt.Fprintf(b, "Also called %s.\n", code(r.Synonyms, ", "))
	}
	var keys []string
	for _, k := range r.Keys {
		keys = append(keys, "`"+strings.Join(k, "=…,")+"=…`")
	}
	if len(keys) > 0 {
		fmt.Fprintf(b, "Addressed by `id` or by %s.\n", strings.Join(keys, ", "))
	}
	b.WriteString("\n| column | type | written by | |\n|---|---|---|---|\n")
	for _, c := range r.Columns {
		if c.Hidden {
			continue
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", c.Name, typeCell(c), writers(r, c.Name), notes(r, c, w))
	}
	for _, v := range r.Virtual {
		if !slices.ContainsFunc(r.Columns, func(c odata.Column) bool { return c.Name == v }) {
			fmt.Fprintf(b, "| `%s` | text | %s | only written, never shown |\n", v, writers(r, v))
		}
	}
	if len(reverse) > 0 {
		b.WriteString("\nExpanded, counted or asked about with `any` and `all`:\n\n")
		by := map[string][]string{}
		for name, of := range reverse {
			by[of] = append(by[of], name)
		}
		for _, of := range slices.Sorted(maps.Keys(by)) {
			slices.Sort(by[of])
			fmt.Fprintf(b, "- %s: %s\n", of, code(by[of], ", "))
		}
	}
	e := w.Examples[r.Name]
	var pretty bytes.Buffer
	if json.Indent(&pretty, e.Answer, "", "  ") != nil {
		pretty.Write(e.Answer)
	}
	fmt.Fprintf(b, "\n```\n%s\n```\n```json\n%s\n```\n", e.Request, pretty.String())
}

func typeCell(c odata.Column) string {
	t := types[c.Type]
	if c.Type == odata.ForeignKey {
		t = "link to [`" + c.To + "`](#" + c.To + ")"
	}
	if c.Null {
		t += ", or null"
	}
	return t
}

func notes(r *odata.Resource, c odata.Column, w Words) string {
	var n []string
	if u := w.Units[r.Name+"."+c.Name]; u != "" {
		n = append(n, u)
	}
	if c.MaxLen > 0 {
		n = append(n, fmt.Sprintf("at most %d bytes", c.MaxLen))
	}
	if c.SQL != "" {
		n = append(n, "computed")
	}
	if c.Read != "" {
		n = append(n, "null to who may not know it")
	}
	if c.Explicit {
		n = append(n, "only when named in `$select`")
	}
	if len(c.Synonyms) > 0 {
		n = append(n, "also "+code(c.Synonyms, ", "))
	}
	return strings.Join(n, "; ")
}

// writers are the kinds of callers that may give a column.
func writers(r *odata.Resource, column string) string {
	var who []string
	for _, k := range access.Kinds() {
		if ru, ok := r.Rules[k]; ok && kindWords[k] != "" && slices.Contains(ru.Write, column) && ru.Create+ru.Update != "" {
			who = append(who, kindWords[k])
		}
	}
	if slices.Contains(who, kindWords[access.User]) { // their keys too, within limits
		who = slices.DeleteFunc(who, func(w string) bool { return w == kindWords[access.ScopedKey] })
	}
	return strings.Join(who, ", ")
}

// reverses finds, for each resource, the names under which it sees rows that point to it, with the resource of those.
func reverses(m odata.Model) map[string]map[string]string {
	byName := map[string]*odata.Resource{}
	taken := map[string]map[string]bool{}
	out := map[string]map[string]string{}
	for _, r := range m.Resources {
		out[r.Name], taken[r.Name] = map[string]string{}, map[string]bool{}
		for _, n := range append([]string{r.Name}, r.Synonyms...) {
			byName[n] = r
		}
		for _, c := range r.Columns {
			for _, n := range append([]string{c.Name}, c.Synonyms...) {
				taken[r.Name][n] = true
			}
		}
	}
	eachLink := func(do func(r *odata.Resource, c odata.Column, to string)) {
		for _, r := range m.Resources {
			for _, c := range r.Columns {
				if c.To != "" && !c.Hidden && byName[c.To] != nil {
					do(r, c, byName[c.To].Name)
				}
			}
		}
	}
	links := map[[2]string]int{}
	eachLink(func(r *odata.Resource, c odata.Column, to string) {
		links[[2]string{r.Name, to}]++
		for _, n := range c.Reverse {
			out[to][n] = r.Name
		}
	})
	eachLink(func(r *odata.Resource, _ odata.Column, to string) {
		for _, n := range append([]string{r.Name}, r.Synonyms...) { // the engine adds these where only one link can be meant
			if links[[2]string{r.Name, to}] == 1 && out[to][n] == "" && !taken[to][n] {
				out[to][n] = r.Name
			}
		}
	})
	return out
}

func code(names []string, sep string) string { return "`" + strings.Join(names, "`"+sep+"`") + "`" }
