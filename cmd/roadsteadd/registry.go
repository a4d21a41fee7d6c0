package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/release/stored"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// registryFlags say where images are kept, and how many.
type registryFlags struct {
	storage, credentialsFile string
	credentials              []byte // what the file holds
	quota, maxBlob, maxImage byteFlag
	grace, every             time.Duration
}

// byteFlag is a flag for a size: 20GB.
type byteFlag int64

func (b *byteFlag) String() string {
	if *b == 0 {
		return "0"
	}
	return strings.ReplaceAll(api.FormatBytes(int64(*b)), " ", "")
}

func (b *byteFlag) Set(s string) error {
	n, err := api.ParseBytes(s)
	*b = byteFlag(n)
	return err
}

func (*byteFlag) Type() string { return "size" }

func (f *registryFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.storage, "registry-storage", "", "where images are kept, a `URL` s3://BUCKET/PREFIX?endpoint=URL&region=NAME; empty means in files in the data directory")
	fs.StringVar(&f.credentialsFile, "registry-storage-credentials", "", "a `FILE` with aws_access_key_id and aws_secret_access_key for --registry-storage")
	fs.Var(&f.quota, "registry-quota", "how much an organization may keep in the registry, a `SIZE` like 20GB; 0 means as much as it likes")
	fs.Var(&f.maxImage, "registry-max-image", "how large one image may be, a `SIZE`; 0 means 32GiB")
	fs.Var(&f.maxBlob, "registry-max-blob", "how large one layer of an image may be, a `SIZE`; 0 means 10GiB")
	fs.DurationVar(&f.grace, "registry-grace", 0, "how `LONG` the images of deleted releases are kept; 0 means an hour")
	fs.DurationVar(&f.every, "registry-collect", 0, "how `OFTEN` the registry looks for what nobody needs; 0 means every hour")
}

// read reads the file and checks the whole.
func (f *registryFlags) read() error {
	switch {
	case f.grace < 0:
		return fmt.Errorf("--registry-grace %s: is negative", f.grace)
	case f.every != 0 && f.every < time.Second:
		return fmt.Errorf("--registry-collect %s: at least 1s", f.every)
	}
	if err := registry.CheckStorage(f.storage); err != nil {
		return fmt.Errorf("--registry-storage: %w", err)
	}
	if (f.storage == "") != (f.credentialsFile == "") {
		return errors.New("--registry-storage and --registry-storage-credentials go together")
	}
	if f.storage == "" {
		return nil
	}
	if _, _, err := registry.ReadCredentials(f.credentialsFile); err != nil {
		return fmt.Errorf("--registry-storage-credentials: %w", err)
	}
	var err error
	f.credentials, err = os.ReadFile(f.credentialsFile)
	return err
}

// rows are the bounds that the api role keeps.
func (f *registryFlags) rows() stored.Config {
	return stored.Config{Quota: int64(f.quota), MaxRepository: int64(f.maxImage)}
}

// config is the registry role's configuration.
func (f *registryFlags) config(e supervise.Env) any {
	return registry.Config{Dir: e.Dir, Site: e.Site, Peers: e.Peers, Storage: f.storage, MaxBlob: int64(f.maxBlob), Grace: f.grace, CollectEvery: f.every}
}

// giveCredentials writes the keys of the storage down for the registry, or takes those of the last start away.
func (f *registryFlags) giveCredentials(dir string) error {
	file := filepath.Join(dir, registry.CredentialsFile)
	if f.storage != "" {
		return durable.WriteFile(file, f.credentials, 0o600)
	}
	if err := os.Remove(file); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func registryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "Look after the images that are kept: usage, garbage, damage",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(registryUsageCommand(), registryCollectCommand(), registryCheckCommand(), upstreamsCommand())
	return cmd
}

// operation is the frame of a command that asks the running server and prints its answer.
func operation(use, short, long, example string, flags func(*pflag.FlagSet), run func(ctx context.Context, l supervise.Layout, args []string) (answer any, table func(io.Writer), err error)) *cobra.Command {
	var data, output string
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Example: example, RunE: func(cmd *cobra.Command, args []string) error {
		if output != "json" && output != "table" {
			return usageError{fmt.Errorf("-o %s: there are table and json", output)}
		}
		dir, err := dataDir(data)
		if err != nil {
			return err
		}
		answer, table, err := run(cmd.Context(), supervise.Layout(dir), args)
		if err != nil && answer == nil {
			return err
		}
		if output == "json" {
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			return errors.Join(enc.Encode(answer), err)
		}
		tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		table(tw)
		return errors.Join(tw.Flush(), err)
	}}
	dataFlag(cmd, &data)
	cmd.Flags().StringVarP(&output, "output", "o", "table", "form of the answer: table or json")
	if flags != nil {
		flags(cmd.Flags())
	}
	return cmd
}

// askAPI asks the api role, askRegistry the registry, as the operator.
func askAPI(ctx context.Context, l supervise.Layout, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	res, err := callAPI(ctx, l, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	return json.NewDecoder(res.Body).Decode(out)
}

func askRegistry(ctx context.Context, l supervise.Layout, method, path string, in, out any) error {
	return askRole(ctx, l, api.RoleRegistry, method, path, in, out)
}

func askRole(ctx context.Context, l supervise.Layout, role, method, path string, in, out any) error {
	status, err := supervise.Ask(ctx, l)
	if err != nil {
		return err
	}
	id, err := pki.LoadIdentity(l.Role(api.RoleAdmin))
	if err != nil {
		return err
	}
	for _, r := range status.Roles {
		if r.Role != role {
			continue
		}
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		peer := id.Client(role, r.Address)
		req, err := http.NewRequestWithContext(ctx, method, peer.URL+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := peer.HTTP.Do(req)
		if err != nil {
			return fmt.Errorf("the %s does not answer: %w", role, err)
		}
		if res.StatusCode >= 300 {
			return refusal(res)
		}
		defer func() { _ = res.Body.Close() }()
		return json.NewDecoder(res.Body).Decode(out)
	}
	return fmt.Errorf("the server has no %s", role)
}

func registryUsageCommand() *cobra.Command {
	return operation("usage --data DIR", "Show what the registry keeps, and for whom",
		"Show where images are kept, how much of them there is by the rows of the database, what each organization has of it and may have,\n"+
			"and how the last collection went. A blob counts once for an organization, and for each organization that has it.",
		"  roadsteadd admin registry usage --data /var/lib/roadstead\n  roadsteadd admin registry usage --data /var/lib/roadstead -o json", nil,
		func(ctx context.Context, l supervise.Layout, _ []string) (any, func(io.Writer), error) {
			var all struct {
				api.RegistryStatus
				api.RegistryUsage
			}
			if err := askAPI(ctx, l, "/internal/v1/registry/usage", struct{}{}, &all.RegistryUsage); err != nil {
				return nil, nil, err
			}
			err := askRegistry(ctx, l, http.MethodGet, "/internal/v1/status", nil, &all.RegistryStatus)
			return all, func(w io.Writer) { printUsage(w, all.RegistryStatus, all.RegistryUsage) }, err
		})
}

func printUsage(w io.Writer, s api.RegistryStatus, u api.RegistryUsage) {
	line := func(name, format string, args ...any) { _, _ = fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	line("storage", "%s", s.Storage)
	if s.Free != nil {
		line("free", "%s", api.FormatBytes(*s.Free))
	}
	line("kept", "%s in %d blobs of %d images", api.FormatBytes(u.Bytes), u.Blobs, u.Repositories)
	line("not needed", "%d images, %d blobs being deleted", u.Unused, u.Sweeping)
	if s.Collected != nil {
		line("last collection", "%s: %s", s.At, collectedText(*s.Collected))
	}
	if s.Error != "" {
		line("it failed", "%s", s.Error)
	}
	if u.ScannedAt != "" {
		line("last scan", "%s", u.ScannedAt)
	}
	for _, d := range s.Damaged {
		line("DAMAGED", "%s", d)
	}
	_, _ = fmt.Fprintf(w, "\nORGANIZATION\tKEEPS\tNOT NEEDED\tMAY KEEP\n")
	for _, o := range u.Organizations {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", o.Organization, api.FormatBytes(o.Bytes), api.FormatBytes(o.Unused), quotaText(o))
	}
}

func quotaText(o api.RegistryUse) string {
	text := "anything"
	if o.Quota != nil {
		text = api.FormatBytes(*o.Quota)
	}
	if !o.Own {
		text += " (default)"
	}
	return text
}

func collectedText(c api.RegistryCollected) string {
	text := fmt.Sprintf("%d images and %d blobs deleted, %s freed, %d abandoned uploads removed", c.Repositories, c.Blobs, api.FormatBytes(c.Bytes), c.Uploads)
	if c.Scanned {
		text += ", the whole storage compared with the database"
	}
	return text
}

func registryCollectCommand() *cobra.Command {
	grace, scan := time.Duration(-1), false
	return operation("gc --data DIR", "Delete the images that nobody needs now",
		"Delete the images of releases that are gone or failed, and uploads that were given up, as the running server does every hour by\n"+
			"itself. Pushes and pulls go on meanwhile. With --grace 0s also what was deleted a moment ago goes; with --scan the whole storage is\n"+
			"compared with the database, which the server does once a week.",
		"  roadsteadd admin registry gc --data /var/lib/roadstead\n  roadsteadd admin registry gc --grace 0s --scan --data /var/lib/roadstead",
		func(fs *pflag.FlagSet) {
			fs.DurationVar(&grace, "grace", -1, "how `LONG` what nobody needs must have been so; negative means as configured")
			fs.BoolVar(&scan, "scan", false, "compare the whole storage with the database")
		},
		func(ctx context.Context, l supervise.Layout, _ []string) (any, func(io.Writer), error) {
			ask := api.RegistryAsk{Scan: scan}
			if grace >= 0 {
				seconds := int64(grace / time.Second)
				ask.Grace = &seconds
			}
			var done api.RegistryCollected
			if err := askRegistry(ctx, l, http.MethodPost, "/internal/v1/collect", ask, &done); err != nil {
				return nil, nil, err
			}
			return done, func(w io.Writer) { _, _ = fmt.Fprintln(w, collectedText(done)) }, nil
		})
}

func registryCheckCommand() *cobra.Command {
	return operation("check --data DIR", "Compare every stored blob with its digest",
		"Read every stored byte and compare it with what it should be, while the server runs. What is damaged is named, the exit code is not\n"+
			"0, and the server's status says so until the blob is pushed again, or collected, and a check finds nothing.",
		"  roadsteadd admin registry check --data /var/lib/roadstead", nil,
		func(ctx context.Context, l supervise.Layout, _ []string) (any, func(io.Writer), error) {
			var got api.RegistryChecked
			if err := askRegistry(ctx, l, http.MethodPost, "/internal/v1/check", struct{}{}, &got); err != nil {
				return nil, nil, err
			}
			var err error
			if len(got.Damaged) > 0 {
				err = fmt.Errorf("%d blobs are damaged: pulls of them fail; push a release with the same content again, or delete the releases", len(got.Damaged))
			}
			return got, func(w io.Writer) {
				for _, d := range got.Damaged {
					_, _ = fmt.Fprintf(w, "damaged\t%s\n", d)
				}
				_, _ = fmt.Fprintf(w, "read\t%d blobs, %s\n", got.Blobs, api.FormatBytes(got.Bytes))
			}, err
		})
}

func quotaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quota",
		Short: "Say how much an organization may keep in the registry",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	set := operation("set ORGANIZATION SIZE --data DIR", "Give an organization a quota of its own",
		"Give an organization a quota of its own: a size like 20GB, `none` for as much as it likes, or `default` for what --registry-quota\n"+
			"says. What it has beyond it stays; nothing more is pushed until it has room.",
		"  roadsteadd admin quota set acme 50GB --data /var/lib/roadstead\n  roadsteadd admin quota set acme default --data /var/lib/roadstead", nil,
		func(ctx context.Context, l supervise.Layout, args []string) (any, func(io.Writer), error) {
			ask := api.SetQuota{Organization: args[0]}
			switch args[1] {
			case "none":
			case "default":
				ask.Default = true
			default:
				n, err := api.ParseBytes(args[1])
				if err != nil {
					return nil, nil, usageError{err}
				}
				ask.Bytes = &n
			}
			var use api.RegistryUse
			if err := askAPI(ctx, l, "/internal/v1/registry/quota", ask, &use); err != nil {
				return nil, nil, err
			}
			return use, func(w io.Writer) { printUses(w, []api.RegistryUse{use}) }, nil
		})
	set.Args = cobra.ExactArgs(2)
	list := operation("list --data DIR", "Show what organizations keep and may keep", "", "  roadsteadd admin quota list --data /var/lib/roadstead", nil,
		func(ctx context.Context, l supervise.Layout, _ []string) (any, func(io.Writer), error) {
			var u api.RegistryUsage
			if err := askAPI(ctx, l, "/internal/v1/registry/usage", struct{}{}, &u); err != nil {
				return nil, nil, err
			}
			return u.Organizations, func(w io.Writer) { printUses(w, u.Organizations) }, nil
		})
	cmd.AddCommand(set, list)
	return cmd
}

func printUses(w io.Writer, list []api.RegistryUse) {
	_, _ = fmt.Fprintf(w, "ORGANIZATION\tKEEPS\tNOT NEEDED\tMAY KEEP\n")
	for _, o := range list {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", o.Organization, api.FormatBytes(o.Bytes), api.FormatBytes(o.Unused), quotaText(o))
	}
}
