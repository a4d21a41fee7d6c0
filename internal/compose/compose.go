// Package compose reads what a project wants to run. It parses compose files of version 2 and 3 with the Compose project's own
// parser, refuses by name what a device cannot or must not do, and gives the composition the one form that releases keep.
// Nothing outside the project's directory is read.
package compose

import (
	"context"
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

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Project is what was read.
type Project struct {
	Composition json.RawMessage // normalised, as docs/composition.md describes
	Services    []Service       // by name
	Warnings    []string        // what was ignored, for the build log
}

// Service is one service as the builder needs to know it.
type Service struct {
	Name  string
	Image string // where the image is, when nothing is built
	Build *Build // how it is built; nil when it is not
	// Platforms are those that it is made for ("linux/arm64"); none means all of the fleet's.
	Platforms []string
}

// Build says how to build a service's image.
type Build struct {
	Context    string // a directory of the project, "." for all of it
	Dockerfile string // within the context; "" means the usual search
	Inline     string // a Dockerfile's content, instead of a file
	Target     string
	Args       map[string]string
	Labels     map[string]string
	ExtraHosts []string // name=address
	ShmSize    int64
	NoCache    bool
}

// FileNames are the names of a compose file, the first that exists counts.
var FileNames = []string{"docker-compose.yml", "docker-compose.yaml", "compose.yaml", "compose.yml"}

const (
	maxFile     = 1 << 20 // of a compose or environment file
	maxServices = 100
	maxPlain    = 4096   // bytes of a parser's error
	maxEnvFiles = 300    // that services name, together
	maxVisits   = 50_000 // nodes of a compose file, aliases unfolded
)

// MainService is the name of the only service of a project without a compose file.
const MainService = "main"

// Find gives the name of the project's compose file, "" when it has none.
func Find(root *os.Root) string {
	for _, name := range FileNames {
		if info, err := root.Stat(name); err == nil && info.Mode().IsRegular() {
			return name
		}
	}
	return ""
}

// Single is the project that one Dockerfile makes: the service "main", with the access to its device that balena gives it.
func Single(dockerfile string) *Project {
	build := map[string]any{"context": "."}
	if dockerfile != "" {
		build["dockerfile"] = dockerfile
	}
	return single(build, &Build{Context: ".", Dockerfile: dockerfile})
}

// Prebuilt is the project of one image that was built elsewhere.
func Prebuilt() *Project { return single(nil, nil) }

func single(block map[string]any, build *Build) *Project {
	service := map[string]any{
		"privileged": true, "tty": true, "restart": "always", "network_mode": "host",
		"volumes": []string{"resin-data:/data"},
		"labels": map[string]string{
			"io.resin.features.kernel-modules": "1", "io.resin.features.firmware": "1", "io.resin.features.dbus": "1",
			"io.resin.features.supervisor-api": "1", "io.resin.features.resin-api": "1",
		},
	}
	if block != nil {
		service["build"] = block
	}
	text, err := json.Marshal(map[string]any{
		"version": "2.1", "networks": map[string]any{}, "volumes": map[string]any{"resin-data": map[string]any{}},
		"services": map[string]any{MainService: service},
	})
	if err != nil {
		panic(err) // maps of strings always marshal
	}
	return &Project{Composition: text, Services: []Service{{Name: MainService, Build: build}}}
}

// Load reads a compose file. All that is refused is named in one error.
func Load(ctx context.Context, root *os.Root, file string) (*Project, error) {
	return (&normaliser{root: root}).load(ctx, file)
}

func (n *normaliser) load(ctx context.Context, file string) (*Project, error) {
	text, err := readFile(n.root, file)
	if err != nil {
		return nil, err
	}
	if n.env, err = projectEnvironment(n.root); err != nil {
		return nil, err
	}
	if err := prescan(file, text, n.env); err != nil {
		return nil, err
	}
	details := types.ConfigDetails{
		WorkingDir:  "/",
		ConfigFiles: []types.ConfigFile{{Filename: file, Content: text}},
		Environment: n.env,
	}
	opts := loader.ToOptions(&details, []func(*loader.Options){configure})
	model, err := loader.LoadModelWithContext(ctx, details, configure)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "%s: %s", file, plain(err))
	}
	n.checkModel(model)
	if err := n.refusals(file); err != nil {
		return nil, err
	}
	implyDefaultNetwork(model)
	project, err := loader.ModelToProject(model, opts, details)
	if err != nil {
		return nil, api.Errorf(api.Invalid, "%s: %s", file, plain(err))
	}
	out := n.project(project)
	if err := n.refusals(file); err != nil {
		return nil, err
	}
	composition, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode the composition: %w", err)
	}
	return &Project{Composition: composition, Services: n.services, Warnings: n.warnings}, nil
}

// configure makes the parser touch nothing but the text it is given: it resolves no path, and reads no other file.
func configure(o *loader.Options) {
	o.SetProjectName("release", true)
	o.SkipNormalization = true
	o.SkipDefaultValues = true
	o.ResolvePaths = false
	o.SkipInclude = true
	o.SkipResolveEnvironment = true
	o.SkipResolveLabels = true
	o.MaxNodeVisits = maxVisits
	o.ResourceLoaders = []loader.ResourceLoader{noOtherFiles{}}
}

// noOtherFiles stands before the parser's own loader of files and takes every request.
type noOtherFiles struct{}

func (noOtherFiles) Accept(string) bool { return true }
func (noOtherFiles) Dir(p string) string {
	return path.Dir(p)
}

func (noOtherFiles) Load(_ context.Context, p string) (string, error) {
	return "", fmt.Errorf("extends: %q is another file; a service can extend only one of the same file", p)
}

var unknownField = pattern.New(`([\w.-]+)\.([\w-]+) false schema(?: \w+)?`)

// plain words a parser's error for people.
func plain(err error) string {
	text := err.Error()
	for _, name := range FileNames {
		text = strings.TrimPrefix(strings.TrimPrefix(text, "validating "+name+": "), "failed to parse "+name+": ")
	}
	if len(text) > maxPlain {
		text = strings.ToValidUTF8(text[:maxPlain], "") + "…"
	}
	return unknownField.ReplaceAllString(text, `$1: unknown field "$2"`)
}

// implyDefaultNetwork declares the network "default" where a service names it: every project has it.
func implyDefaultNetwork(model map[string]any) {
	services, _ := model["services"].(map[string]any)
	for _, s := range services {
		service, _ := s.(map[string]any)
		nets, _ := service["networks"].(map[string]any)
		if _, ok := nets["default"]; !ok {
			continue
		}
		declared, _ := model["networks"].(map[string]any)
		if declared == nil {
			declared = map[string]any{}
			model["networks"] = declared
		}
		if _, ok := declared["default"]; !ok {
			declared["default"] = map[string]any{}
		}
	}
}

// readFile reads a small file of the project. The root keeps every path inside it, links included.
func readFile(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(api.Invalid, "%s: there is no such file in the source", name)
	}
	if err != nil {
		return nil, api.Errorf(api.Invalid, "%s cannot be read: it must be a file inside the source", name)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, api.Errorf(api.Invalid, "%s cannot be read: it must be a file inside the source", name)
	}
	if len(text) > maxFile {
		return nil, api.Errorf(api.TooLarge, "%s is larger than %d bytes", name, maxFile)
	}
	return text, nil
}

// projectEnvironment is what ${NAME} in a compose file stands for: the project's own .env file, and nothing of the server's.
func projectEnvironment(root *os.Root) (types.Mapping, error) {
	if _, err := root.Lstat(".env"); errors.Is(err, fs.ErrNotExist) {
		return types.Mapping{}, nil
	}
	vars, err := readEnvFile(root, ".env", nil)
	return types.Mapping(vars), err
}

func readEnvFile(root *os.Root, name string, env types.Mapping) (map[string]string, error) {
	text, err := readFile(root, name)
	if err != nil {
		return nil, err
	}
	vars, err := parseEnv(string(text), env)
	if err != nil {
		return nil, api.Errorf(api.AsError(err).Code, "%s: %v", name, err)
	}
	return vars, nil
}

// sortedKeys keeps errors, warnings and services in an order that does not change.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
