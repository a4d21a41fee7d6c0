package builder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// How an image came to be, in the words that balena's dashboards know.
const (
	kindDockerfile = "Standard Dockerfile"
	kindSpecific   = "Architecture-specific Dockerfile"
	kindTemplate   = "Dockerfile.template"
	kindImage      = "External image"
	kindPrebuilt   = "Built elsewhere"
)

const maxDockerfile = 1 << 20

// findDockerfile gives the path of a service's Dockerfile in the source and its kind. The more specific file wins: for the device
// type, for the architecture, a template, and then the plain one.
func findDockerfile(root *os.Root, dir, given string, fleet *api.BuildFleet) (file, kind string, err error) {
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

// readDockerfile reads one and fills a template in.
func readDockerfile(root *os.Root, file, kind, service string, b *build) (string, error) {
	f, err := root.Open(file)
	if err != nil {
		return "", api.Errorf(api.Invalid, "%s cannot be read", file)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	if err != nil || len(text) > maxDockerfile {
		return "", api.Errorf(api.Invalid, "%s cannot be read, or is larger than %d bytes", file, maxDockerfile)
	}
	if kind != kindTemplate {
		return string(text), nil
	}
	vars := map[string]string{
		"MACHINE_NAME": b.info.Fleet.DeviceType,
		"ARCH":         b.info.Fleet.Arch,
		"APP_NAME":     path.Base(b.info.Fleet.Slug),
		"RELEASE_HASH": b.info.Commit,
		"SERVICE_NAME": service,
	}
	var pairs []string
	for name, value := range vars {
		pairs = append(pairs, "%%BALENA_"+name+"%%", value, "%%RESIN_"+name+"%%", value)
	}
	return strings.NewReplacer(pairs...).Replace(string(text)), nil
}

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
