package builder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v4"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/logtext"
	"github.com/roadstead-io/roadstead/internal/compose"
)

// given is what came with a source for its builds alone. It is in no image, log, record or cache key, and on no disk once the
// build has ended: what is kept for a build to go on with after a restart is this role's alone and goes with the build.
type given struct {
	registries map[string]secret // by registry host: what base images are pulled with
	files      map[string][]byte // what stood below .balena/secrets
	push       api.BuildGiven    // what the pusher named
	settings   *compose.Settings
}

const (
	maxSecret  = 128 << 10 // bytes of a secret
	maxSecrets = 256 << 10 // bytes of all of them
	maxFiles   = 256       // of them
	maxGiven   = 2 << 20   // bytes of what a push gives: secrets in base64, and arguments
)

var registryFiles = []string{"registry-secrets.json", "registry-secrets.yml", "registry-secrets.yaml"}

// takeGiven reads what is meant for the build alone, and takes the secret parts out of the source.
func takeGiven(root *os.Root) (*given, error) {
	g := &given{registries: map[string]secret{}, files: map[string][]byte{}}
	for _, dir := range compose.MetaDirs {
		for _, name := range registryFiles {
			text, err := takeFile(root, path.Join(dir, name), maxSecret)
			if err != nil {
				return nil, err
			}
			if err := g.addRegistries(path.Join(dir, name), text); err != nil {
				return nil, err
			}
		}
		if err := g.takeFiles(root, path.Join(dir, "secrets")); err != nil {
			return nil, err
		}
	}
	text, err := takeFile(root, api.BuildGivenFile, maxGiven)
	if err != nil {
		return nil, err
	}
	if err := g.addPush(text); err != nil {
		return nil, err
	}
	if g.settings, err = compose.ReadSettings(root); err != nil {
		return nil, err
	}
	for _, dir := range append(compose.MetaDirs, path.Dir(api.BuildGivenFile)) {
		_ = root.Remove(dir) // fails when the project has more in it, which then stays
	}
	size := 0
	for _, s := range g.secretTexts() {
		size += len(s)
	}
	if size > maxSecrets {
		return nil, api.Errorf(api.TooLarge, "the secrets of the build have more than %d bytes together", maxSecrets)
	}
	return g, nil
}

// takeFile reads a file and removes it; nil when there is none. It must be a file of its own: whatever else names the same bytes
// would stay in the source.
func takeFile(root *os.Root, name string, limit int64) ([]byte, error) {
	if err := realDirs(root, path.Dir(name)); err != nil {
		return nil, err
	}
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil || !info.Mode().IsRegular() {
		return nil, api.Errorf(api.Invalid, "%s must be a file, not a link or directory", name)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		return nil, api.Errorf(api.Invalid, "%s is linked to by another name: it holds secrets, which must not stay in the source", name)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "%s cannot be read", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, api.Errorf(api.Invalid, "%s cannot be read", name)
	}
	if int64(len(text)) > limit {
		return nil, api.Errorf(api.TooLarge, "%s is larger than %d bytes", name, limit)
	}
	if err := root.Remove(name); err != nil {
		return nil, fmt.Errorf("take %s aside: %w", name, err)
	}
	if text == nil {
		text = []byte{}
	}
	return text, nil
}

// realDirs refuses a path with a link in it: behind it could be any other part of the source.
func realDirs(root *os.Root, dir string) error {
	for i := range len(dir) + 1 {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		if info, err := root.Lstat(dir[:i]); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return api.Errorf(api.Invalid, "%s must be a directory, not a link", dir[:i])
		}
	}
	return nil
}

// addRegistries reads registry secrets. YAML holds JSON.
func (g *given) addRegistries(name string, text []byte) error {
	if text == nil {
		return nil
	}
	var list map[string]secret
	// The decoder's errors quote what they are about, which is secret here.
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&list); err != nil && !errors.Is(err, io.EOF) {
		return api.Errorf(api.Invalid, "%s is not an object of registry hosts, each with a username and a password", name)
	}
	maps.Copy(g.registries, list)
	return nil
}

// takeFiles reads the files of a directory of secrets, and removes it.
func (g *given) takeFiles(root *os.Root, dir string) error {
	if err := realDirs(root, dir); err != nil {
		return err
	}
	if info, err := root.Lstat(dir); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	} else if err != nil || !info.IsDir() {
		return api.Errorf(api.Invalid, "%s must be a directory", dir)
	}
	err := fs.WalkDir(root.FS(), dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		id := strings.TrimPrefix(name, dir+"/")
		if path.Base(id) == ".gitkeep" || path.Base(id) == ".gitignore" {
			return nil
		}
		if err := compose.CheckSecret(id); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		if len(g.files) >= maxFiles {
			return api.Errorf(api.TooLarge, "%s holds more than %d files", dir, maxFiles)
		}
		g.files[id], err = takeFile(root, name, maxSecret)
		return err
	})
	if err != nil {
		return err
	}
	if err := root.RemoveAll(dir); err != nil {
		return fmt.Errorf("take %s aside: %w", dir, err)
	}
	return nil
}

// addPush reads what the pusher named.
func (g *given) addPush(text []byte) error {
	if text == nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields() // what is not understood must not be left out in silence
	if err := dec.Decode(&g.push); err != nil {
		return api.Errorf(api.Invalid, "%s cannot be read; is the server older than the command line?", api.BuildGivenFile)
	}
	for name, value := range g.push.Args {
		if err := compose.CheckVariable(name, value); err != nil {
			return err
		}
	}
	if len(g.push.Args) > maxFiles || len(g.push.Secrets) > maxFiles {
		return api.Errorf(api.TooLarge, "more than %d build arguments or secrets", maxFiles)
	}
	for id, value := range g.push.Secrets {
		if err := compose.CheckSecret(id); err != nil {
			return err
		}
		if len(value) > maxSecret {
			return api.Errorf(api.TooLarge, "the secret %s is larger than %d bytes", id, maxSecret)
		}
	}
	return nil
}

// secretTexts are all secrets, to be kept out of what is said.
func (g *given) secretTexts() []string {
	var list []string
	for _, s := range g.registries {
		list = append(list, s.Password)
	}
	for _, m := range []map[string][]byte{g.files, g.push.Secrets} {
		for _, s := range m {
			list = append(list, string(s))
		}
	}
	return list
}

// open names the secrets that are too short to be kept out of the log.
func (g *given) open() []string {
	var names []string
	for _, m := range []map[string][]byte{g.files, g.push.Secrets} {
		for name, s := range m {
			if n := len(bytes.TrimSpace(s)); n > 0 && n < logtext.Least {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// args are the build arguments of a service: what the pusher named before the project's settings, those before the compose file.
func (g *given) args(service string, composed map[string]string) map[string]string {
	out := maps.Clone(composed)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, g.settings.Variables(service))
	maps.Copy(out, g.push.Args)
	maps.DeleteFunc(out, func(name, _ string) bool { return strings.HasPrefix(name, "BUILDKIT_") })
	return out
}

// secrets are those of a service by name, and the names of those that every step is to have.
func (g *given) secrets(service string) (all map[string][]byte, mounted []string, err error) {
	all = map[string][]byte{}
	files := slices.Sorted(maps.Keys(g.files))
	declared, mount := g.settings.Secrets(service, files)
	for _, id := range slices.Sorted(maps.Keys(declared)) {
		data, ok := g.files[declared[id]]
		if !ok {
			return nil, nil, api.Errorf(api.Invalid, "%s: there is no secret %q in %s", g.settings.File, declared[id],
				path.Join(path.Dir(g.settings.File), "secrets"))
		}
		all[id] = data
		if mount {
			mounted = append(mounted, id)
		}
	}
	maps.Copy(all, g.push.Secrets)
	return all, mounted, nil
}

// check finds out early what a service lacks.
func (g *given) check(services []compose.Service) error {
	for _, svc := range services {
		if _, _, err := g.secrets(svc.Name); err != nil {
			return err
		}
	}
	return nil
}
