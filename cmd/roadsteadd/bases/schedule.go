package bases

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	recipes "github.com/roadstead-io/roadstead/base"
	"github.com/roadstead-io/roadstead/internal/builder/fetch"
	"github.com/roadstead-io/roadstead/internal/builder/rebuild"
	"github.com/roadstead-io/roadstead/internal/shelf"
)

// Config is that of the role that makes base images anew. It holds no secret and talks to no other role.
type Config struct {
	// Dir is the role's own directory.
	Dir string `json:"dir"`
	// Bases is the directory of base images, which belongs to this role's user.
	Bases string `json:"bases"`
	// Every says how often an image is made anew; 0 means never.
	Every time.Duration `json:"every"`
	// Mirror is Debian's to use; empty means that of this machine's apt.
	Mirror string `json:"mirror,omitempty"`
}

// look is how often the role looks whether something is due.
const look = time.Hour

// Run makes base images anew when they are due, and tells over report how that goes.
func Run(ctx context.Context, cfg Config, report *os.File, log *slog.Logger) error {
	if cfg.Bases == "" {
		return errors.New("bases: is missing")
	}
	if err := tidy(cfg.Bases); err != nil {
		return err
	}
	wait := time.Duration(rand.Int64N(int64(time.Minute))) // so that not every server asks when machines are started
	for {
		if _, err := fmt.Fprintln(report, health(cfg.Bases)); err != nil {
			return nil //nolint:nilerr // the parent is gone, and this ends with it
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if wait = look; cfg.Every == 0 {
			continue
		}
		if err := due(ctx, cfg, log); err != nil && ctx.Err() == nil {
			log.ErrorContext(ctx, "base images were not made anew; what was there stays", "error", err)
		}
	}
}

func due(ctx context.Context, cfg Config, log *slog.Logger) error {
	book, err := open(recipes.Recipes, cfg.Mirror)
	if err != nil {
		return err
	}
	f, err := fetch.New(fetch.Config{Cache: filepath.Join(cfg.Dir, "fetched"), Allow: book.Hosts()})
	if err != nil {
		return err
	}
	defer f.Close()
	r := &rebuild.Rebuilder{Dir: cfg.Bases, Book: book, Fetcher: f, Log: log, Now: time.Now}
	return errors.Join(r.Due(ctx, cfg.Every), f.Tidy(2*cfg.Every))
}

// health is "ok", or which base image could not be made anew.
func health(dir string) string {
	list, err := shelf.Read(dir)
	if err != nil {
		return strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	for _, b := range list {
		if b.Error != "" {
			return strings.ReplaceAll(b.Name+" could not be made anew: "+b.Error, "\n", "; ")
		}
	}
	return "ok"
}

// tidy removes what a rebuild that was killed left.
func tidy(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, ".make-*"))
	if err != nil {
		return err
	}
	for _, p := range left {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

// Own gives the directory of base images to the role's user.
func Own(dir, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, uid, gid)
	})
}
