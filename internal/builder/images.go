package builder

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/buildkit/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"github.com/moby/buildkit/util/purl"
	"github.com/opencontainers/go-digest"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/pullcache"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Images of other registries go through the pull cache: BuildKit asks for each that a build names, wherever it names it, and is given
// one of a store of ours in its place. It then fetches nothing by itself but what ADD names.

// Pulls says how images of other registries are fetched.
type Pulls struct {
	Off   bool   `json:"off,omitempty"`   // builds fetch them by themselves
	Bytes int64  `json:"bytes,omitempty"` // kept on the disk; 0 means 10 GiB
	Roots string `json:"roots,omitempty"` // certificates (PEM) of authorities to trust beside the system's
	// Allow lists private networks and addresses whose registries may be asked: what builds may reach.
	Allow []string `json:"allow,omitempty"`
}

const (
	pullsDir = "pulls"
	// pullStore is the name by which BuildKit asks for these images over the session.
	pullStore = "pull"
)

// openPulls opens the cache; nil when it is off.
func (cfg Config) openPulls(log *slog.Logger) (*pullcache.Cache, error) {
	if cfg.Pulls.Off {
		return nil, nil
	}
	c := pullcache.Config{Dir: filepath.Join(cfg.Dir, pullsDir), Bytes: cfg.Pulls.Bytes, Allow: cfg.Pulls.Allow}
	if cfg.Pulls.Roots != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("pulls: roots: %w", err)
		}
		if !pool.AppendCertsFromPEM([]byte(cfg.Pulls.Roots)) {
			return nil, errors.New("pulls: roots: there is no certificate in it")
		}
		c.Roots = pool
	}
	return pullcache.Open(c, log)
}

// fetches are the images that one build has of other registries.
type fetches struct {
	mu    sync.Mutex // covers what follows
	build *pullcache.Build
	err   error // of the first name that could not be resolved
}

// open gives the build's images; every service has the same. It is nil when builds fetch by themselves.
func (f *fetches) open(b *build, accounts map[string]secret) *pullcache.Build {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.build == nil && b.s.pulls != nil {
		f.build = b.s.pulls.Begin(b.ctx, pullcache.Options{
			Domain: b.domain(), Revalidate: b.opt.noCache, Say: b.say, Platform: b.targets[0].Platform,
			Account: func(registry string) pullcache.Account {
				s := accountFor(accounts, registry)
				return pullcache.Account{Username: s.Username, Password: s.Password}
			},
		})
	}
	return f.build
}

func (f *fetches) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.build != nil {
		f.build.Close()
	}
}

// failed is why an image could not be had, in words for people; nil when all could.
func (f *fetches) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && f.build != nil {
		return f.build.Failed()
	}
	return f.err
}

// throughCache has BuildKit ask for images of other registries. It reads them from this build's own session: another build of the
// organization that starts from the same image may end before.
func (m *making) throughCache(ctx context.Context, opt *client.SolveOpt) error {
	images := m.build.upstream.open(m.build, m.pre.registries)
	if images == nil {
		return nil
	}
	own, err := session.NewSession(ctx, opt.SharedKey)
	if err != nil {
		return fmt.Errorf("service %s: %w", m.svc.Name, err)
	}
	opt.SharedSession = own
	opt.OCIStores[pullStore] = images
	opt.SourcePolicyProvider = policysession.NewPolicyProvider(
		func(_ context.Context, ask *policysession.CheckPolicyRequest) (*policysession.DecisionResponse, *gatewaypb.ResolveSourceMetaRequest, error) {
			ref, ok := strings.CutPrefix(ask.GetSource().GetSource().GetIdentifier(), "docker-image://")
			if !ok {
				return &policysession.DecisionResponse{Action: spb.PolicyAction_ALLOW}, nil, nil
			}
			image, err := images.Resolve(ref)
			if err != nil {
				m.build.upstream.mu.Lock()
				defer m.build.upstream.mu.Unlock()
				if m.build.upstream.err == nil {
					m.build.upstream.err = err
				}
				return nil, nil, errors.New(api.AsError(err).Text)
			}
			named, _, _ := strings.Cut(ref, "@")
			return &policysession.DecisionResponse{Action: spb.PolicyAction_CONVERT, Update: &pb.SourceOp{
				Identifier: "oci-layout://" + named + "@" + image.Digest.String(),
				Attrs:      map[string]string{pb.AttrOCILayoutStoreID: pullStore, pb.AttrOCILayoutSessionID: own.ID()},
			}}, nil, nil
		})
	return nil
}

// nameOf gives the name of an image that was resolved; BuildKit's record of it has no registry.
func (f *fetches) nameOf(uri, sum string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.build == nil || !strings.HasPrefix(uri, "pkg:oci/") {
		return ""
	}
	names := f.build.Names()[digest.Digest(sum)]
	short, _, _ := strings.Cut(uri, "?")
	for _, name := range names {
		if own, err := purl.RefToPURL("oci", name+"@"+sum, nil); err == nil && strings.HasPrefix(own, short+"?") {
			return name
		}
	}
	if len(names) > 0 {
		return names[0]
	}
	return ""
}

// pullStatus tells the operator how the cache is.
func (s *Server) pullStatus(w http.ResponseWriter, _ *http.Request) error {
	if s.pulls == nil {
		return web.WriteJSON(w, http.StatusOK, api.PullCacheStatus{Off: true})
	}
	return web.WriteJSON(w, http.StatusOK, s.pulls.Status())
}

func (s *Server) purgePulls(w http.ResponseWriter, r *http.Request) error {
	var ask api.PullCachePurge
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	if s.pulls == nil {
		return api.Errorf(api.Invalid, "the cache of other registries' images is off")
	}
	done, err := s.pulls.Purge(r.Context(), ask)
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, done)
}
