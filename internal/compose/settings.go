package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Settings is what a project says about its builds beside its compose file, in .balena/balena.yml: variables and secrets, of
// every service and of single ones.
type Settings struct {
	File      string              // where it was read; "" when the project has none
	variables scoped[string]      // by name
	secrets   scoped[string]      // source by destination
	declared  bool                // the file says which secrets there are
	names     map[string]struct{} // of the services that it speaks of
}

type scoped[T any] struct {
	global   map[string]T
	services map[string]map[string]T
}

// of is what holds for one service: its own before what all have.
func (s scoped[T]) of(service string) map[string]T {
	out := maps.Clone(s.global)
	if out == nil {
		out = map[string]T{}
	}
	maps.Copy(out, s.services[service])
	return out
}

// MetaDirs are where a project keeps what is about its builds and not part of them. The second is balena's old name.
var MetaDirs = []string{".balena", ".resin"}

var settingsFiles = []string{"balena.yml", "balena.yaml", "balena.json", "resin.yml", "resin.yaml", "resin.json"}

const (
	maxSettings = 64 << 10 // bytes of the file
	maxVariable = 32 << 10 // bytes of a variable's value
	maxEntries  = 256      // variables, and secrets, of one scope
)

var (
	variableRule = pattern.New(`^[a-zA-Z_][a-zA-Z0-9_]{0,254}$`)
	secretRule   = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}(/[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}){0,7}$`)
)

// CheckVariable refuses a build variable that no Dockerfile could name, or that is too long.
func CheckVariable(name, value string) error {
	switch {
	case !variableRule.MatchString(name):
		return api.Errorf(api.Invalid, "%q is not the name of a build variable: letters, digits and '_', not a digit first", shown(name))
	case strings.HasPrefix(name, "BUILDKIT_"):
		return api.Errorf(api.Invalid, "%s: variables named BUILDKIT_… are not the project's to set", name)
	case len(value) > maxVariable:
		return api.Errorf(api.TooLarge, "the build variable %s is longer than %d bytes", name, maxVariable)
	case strings.ContainsRune(value, 0):
		return api.Errorf(api.Invalid, "the build variable %s holds a NUL byte", name)
	}
	return nil
}

// CheckSecret refuses the name of a secret that is no harmless name of a file below /run/secrets.
func CheckSecret(id string) error {
	if !secretRule.MatchString(id) {
		return api.Errorf(api.Invalid, "%q cannot be the name of a secret: parts of letters, digits, '_', '.' and '-', each beginning with "+
			"a letter or digit, with '/' between them", shown(id))
	}
	return nil
}

// shown is a text of others, short enough for an error.
func shown(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

// ReadSettings reads a project's settings; the zero value when it has none.
func ReadSettings(root *os.Root) (*Settings, error) {
	for _, dir := range MetaDirs {
		for _, name := range settingsFiles {
			file := path.Join(dir, name)
			info, err := root.Stat(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil || !info.Mode().IsRegular() {
				return nil, api.Errorf(api.Invalid, "%s cannot be read: it must be a file inside the source", file)
			}
			f, err := root.Open(file)
			if err != nil {
				return nil, api.Errorf(api.Invalid, "%s cannot be read: it must be a file inside the source", file)
			}
			text, err := io.ReadAll(io.LimitReader(f, maxSettings+1))
			if err = errors.Join(err, f.Close()); err != nil {
				return nil, api.Errorf(api.Invalid, "%s cannot be read", file)
			}
			if len(text) > maxSettings {
				return nil, api.Errorf(api.TooLarge, "%s is larger than %d bytes", file, maxSettings)
			}
			s, err := parseSettings(text)
			if err != nil {
				return nil, api.Errorf(api.AsError(err).Code, "%s: %v", file, err)
			}
			s.File = file
			return s, nil
		}
	}
	return &Settings{}, nil
}

// parseSettings reads the text. YAML holds JSON.
func parseSettings(text []byte) (*Settings, error) {
	var doc struct {
		Variables *struct {
			Global   any            `yaml:"global"`
			Services map[string]any `yaml:"services"`
		} `yaml:"build-variables"`
		Secrets *struct {
			Global   []secretFile            `yaml:"global"`
			Services map[string][]secretFile `yaml:"services"`
		} `yaml:"build-secrets"`
	}
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, api.Errorf(api.Invalid, "%v", err)
	}
	s := &Settings{names: map[string]struct{}{}}
	var err error
	if v := doc.Variables; v != nil {
		if s.variables.global, err = variables("build-variables.global", v.Global); err != nil {
			return nil, err
		}
		s.variables.services = map[string]map[string]string{}
		for _, name := range sortedKeys(v.Services) {
			s.names[name] = struct{}{}
			if s.variables.services[name], err = variables("build-variables.services."+shown(name), v.Services[name]); err != nil {
				return nil, err
			}
		}
	}
	if v := doc.Secrets; v != nil {
		s.declared = true
		if s.secrets.global, err = secretFiles("build-secrets.global", v.Global); err != nil {
			return nil, err
		}
		s.secrets.services = map[string]map[string]string{}
		for _, name := range sortedKeys(v.Services) {
			s.names[name] = struct{}{}
			if s.secrets.services[name], err = secretFiles("build-secrets.services."+shown(name), v.Services[name]); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

type secretFile struct {
	Source string `yaml:"source"`
	Dest   string `yaml:"dest"`
}

// variables reads a list of NAME=VALUE, or an object.
func variables(at string, v any) (map[string]string, error) {
	out := map[string]string{}
	add := func(name string, value any) error {
		switch value.(type) {
		case map[string]any, map[any]any, []any:
			return api.Errorf(api.Invalid, "%s.%s: a variable is a text", at, shown(name))
		case nil:
			value = ""
		}
		text := fmt.Sprint(value)
		if err := CheckVariable(name, text); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		out[name] = text
		if len(out) > maxEntries {
			return api.Errorf(api.TooLarge, "%s: more than %d variables", at, maxEntries)
		}
		return nil
	}
	switch v := v.(type) {
	case nil:
	case []any:
		for _, item := range v {
			text, ok := item.(string)
			name, value, has := strings.Cut(text, "=")
			if !ok || !has {
				return nil, api.Errorf(api.Invalid, "%s: expected NAME=VALUE, not %q", at, shown(fmt.Sprint(item)))
			}
			if err := add(name, value); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for _, name := range sortedKeys(v) {
			if err := add(name, v[name]); err != nil {
				return nil, err
			}
		}
	default:
		return nil, api.Errorf(api.Invalid, "%s: expected a list of NAME=VALUE", at)
	}
	return out, nil
}

func secretFiles(at string, list []secretFile) (map[string]string, error) {
	out := map[string]string{}
	for i, f := range list {
		if f.Source == "" || f.Dest == "" {
			return nil, api.Errorf(api.Invalid, "%s[%d]: a secret has a source, below secrets, and a dest, below /run/secrets", at, i)
		}
		for _, name := range []string{f.Source, f.Dest} {
			if err := CheckSecret(name); err != nil {
				return nil, fmt.Errorf("%s[%d]: %w", at, i, err)
			}
		}
		out[f.Dest] = f.Source
		if len(out) > maxEntries {
			return nil, api.Errorf(api.TooLarge, "%s: more than %d secrets", at, maxEntries)
		}
	}
	return out, nil
}

// Variables are the build variables of a service.
func (s *Settings) Variables(service string) map[string]string { return s.variables.of(service) }

// Secrets are the secrets of a service: by destination, the file below secrets. mounted is what the settings declare; such
// secrets are there in every step, as projects made for balena expect. Where nothing is declared, every file is a secret of every service
// by its own name, for the steps that ask for it.
func (s *Settings) Secrets(service string, files []string) (secrets map[string]string, mounted bool) {
	if s.declared {
		return s.secrets.of(service), true
	}
	secrets = map[string]string{}
	for _, f := range files {
		secrets[f] = f
	}
	return secrets, false
}

// Strangers are names of services that the settings speak of and the project does not have.
func (s *Settings) Strangers(services []Service) []string {
	known := map[string]bool{}
	for _, svc := range services {
		known[svc.Name] = true
	}
	var out []string
	for _, name := range sortedKeys(s.names) {
		if !known[name] {
			out = append(out, shown(name))
		}
	}
	return out
}
