package project

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client/source"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/internal/compose"
)

// Given are the flags of a push about what its build is given and what is sent.
type Given struct {
	secrets, args   []string
	registrySecrets string
	multiIgnore     bool
	noCheck         bool
}

const (
	maxSecret       = 128 << 10 // as the builder has it
	registrySecrets = ".balena/registry-secrets.json"
)

// Register adds the flags.
func (g *Given) Register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&g.secrets, "secret", nil, "a secret for build steps that mount it, id=NAME,src=FILE or id=NAME,env=VARIABLE; repeatable")
	f.StringArrayVar(&g.args, "build-arg", nil, "a build argument, NAME=VALUE, or NAME to take it from the environment; repeatable")
	RegistrySecretsFlag(cmd, &g.registrySecrets)
	f.BoolVarP(&g.multiIgnore, "multi-dockerignore", "m", false, "each service's directory goes by its own .dockerignore")
	f.BoolVar(&g.noCheck, "no-check", false, "send the project even if the builder would refuse its compose file")
	// They fail only for flags that are not there.
	_ = cmd.RegisterFlagCompletionFunc("secret", completeSecret)
	_ = cmd.RegisterFlagCompletionFunc("build-arg", cobra.NoFileCompletions)
}

// RegistrySecretsFlag adds the flag that names accounts at registries.
func RegistrySecretsFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "registry-secrets", "", "a YAML or JSON file of private registries' user names and passwords")
	_ = cmd.MarkFlagFilename("registry-secrets", "yml", "yaml", "json") // it fails only for a flag that is not there
}

// AddRegistrySecrets adds the accounts of a file to what the builder is given, and gives them, by registry.
func AddRegistrySecrets(p *source.Project, file string) (map[string]Account, error) {
	accounts, err := readRegistrySecrets(file)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(accounts)
	if err != nil {
		return nil, err
	}
	p.AddFile(registrySecrets, text)
	return accounts, nil
}

// Account is a name and a password at a registry.
type Account struct {
	Username string `yaml:"username" json:"username"`
	Password string `yaml:"password" json:"password"`
}

// completeSecret offers the parts of a secret one after the other.
func completeSecret(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	head, last := "", typed
	if i := strings.LastIndexByte(typed, ','); i >= 0 {
		head, last = typed[:i+1], typed[i+1:]
	}
	const stay = cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	switch {
	case strings.HasPrefix(last, "env="):
		var names []string
		for _, kv := range os.Environ() {
			name, _, _ := strings.Cut(kv, "=")
			names = append(names, head+"env="+name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	case strings.Contains(last, "="):
		return nil, stay
	case head == "":
		return []string{"id="}, stay
	}
	return []string{head + "src=", head + "env="}, stay
}

// Scan looks through a project, says what of it will be ignored, and adds what the build is given. What the builder would refuse
// is refused here, before anything is sent.
func (g *Given) Scan(ctx context.Context, a *cmdline.App, dir, dockerfile string) (*source.Project, error) {
	report, err := Check(ctx, dir)
	if err != nil {
		return nil, err
	}
	if dockerfile == "" || report.File != "" {
		for _, f := range report.Of(compose.Ignored) {
			a.Say("Note: %s is ignored: %s", f.Field, f.Why)
		}
		if err := report.Fail(); err != nil && !g.noCheck {
			return nil, fmt.Errorf("%w\n`roadstead compose check` says more; --no-check sends it all the same", err)
		}
	}
	if dockerfile != "" && report.File != "" {
		a.Say("Note: --dockerfile is ignored: %s says how services are built", report.File)
	}
	if g.multiIgnore && report.File == "" {
		a.Say("Note: --multi-dockerignore means nothing for a project without a compose file")
	}
	var services []source.Service
	for _, svc := range report.Services {
		if svc.Build != nil {
			services = append(services, source.Service{Dir: svc.Build.Context, Ignores: g.multiIgnore})
		}
	}
	p, err := source.Scan(dir, dockerfile, services...)
	if err != nil {
		return nil, err
	}
	return p, g.AddTo(p)
}

// AddTo adds what the build is given to a project.
func (g *Given) AddTo(p *source.Project) error {
	given := api.BuildGiven{Args: map[string]string{}, Secrets: map[string][]byte{}}
	for _, text := range g.args {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			if value, ok = os.LookupEnv(name); !ok {
				return cmdline.Usagef("--build-arg %s: it has no value, and there is no such variable in the environment", name)
			}
		}
		if err := compose.CheckVariable(name, value); err != nil {
			return cmdline.Usagef("--build-arg: %w", err)
		}
		given.Args[name] = value
	}
	for _, text := range g.secrets {
		id, value, err := readSecret(text)
		if err != nil {
			return err
		}
		if _, twice := given.Secrets[id]; twice {
			return cmdline.Usagef("--secret: %s is given twice", id)
		}
		given.Secrets[id] = value
	}
	if g.registrySecrets != "" {
		if _, err := AddRegistrySecrets(p, g.registrySecrets); err != nil {
			return err
		}
	}
	if len(given.Args)+len(given.Secrets) == 0 {
		return nil
	}
	text, err := json.Marshal(given)
	if err != nil {
		return err
	}
	p.AddFile(api.BuildGivenFile, text)
	return nil
}

// readSecret reads what docker's --secret takes: id, and src or env; without either, the environment variable of that name.
func readSecret(text string) (id string, value []byte, err error) {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return "", nil, cmdline.Usagef("--secret %q is not id=NAME,src=FILE or id=NAME,env=VARIABLE", text)
	}
	var src, env string
	for _, field := range fields {
		key, val, ok := strings.Cut(field, "=")
		switch {
		case !ok || val == "":
			return "", nil, cmdline.Usagef("--secret %q is not id=NAME,src=FILE or id=NAME,env=VARIABLE", text)
		case key == "id":
			id = val
		case key == "src" || key == "source":
			src = val
		case key == "env":
			env = val
		case key == "type" && (val == "file" || val == "env"):
		default:
			return "", nil, cmdline.Usagef("--secret %q: %s is not known; there are id, src and env", text, key)
		}
	}
	if err := compose.CheckSecret(id); err != nil {
		return "", nil, cmdline.Usagef("--secret: %w", err)
	}
	if src != "" && env != "" {
		return "", nil, cmdline.Usagef("--secret %s: src or env, not both", id)
	}
	if src == "" {
		if env == "" {
			env = id
		}
		text, ok := os.LookupEnv(env)
		if !ok {
			return "", nil, cmdline.Usagef("--secret %s: there is no variable %s in the environment; name a file with src=FILE", id, env)
		}
		return id, []byte(text), nil
	}
	value, err = readSmall(src)
	if err != nil {
		return "", nil, fmt.Errorf("--secret %s: %w", id, err)
	}
	return id, value, nil
}

// readSmall reads a file that must not be large.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(text) > maxSecret {
		err = api.Errorf(api.TooLarge, "%s is larger than %d bytes", name, maxSecret)
	}
	return text, err
}

// readRegistrySecrets reads a file as balena's clients take it, and gives it as the builder does. YAML holds JSON.
func readRegistrySecrets(name string) (map[string]Account, error) {
	text, err := readSmall(name)
	if err != nil {
		return nil, fmt.Errorf("--registry-secrets: %w", err)
	}
	var list map[string]Account
	// The decoder's errors quote what they are about, which is secret here.
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&list); err != nil && !errors.Is(err, io.EOF) {
		return nil, api.Errorf(api.Invalid, "--registry-secrets: %s is not an object of registry hosts, each with a username and a password", name)
	}
	for host, s := range list {
		if s.Username == "" || s.Password == "" {
			return nil, api.Errorf(api.Invalid, "--registry-secrets: %s: %q lacks a username or a password", name, host)
		}
	}
	return list, nil
}
