// Package bases has the commands that make base images from recipes. They need no server.
package bases

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	recipes "github.com/roadstead-io/roadstead/base"
	"github.com/roadstead-io/roadstead/internal/builder/debian"
	"github.com/roadstead-io/roadstead/internal/builder/fetch"
	"github.com/roadstead-io/roadstead/internal/builder/recipe"
)

// place is where recipes and what was fetched for them lie.
type place struct{ recipes, cache, ca, mirror string }

func (p *place) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.recipes, "recipes", "", "a `DIRECTORY` of recipes, as base/ of the source; empty: those of this program")
	cmd.Flags().StringVar(&p.cache, "cache", "", "a `DIRECTORY` that keeps what was fetched; empty: yours, below the user's caches")
	cmd.Flags().StringVar(&p.mirror, "mirror", "", "the `ADDRESS` of a Debian mirror, below which debian and debian-security are; empty: that of this machine's apt")
	cmd.Flags().StringVar(&p.ca, "ca", "", "a `FILE` with the authorities to trust for mirrors, instead of the system's")
}

func (p *place) book() (*recipe.Book, error) {
	files := fs.FS(recipes.Recipes)
	if p.recipes != "" {
		files = os.DirFS(p.recipes)
	}
	book, err := open(files, p.mirror)
	if err != nil {
		return nil, fmt.Errorf("--recipes, --mirror: %w", err)
	}
	return book, nil
}

// open opens recipes at a mirror, or at that of this machine's apt.
func open(files fs.FS, mirror string) (*recipe.Book, error) {
	return recipe.Open(files, Mirror(mirror))
}

// Mirror is the one that was named, or that of this machine's apt. Where there is neither it is "", and recipes can be looked at.
func Mirror(named string) string {
	if named == "" {
		named, _ = debian.LocalMirror("/etc/apt")
	}
	return named
}

func (p *place) fetcher(book *recipe.Book, r *recipe.Recipe) (*fetch.Fetcher, error) {
	cache := p.cache
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("--cache is missing: %w", err)
		}
		cache = filepath.Join(dir, "roadstead", "base")
	}
	var roots *x509.CertPool
	if p.ca != "" {
		text, err := os.ReadFile(p.ca)
		if err != nil {
			return nil, err
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--ca: %s holds no certificate", p.ca)
		}
	}
	return fetch.New(fetch.Config{Cache: cache, Allow: book.Hosts(r), Roots: roots})
}

// Command is "roadsteadd base".
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "base", Short: "Make base images from recipes",
		Long: `Make base images from recipes. Everything that goes into one is fetched by this program, over https, and checked against the
SHA-256 in the recipe's lock file; the lock file is written from signatures: those of Debian's archive over its lists of packages,
or a file's own, by keys that the recipes name by their whole fingerprint. What cannot be checked is not used.`,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(listCommand(), makeCommand(), updateCommand())
	return cmd
}

func listCommand() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use: "recipes", Short: "List the recipes", Example: "  roadsteadd base recipes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			book, err := p.book()
			if err != nil {
				return err
			}
			names, err := book.Names()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			for _, name := range names {
				r, err := book.Recipe(name)
				if err != nil {
					return err
				}
				locked := "no lock file yet"
				if l, err := book.Lock(r); err == nil {
					locked = "locked " + l.Made.Format("2006-01-02")
				} else if !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				_, _ = fmt.Fprintf(w, "base/%s\t%s\t%s\t%s\n", r.Name, strings.Join(r.Platforms, ","), locked, r.About)
			}
			return w.Flush()
		},
	}
	p.flags(cmd)
	return cmd
}

func makeCommand() *cobra.Command {
	var p place
	var out, arch string
	cmd := &cobra.Command{
		Use: "make NAME -o FILE.tar", Short: "Make the root file system of a base image",
		Long: `Make the root file system of a base image, as a tar archive. The same lock file gives the same archive, byte for byte.
Import it with "roadsteadd admin base import", or have a running server make its own with "roadsteadd admin base rebuild".`,
		Example: `  roadsteadd base make base/busybox -o busybox.tar
  roadsteadd base make base/debian --arch arm64 -o debian-arm64.tar`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return errors.New("-o is missing: the file to write")
			}
			book, err := p.book()
			if err != nil {
				return err
			}
			r, err := book.Recipe(args[0])
			if err != nil {
				return err
			}
			l, err := book.Lock(r)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("base/%s has no lock file; make one with `roadsteadd base update %s --recipes DIRECTORY`", r.Name, r.Name)
			}
			if err != nil {
				return err
			}
			f, err := p.fetcher(book, r)
			if err != nil {
				return err
			}
			defer f.Close()
			return makeFile(cmd.Context(), book, f, r, l, arch, out)
		},
	}
	p.flags(cmd)
	cmd.Flags().StringVarP(&out, "output", "o", "", "the `FILE` to write")
	cmd.Flags().StringVar(&arch, "arch", "amd64", "the `ARCHITECTURE`, as Debian names it: amd64, arm64")
	return cmd
}

// makeFile writes an archive that appears only when it is whole.
func makeFile(ctx context.Context, book *recipe.Book, f *fetch.Fetcher, r *recipe.Recipe, l *recipe.Lock, arch, out string) (err error) {
	dir := filepath.Dir(out)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".base-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	if err := errors.Join(book.Make(ctx, f, r, l, arch, dir, tmp), tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), out)
}

func updateCommand() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use: "update NAME --recipes DIRECTORY", Short: "Write a lock file anew, from what signatures vouch for today",
		Long: `Write the lock file of a recipe anew. Debian's packages are followed from the signature over a suite's InRelease file to the
digest of each; a suite's file that is older than the one that was accepted before, or not valid any more, is refused. Files that
nobody signs keep what the lock file says of them: their digest is for a person to write there.`,
		Example: "  roadsteadd base update base/debian --recipes base",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if p.recipes == "" {
				return errors.New("--recipes is missing: the directory of recipes to write in")
			}
			book, err := p.book()
			if err != nil {
				return err
			}
			r, err := book.Recipe(args[0])
			if err != nil {
				return err
			}
			old, err := book.Lock(r)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			f, err := p.fetcher(book, r)
			if err != nil {
				return err
			}
			defer f.Close()
			l, err := book.Update(cmd.Context(), f, r, old)
			if err != nil {
				return err
			}
			if l.Same(old) {
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "base/%s is up to date\n", r.Name)
				l.Made = old.Made // where the packages were when they were looked at first
			}
			text, err := l.Text()
			if err != nil {
				return err
			}
			file := filepath.Join(p.recipes, r.Name, "lock.json")
			if err := os.WriteFile(file+".new", text, 0o644); err != nil { //nolint:gosec // a lock file is no secret
				return err
			}
			if err := os.Rename(file+".new", file); err != nil {
				return err
			}
			for platform, list := range l.Images {
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "base/%s for %s: %d packages\n", r.Name, platform, len(list))
			}
			return nil
		},
	}
	p.flags(cmd)
	return cmd
}
