// Package letter is the wording of the letters that a server sends to people about their accounts: plain text, without pictures and
// without anything that tells when it was read. Links hold their secret behind a #, which no browser sends anywhere: no server's log and
// no Referer has it.
package letter

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"text/template"

	"github.com/roadstead-io/roadstead/api"
)

//go:embed text/*.txt
var texts embed.FS

// maxName is how much of a name gets into a letter: strangers choose names, and shall not write to people in ours.
const maxName = 100

// Letters are the templates, with what is the same in all of them.
type Letters struct {
	site api.Site
	all  *template.Template
}

// New reads the templates.
func New(site api.Site) (*Letters, error) {
	all, err := template.New("").Option("missingkey=zero").ParseFS(texts, "text/*.txt")
	if err != nil {
		return nil, fmt.Errorf("letters: %w", err)
	}
	return &Letters{site, all}, nil
}

func file(kind string) string { return strings.ReplaceAll(kind, " ", "-") + ".txt" }

// Known reports whether there is a letter of that kind.
func Known(kind string) bool {
	_, err := fs.Stat(texts, "text/"+file(kind))
	return err == nil && !strings.Contains(kind, "-")
}

// Kinds gives every kind.
func Kinds() (kinds []string) {
	entries, _ := texts.ReadDir("text") // embedded
	for _, e := range entries {
		kinds = append(kinds, strings.ReplaceAll(strings.TrimSuffix(e.Name(), ".txt"), "-", " "))
	}
	return kinds
}

// Render gives the subject and the text of a letter.
func (l *Letters) Render(kind string, data map[string]string) (subject, body string, err error) {
	if !Known(kind) {
		return "", "", fmt.Errorf("there is no letter %q", kind)
	}
	values := maps.Clone(data)
	if values == nil {
		values = map[string]string{}
	}
	for name, v := range values {
		if r := []rune(v); len(r) > maxName && name != "token" {
			values[name] = string(r[:maxName]) + "…"
		}
	}
	values["domain"], values["dashboard"] = l.site.Domain, l.site.URL("dashboard")
	var out strings.Builder
	if err := l.all.ExecuteTemplate(&out, file(kind), values); err != nil {
		return "", "", fmt.Errorf("letter %q: %w", kind, err)
	}
	head, body, found := strings.Cut(out.String(), "\n\n")
	subject, is := strings.CutPrefix(head, "Subject: ")
	if !found || !is || strings.ContainsAny(subject, "\r\n") {
		return "", "", errors.New("a letter starts with one line Subject and an empty one")
	}
	return subject, body + "\n-- \n" + l.site.Domain + " sends this by itself; nobody reads answers.\n", nil
}
