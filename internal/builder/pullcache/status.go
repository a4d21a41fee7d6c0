package pullcache

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/roadstead-io/roadstead/api"
)

// Status says how the cache is, and what it knows.
func (c *Cache) Status() api.PullCacheStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.counts
	s.Bytes, s.Limit, s.Blobs = c.total, c.cfg.Bytes, len(c.entries)
	for k, r := range c.names {
		domain := k.scope
		if at := strings.LastIndexByte(domain, '-'); at > 0 {
			domain = domain[:at]
		}
		s.Images = append(s.Images, api.PullCacheImage{Name: r.Name, Digest: r.Digest.String(), Domain: domain,
			CheckedAt: r.Checked.UTC().Format(time.RFC3339), UsedAt: r.Used.UTC().Format(time.RFC3339)})
	}
	slices.SortFunc(s.Images, func(x, y api.PullCacheImage) int {
		return strings.Compare(x.Name+" "+x.Domain, y.Name+" "+y.Domain)
	})
	return s
}

// Purge forgets names and all that belongs to them, or everything. What a build reads at this moment stays. A name that is not known is
// an error.
func (c *Cache) Purge(ctx context.Context, ask api.PullCachePurge) (api.PullCachePurged, error) {
	var done api.PullCachePurged
	if ask.All == (len(ask.Images) > 0) {
		return done, api.Errorf(api.Invalid, "images: name those that shall be forgotten, or all of them")
	}
	type gone struct {
		key
		digest digest.Digest
	}
	var names []gone
	c.mu.Lock()
	for k, r := range c.names {
		if ask.All || slices.Contains(ask.Images, k.name) {
			names = append(names, gone{k, r.Digest})
		}
	}
	c.mu.Unlock()
	for _, want := range ask.Images {
		if !slices.ContainsFunc(names, func(g gone) bool { return g.name == want }) {
			return done, api.Errorf(api.NotFound, "images: %.200q is not known; names are written in full, like docker.io/library/debian:13", want)
		}
	}
	var blobs []key
	for _, g := range names {
		blobs = append(blobs, c.tree(ctx, g.scope, g.digest, 0)...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range names {
		c.forget(g.key)
		done.Images++
	}
	if ask.All {
		for k := range c.entries {
			blobs = append(blobs, k)
		}
	}
	for _, k := range blobs {
		if e := c.entries[k]; e != nil && e.open == 0 {
			c.drop(k, e)
			done.Blobs++
			done.Bytes += e.size
		}
	}
	return done, nil
}

// tree lists what of an image is on the disk.
func (c *Cache) tree(ctx context.Context, scope string, d digest.Digest, depth int) []key {
	k := key{scope, d.String()}
	c.mu.Lock()
	e := c.entries[k]
	c.mu.Unlock()
	if e == nil {
		return nil
	}
	list := []key{k}
	if depth > maxDepth || e.size > maxManifest {
		return list
	}
	h, _, err := c.take(ctx, k, e.size)
	if err != nil || h == nil {
		return list
	}
	data := make([]byte, h.size)
	_, err = h.file.ReadAt(data, 0)
	h.Close()
	if err != nil {
		return list
	}
	named, err := children(data)
	if err != nil {
		return list // a layer, or a configuration
	}
	for _, n := range named {
		list = append(list, c.tree(ctx, scope, digest.Digest(n.Digest.String()), depth+1)...)
	}
	return list
}
