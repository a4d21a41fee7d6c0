package compose

import (
	"context"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Finding is what becomes of one thing that a project says.
type Finding struct {
	Field   string  `json:"field"` // services.web.ports, or a file
	Support Support `json:"support"`
	Why     string  `json:"why,omitempty"`
}

// Report is what the builder will make of a project.
type Report struct {
	File     string    `json:"file,omitempty"` // the compose file
	Services []Service `json:"-"`
	Findings []Finding `json:"fields"`
}

// Count is the number of findings of a kind.
func (r *Report) Count(s Support) int { return len(r.Of(s)) }

// Of are the findings of a kind.
func (r *Report) Of(s Support) []Finding {
	var out []Finding
	for _, f := range r.Findings {
		if f.Support == s {
			out = append(out, f)
		}
	}
	return out
}

func (r *Report) add(field string, s Support, why string) {
	r.Findings = append(r.Findings, Finding{field, s, why})
}

// Check reads a project as the builder does, and says of every field what becomes of it. It needs no server; what depends on the
// fleet, which of several Dockerfiles is taken, is left open.
func Check(ctx context.Context, root *os.Root) *Report {
	r := &Report{File: Find(root), Findings: []Finding{}}
	switch {
	case r.File != "":
		r.checkFile(ctx, root)
	case hasDockerfile(root, "."):
		r.Services = Single("").Services
	default:
		r.add(".", Refused, "there is neither a Dockerfile nor a compose file")
	}
	if _, err := Contract(root); err != nil {
		r.add(contractFiles[0], Refused, err.Error())
	}
	settings, err := ReadSettings(root)
	if err != nil {
		r.add(path.Join(MetaDirs[0], settingsFiles[0]), Refused, err.Error())
		return r
	}
	if r.Count(Refused) == 0 {
		for _, name := range settings.Strangers(r.Services) {
			r.add(settings.File, Ignored, "it speaks of a service "+name+", which the project does not have")
		}
	}
	return r
}

func (r *Report) checkFile(ctx context.Context, root *os.Root) {
	n := &normaliser{root: root}
	project, err := n.load(ctx, r.File)
	for _, field := range n.kept {
		r.add(field, Kept, "")
	}
	for _, text := range n.warnings {
		r.add(aboutField(text, Ignored))
	}
	for _, text := range n.refused {
		r.add(aboutField(text, Refused))
	}
	if err != nil {
		if len(n.refused) == 0 {
			field, why := r.File, strings.TrimPrefix(err.Error(), r.File+": ")
			if m := strangeField.FindStringSubmatch(why); m != nil {
				field, why = m[1]+"."+m[2], "there is no such field"
			}
			r.add(field, Refused, why)
		}
		return
	}
	r.Services = project.Services
	for _, svc := range project.Services {
		if b := svc.Build; b != nil && b.Inline == "" {
			switch {
			case b.Dockerfile == "" && !hasDockerfile(root, b.Context):
				r.add("services."+svc.Name+".build", Refused, "there is no Dockerfile in "+b.Context)
			case b.Dockerfile != "" && !isFile(root, path.Join(b.Context, b.Dockerfile)):
				r.add("services."+svc.Name+".build.dockerfile", Refused, "there is no file "+path.Join(b.Context, b.Dockerfile))
			}
		}
	}
}

// strangeField is what plain makes of a field that the format does not have.
var strangeField = pattern.New(`^([\w.-]+): unknown field "([\w-]+)"$`)

// aboutField splits a sentence of the normaliser's, which begins with the path of the field that it is about.
func aboutField(text string, s Support) (string, Support, string) {
	field, why, ok := strings.Cut(text, " ")
	if !ok {
		return text, s, ""
	}
	field = strings.TrimSuffix(field, ":")
	for _, known := range []string{"is ignored: ", "is not supported: "} {
		why = strings.TrimPrefix(why, known)
	}
	return field, s, why
}

func isFile(root *os.Root, name string) bool {
	info, err := root.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// hasDockerfile reports whether a directory has a Dockerfile for some fleet.
func hasDockerfile(root *os.Root, dir string) bool {
	entries, err := fs.ReadDir(root.FS(), path.Clean(dir))
	if err != nil {
		return false
	}
	for _, e := range entries {
		if name := e.Name(); (name == "Dockerfile" || strings.HasPrefix(name, "Dockerfile.") && name != "Dockerfile.dockerignore") &&
			isFile(root, path.Join(dir, name)) {
			return true
		}
	}
	return false
}

// Fail is the error for a project that the builder would refuse; nil when it would not.
func (r *Report) Fail() error {
	refused := r.Of(Refused)
	if len(refused) == 0 {
		return nil
	}
	var lines []string
	for _, f := range refused {
		lines = append(lines, f.Field+": "+f.Why)
	}
	return api.Errorf(api.Invalid, "the builder would refuse the project:\n  %s", strings.Join(lines, "\n  "))
}
