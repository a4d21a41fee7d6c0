package gitserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/internal/durable"
)

const reposDir = "repositories"

// repository is a fleet's. It is named after the fleet's id, which no other fleet ever has: it stays when the fleet is renamed or goes to
// another organization.
type repository struct {
	fleet int64
	path  string
	turn  chan struct{} // holds one token while a push is built or the repository is tidied
	reads sync.RWMutex  // read by fetches, and written while history is cut: a fetch that has begun sees what it began with

	mu     sync.Mutex // covers what follows, and the removing of what is left of pushes
	pushes int        // that are coming in or being built
}

// repositories is those that are in use.
type repositories struct {
	dir string

	mu   sync.Mutex // covers what follows, and the making and removing of repositories
	used map[int64]*repository
}

func (s *Server) repoPath(fleet int64) string {
	return filepath.Join(s.repos.dir, strconv.FormatInt(fleet, 10)+".git")
}

// repository gives a fleet's repository, made if there is none.
func (s *Server) repository(ctx context.Context, fleet int64) (*repository, error) {
	s.repos.mu.Lock()
	defer s.repos.mu.Unlock()
	r := s.repos.used[fleet]
	if r == nil {
		r = &repository{fleet: fleet, path: s.repoPath(fleet), turn: make(chan struct{}, 1)}
	}
	if _, err := os.Stat(r.path); errors.Is(err, fs.ErrNotExist) {
		if err := s.initialize(ctx, r.path); err != nil {
			return nil, fmt.Errorf("repository of fleet %d: %w", fleet, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("repository of fleet %d: %w", fleet, err)
	}
	s.repos.used[fleet] = r
	return r, nil
}

// initialize makes a repository: under another name until it is whole.
func (s *Server) initialize(ctx context.Context, path string) error {
	fresh := path + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	if _, err := s.output(ctx, walls{write: fresh}, nil, "init", "--quiet", "--bare", "--template=", "--initial-branch=main", fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return durable.SyncDir(s.repos.dir)
}

// take waits for the repository's turn.
func (r *repository) take(ctx context.Context, waits func()) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	default:
	}
	waits()
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *repository) leave() { <-r.turn }

// receiving counts a push in, and when it has ended, out. A git that was killed leaves what it had received, in a place of its own: the last
// push of those that are under way takes all such places along. git's own prune would take those of pushes that still come in.
func (r *repository) receiving() (ended func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pushes++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.pushes--; r.pushes > 0 {
			return
		}
		for _, left := range []string{"tmp_objdir-*", "incoming-*"} {
			found, _ := filepath.Glob(filepath.Join(r.objects(), left)) // the pattern is right
			for _, dir := range found {
				_ = os.RemoveAll(dir) // when it cannot be removed now, the next push or the next start of the role does
			}
		}
	}
}

func (r *repository) objects() string { return filepath.Join(r.path, "objects") }

// size is what a directory takes on disk, about.
func size(dir string) (total int64, packs int) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // files come and go
		}
		if info, err := d.Info(); err == nil {
			total += info.Size()
		}
		if strings.HasSuffix(path, ".pack") {
			packs++
		}
		return nil
	})
	return total, packs
}

// ref is where a branch stands; "" when it is not there.
func (s *Server) ref(ctx context.Context, r *repository, name string) (string, error) {
	out, err := s.output(ctx, walls{read: r.path}, nil, "--git-dir="+r.path, "for-each-ref", "--format=%(objectname)", "--", name)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(out)), nil
}

// settle is what follows a push that was taken: a branch that was only an option of it goes, and the first branch is what a clone checks out.
func (s *Server) settle(ctx context.Context, r *repository, o order) error {
	git := func(args ...string) ([]byte, error) {
		return s.output(ctx, walls{write: r.path}, nil, append([]string{"--git-dir=" + r.path}, args...)...)
	}
	if o.passing {
		_, err := git("update-ref", "-d", o.ref)
		return err
	}
	head, err := git("symbolic-ref", "HEAD")
	if err != nil {
		return err
	}
	now := strings.TrimSpace(string(head))
	if now == o.ref {
		return nil
	}
	at, err := s.ref(ctx, r, now)
	if err != nil || at != "" {
		return err
	}
	_, err = git("symbolic-ref", "HEAD", o.ref)
	return err
}

const manyPacks = 20

// tidy packs a repository and cuts its history when that is due. It has the repository's turn.
func (s *Server) tidy(ctx context.Context, r *repository) error {
	bytes, packs := size(r.path)
	commits := s.cfg.Limits.Commits
	for _, keep := range []int{commits, 1} { // one is for a repository that is too large even so
		long, err := s.long(ctx, r, keep)
		if err != nil {
			return err
		}
		full := bytes > s.cfg.Limits.RepoBytes
		if keep == commits && !long && packs <= manyPacks && !full || keep == 1 && !full {
			return nil
		}
		if err := s.pack(ctx, r, keep, long); err != nil {
			return err
		}
		bytes, packs = size(r.path)
	}
	return nil
}

// pack packs a repository, and cuts its history to so many commits before when that is too long.
func (s *Server) pack(ctx context.Context, r *repository, keep int, long bool) error {
	if long {
		if err := r.alone(ctx); err != nil {
			return err
		}
		defer r.reads.Unlock()
		if err := s.cut(ctx, r, keep); err != nil {
			return err
		}
	}
	// What nobody reaches any more goes at once: a push that goes on beside this has its own objects in a place of their own. All
	// objects are in packs, for that is how pushes are kept.
	_, err := s.output(ctx, walls{write: r.path}, nil, "--git-dir="+r.path, "repack", "-q", "-a", "-d")
	return err
}

// alone waits until no fetch goes on, and keeps new ones waiting until r.reads is unlocked. While it waits new ones begin all the same: a slow one
// must not keep the others.
func (r *repository) alone(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !r.reads.TryLock() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("cut the history: somebody fetches it all the time: %w", ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// long reports whether there is clearly more history than is kept.
func (s *Server) long(ctx context.Context, r *repository, keep int) (bool, error) {
	limit := keep + keep/4
	out, err := s.output(ctx, walls{read: r.path}, nil, "--git-dir="+r.path, "rev-list", "--count", "--max-count="+strconv.Itoa(limit+1), "--branches")
	if err != nil {
		return false, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	return n > limit, err
}

// cut keeps the newest commits of the branches, and makes those without parents whose parents are older: what git calls a shallow
// repository.
func (s *Server) cut(ctx context.Context, r *repository, keep int) error {
	out, err := s.output(ctx, walls{read: r.path}, nil, "--git-dir="+r.path, "rev-list", "--parents", "--topo-order", "--max-count="+strconv.Itoa(keep), "--branches")
	if err != nil {
		return err
	}
	kept := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		if ids := strings.Fields(line); len(ids) > 0 {
			kept[ids[0]] = ids[1:]
		}
	}
	tips, err := s.output(ctx, walls{read: r.path}, nil, "--git-dir="+r.path, "for-each-ref", "--format=%(objectname)", heads)
	if err != nil {
		return err
	}
	for _, tip := range strings.Fields(string(tips)) {
		if _, ok := kept[tip]; !ok {
			kept[tip] = []string{"older"}
		}
	}
	var ends []string
	for id, parents := range kept {
		if slices.ContainsFunc(parents, func(p string) bool { _, ok := kept[p]; return !ok }) {
			ends = append(ends, id)
		}
	}
	before, err := os.ReadFile(filepath.Join(r.path, "shallow"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, id := range strings.Fields(string(before)) { // those that are still part of what is kept have no parents anyway
		if _, ok := kept[id]; ok && !slices.Contains(ends, id) {
			ends = append(ends, id)
		}
	}
	if len(ends) == 0 {
		return nil
	}
	slices.Sort(ends)
	return durable.WriteFile(filepath.Join(r.path, "shallow"), []byte(strings.Join(ends, "\n")+"\n"), 0o600)
}

// startOver forgets all branches, so that clients send everything again. It has the repository's turn.
func (s *Server) startOver(ctx context.Context, r *repository) error {
	out, err := s.output(ctx, walls{read: r.path}, nil, "--git-dir="+r.path, "for-each-ref", "--format=%(refname)", heads)
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(out)) {
		if _, err := s.output(ctx, walls{write: r.path}, nil, "--git-dir="+r.path, "update-ref", "-d", name); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(r.path, "shallow")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// clear removes what a role that was killed left half done. Nothing else runs yet.
func (s *Server) clear() error {
	entries, err := os.ReadDir(s.repos.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.repos.dir, e.Name())
		if strings.HasSuffix(e.Name(), ".new") || strings.HasSuffix(e.Name(), ".gone") {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			continue
		}
		for _, left := range []string{"objects/tmp_objdir-*", "objects/incoming-*", "objects/pack/tmp_*", "objects/pack/.tmp-*", "*.lock",
			"refs/heads/*.lock", "refs/heads/*/*.lock", "objects/pack/*.lock", "refs/heads/" + branchNoCache, "refs/heads/" + branchEmulated} {
			found, err := filepath.Glob(filepath.Join(path, left))
			if err != nil {
				return err
			}
			for _, file := range found {
				if err := os.RemoveAll(file); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// ids lists the fleets that have a repository.
func (s *Server) ids() ([]int64, error) {
	entries, err := os.ReadDir(s.repos.dir)
	if err != nil {
		return nil, err
	}
	var ids []int64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".git")
		if id, err := strconv.ParseInt(name, 10, 64); ok && err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// remove removes the repository of a fleet that is no more.
func (s *Server) remove(fleet int64) error {
	s.repos.mu.Lock()
	defer s.repos.mu.Unlock()
	delete(s.repos.used, fleet)
	path := s.repoPath(fleet)
	if err := os.Rename(path, path+".gone"); err != nil {
		return err
	}
	return os.RemoveAll(path + ".gone")
}
