package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadsteadd/bases"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/builder/fromurl"
	"github.com/roadstead-io/roadstead/internal/builder/remote"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
	"github.com/roadstead-io/roadstead/internal/busserver"
	"github.com/roadstead-io/roadstead/internal/dashboard"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/edge"
	"github.com/roadstead-io/roadstead/internal/gitserver"
	"github.com/roadstead-io/roadstead/internal/handover"
	"github.com/roadstead-io/roadstead/internal/heap"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/signer"
	"github.com/roadstead-io/roadstead/internal/supervise"
	"github.com/roadstead-io/roadstead/internal/vpn/sshgate"
)

const (
	roleEdge = api.RoleEdge
	// roleBuildkit is the process around buildkitd. It has no certificate: it talks to nobody.
	roleBuildkit = "buildkit"
	// roleBases makes the base images anew by a schedule. It has no certificate either.
	roleBases = "bases"
)

// starts says how each role is started.
var starts = map[string]start{
	roleEdge: func(ctx context.Context, in inherited, log *slog.Logger) error {
		cfg, err := load[edge.Config](in.dir)
		if err != nil {
			return err
		}
		s, err := edge.New(cfg, log)
		if err != nil {
			return err
		}
		if in.public == nil {
			return errors.New("--public is missing: where the public connects")
		}
		for label, end := range in.givers {
			giver, err := handover.NewGiver(end)
			if err != nil {
				return err
			}
			s.HandOver(label, giver)
		}
		return s.Run(ctx, in.public, in.ln)
	},
	api.RoleAPI: func(ctx context.Context, in inherited, log *slog.Logger) error {
		cfg, err := load[apiserver.Config](in.dir)
		if err != nil {
			return err
		}
		ballast := heap.Steady(heap.Ballast)
		defer runtime.KeepAlive(ballast)
		defer heap.Bounded(ctx, heap.Ceiling)()
		s, err := apiserver.New(cfg, log)
		if err != nil {
			return err
		}
		if err := in.handed(s.TakePublic); err != nil {
			return err
		}
		if in.own == nil {
			return s.Run(ctx, in.ln)
		}
		return s.Run(ctx, in.ln, in.own)
	},
	api.RoleBus: serve(busserver.New),
	api.RoleSigner: func(ctx context.Context, in inherited, log *slog.Logger) error {
		ballast := heap.Steady(heap.SignerBallast)
		defer runtime.KeepAlive(ballast)
		return serve(signer.New)(ctx, in, log)
	},
	api.RoleRegistry: serve(registry.New),
	api.RoleBuilder: func(ctx context.Context, in inherited, log *slog.Logger) error {
		cfg, err := load[builder.Config](in.dir)
		if err != nil {
			return err
		}
		s, err := builder.New(cfg, log)
		if err != nil {
			return err
		}
		return s.Run(ctx, in.ln, in.public)
	},
	api.RoleDashboard: func(ctx context.Context, in inherited, log *slog.Logger) error {
		cfg, err := load[dashboard.Config](in.dir)
		if err != nil {
			return err
		}
		s, err := dashboard.New(cfg, log)
		if err != nil {
			return err
		}
		if err := in.handed(s.TakePublic); err != nil {
			return err
		}
		return s.Run(ctx, in.ln)
	},
	api.RoleGit: func(ctx context.Context, in inherited, log *slog.Logger) error {
		cfg, err := load[gitserver.Config](in.dir)
		if err != nil {
			return err
		}
		s, err := gitserver.New(cfg, log)
		if err != nil {
			return err
		}
		return s.Run(ctx, in.ln, in.public)
	},
	api.RoleVPN:  runVPN,
	roleOpenVPN:  runOpenVPN,
	roleBuildkit: runBuildkit,
	roleLink:     runLink,
	roleBases: func(ctx context.Context, in inherited, log *slog.Logger) error {
		cfg, err := load[bases.Config](in.dir)
		if err != nil {
			return err
		}
		return bases.Run(ctx, cfg, in.report, log)
	},
}

// server is what every role with one listener is.
type server interface {
	Run(ctx context.Context, ln net.Listener) error
}

func serve[C any, S server](make func(C, *slog.Logger) (S, error)) start {
	return func(ctx context.Context, in inherited, log *slog.Logger) error {
		cfg, err := load[C](in.dir)
		if err != nil {
			return err
		}
		s, err := make(cfg, log)
		if err != nil {
			return err
		}
		return s.Run(ctx, in.ln)
	}
}

// runBuildkit runs the build daemons that the builder asks for, and tells the parent how it is.
func runBuildkit(ctx context.Context, in inherited, log *slog.Logger) error {
	cfg, err := load[worker.Config](in.dir)
	if err != nil {
		return err
	}
	m, err := worker.NewManager(cfg, log)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { tell(ctx, in.report, m.Healthy, m.Enforced); return nil })
	group.Go(func() error { return m.Run(ctx) })
	group.Go(func() error { return m.Serve(ctx) })
	return group.Wait()
}

// tell writes a line whenever a quiet role's health, or what it says of itself, changes.
func tell(ctx context.Context, report *os.File, healthy func(context.Context) error, says func() string) {
	const calm, eager = time.Second, 100 * time.Millisecond
	tick := time.NewTimer(0)
	defer tick.Stop()
	said := ""
	for {
		line, again := "ok "+says(), calm
		if err := healthy(ctx); err != nil {
			line, again = oneLine(err), eager
		}
		tick.Reset(again)
		if line != said && ctx.Err() == nil {
			if _, err := fmt.Fprintln(report, line); err != nil {
				return // the parent is gone
			}
			said = line
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// roles is every process of the server, in the order in which they start.
func roles(f upFlags) []supervise.Role {
	list := []supervise.Role{
		{
			Name: api.RoleSigner, Needs: []string{api.RoleAPI},
			Config: func(e supervise.Env) any { return signer.Config{Dir: e.Dir, Site: e.Site, Peers: e.Peers} },
			Prepare: func(dir string) error {
				return errors.Join(once(filepath.Join(dir, signer.KeyFile), signer.NewKey), once(filepath.Join(dir, signer.AuditKeyFile), signer.NewAuditKey),
					once(filepath.Join(dir, signer.StatementKeyFile), signer.NewStatementKey),
					once(filepath.Join(dir, signer.TrustKeyFile), signer.NewTrustKey),
					once(filepath.Join(dir, signer.ChannelCAFile), signer.NewChannelAuthority))
			},
		},
		{
			Name: api.RoleRegistry, Needs: []string{api.RoleAPI}, Config: f.registry.config,
			Prepare: func(dir string) error {
				keys, err := signer.PublicKeys(filepath.Join(dir, "..", api.RoleSigner, signer.KeyFile))
				if err != nil {
					return err
				}
				return errors.Join(durable.WriteFile(filepath.Join(dir, registry.PublicKeysFile), keys, 0o600), f.registry.giveCredentials(dir))
			},
		},
		buildkitRole(f.worker, f.buildkitd),
		{
			Name: roleBases, Quiet: true, Optional: true,
			Config: func(e supervise.Env) any {
				return bases.Config{Dir: e.Dir, Bases: e.Layout.Bases(), Every: f.baseRebuild, Mirror: bases.Mirror(f.baseMirror)}
			},
			PrepareUser: func(user string) error { return bases.Own(supervise.Layout(f.data).Bases(), user) },
		},
		{
			Name: api.RoleBuilder, Needs: []string{api.RoleAPI, api.RoleSigner, api.RoleRegistry}, InGroupOf: []string{roleBuildkit},
			Own: f.workersAddress(), OwnFlag: "--workers-listen", Tells: tellsWorkers,
			Prepare: func(dir string) error { return once(filepath.Join(dir, remote.KeyFile), remote.NewKey) },
			Config: func(e supervise.Env) any {
				return builder.Config{Dir: e.Dir, Site: e.Site, Peers: e.Peers, Bases: e.Layout.Bases(),
					BuildKit: worker.Config{Dir: e.Layout.Role(roleBuildkit)}.Address(), Limits: f.builds, Pulls: f.pulls.config(f.worker.Allow),
					Workers: e.Own[api.RoleBuilder], Sources: fromurl.Config{Allow: f.sources.Allow, CA: f.sources.CA}}
			},
		},
		gitRole(f),
		{
			Name: api.RoleDashboard, Serves: "dashboard", Needs: []string{api.RoleAPI, api.RoleVPN},
			Config: func(e supervise.Env) any {
				return dashboard.Config{Dir: e.Dir, Site: e.Site, Peers: e.Peers, SecurityContact: f.securityContact}
			},
			Prepare: func(dir string) error { return once(filepath.Join(dir, dashboard.KeyFile), dashboard.NewKey) },
		},
		{
			Name: roleEdge, Public: true, Needs: []string{api.RoleAPI, api.RoleRegistry, api.RoleBuilder, api.RoleDashboard, api.RoleGit},
			Config: func(e supervise.Env) any {
				return edge.Config{Dir: e.Dir, Site: e.Site, Peers: e.Peers, SecurityContact: f.securityContact}
			},
		},
	}
	list = slices.Insert(list, len(list)-1, f.vpn.roles(f.listen)...)
	return slices.Insert(list, 1, apiRoles(f)...)
}

// gitRole is the front for `git push`.
func gitRole(f upFlags) supervise.Role {
	own, elsewhere := f.gitAddress()
	return supervise.Role{
		Name: api.RoleGit, Needs: []string{api.RoleAPI, api.RoleBuilder}, Own: own, OwnFlag: "--git-listen", OwnElsewhere: elsewhere,
		Optional: true, // a machine without git has a platform without git push
		Prepare:  gitserver.Prepare,
		Config: func(e supervise.Env) any {
			return gitserver.Config{Dir: e.Dir, Site: e.Site, Peers: e.Peers, Git: f.git, Sources: f.sources, Limits: f.gitLimits}
		},
		Tells: func(dir string, site api.Site, own string) (string, error) {
			at, err := gitserver.Public(dir, site, own)
			if err != nil || at.SSH == "" {
				return "no SSH (--git-listen is off); HTTPS at " + site.URL("git"), err
			}
			return "SSH at " + at.SSH + ", host key " + at.Fingerprint, nil
		},
	}
}

// apiRoles is the api role: one process with the message bus inside, or several and the bus as a role of its own.
func apiRoles(f upFlags) []supervise.Role {
	first := supervise.Role{
		Name: api.RoleAPI, Serves: "api", Needs: []string{api.RoleSigner, api.RoleBus, api.RoleVPN}, Config: apiConfig(f, 0),
		Prepare: func(dir string) error {
			if err := once(filepath.Join(dir, pepperFile), newPepper); err != nil {
				return err
			}
			if err := errors.Join(f.giveProviders(dir), giveStatementKey(dir)); err != nil || f.apiProcesses > 1 {
				return err
			}
			return takeOver(api.RoleBus, dir)
		},
	}
	if f.apiProcesses <= 1 {
		return []supervise.Role{first}
	}
	list := []supervise.Role{{
		Name:    api.RoleBus,
		Config:  func(e supervise.Env) any { return busserver.Config{Dir: e.Dir} },
		Prepare: func(dir string) error { return takeOver(api.RoleAPI, dir) },
	}, first}
	for i := 1; i < f.apiProcesses; i++ {
		list = append(list, supervise.Role{
			Name: fmt.Sprintf("%s-%d", api.RoleAPI, i+1), Of: api.RoleAPI, Serves: first.Serves, Needs: first.Needs, Config: apiConfig(f, i),
			Prepare: func(dir string) error { // the same pepper: a token that one of them made holds at all
				pepper, err := os.ReadFile(filepath.Join(dir, "..", api.RoleAPI, pepperFile))
				if err != nil {
					return err
				}
				return errors.Join(durable.WriteFile(filepath.Join(dir, pepperFile), pepper, 0o600), f.giveProviders(dir), giveStatementKey(dir))
			},
		})
	}
	return list
}

// apiConfig makes the configuration of one process of the api role.
func apiConfig(f upFlags, process int) func(supervise.Env) any {
	return func(e supervise.Env) any {
		git, err := gitserver.Public(e.Layout.Role(api.RoleGit), e.Site, e.Own[api.RoleGit])
		if err != nil {
			panic(err) // the role was prepared before any is configured
		}
		ssh, err := sshgate.Public(e.Layout.Role(api.RoleVPN), e.Site, e.Own[api.RoleVPN])
		if err != nil {
			panic(err) // as above
		}
		return apiserver.Config{
			Git:     git,
			SSH:     ssh,
			Channel: f.vpn.site(e.Site),
			Trust:   f.trust == "on",
			Blobs:   filepath.Join(e.Layout.Role(api.RoleAPI), "blobs"), Contracts: ownContracts(e.Layout), Bases: e.Layout.Bases(),
			MaxBlob: f.maxUpload << 20, MaxFiles: f.maxAssets << 20, SessionIdle: f.sessionIdle, SessionLife: f.sessionLife,
			Dir: e.Dir, Site: e.Site, Peers: e.Peers, Process: process, SQL: f.sql, PublicCA: e.Layout.PublicCA(), PollInterval: f.poll,
			Admission: f.admission, Logs: f.logs, OData: f.odata, Registry: f.registry.rows(), AuditDays: f.auditRetention, BuildDays: f.buildRetention, Mail: f.mail.Server, SecurityContact: f.securityContact, SignIn: filepath.Join(e.Dir, signInFile),
		}
	}
}

// takeOver moves the rings of the bus, the devices' logs, from one role's directory into another's that has none: the number of
// processes has changed.
func takeOver(from, dir string) error {
	to := filepath.Join(dir, busserver.Store)
	if _, err := os.Lstat(to); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.Rename(filepath.Join(dir, "..", from, busserver.Store), to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// signInFile is the name of the sign-in providers, with their secrets, in an api process's directory.
const signInFile = "sign-in.json"

// giveProviders writes the sign-in providers down for an api process, or takes those of the last start away.
func (f upFlags) giveProviders(dir string) error {
	file := filepath.Join(dir, signInFile)
	if len(f.providers) == 0 {
		if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.Marshal(f.providers)
	if err != nil {
		return err
	}
	return durable.WriteFile(file, data, 0o600)
}

// giveStatementKey tells an api process the public half of the key that statements are signed with. Keys of before stay: what they
// signed is still to be verified.
func giveStatementKey(dir string) error {
	key, err := signer.StatementKey(filepath.Join(dir, "..", api.RoleSigner, signer.StatementKeyFile))
	if err != nil {
		return err
	}
	return apiserver.AddStatementKey(dir, key)
}

// pepperFile is the name of the key under which tokens are hashed.
const pepperFile = "pepper"

// once makes a file that does not exist yet.
func once(file string, make func(string) error) error {
	_, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return make(file)
	}
	return err
}

// newPepper makes the key under which tokens are hashed. Without it the database tells nobody a usable token.
func newPepper(file string) error {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return durable.WriteFile(file, b, 0o600)
}
