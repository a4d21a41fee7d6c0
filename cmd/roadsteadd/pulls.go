package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// pullFlags say how images of other registries are fetched for builds.
type pullFlags struct {
	bytes   byteFlag
	off     bool
	ca      string
	pemText string // what the file holds
}

func (f *pullFlags) add(fs *pflag.FlagSet) {
	fs.Var(&f.bytes, "pull-cache-bytes", "how much is kept of other registries' images that builds start from, a `SIZE` like 50GB; 0 means 10GiB")
	fs.BoolVar(&f.off, "no-pull-cache", false, "let builds fetch other registries' images by themselves, each time")
	fs.StringVar(&f.ca, "pull-ca", "", "a `FILE` (PEM) with authorities to trust, beside the system's, when images are fetched from other registries")
}

// read reads the file and checks the whole.
func (f *pullFlags) read() error {
	const least = 64 << 20
	switch {
	case f.bytes != 0 && f.bytes < least:
		return fmt.Errorf("--pull-cache-bytes %s: at least 64MiB; --no-pull-cache keeps nothing", &f.bytes)
	case f.off && (f.bytes != 0 || f.ca != ""):
		return fmt.Errorf("--no-pull-cache does not go together with --pull-cache-bytes or --pull-ca")
	case f.ca == "":
		return nil
	}
	data, err := os.ReadFile(f.ca)
	if err != nil {
		return fmt.Errorf("--pull-ca: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(data) {
		return fmt.Errorf("--pull-ca: there is no certificate in %s", f.ca)
	}
	f.pemText = string(data)
	return nil
}

// config is the builder's part of it; allow are the private networks that builds may reach.
func (f *pullFlags) config(allow []string) builder.Pulls {
	return builder.Pulls{Off: f.off, Bytes: int64(f.bytes), Roots: f.pemText, Allow: allow}
}

func upstreamsCommand() *cobra.Command {
	cmd := operation("upstreams --data DIR", "Show what is kept of other registries' images",
		"Show which images of other registries builds have started from, what their names stood for, and how much of them is kept so that the\n"+
			"next build has it from here. DOMAIN says whose builds may have it: everybody's, or those of one organization with the account that it was\n"+
			"fetched with. Counts are since the builder was started.",
		"  roadsteadd admin registry upstreams --data /var/lib/roadstead\n  roadsteadd admin registry upstreams purge docker.io/library/debian:13 --data /var/lib/roadstead", nil,
		func(ctx context.Context, l supervise.Layout, _ []string) (any, func(io.Writer), error) {
			var s api.PullCacheStatus
			if err := askRole(ctx, l, api.RoleBuilder, http.MethodGet, "/internal/v1/pull-cache", nil, &s); err != nil {
				return nil, nil, err
			}
			return s, func(w io.Writer) { printPulls(w, s) }, nil
		})
	cmd.Args = cobra.NoArgs
	var all bool
	purge := operation("purge [IMAGE…] --data DIR", "Forget images of other registries",
		"Forget images, by their names as `upstreams` shows them, or everything. The next build that wants them fetches them again. What a build\n"+
			"reads at this moment stays.",
		"  roadsteadd admin registry upstreams purge docker.io/library/debian:13 --data /var/lib/roadstead\n  roadsteadd admin registry upstreams purge --all --data /var/lib/roadstead",
		func(fs *pflag.FlagSet) { fs.BoolVar(&all, "all", false, "forget everything") },
		func(ctx context.Context, l supervise.Layout, args []string) (any, func(io.Writer), error) {
			if all == (len(args) > 0) {
				return nil, nil, usageError{fmt.Errorf("name the images that shall be forgotten, or say --all")}
			}
			var done api.PullCachePurged
			ask := api.PullCachePurge{Images: args, All: all}
			if err := askRole(ctx, l, api.RoleBuilder, http.MethodPost, "/internal/v1/pull-cache/purge", ask, &done); err != nil {
				return nil, nil, err
			}
			return done, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "%d names and %d blobs forgotten, %s freed\n", done.Images, done.Blobs, api.FormatBytes(done.Bytes))
			}, nil
		})
	cmd.AddCommand(purge)
	return cmd
}

func printPulls(w io.Writer, s api.PullCacheStatus) {
	_, _ = fmt.Fprintf(w, "%s\n", pullLine(s))
	if s.Off {
		return
	}
	_, _ = fmt.Fprintf(w, "evicted %d blobs, damaged %d, names taken as they were known %d\n", s.Evicted, s.Damaged, s.Stale)
	_, _ = fmt.Fprintf(w, "\nIMAGE\tDIGEST\tDOMAIN\tASKED\tUSED\n")
	for _, i := range s.Images {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", i.Name, i.Digest, i.Domain, i.CheckedAt, i.UsedAt)
	}
}

// pullLine is the cache in one line.
func pullLine(s api.PullCacheStatus) string {
	if s.Off {
		return "images of other registries: nothing is kept (--no-pull-cache)"
	}
	return fmt.Sprintf("images of other registries: %s of %s kept in %d blobs; %d had from here (%s), %d fetched (%s)", api.FormatBytes(s.Bytes),
		api.FormatBytes(s.Limit), s.Blobs, s.Hits, api.FormatBytes(s.ServedBytes), s.Misses, api.FormatBytes(s.FetchBytes))
}

// pullStatus asks the builder how its cache is.
func pullStatus(ctx context.Context, l supervise.Layout) (s api.PullCacheStatus, err error) {
	err = askRole(ctx, l, api.RoleBuilder, http.MethodGet, "/internal/v1/pull-cache", nil, &s)
	s.Images = nil
	return s, err
}
