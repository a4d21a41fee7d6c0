package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/gitserver"
	"github.com/roadstead-io/roadstead/internal/heap"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/signin"
	"github.com/roadstead-io/roadstead/internal/supervise"
	"github.com/roadstead-io/roadstead/internal/web/securitytxt"
)

type upFlags struct {
	data, domain, listen, config string
	sql, sqlFile                 string
	buildkitd, logFormat         string
	poll                         time.Duration
	apiProcesses                 int
	admission                    apiserver.Admission
	logs                         apiserver.Logs
	odata                        odata.Limits
	builds                       builder.Limits
	worker                       worker.Config
	providersFile                string
	providers                    []signin.Provider // what it holds
	maxUpload, maxAssets         int64             // in MiB
	auditRetention               int               // days
	buildRetention               int               // days
	sessionIdle, sessionLife     time.Duration
	trust                        string
	mail                         mailFlags
	registry                     registryFlags
	pulls                        pullFlags
	securityContact              string
	gitListen, git               string
	gitLimits                    gitserver.Limits
	workersListen                string
	sourceAllow                  []string
	sourceCA                     string
	sources                      gitserver.Sources // what both say
	baseRebuild                  time.Duration
	baseMirror                   string
	vpn                          vpnFlags
}

func upCommand() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up --data DIR --domain DOMAIN --listen ADDR:PORT",
		Short: "Run the whole server",
		Long: `Run the whole server: every role as a process of its own, each with its own user (when started as root) and its own
secrets, restarted when it dies. An empty DIR is filled with all that is needed: certificates, keys, the database, and a first
administrator in DIR/admin.json. When every role answers, one line "ready https://dashboard.DOMAIN:PORT" goes to standard
output. SIGTERM stops it; started again on the same DIR it goes on.

Devices and clients must trust DIR/ca.pem and resolve api., dashboard., registry2., builder. and git. under DOMAIN to this machine; for the
control channel also cloudlink., tunnel. and *.devices.`,
		Example: `  roadsteadd up --data /var/lib/roadstead --domain roadstead.test --listen 0.0.0.0:443
  roadsteadd up --config /etc/roadstead.yaml
  ROADSTEAD_DATA=/srv/rs roadsteadd up --domain fleet.example.com --listen [::]:8443 --poll-interval 1m`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return up(cmd, f) },
	}
	dataFlag(cmd, &f.data)
	fs := cmd.Flags()
	fs.StringVar(&f.domain, "domain", "", "the `DOMAIN` under which clients and devices find this server")
	fs.StringVar(&f.listen, "listen", "", "`ADDR:PORT` of the one public port")
	sqlFlags(cmd, &f)
	fs.StringVar(&f.config, "config", "", "a `FILE` with settings, YAML or JSON")
	fs.StringVar(&f.buildkitd, "buildkitd", "", "`PATH` of buildkitd; empty means beside this program, else on PATH")
	fs.StringVar(&f.logFormat, "log-format", "text", "form of the log on standard error: text or json")
	fs.DurationVar(&f.baseRebuild, "base-rebuild", 7*24*time.Hour, "how often base images are made anew that were made here; 0 means never")
	fs.StringVar(&f.baseMirror, "base-mirror", "", "the `ADDRESS` (https://…) of the Debian mirror that they are made from; empty means that of this machine's apt")
	fs.DurationVar(&f.poll, "poll-interval", 10*time.Minute, "how often devices ask for news, unless a variable says otherwise")
	fs.IntVar(&f.apiProcesses, "api-processes", 1, "how many processes the api role has; more than one needs PostgreSQL")
	fs.IntVar(&f.admission.DeviceRequests, "device-requests", 0, "how many requests of devices one api process works on at once; 0 means 64")
	fs.IntVar(&f.admission.UserRequests, "user-requests", 0, "the same for people and everybody else; 0 means 64")
	fs.IntVar(&f.admission.CallerRequests, "caller-requests", 0, "the same for one user, device or key; 0 means 8")
	fs.IntVar(&f.admission.Handshakes, "handshakes", 0, "how many TLS handshakes one api process computes at once; 0 means two for each processor")
	fs.IntVar(&f.admission.IdleConnections, "idle-connections", 0, "how many connections with nothing to do one api process keeps; 0 means 2500")
	fs.Func("odata-limits", "bounds of one request to the resources, `NAME=N,…`; see the chapter on the data API", f.odata.Parse)
	fs.StringSliceVar(&f.worker.Allow, "build-allow", nil, "private `NETWORKS` that builds may reach, such as that of a registry: 192.168.7.0/24,10.1.2.3")
	fs.Func("build-bounds", "what builds take of this machine, `NAME=N,…`; see docs/operating.md", f.worker.Parse)
	fs.Func("build-limits", "bounds of builds, `NAME=N,…`; see the chapter on building", f.builds.Parse)
	fs.DurationVar(&f.logs.KeepAlive, "log-keep-alive", 0, "how long a log that is followed may be quiet before an empty line is sent; 0 means 58s")
	fs.IntVar(&f.logs.OfUser, "user-log-streams", 0, "how many logs one person may follow at a time in one api process; 0 means 20")
	fs.Int64Var(&f.maxUpload, "max-upload", 0, "how large one uploaded file may be, in `MiB`; 0 means 2048")
	fs.StringVar(&f.trust, "trust", "on", "whether config.json of new devices has a root of trust, so that they check what they run: on or `off`")
	fs.DurationVar(&f.sessionIdle, "session-idle", 0, "how `LONG` a session of a person holds that nobody uses; 0 means 30 days")
	fs.DurationVar(&f.sessionLife, "session-life", 0, "how `LONG` one holds since its user proved who they are; 0 means 90 days")
	fs.Int64Var(&f.maxAssets, "max-assets", 0, "how large the release assets of one organization may be together, in `MiB`; 0 means 20480")
	fs.IntVar(&f.auditRetention, "audit-retention", 400, "how many `DAYS` entries of the audit log are kept; 0 means for ever")
	fs.IntVar(&f.buildRetention, "build-retention", 400, "how many `DAYS` logs of builds, and images of builds that failed, are kept; 0 means for ever")
	f.mail.add(fs)
	f.registry.add(fs)
	f.pulls.add(fs)
	f.addGit(fs)
	f.vpn.add(fs)
	fs.StringVar(&f.workersListen, "workers-listen", "", "`ADDR:PORT` where build workers of other machines connect; empty, or off, means that there are none")
	fs.StringVar(&f.securityContact, "security-contact", "", "whom to tell of a vulnerability, a `URL` like mailto:security@example.com; empty means security@ the domain")
	fs.StringVar(&f.providersFile, "sign-in-providers", "", "a `FILE` (YAML or JSON) with the sign-in providers: Google, GitHub, any OpenID Connect")
	fs.IntVar(&f.logs.OfDevice, "device-log-streams", 0, "how many people may follow the log of one device; 0 means 50")
	return cmd
}

// maxAPIProcesses is how many processes the api role may have on one machine.
const maxAPIProcesses = 16

// maxAuditDays is a century.
const maxAuditDays = 36500

// maxMiB is more than any disk has, and far from the end of the numbers.
const maxMiB = 1 << 30

func (f upFlags) check() error {
	switch {
	case f.apiProcesses < 1 || f.apiProcesses > maxAPIProcesses:
		return fmt.Errorf("--api-processes %d: 1 to %d", f.apiProcesses, maxAPIProcesses)
	case f.apiProcesses > 1 && f.sql == "":
		return fmt.Errorf("--api-processes %d: several processes need PostgreSQL (--sql postgres://…); SQLite has one writer", f.apiProcesses)
	case f.auditRetention < 0 || f.auditRetention > maxAuditDays:
		return fmt.Errorf("--audit-retention %d: 0 to %d", f.auditRetention, maxAuditDays)
	case f.buildRetention < 0 || f.buildRetention > maxAuditDays:
		return fmt.Errorf("--build-retention %d: 0 to %d", f.buildRetention, maxAuditDays)
	case f.maxUpload < 0 || f.maxUpload > maxMiB:
		return fmt.Errorf("--max-upload %d: 0 to %d", f.maxUpload, maxMiB)
	case f.trust != "on" && f.trust != "off":
		return fmt.Errorf("--trust %.20q: on or off", f.trust)
	case f.sessionIdle != 0 && f.sessionIdle < time.Hour:
		return fmt.Errorf("--session-idle %s: at least an hour", f.sessionIdle)
	case f.sessionLife != 0 && f.sessionLife < time.Hour:
		return fmt.Errorf("--session-life %s: at least an hour", f.sessionLife)
	case f.maxAssets < 0 || f.maxAssets > maxMiB:
		return fmt.Errorf("--max-assets %d: 0 to %d", f.maxAssets, maxMiB)
	case f.baseMirror != "" && !strings.HasPrefix(f.baseMirror, "https://"):
		return fmt.Errorf("--base-mirror %s: an address that begins with https://", f.baseMirror)
	case f.baseRebuild != 0 && f.baseRebuild < time.Hour:
		return fmt.Errorf("--base-rebuild %s: at least 1h, or 0 for never", f.baseRebuild)
	case f.poll < time.Second:
		return fmt.Errorf("--poll-interval %s: at least 1s", f.poll)
	}
	return errors.Join(f.checkWorker(), f.admission.Validate(), f.logs.Validate(), securitytxt.Check(f.securityContact))
}

func (f upFlags) checkWorker() error {
	cfg := f.worker
	cfg.Dir = "/" // it is chosen later
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("--build-allow, --build-bounds: %w", err)
	}
	return nil
}

// sqlFlags adds what says where the database is.
func sqlFlags(cmd *cobra.Command, f *upFlags) {
	cmd.Flags().StringVar(&f.sql, "sql", "", "`URL` of a PostgreSQL database, postgres://USER@HOST/NAME; empty means SQLite in the data directory")
	cmd.Flags().StringVar(&f.sqlFile, "sql-file", "", "a `FILE` that holds what --sql would say, to keep a password off the command line")
}

// database completes the address of the database. From here on it goes into the api role's role.json and nowhere else. reach is
// what the role must reach to use it.
func (f *upFlags) database(log *slog.Logger, onCommandLine bool) (reach []string, err error) {
	switch {
	case f.sql != "" && f.sqlFile != "":
		return nil, errors.New("--sql and --sql-file: one of them says where the database is")
	case f.sqlFile != "":
		data, err := os.ReadFile(f.sqlFile)
		if err != nil {
			return nil, fmt.Errorf("--sql-file: %w", err)
		}
		f.sql, onCommandLine = strings.TrimSpace(string(data)), false
	}
	if f.sql == "" || f.sql == "sqlite" {
		f.sql = ""
		return nil, nil
	}
	if onCommandLine && db.HasPassword(f.sql) {
		log.Warn("--sql holds a password, which everybody on this machine can read in the list of processes; "+
			"give it with --sql-file, ROADSTEAD_SQL or ?passfile=", "role", "parent")
	}
	f.sql, reach, err = db.Complete(f.sql)
	if err != nil {
		return nil, fmt.Errorf("--sql: %w", err)
	}
	for i, path := range reach { // a socket's directory may not be there yet
		if real, err := filepath.EvalSymlinks(path); err == nil {
			reach[i] = real
		}
	}
	return slices.DeleteFunc(reach, func(path string) bool { _, err := os.Stat(path); return err != nil }), nil
}

func up(cmd *cobra.Command, f upFlags) error {
	log, err := logger(os.Stderr, f.logFormat)
	if err != nil {
		return err
	}
	if f.buildkitd != "" {
		if f.buildkitd, err = filepath.Abs(f.buildkitd); err != nil {
			return err
		}
	}
	cfg := supervise.Config{
		Dir: f.data, Domain: f.domain, Listen: f.listen, Log: log.With("role", "parent"), Stderr: os.Stderr,
		Args: []string{"--log-format", f.logFormat}, Env: childEnv(),
		Ready: func(url string) { _, _ = fmt.Fprintln(cmd.OutOrStdout(), "ready", url) },
	}
	if f.providersFile != "" {
		if f.providers, err = signin.ReadFile(f.providersFile); err != nil {
			return usageError{fmt.Errorf("--sign-in-providers: %w", err)}
		}
	}
	reach, err := f.database(log, cmd.Flags().Changed("sql"))
	if err := errors.Join(err, f.mail.read(), f.registry.read(), f.pulls.read(), f.readSources(), f.vpn.decide(), f.check(), cfg.Validate()); err != nil {
		return usageError{err}
	}
	cfg.Roles, cfg.Off = roles(f), f.vpn.off()
	if err := cfg.Validate(); err != nil { // what the roles ask for
		return usageError{err}
	}
	cfg.Database = supervise.Database{Kind: "SQLite", At: filepath.Join("roles", api.RoleAPI, databaseFile)}
	if f.sql != "" {
		cfg.Database = supervise.Database{Kind: "PostgreSQL", At: db.Describe(f.sql)}
	}
	if err := os.MkdirAll(f.data, 0o711); err != nil {
		return fmt.Errorf("the data directory cannot be made: %w", err)
	}
	if cfg.Dir, err = dataDir(f.data); err != nil {
		return err
	}
	if cfg.Exe, err = self(); err != nil {
		return err
	}
	cfg.Show = append(reach, filepath.Dir(cfg.Exe))
	if f.buildkitd != "" {
		cfg.Show = append(cfg.Show, filepath.Dir(f.buildkitd))
	}
	p, err := supervise.New(cfg)
	if err != nil {
		return usageError{err}
	}
	log.Info("starting", "role", "parent", "version", version, "data", cfg.Dir, "domain", cfg.Domain, "listen", cfg.Listen)
	defer heap.Watch(cmd.Context())()
	if err := p.Run(cmd.Context()); err != nil {
		return err
	}
	log.Info("stopped", "role", "parent")
	return nil
}

func self() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(exe)
}

// childEnv is what children get of our environment: nothing that may hold a secret of ours.
func childEnv() []string {
	env := []string{}
	pass := []string{"PATH", "TZ", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
		"http_proxy", "https_proxy", "no_proxy", "GODEBUG", "GOTRACEBACK"}
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); slices.Contains(pass, name) {
			env = append(env, e)
		}
	}
	return env
}

func roleLogger(name, format string) (log *slog.Logger, flush func(), err error) {
	buffer := newBuffered(os.Stderr)
	log, err = logger(buffer, format)
	if err != nil {
		return nil, nil, err
	}
	return slog.New(urgent{log.Handler(), buffer}).With("role", name), buffer.flush, nil
}
