package builder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// How an image came to be, in the words that balena's dashboards know.
const (
	kindDockerfile = "Standard Dockerfile"
	kindSpecific   = "Architecture-specific Dockerfile"
	kindTemplate   = "Dockerfile.template"
	kindImage      = "External image"
	kindPrebuilt   = "Built elsewhere"
)

const (
	maxDockerfile = 1 << 20
	maxUnknown    = 10 // names of a template that are told of
)

// findDockerfile gives the path of a service's Dockerfile in the source and its kind. The more specific file wins: for the device
// type, for the architecture, a template, and then the plain one.
func findDockerfile(root *os.Root, dir, given string, fleet *api.BuildFleet) (file, kind string, err error) {
	for _, name := range []string{fleet.DeviceType, fleet.Arch} {
		if !templateValue.MatchString(name) {
			return "", "", api.Errorf(api.Invalid, "no file can be named after %.100q, which the fleet is for", name)
		}
	}
	if given != "" {
		file = path.Join(dir, given)
		kind = kindDockerfile
		if strings.HasSuffix(file, ".template") {
			kind = kindTemplate
		}
		if !regular(root, file) {
			return "", "", api.Errorf(api.Invalid, "there is no Dockerfile %q in the source", file)
		}
		return file, kind, nil
	}
	for _, c := range []struct{ name, kind string }{
		{"Dockerfile." + fleet.DeviceType, kindSpecific},
		{"Dockerfile." + fleet.Arch, kindSpecific},
		{"Dockerfile.template", kindTemplate},
		{"Dockerfile", kindDockerfile},
	} {
		if file := path.Join(dir, c.name); regular(root, file) {
			return file, c.kind, nil
		}
	}
	where := "the source"
	if dir != "." {
		where = fmt.Sprintf("the directory %q of the source", dir)
	}
	return "", "", api.Errorf(api.Invalid, "there is no Dockerfile in %s, nor a compose file in the source", where)
}

func regular(root *os.Root, file string) bool {
	info, err := root.Stat(file)
	return err == nil && info.Mode().IsRegular()
}

// readDockerfile reads one and fills a template in. unknown are names in it that stand for nothing.
func readDockerfile(root *os.Root, file, kind, service string, info api.Build) (text string, unknown []string, err error) {
	f, err := root.Open(file)
	if err != nil {
		return "", nil, api.Errorf(api.Invalid, "%s cannot be read", file)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	if err != nil || len(data) > maxDockerfile {
		return "", nil, api.Errorf(api.Invalid, "%s cannot be read, or is larger than %d bytes", file, maxDockerfile)
	}
	if kind != kindTemplate {
		return string(data), nil, nil
	}
	return fillTemplate(file, string(data), map[string]string{
		"MACHINE_NAME": info.Fleet.DeviceType,
		"ARCH":         info.Fleet.Arch,
		"APP_NAME":     path.Base(info.Fleet.Slug),
		"RELEASE_HASH": info.Commit,
		"SERVICE_NAME": service,
	})
}

var (
	templateName = pattern.New(`%%(?:BALENA|RESIN)_([A-Z_]+)%%`)
	// templateValue is what may stand in a Dockerfile anywhere: it ends no instruction, word or string, and begins none.
	templateValue = pattern.New(`^[\pL\pN][\pL\pN_.-]*$`)
)

// fillTemplate puts values in place of their names. They are looked at where they are used: whatever a server lets a fleet be called, a name must
// not become an instruction.
func fillTemplate(file, text string, values map[string]string) (filled string, unknown []string, err error) {
	filled = templateName.ReplaceAllStringFunc(text, func(name string) string {
		key := templateName.FindStringSubmatch(name)[1]
		value, ok := values[key]
		switch {
		case !ok:
			if !slices.Contains(unknown, name) && len(unknown) < maxUnknown {
				unknown = append(unknown, name)
			}
			return name
		case !templateValue.MatchString(value):
			err = api.Errorf(api.Invalid, "%s: %s stands for %.100q, which cannot be put into a Dockerfile", file, name, value)
		}
		return value
	})
	if err == nil && len(filled) > maxDockerfile {
		err = api.Errorf(api.TooLarge, "%s is larger than %d bytes when it is filled in", file, maxDockerfile)
	}
	return filled, unknown, err
}

// withSecrets gives every step of a Dockerfile some secrets as files below /run/secrets, as balena's builders do. Lines keep their
// numbers. What cannot be parsed is left to the build service to complain about.
func withSecrets(text string, ids []string) string {
	if len(ids) == 0 {
		return text
	}
	parsed, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return text
	}
	var mounts strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&mounts, " --mount=type=secret,id=%s,target=/run/secrets/%s,mode=0444", id, id)
	}
	lines := strings.SplitAfter(text, "\n")
	for _, node := range parsed.AST.Children {
		if !strings.EqualFold(node.Value, "run") || node.StartLine < 1 || node.StartLine > len(lines) {
			continue
		}
		line := &lines[node.StartLine-1]
		if at := runWord.FindStringIndex(*line); at != nil {
			*line = (*line)[:at[1]] + mounts.String() + " " + (*line)[at[1]:]
		}
	}
	return strings.Join(lines, "")
}

var runWord = pattern.New(`^(?i)\s*run`)

// layDockerfile writes a Dockerfile, and the ignore file that goes with it, into a directory of its own for BuildKit.
func layDockerfile(dir string, root *os.Root, file, text string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("lay out the Dockerfile: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("lay out the Dockerfile: %w", err)
	}
	if file == "" {
		return nil
	}
	ignore, err := root.Open(file + ".dockerignore")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return api.Errorf(api.Invalid, "%s.dockerignore cannot be read", file)
	}
	defer ignore.Close()
	data, err := io.ReadAll(io.LimitReader(ignore, maxDockerfile))
	if err != nil {
		return api.Errorf(api.Invalid, "%s.dockerignore cannot be read", file)
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile.dockerignore"), data, 0o600)
}
