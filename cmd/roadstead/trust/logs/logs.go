// Package logs reads the transparency log as somebody does who does not believe the server: it goes on from what was seen before, its tree is worked
// out here, and what stands there about fleets whose trust is kept on this machine is what was signed on it.
package logs

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/seen"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/unlock"
	"github.com/roadstead-io/roadstead/internal/ownerkey"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// logs adds its commands to what they stand on.
type logs struct{ *cmdline.App }

// Command is `log`.
func Command(app *cmdline.App) *cobra.Command {
	a := logs{app}
	cmd := cmdline.Group("log", "The transparency log: what was said about releases and trust, to everybody", a.tail(), a.prove(), a.auditing(), a.compare(), a.witness())
	cmd.Long = `Every release that is listed, and every root, set of targets and delegation, is an entry of the server's transparency log: a Merkle tree that only grows. Devices
run a release only when it stands there. A server that shows one history to some and another to others is found out by whoever compares: "log audit" keeps the
state that it saw and checks that the log goes on from it; "log compare" takes the state that somebody else has, as a device.`
	return cmd
}

// loadSeen reads what is kept of a log, in a file or where it is by the log's name.
func loadSeen(key api.TrustLogKey, file string) (*seen.Log, error) {
	if file == "" {
		file = filepath.Join(kept.Home(), "logs", tuf.Digest([]byte(key.Origin))[:16]+".json")
	}
	return seen.Load(key, file)
}

// entryView is an entry as it is printed.
type entryView struct {
	Index int64  `json:"index"`
	Hash  string `json:"hash"`
	*api.TrustEntry
}

func viewEntry(l api.TrustLeaf) entryView {
	v := entryView{Index: l.Index, Hash: l.Hash}
	var e api.TrustEntry
	if len(l.Entry) > 0 && json.Unmarshal(l.Entry, &e) == nil {
		v.TrustEntry = &e
	}
	return v
}

func (a logs) tail() *cobra.Command {
	var n int64
	cmd := a.Command(cmdline.Action{
		Use: "tail", Short: "Print the newest entries of the log", Example: "  roadstead log tail\n  roadstead log tail --lines 200 -o json",
		Long: "Print the newest entries of the log. Of fleets that you may not read, only the hash is there.",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			if n < 1 || n > api.MaxTrustEntries {
				return cmdline.Usagef("--lines %d is not from 1 to %d", n, api.MaxTrustEntries)
			}
			_, cp, err := seen.Newest(ctx, c)
			if err != nil {
				return err
			}
			views := []entryView{}
			if cp.Size > 0 {
				list, _, err := seen.Entries(ctx, c, max(0, cp.Size-n), cp.Size)
				if err != nil {
					return err
				}
				for _, l := range list {
					views = append(views, viewEntry(l))
				}
			}
			return a.Show(views, func() *terminal.Grid {
				g := &terminal.Grid{Head: []string{"Entry", "Kind", "Name", "Version", "By", "Fleet", "SHA-256"}}
				for _, v := range views {
					if e := v.TrustEntry; e != nil {
						g.Add(fmt.Sprint(v.Index), e.Kind, short12(e.Name), fmt.Sprint(e.Version), e.By, e.Fleet[:min(8, len(e.Fleet))], short12(e.SHA256))
					} else {
						g.Add(fmt.Sprint(v.Index), "(of another's)", "", "", "", "", short12(v.Hash))
					}
				}
				return g
			})
		},
	})
	cmd.Flags().Int64VarP(&n, "lines", "n", 20, "so many")
	return cmd
}

func short12(s string) string { return s[:min(12, len(s))] }

func (a logs) prove() *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "prove RELEASE", Short: "Prove that a release stands in the log, and that the log goes on from what was audited here", Least: 1, Most: 1,
		Complete: cmdline.First(a.Releases()), Example: "  roadstead log prove 4f0c1aa\n  roadstead log prove 4f0c1aa -o json",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			rel, err := c.FindRelease(ctx, args[0], client.Query{Select: "id,commit", Expand: "belongs_to__application($select=id,slug,uuid)"})
			if err != nil {
				return err
			}
			head, _, err := seen.Newest(ctx, c)
			if err != nil {
				return err
			}
			s, err := loadSeen(head.Key, "")
			if err != nil {
				return err
			}
			var status api.TrustStatus
			if err := c.Do(ctx, http.MethodGet, trust.FleetPath(rel.Fleet.Get().UUID), nil, &status); err != nil {
				return err
			}
			var proof api.TrustLogging
			path := fmt.Sprintf("%s/proofs/%s?by=%s&from=%d", trust.FleetPath(rel.Fleet.Get().UUID), url.PathEscape(rel.Commit), trust.Whose(status.Approval), s.Size)
			if err := c.Do(ctx, http.MethodGet, path, nil, &proof); err != nil {
				return fmt.Errorf("ask for the proof: %w", err)
			}
			cp, err := tlog.Check(proof, head.Key, s.State())
			if err != nil {
				return err
			}
			var e api.TrustEntry
			if err := json.Unmarshal(proof.Entry, &e); err != nil || e.Kind != "release" || e.Name != rel.Commit || e.Fleet != rel.Fleet.Get().UUID {
				return fmt.Errorf("the proof is about another entry: %s", terminal.Printable(string(proof.Entry)))
			}
			if a.Output == "json" {
				return a.JSON(proof)
			}
			a.Say("Release %s with counter %d (document %s) is entry %d of the %d of %s.", rel.Commit, e.Version, e.SHA256, proof.Index, cp.Size, cp.Origin)
			if s.Size > 0 {
				a.Say("The log goes on from the %d entries that were audited here.", s.Size)
			}
			return nil
		},
	})
}

func (a logs) compare() *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "compare FILE", Short: "Compare a checkpoint that somebody else has with the log that is shown here", Least: 1, Most: 1,
		Long: `Compare a checkpoint that a device, a witness or somebody else has ("log audit --write", "roadstead-agent trust checkpoint") with the log that the server shows here. Two that do not fit are
proof that the server shows two histories; both files are evidence, since it signed them.`,
		Complete: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		Example: "  roadstead log compare checkpoint.txt",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			head, cp, err := seen.Newest(ctx, c)
			if err != nil {
				return err
			}
			theirs, cosigned, err := tlog.Open(string(text), head.Key)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if theirs.Size > cp.Size {
				return fmt.Errorf("%s has %d entries, and the server shows %d: it hides entries, or was restored from a backup. Keep the file, it is signed by the log", args[0], theirs.Size, cp.Size)
			}
			if err := seen.Consistent(ctx, c, theirs, cp); err != nil {
				if _, refused := tuf.Rejection(err); !refused {
					return err
				}
				return fmt.Errorf("TWO HISTORIES: the log that the server shows does not go on from %s. Keep both, they are evidence: %w", args[0], err)
			}
			a.Say("The log of %d entries goes on from the %d entries of %s%s.", cp.Size, theirs.Size, args[0], strings.TrimSuffix(", cosigned by "+strings.Join(cosigned, ", "), ", cosigned by "))
			return nil
		},
	})
}

func (a logs) witness() *cobra.Command {
	k := &unlock.Flags{}
	var name, state string
	cmd := a.Command(cmdline.Action{
		Use: "witness", Short: "Audit the log, and cosign its checkpoint with a key of your own",
		Long: `Audit the log and cosign its checkpoint (c2sp.org/tlog-cosignature): you say that you saw this state, and none before that does not fit. The key is one of
"roadstead trust key", an Ed25519 key in a file; a witness's key need not be a fleet's. Run it from time to time on a machine that is not the server's.`,
		Example: "  roadstead trust key witness.key\n  roadstead log witness --key witness.key --name witness.example.com",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			if len(k.Files) != 1 || name == "" {
				return cmdline.Usagef("name one key by --key, and the witness by --name")
			}
			f, err := ownerkey.Read(k.Files[0])
			if err != nil {
				return err
			}
			public, err := f.Public.ToPublicKey()
			if err != nil {
				return err
			}
			ed, ok := public.(ed25519.PublicKey)
			if !ok {
				return errors.New("a witness cosigns with an Ed25519 key, and that of a PKCS#11 token is none: make one by `roadstead trust key`")
			}
			signer, err := k.Open(ctx, a.App, f)
			if err != nil {
				return err
			}
			by, err := tlog.NewWitness(name, cosigner{signer, ed}, time.Now)
			if err != nil {
				return err
			}
			head, v, err := a.audit(ctx, c, state)
			if err != nil {
				return err
			}
			if len(v.Alarms) > 0 {
				return errors.Join(a.report(v, false), errors.New("nothing was cosigned"))
			}
			note, err := tlog.Cosign(head.Checkpoint, by)
			if err != nil {
				return err
			}
			cosigned := api.TrustCosignature{Witness: tlog.WitnessKey(name, ed), Checkpoint: note}
			if err := c.Do(ctx, http.MethodPost, seen.At+"/cosignature", cosigned, nil); err != nil {
				return fmt.Errorf("send the cosignature: %w", err)
			}
			if a.Output == "json" {
				return a.JSON(cosigned)
			}
			a.Say("Cosigned the checkpoint of %d entries as %s.", v.Size, cosigned.Witness)
			return nil
		},
	})
	k.Register(cmd)
	cmd.Flags().StringVar(&name, "name", "", "what the witness is called, as witness.example.com")
	cmd.Flags().StringVar(&state, "state", "", "keep what was seen in this `FILE`")
	return cmd
}

// cosigner lets a key of package ownerkey cosign.
type cosigner struct {
	tuf.Signer
	public ed25519.PublicKey
}

func (c cosigner) Public() crypto.PublicKey { return c.public }

func (c cosigner) Sign(_ io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	return c.Signer.Sign(message)
}
