package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/containerd/containerd/v2/core/content"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/imagestore"
	"github.com/roadstead-io/roadstead/internal/builder/progress"
	"github.com/roadstead-io/roadstead/internal/builder/target"
	"github.com/roadstead-io/roadstead/internal/compose"
)

// making is one service of a build on its way to an image for one kind of machine.
type making struct {
	build   *build
	root    *os.Root
	pre     *aside
	svc     compose.Service
	target  target.Target
	several bool     // the service is made for others too
	made    v1.Image // in the end

	kind       string // how the image comes to be
	dockerfile string // its text
	opt        compose.Build
	context    string // directory on disk, "" when there is none
	secrets    map[string][]byte
	file       string // the Dockerfile's path in the source, "" when it is in none
	bases      []api.ImageBase
}

const maxRecordedDockerfile = 64 << 10

// make builds the image, or takes it from where it is.
func (m *making) make(ctx context.Context) (v1.Image, error) {
	if file := m.pre.archives[m.svc.Name]; file != "" {
		m.kind = kindPrebuilt
		m.say("taking the image that came with the source")
		return m.build.fromArchive(m.svc.Name, file, m.dir("layout"), m.target)
	}
	if err := m.prepare(); err != nil {
		return nil, err
	}
	digest, err := m.solve(ctx)
	if err != nil {
		return nil, err
	}
	return imagestore.Image(m.build.store(), digest)
}

// prepare lays out what BuildKit is given: a Dockerfile and a directory.
func (m *making) prepare() error {
	dir := m.dockerfileDir()
	if m.svc.Build == nil {
		// An image from elsewhere goes through BuildKit too: it is pulled inside the build service's walls, not by us.
		m.kind = kindImage
		m.dockerfile = "FROM " + m.svc.Image + "\n"
		if strings.ContainsAny(m.svc.Image, " \t\r\n$#\\") {
			return api.Errorf(api.Invalid, "service %s: %q is not the name of an image", m.svc.Name, m.svc.Image)
		}
		return layDockerfile(dir, m.root, "", m.dockerfile)
	}
	m.opt = *m.svc.Build
	var mounted []string
	var err error
	if m.secrets, mounted, err = m.pre.secrets(m.svc.Name); err != nil {
		return err
	}
	if m.context, err = filepath.EvalSymlinks(filepath.Join(m.build.source(), m.opt.Context)); err != nil {
		return api.Errorf(api.Invalid, "service %s: there is no directory %q in the source", m.svc.Name, m.opt.Context)
	}
	if m.opt.Inline != "" {
		m.kind, m.dockerfile = kindDockerfile, m.opt.Inline
		return layDockerfile(dir, m.root, "", withSecrets(m.dockerfile, mounted))
	}
	file, kind, err := findDockerfile(m.root, m.opt.Context, m.opt.Dockerfile, &m.target.Fleet)
	if err != nil {
		return fmt.Errorf("service %s: %w", m.svc.Name, err)
	}
	m.kind, m.file = kind, file
	var unknown []string
	info := m.build.info
	info.Fleet = &m.target.Fleet
	if m.dockerfile, unknown, err = readDockerfile(m.root, file, kind, m.svc.Name, info); err != nil {
		return err
	}
	if len(unknown) > 0 {
		m.say("Note: %s names %s, which no template knows; it stays as it is", file, strings.Join(unknown, ", "))
	}
	return layDockerfile(dir, m.root, file, withSecrets(m.dockerfile, mounted))
}

// dir is a directory of this image's own.
func (m *making) dir(kind string) string {
	return filepath.Join(m.build.dir, kind+"-"+m.target.Fleet.Arch+"-"+m.svc.Name)
}

func (m *making) dockerfileDir() string { return m.dir("dockerfile") }

// step tells those who follow at which step the image is. The stream of /v3/build has no such thing.
func (m *making) step(s api.BuildStep) {
	if s.Service = m.svc.Name; m.several {
		s.Platform = m.target.String()
	}
	m.build.journal.Add(api.BuildEvent{Type: "metadata", Resource: api.ResourceStep, Value: s})
}

func (m *making) say(format string, args ...any) {
	who := m.svc.Name
	if m.several {
		who += " " + m.target.String()
	}
	m.build.say("[%s] %s", who, fmt.Sprintf(format, args...))
}

// solve has BuildKit build the image into our store and gives its digest. A worker that dies under it gets a second chance, or
// another takes its place: what it had finished is in its cache.
func (m *making) solve(ctx context.Context) (v1.Hash, error) {
	opt, err := m.solveOptions(ctx)
	if err != nil {
		return v1.Hash{}, err
	}
	d, err := m.reach(ctx)
	if err != nil {
		return v1.Hash{}, err
	}
	defer func() { d.leave() }()
	m.sayWhere(d)
	began := time.Now()
	res, err := m.solveOnce(ctx, d, opt)
	if status.Code(err) == codes.Unavailable && ctx.Err() == nil {
		m.say("the build service went away; trying once more")
		d.lease.Doubt()
		again, reachErr := m.reach(ctx)
		if reachErr != nil {
			return v1.Hash{}, reachErr
		}
		d.leave()
		d = again
		res, err = m.solveOnce(ctx, d, opt)
	}
	if err != nil {
		return v1.Hash{}, m.solveError(beyondLimit(ctx, d, began, err))
	}
	d.lease.Built()
	digest, err := m.taken(res.ExporterResponse["containerimage.digest"], opt.FrontendAttrs)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("service %s: %w", m.svc.Name, err)
	}
	return digest, nil
}

func (m *making) solveOnce(ctx context.Context, d *daemon, opt client.SolveOpt) (*client.SolveResponse, error) {
	if err := m.throughCache(ctx, &opt); err != nil {
		return nil, err
	}
	reports := make(chan *client.SolveStatus)
	group, ctx := errgroup.WithContext(ctx)
	var res *client.SolveResponse
	group.Go(func() (err error) {
		res, err = d.Solve(ctx, nil, opt, reports)
		return err
	})
	group.Go(func() error {
		p := progress.New(m.build.log.clean, func(line string) { m.say("%s", line) })
		p.OnStep(m.step)
		for r := range reports {
			p.Update(r)
		}
		p.Flush()
		return nil
	})
	err := group.Wait()
	return res, err
}

// solveError words what BuildKit found: its own message, and the lines of the Dockerfile it is about.
func (m *making) solveError(err error) error {
	if cause := context.Cause(m.build.ctx); cause != nil {
		return cause
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	for _, src := range errdefs.Sources(err) {
		var excerpt bytes.Buffer
		if src.Print(&excerpt) == nil {
			for line := range strings.Lines(strings.TrimSpace(excerpt.String())) {
				m.say("%s", strings.TrimRight(line, "\n"))
			}
		}
	}
	if why := m.build.upstream.failed(); why != nil {
		err = errors.Join(why, err)
	}
	if e := api.AsError(err); e.Code == api.Invalid || m.build.upstream.failed() != nil {
		return errors.Join(api.Errorf(api.Invalid, "service %s: %s", m.svc.Name, e.Text), err)
	}
	if status.Code(err) == codes.Unavailable {
		return errors.Join(api.Errorf(api.Unavailable, "service %s: the build service went away; push again", m.svc.Name), err)
	}
	text := err.Error()
	for _, noise := range []string{"failed to solve: ", "rpc error: code = Unknown desc = "} {
		text = strings.TrimPrefix(text, noise)
	}
	return errors.Join(api.Errorf(api.Invalid, "service %s: %s", m.svc.Name, text), err)
}

// tenant names the fleet, for ever and as a host name can be. The uuid alone does not: whoever makes a fleet chooses it, and may
// choose that of one that was deleted.
func (m *making) tenant() string {
	return fmt.Sprintf("%s-%d", m.build.info.Fleet.UUID, m.build.info.Fleet.ID)
}

// sharedKey names the copy of the source that a worker keeps. Images that are made at once do not share one.
func (m *making) sharedKey() string {
	key := m.tenant() + "/" + m.svc.Name
	if m.several {
		key += "/" + m.target.Fleet.Arch
	}
	return key
}

func (m *making) solveOptions(ctx context.Context) (client.SolveOpt, error) {
	attrs := map[string]string{
		"filename": "Dockerfile",
		"platform": m.target.Platform.String(),
		// Set, it keeps a "# syntax=" line from fetching another parser from the network.
		"cmdline": "docker/dockerfile:1",
	}
	if m.build.opt.noCache || m.opt.NoCache {
		attrs["no-cache"] = ""
	}
	if m.opt.Target != "" {
		attrs["target"] = m.opt.Target
	}
	if m.opt.ShmSize > 0 {
		attrs["shm-size"] = fmt.Sprint(m.opt.ShmSize)
	}
	if len(m.opt.ExtraHosts) > 0 {
		attrs["add-hosts"] = strings.Join(m.opt.ExtraHosts, ",")
	}
	for k, v := range m.pre.args(m.svc.Name, m.opt.Args) {
		attrs["build-arg:"+k] = v
	}
	for k, v := range m.opt.Labels {
		attrs["label:"+k] = v
	}
	// Last, so that no argument replaces them: cache mounts of one fleet are not another's to read, and neither are its steps.
	// BuildKit leaves proxies and the addresses of extra hosts out of a step's identity, so a step that one fleet ran through
	// its own proxy would be taken for another's; and what a step fetched would be had by whoever repeats its words. The
	// host name is part of the identity, and of nothing that ends up in the image.
	attrs["build-arg:BUILDKIT_CACHE_MOUNT_NS"] = m.tenant()
	attrs["build-arg:BUILDKIT_SANDBOX_HOSTNAME"] = m.tenant()
	attrs["attest:provenance"] = "mode=min,version=v1" // what the image was built from; see taken
	if err := m.offerBases(ctx, attrs); err != nil {
		return client.SolveOpt{}, err
	}
	m.build.asked.read(m.dockerfile)
	mounts, err := m.mounts()
	if err != nil {
		return client.SolveOpt{}, err
	}
	opt := client.SolveOpt{
		// The service's history of builds would keep their arguments, and their logs as they were printed.
		Internal:      true,
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attrs,
		LocalMounts:   mounts,
		SharedKey:     m.sharedKey(), // what was sent last time is not sent again
		OCIStores:     map[string]content.Store{baseStore: m.build.store()},
		Session:       []session.Attachable{credentials{secrets: m.pre.registries}, secretSession(m.secrets, &m.build.asked)},
		Exports: []client.ExportEntry{{
			Type: client.ExporterOCI, OutputStore: m.build.store(),
			Attrs: map[string]string{"tar": "false", "oci-mediatypes": "true", "compression": "gzip"},
		}},
	}
	return opt, nil
}

// mounts are the directories that BuildKit may ask for. Everything in them belongs to root, whoever we are.
func (m *making) mounts() (map[string]fsutil.FS, error) {
	dirs := map[string]string{"dockerfile": m.dockerfileDir(), "context": m.context}
	if m.context == "" {
		dirs["context"] = m.dir("empty")
		if err := os.MkdirAll(dirs["context"], 0o700); err != nil {
			return nil, fmt.Errorf("lay out the source: %w", err)
		}
	}
	mounts := map[string]fsutil.FS{}
	for name, dir := range dirs {
		plain, err := fsutil.NewFS(dir)
		if err != nil {
			return nil, fmt.Errorf("lay out the source: %w", err)
		}
		owned, err := fsutil.NewFilterFS(plain, &fsutil.FilterOpt{Map: func(_ string, st *fstypes.Stat) fsutil.MapResult {
			st.Uid, st.Gid = 0, 0
			return fsutil.MapResultKeep
		}})
		if err != nil {
			return nil, fmt.Errorf("lay out the source: %w", err)
		}
		mounts[name] = owned
	}
	return mounts, nil
}
