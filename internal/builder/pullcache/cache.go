// Package pullcache fetches what builds start from out of other registries: once, whoever asks for it next, and so that a build goes
// on when a registry is away or lets nobody fetch more. It holds bytes by their digests, which are checked before anything is kept,
// and names with the digests that they stood for. What was fetched with an account is for builds with that account alone.
package pullcache

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/egress"
)

// Config says where the cache is and how far it reaches. The zero value of every field but Dir works.
type Config struct {
	Dir   string
	Bytes int64 // on the disk; 0 means 10 GiB
	// Allow lists private networks and addresses whose registries may be asked, as builds may reach them. An address of this
	// machine is reached only when it is listed by itself.
	Allow []string
	Roots *x509.CertPool // authorities of registries' certificates; nil means the system's
	// Fresh is how long it is believed what a name stands for; 0 means a minute.
	Fresh time.Duration
	// Stall is how long an answer may stand still before it is asked for anew; 0 means 30 s.
	Stall time.Duration
	Now   func() time.Time // nil means time.Now
}

const (
	defaultBytes = 10 << 30
	defaultFresh = time.Minute
	defaultStall = 30 * time.Second
	maxRedirects = 5
	requests     = 256 // to all registries at a time
	patience     = 2 * time.Minute
	public       = "public" // the scope of what everybody may have
	partialDir   = "partial"
	blobsDir     = "blobs"
	namesDir     = "names"
	keyFile      = "key"
)

// Cache is the cache of one builder.
type Cache struct {
	cfg  Config
	log  *slog.Logger
	out  *egress.Client
	key  []byte // what accounts are told apart with
	life context.Context
	end  context.CancelFunc
	all  sync.WaitGroup // fetches

	mu      sync.Mutex // covers what follows
	entries map[key]*entry
	flights map[course]*entry
	total   int64         // bytes of entries that are there or have room reserved
	changed chan struct{} // closed and made anew when room may have become free
	names   map[key]*record
	sources map[string]*source // anonymous ones, by repository
	counts  api.PullCacheStatus
}

// key is a blob or a name in a scope.
type key struct{ scope, name string }

// course is where a blob is being fetched from. Only what has arrived and is right is shared between repositories: a registry that
// says it has another's layer, and never ends sending it, keeps nobody else waiting.
type course struct {
	key
	repository string
	size       int64
}

// entry is a blob that is on the disk, or on its way.
type entry struct {
	size     int64
	used     time.Time
	open     int          // by how many it is read: it is not evicted
	reserved bool         // its size is counted
	flight   *flight      // nil when it is on the disk
	checked  func() error // compares it with its digest, once
}

// Open opens the cache. What an earlier run had fetched half is of no use.
func Open(cfg Config, log *slog.Logger) (*Cache, error) {
	if cfg.Bytes == 0 {
		cfg.Bytes = defaultBytes
	}
	if cfg.Fresh == 0 {
		cfg.Fresh = defaultFresh
	}
	if cfg.Stall == 0 {
		cfg.Stall = defaultStall
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	out, err := egress.New(egress.Config{Allow: cfg.Allow, Never: ownAddress(cfg.Allow), Roots: cfg.Roots, Redirects: maxRedirects,
		Timeout: cfg.Stall, MaxBody: 1 << 50, Concurrent: requests})
	if err != nil {
		return nil, fmt.Errorf("pull cache: allow: %w", err)
	}
	c := &Cache{cfg: cfg, log: log, out: out, entries: map[key]*entry{}, flights: map[course]*entry{}, names: map[key]*record{}, sources: map[string]*source{},
		changed: make(chan struct{})}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("pull cache: %w", err)
	}
	c.life, c.end = context.WithCancel(context.Background())
	return c, nil
}

// Close ends every fetch.
func (c *Cache) Close() {
	c.end()
	c.all.Wait()
	c.out.Close()
}

// ownAddress tells this machine's own addresses, as far as they are not allowed one by one.
func ownAddress(allow []string) func(netip.Addr) bool {
	return func(ip netip.Addr) bool {
		if slices.ContainsFunc(allow, func(text string) bool {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				one, err := netip.ParseAddr(text)
				return err == nil && one.Unmap() == ip
			}
			return p.IsSingleIP() && p.Addr() == ip
		}) {
			return false
		}
		if ip.IsLoopback() || ip.IsUnspecified() {
			return true
		}
		own, err := net.InterfaceAddrs()
		return err != nil || slices.ContainsFunc(own, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Addr().Unmap() == ip
		})
	}
}

// load finds what is on the disk.
func (c *Cache) load() error {
	if err := errors.Join(os.RemoveAll(c.partial()), os.MkdirAll(c.partial(), 0o700)); err != nil {
		return err
	}
	file := filepath.Join(c.cfg.Dir, keyFile)
	var err error
	if c.key, err = os.ReadFile(file); errors.Is(err, fs.ErrNotExist) {
		c.key = make([]byte, 32)
		_, _ = rand.Read(c.key) // never fails, see crypto/rand
		err = durable.WriteFile(file, c.key, 0o600)
	}
	if err != nil {
		return err
	}
	scopes, err := os.ReadDir(c.cfg.Dir)
	if err != nil {
		return err
	}
	for _, s := range scopes {
		if !s.IsDir() || s.Name() == partialDir {
			continue
		}
		if err := errors.Join(c.loadBlobs(s.Name()), c.loadNames(s.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cache) loadBlobs(scope string) error {
	files, err := os.ReadDir(filepath.Join(c.cfg.Dir, scope, blobsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			return err
		}
		c.total += info.Size()
		c.entries[key{scope, "sha256:" + f.Name()}] = c.kept(key{scope, "sha256:" + f.Name()}, info.Size(), info.ModTime())
	}
	return nil
}

// kept is the entry of a blob that is on the disk. Disks forget: it is compared with its digest before it is used first.
func (c *Cache) kept(k key, size int64, used time.Time) *entry {
	return &entry{size: size, used: used, reserved: true, checked: sync.OnceValue(func() error { return verify(c.file(k), k.digest(), size) })}
}

func (k key) digest() digest.Digest { return digest.Digest(k.name) }

func (c *Cache) partial() string { return filepath.Join(c.cfg.Dir, partialDir) }

func (c *Cache) file(k key) string {
	return filepath.Join(c.cfg.Dir, k.scope, blobsDir, strings.TrimPrefix(k.name, "sha256:"))
}

// scope is where what an account of a domain may have is kept. Neither the account nor a way to try passwords is on the disk with it:
// the key is.
func (c *Cache) scope(domain, host string, a Account) string {
	if a == (Account{}) {
		return public
	}
	h := hmac.New(sha256.New, c.key)
	_, _ = fmt.Fprintf(h, "%q %q %q %q", domain, host, a.Username, a.Password)
	return domain + "-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// room reserves bytes, and lets go of what was not used for longest.
func (c *Cache) room(ctx context.Context, e *entry) error {
	if e.size > c.cfg.Bytes {
		return api.Errorf(api.TooLarge, "it has %s, more than all that may be kept of other registries (--pull-cache-bytes %s)",
			api.FormatBytes(e.size), api.FormatBytes(c.cfg.Bytes))
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		c.mu.Lock()
		free := c.evict(c.cfg.Bytes - e.size)
		if free {
			c.total += e.size
			e.reserved = true
		}
		wait := c.changed
		c.mu.Unlock()
		if free {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return api.Errorf(api.Unavailable, "builds at work use all the room that there is for images of other registries (--pull-cache-bytes %s)",
				api.FormatBytes(c.cfg.Bytes))
		}
	}
}

// evict lets go of blobs until the rest is no more than a size. The lock is held.
func (c *Cache) evict(most int64) bool {
	for c.total > most {
		var oldest key
		var found *entry
		for k, e := range c.entries {
			if e.open == 0 && (found == nil || e.used.Before(found.used)) {
				oldest, found = k, e
			}
		}
		if found == nil {
			return false
		}
		c.drop(oldest, found)
		c.counts.Evicted++
	}
	return true
}

// drop forgets a blob. The lock is held.
func (c *Cache) drop(k key, e *entry) {
	if c.entries[k] == e {
		delete(c.entries, k)
		if err := os.Remove(c.file(k)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.log.Error("a blob of the pull cache cannot be removed", "digest", k.name, "error", err)
		}
	}
	c.free(e)
}

// free gives the room of a blob back. The lock is held.
func (c *Cache) free(e *entry) {
	if e.reserved {
		e.reserved = false
		c.total -= e.size
	}
	c.wake()
}

// wake tells those who wait for room. The lock is held.
func (c *Cache) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}
