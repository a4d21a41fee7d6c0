// Package rebuild makes the server's base images anew from their recipes, when somebody says so and by a schedule, and keeps what says
// how each came to be: its lock file, the list of its parts, and a statement of its origin.
package rebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/roadstead-io/roadstead/internal/builder/base"
	"github.com/roadstead-io/roadstead/internal/builder/fetch"
	"github.com/roadstead-io/roadstead/internal/builder/recipe"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/shelf"
)

// Rebuilder makes base images.
type Rebuilder struct {
	Dir     string // of all base images
	Book    *recipe.Book
	Fetcher *fetch.Fetcher
	Locked  bool // make what the lock files of the recipes say, and look for nothing newer
	Log     *slog.Logger
	Now     func() time.Time
}

// Done says what became of one base image.
type Done struct {
	Name    string
	Changed map[string]string // the new digest, by platform
}

// lockFile is the name of what the image was made of last, in its directory.
const lockFile = "lock.json"

// Rebuild makes one base image for all its platforms. If anything is wrong with what it is made of, nothing changes but the note that
// says so.
func (r *Rebuilder) Rebuild(ctx context.Context, name string) (Done, error) {
	done, err := r.rebuild(ctx, name)
	if err != nil && ctx.Err() == nil {
		home := filepath.Join(r.Dir, filepath.Base(name))
		if b, serr := shelf.One(home); serr == nil {
			b.Error = err.Error()
			err = errors.Join(err, shelf.Write(home, b))
		}
	}
	return done, err
}

func (r *Rebuilder) rebuild(ctx context.Context, name string) (Done, error) {
	rec, err := r.Book.Recipe(name)
	if err != nil {
		return Done{}, err
	}
	done := Done{Name: "base/" + rec.Name, Changed: map[string]string{}}
	home := filepath.Join(r.Dir, rec.Name)
	lock, err := r.lock(ctx, rec, home)
	if err != nil {
		return done, fmt.Errorf("base/%s: %w", rec.Name, err)
	}
	text, err := lock.Text()
	if err != nil {
		return done, err
	}
	made, err := r.make(ctx, rec, lock)
	defer made.remove()
	if err != nil {
		return done, err
	}
	have, err := base.List(r.Dir)
	if err != nil {
		return done, err
	}
	for _, m := range made {
		for _, b := range have {
			if b.Name == done.Name && b.Images[m.platform.String()] == m.digest {
				m.same = true
			}
		}
		note := base.Record{About: rec.About, Packages: len(lock.Images[m.arch]), LockSum: sum(text), Checked: r.Now().UTC().Truncate(time.Second)}
		sbom, err := listOfParts(rec, lock, m)
		if err != nil {
			return done, err
		}
		origin, err := statement(rec, lock, m, sum(text))
		if err != nil {
			return done, err
		}
		note.SBOMSum = sum(sbom)
		note.Texts = map[string][]byte{"lock.json": text, "spdx.json": sbom, "provenance.json": origin}
		if err := base.Publish(r.Dir, done.Name, m.image, m.platform, note); err != nil {
			return done, fmt.Errorf("publish base/%s: %w", rec.Name, err)
		}
		if !m.same {
			done.Changed[m.platform.String()] = m.digest.String()
		}
	}
	if err := durable.WriteFile(filepath.Join(home, lockFile), text, 0o644); err != nil {
		return done, err
	}
	return done, base.Open(r.Dir, home)
}

// lock gives what to make the image of: today's packages, or those of the recipe's lock file. What was accepted last, here or when the
// recipe was written, bounds what is accepted now.
func (r *Rebuilder) lock(ctx context.Context, rec *recipe.Recipe, home string) (*recipe.Lock, error) {
	shipped, err := r.Book.Lock(rec)
	if err != nil && (r.Locked || !errors.Is(err, fs.ErrNotExist)) {
		return nil, err
	}
	if r.Locked {
		return shipped, nil
	}
	last := shipped
	if f, err := os.Open(filepath.Join(home, lockFile)); err == nil {
		text, err := io.ReadAll(io.LimitReader(f, 8<<20))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		own, err := recipe.ParseLock(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		if last == nil || own.Made.After(last.Made) {
			last = own
		}
	}
	next, err := r.Book.Update(ctx, r.Fetcher, rec, last)
	if err == nil && next.Same(last) {
		next.Made = last.Made
	}
	return next, err
}

// Known are the base images that were made from a recipe that there still is.
func (r *Rebuilder) Known() ([]string, error) {
	list, err := shelf.Read(r.Dir)
	if err != nil {
		return nil, err
	}
	names, err := r.Book.Names()
	if err != nil {
		return nil, err
	}
	var known []string
	for _, b := range list {
		for _, name := range names {
			if b.Name == "base/"+name && !b.CheckedAt.IsZero() {
				known = append(known, name)
			}
		}
	}
	return known, nil
}

// Due makes those anew that were looked at longer ago than every.
func (r *Rebuilder) Due(ctx context.Context, every time.Duration) error {
	known, err := r.Known()
	if err != nil {
		return err
	}
	var all error
	for _, name := range known {
		b, err := shelf.One(filepath.Join(r.Dir, name))
		if err != nil {
			all = errors.Join(all, err)
			continue
		}
		if r.Now().Sub(b.CheckedAt) < every {
			continue
		}
		done, err := r.Rebuild(ctx, name)
		if err != nil {
			all = errors.Join(all, err)
			continue
		}
		for platform, digest := range done.Changed {
			r.Log.InfoContext(ctx, "a base image was made anew; releases built from the former one are stale", "base", done.Name,
				"platform", platform, "digest", digest)
		}
	}
	return all
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}
