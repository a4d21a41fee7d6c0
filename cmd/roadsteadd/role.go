package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/handover"
	"github.com/roadstead-io/roadstead/internal/heap"
	"github.com/roadstead-io/roadstead/internal/sandbox"
	"github.com/roadstead-io/roadstead/internal/supervise"
	"github.com/roadstead-io/roadstead/internal/vpn/cage"
)

// start is how one role is started, by name: with its configuration, and the listeners it was given.
type start func(ctx context.Context, in inherited, log *slog.Logger) error

// inherited is what a role finds when it starts.
type inherited struct {
	dir    string
	ln     net.Listener        // of its role
	own    net.Listener        // of this process alone; nil when the role has only one
	public net.Listener        // of the edge
	givers map[string]*os.File // of the edge: where it hands connections over, by the first label of the name
	taker  *os.File            // of a role that takes them
	takers map[string]*os.File // of one that takes several, by label
	line   *os.File            // to another role
	report *os.File            // of a role without a listener
}

// handed gives a role the connections of the public that the edge hands over to it, if it serves any itself.
func (in inherited) handed(take func(net.Listener) error) error {
	if in.taker == nil {
		return nil
	}
	taker, err := handover.NewTaker(in.taker)
	if err != nil {
		return err
	}
	return take(taker)
}

type roleFlags struct {
	dir, listen, public, logFormat string
	more                           []string
}

func roleCommand() *cobra.Command {
	var f roleFlags
	var names []string
	for name := range starts {
		names = append(names, name)
	}
	slices.Sort(names)
	cmd := &cobra.Command{
		Use:   "role NAME --dir DIR --listen ADDR:PORT",
		Short: "Run one role of the server",
		Long: `Run one role of the server. ` + "`roadsteadd up`" + ` starts its children this way and hands them open sockets; by hand, on a
machine of its own, a role gets --listen. DIR is the role's own directory with role.json, cert.pem, key.pem and ca.pem.

Roles: ` + strings.Join(names, ", ") + `; and builder-worker, which has flags of its own.`,
		Example:   `  roadsteadd role signer --dir /var/lib/roadstead/roles/signer --listen 10.0.0.2:7001`,
		Args:      cobra.ExactArgs(1),
		ValidArgs: names,
		RunE:      func(cmd *cobra.Command, args []string) error { return runRole(cmd.Context(), args[0], f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.dir, "dir", "", "the role's own `DIR`")
	fs.StringVar(&f.listen, "listen", "", "`ADDR:PORT` for the other roles; without it, the parent's open socket is used")
	fs.StringVar(&f.public, "public", "", "`ADDR:PORT` for the public, of the edge")
	fs.StringVar(&f.logFormat, "log-format", "text", "form of the log on standard error: text or json")
	fs.StringSliceVar(&f.more, "more", nil, "names of further files that the parent hands over")
	_ = fs.MarkHidden("more") // for the parent alone; the flag is there
	cmd.AddCommand(builderWorkerCommand())
	return cmd
}

// programs says which roles start programs.
var programs = map[string]sandbox.Programs{roleBuildkit: sandbox.AnyPrograms, api.RoleGit: sandbox.ConfinedPrograms, roleOpenVPN: sandbox.ConfinedPrograms}

func runRole(ctx context.Context, name string, f roleFlags) error {
	run, ok := starts[name]
	if !ok {
		return usageError{fmt.Errorf("there is no role %q", name)}
	}
	if f.dir == "" {
		return usageError{errors.New("--dir is missing: the role's own directory")}
	}
	plan, err := sandbox.FromEnv()
	if err != nil {
		return err
	}
	if plan != nil {
		if name == roleOpenVPN { // the one thing that needs root: a network of its own
			if err := cage.Build(f.dir, plan.UID, plan.GID); err != nil {
				return err
			}
		}
		return plan.Enter() // comes back only when it failed
	}
	if err := sandbox.Harden(programs[name]); err != nil {
		return err
	}
	log, flush, err := roleLogger(processName(name, f.dir), f.logFormat)
	if err != nil {
		return err
	}
	defer flush()
	in, err := inherit(name, f)
	if err != nil {
		return fmt.Errorf("role %s: %w", name, err)
	}
	if f.listen == "" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go orphan(cancel) // ends with the process
	}
	defer heap.Watch(ctx)()
	if err := run(ctx, in, log); err != nil {
		return fmt.Errorf("role %s: %w", name, err)
	}
	return nil
}

// processName is a role's name in the log: that of its directory where the role has several processes ("api-2").
func processName(role, dir string) string {
	if base := filepath.Base(dir); strings.HasPrefix(base, role+"-") {
		return base
	}
	return role
}

// inherit takes the open sockets that the parent handed over, or opens them by address.
func inherit(name string, f roleFlags) (inherited, error) {
	in := inherited{dir: f.dir, givers: map[string]*os.File{}, takers: map[string]*os.File{}}
	var err error
	if f.listen != "" {
		if in.ln, err = net.Listen("tcp", f.listen); err != nil {
			return in, err
		}
		if f.public != "" {
			in.public, err = net.Listen("tcp", f.public)
		}
		return in, err
	}
	syscall.CloseOnExec(supervise.FDListener)
	syscall.CloseOnExec(supervise.FDParent)
	if name == roleBuildkit || name == roleBases || name == roleLink || name == roleOpenVPN {
		in.report = os.NewFile(supervise.FDListener, "report")
	} else if in.ln, err = listener(supervise.FDListener); err != nil {
		return in, fmt.Errorf("no socket was handed over (start it with --listen): %w", err)
	}
	for i, more := range f.more {
		fd := supervise.FDMore + i
		syscall.CloseOnExec(fd)
		label, gives := strings.CutPrefix(more, supervise.MoreGiver)
		taken, takes := strings.CutPrefix(more, supervise.MoreTakes)
		switch {
		case gives:
			in.givers[label] = os.NewFile(uintptr(fd), more)
		case takes:
			in.takers[taken] = os.NewFile(uintptr(fd), more)
		case more == supervise.MoreLine:
			in.line = os.NewFile(uintptr(fd), more)
		case more == supervise.MoreOwn:
			in.own, err = listener(uintptr(fd))
		case more == supervise.MorePublic:
			in.public, err = listener(uintptr(fd))
		case more == supervise.MoreTaker:
			in.taker = os.NewFile(uintptr(fd), more)
		default:
			err = fmt.Errorf("--more: %q is not known", more)
		}
		if err != nil {
			return in, err
		}
	}
	return in, nil
}

func listener(fd uintptr) (net.Listener, error) {
	f := os.NewFile(fd, "socket")
	ln, err := net.FileListener(f)
	return ln, errors.Join(err, f.Close())
}

// orphan stops the role when the parent is gone: the pipe that only the parent holds ends.
func orphan(cancel context.CancelFunc) {
	pipe := os.NewFile(supervise.FDParent, "parent")
	_, _ = io.Copy(io.Discard, pipe)
	cancel()
	time.AfterFunc(2*time.Second, func() { os.Exit(1) }) // the next parent waits only so long
}

// load reads a role's configuration. Unknown keys are errors: what is misspelt must not be ignored.
func load[T any](dir string) (T, error) {
	var cfg T
	data, err := os.ReadFile(filepath.Join(dir, "role.json"))
	if err != nil {
		return cfg, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&cfg); err != nil {
		return cfg, fmt.Errorf("role.json: %w", err)
	}
	return cfg, nil
}
