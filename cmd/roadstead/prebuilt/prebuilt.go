// Package prebuilt gets the images of a project that are not built on the server: from archives, from the local Docker, which
// may have to build them first, or from a registry.
package prebuilt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client/source"
)

// Given says where the image of one service comes from: one of the two.
type Given struct {
	Image   string // reference, in the local Docker or a registry
	Archive string // file
}

// Getter gets every image of a project from somewhere else than the builder.
type Getter struct {
	Given  map[string]Given // by service
	Say    func(format string, args ...any)
	Output io.Writer // of Docker
	// Account is for a registry that this program pulls from itself; nil, or no name, means the one that Docker has noted.
	Account func(registry string) (name, password string)

	dir  string            // for archives that are made here
	left map[string]string // by service: what the builder pulls itself, when the images are the whole project
}

// AddTo adds the images to a project that devices of an architecture shall run. done removes what it left on the disk; it is
// never nil.
func (g *Getter) AddTo(ctx context.Context, p *source.Project, arch string) (done func(), err error) {
	dir, err := os.MkdirTemp("", "roadstead-deploy-")
	if err != nil {
		return func() {}, err
	}
	g.dir = dir
	done = func() { _ = os.RemoveAll(dir) } // what cannot be removed is in a temporary place
	platform, err := platformOf(arch)
	if err != nil {
		return done, err
	}
	services, err := g.services(ctx, p)
	if err != nil {
		return done, err
	}
	for service, ref := range g.left {
		g.Say("The builder pulls %s for service %s.", ref, service)
	}
	for service, from := range g.Given {
		if _, known := services[service]; !known {
			return done, api.Errorf(api.Invalid, "the project has no service %q, only: %s", service,
				strings.Join(sorted(services), ", "))
		}
		if g.left[service] != "" {
			continue
		}
		file := from.Archive
		if file == "" {
			if file, err = g.fetch(ctx, service, from.Image, platform); err != nil {
				return done, err
			}
		}
		if err := p.AddImage(service, file); err != nil {
			return done, err
		}
	}
	for _, service := range sorted(services) {
		build := services[service]
		if _, has := g.Given[service]; has || build == nil {
			continue // given, or an image that the builder copies by its name
		}
		file, err := g.build(ctx, service, build, platform)
		if err != nil {
			return done, err
		}
		if err := p.AddImage(service, file); err != nil {
			return done, err
		}
	}
	return done, nil
}

// services are those of the project, each with how it is built, or nil when it is not.
func (g *Getter) services(ctx context.Context, p *source.Project) (map[string]*types.BuildConfig, error) {
	if file := p.Compose(); file != "" {
		details := types.ConfigDetails{
			WorkingDir: p.Dir, ConfigFiles: []types.ConfigFile{{Filename: file}}, Environment: types.Mapping{},
		}
		project, err := loader.LoadWithContext(ctx, details, func(o *loader.Options) { o.SetProjectName("roadstead", true) })
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		services := map[string]*types.BuildConfig{}
		for name, s := range project.Services {
			services[name] = s.Build
		}
		return services, nil
	}
	if p.CheckBuildable() == nil {
		return map[string]*types.BuildConfig{"main": {Context: p.Dir}}, nil
	}
	if len(g.Given) == 0 {
		return nil, api.Errorf(api.Invalid, "%s has neither a Dockerfile nor a docker-compose.yml, and no image is given", p.Dir)
	}
	// The images are the whole project; the builder takes what is in their archives, whatever their names.
	compose := "services:\n"
	services := map[string]*types.BuildConfig{}
	g.left = map[string]string{}
	for _, service := range sorted(g.Given) {
		image := "deployed/" + strings.ToLower(service)
		if ref := g.Given[service].Image; g.leaves(ctx, ref) {
			image, g.left[service] = ref, ref
		}
		compose += fmt.Sprintf("  %q:\n    image: %q\n", service, image)
		services[service] = nil
	}
	p.AddFile("docker-compose.yml", []byte(compose))
	return services, nil
}

// leaves reports whether the builder can pull an image itself: it has a digest, so that there is nothing to choose, it is not in the local
// Docker, and its registry is none of this machine or network, which the builder does not reach.
func (g *Getter) leaves(ctx context.Context, ref string) bool {
	digest, err := name.NewDigest(ref)
	return err == nil && digest.Context().Scheme() == "https" && !hasLocally(ctx, ref)
}

func hasLocally(ctx context.Context, ref string) bool {
	docker, err := exec.LookPath("docker")
	return err == nil && exec.CommandContext(ctx, docker, "image", "inspect", ref).Run() == nil
}

// fetch makes an archive of an image, from the local Docker if it has it, else from its registry.
func (g *Getter) fetch(ctx context.Context, service, ref string, platform v1.Platform) (string, error) {
	file := filepath.Join(g.dir, service+".tar")
	if hasLocally(ctx, ref) {
		g.Say("Taking %s from the local Docker.", ref)
		return file, g.docker(ctx, "save", "-o", file, ref)
	}
	if info, err := os.Stat(ref); err == nil && info.Mode().IsRegular() {
		return "", api.Errorf(api.Invalid, "--image %s: this is a file; an archive is given as --archive %s=%s", ref, service, ref)
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return "", api.Errorf(api.Invalid, "--image %s: %v", ref, err)
	}
	auth, err := g.auth(ctx, parsed.Context().Registry)
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	g.Say("Pulling %s.", ref)
	image, err := remote.Image(parsed, remote.WithContext(ctx), remote.WithPlatform(platform),
		remote.WithAuth(auth))
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	if err := tarball.WriteToFile(file, parsed, image); err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	return file, nil
}

// auth is who pulls from a registry. Docker Hub has several names in files.
func (g *Getter) auth(ctx context.Context, registry name.Registry) (authn.Authenticator, error) {
	names := []string{registry.RegistryStr()}
	if names[0] == name.DefaultRegistry {
		names = []string{authn.DefaultAuthKey, names[0], "docker.io", ""}
	}
	for _, n := range names {
		if g.Account == nil {
			break
		}
		if user, password := g.Account(n); user != "" {
			return authn.FromConfig(authn.AuthConfig{Username: user, Password: password}), nil
		}
	}
	return authn.Resolve(ctx, authn.DefaultKeychain, registry)
}

// build has the local Docker build a service.
func (g *Getter) build(ctx context.Context, service string, b *types.BuildConfig, platform v1.Platform) (string, error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return "", fmt.Errorf("service %s has to be built, and there is no docker here: give its image with --image or --archive, "+
			"or let the server build it with `roadstead push`", service)
	}
	g.Say("Building service %s with the local Docker.", service)
	tag := "roadstead-deploy/" + strings.ToLower(service) + ":latest"
	args := []string{"build", "--tag", tag}
	if platform.Architecture != runtime.GOARCH {
		args = append(args, "--platform", platform.String())
	}
	if b.Dockerfile != "" {
		args = append(args, "--file", filepath.Join(b.Context, b.Dockerfile))
	}
	if b.Target != "" {
		args = append(args, "--target", b.Target)
	}
	for _, k := range sorted(b.Args) {
		if v := b.Args[k]; v != nil {
			args = append(args, "--build-arg", k+"="+*v)
		}
	}
	if err := g.docker(ctx, append(args, b.Context)...); err != nil {
		return "", fmt.Errorf("build service %s: %w", service, err)
	}
	file := filepath.Join(g.dir, service+".tar")
	return file, g.docker(ctx, "save", "-o", file, tag)
}

// docker runs the local Docker's client and shows what it says; Ctrl-C reaches it through the terminal and the context.
func (g *Getter) docker(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdout, cmd.Stderr = g.Output, g.Output
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return fmt.Errorf("docker %s ended with exit code %d", args[0], exit.ExitCode())
	} else if err != nil {
		return fmt.Errorf("docker %s: %w", args[0], err)
	}
	return nil
}

// platformOf translates the name of a processor architecture.
func platformOf(arch string) (v1.Platform, error) {
	p := v1.Platform{OS: "linux"}
	switch arch {
	case "amd64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture, p.Variant = "arm64", "v8"
	case "armv7hf":
		p.Architecture, p.Variant = "arm", "v7"
	case "rpi":
		p.Architecture, p.Variant = "arm", "v6"
	case "i386", "i386-nlp":
		p.Architecture = "386"
	default:
		return p, api.Errorf(api.Invalid, "the fleet's architecture %q is not known to this program", arch)
	}
	return p, nil
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
