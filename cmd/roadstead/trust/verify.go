package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/origin"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// finding is one thing that was looked at.
type finding struct {
	What   string `json:"what"`
	Result string `json:"result"` // ok, weak: true, and worth less than it looks, or failed
	Says   string `json:"says"`
}

// verdict is the JSON form of `release verify`.
type verdict struct {
	Fleet    string    `json:"fleet"`
	Commit   string    `json:"commit"`
	Verified bool      `json:"verified"`
	Approval string    `json:"approval"`
	HeldBy   string    `json:"held_by"`
	SHA256   string    `json:"sha256"`
	Counter  int64     `json:"counter"`
	Findings []finding `json:"findings"`
	file     bool      // it is about a file, and no server was asked
}

func (v *verdict) add(what, result, says string, args ...any) {
	v.Findings = append(v.Findings, finding{what, result, fmt.Sprintf(says, args...)})
}

// check adds what came out, and says whether it was good.
func (v *verdict) check(what string, err error, says string, args ...any) bool {
	if err != nil {
		v.add(what, "failed", "%v", err)
		return false
	}
	v.add(what, "ok", says, args...)
	return true
}

func (a trust) releaseVerify() *cobra.Command {
	var root, save, device, dir string
	var offline bool
	cmd := &cobra.Command{
		Use: "verify RELEASE|FILE", Short: "Verify a release as a device does, and more: who signed it, the log, where it comes from",
		Long: `Verify a release: the chain of roots from the one that this machine believes, the signatures of builder and owner, the document's digest, that it stands in the
transparency log, the statement of where it comes from, and the bills of materials. With --device, what a device says that it runs is compared with it.

The root is the one that is kept in ~/.config/roadstead/trust/UUID, or that of --root. Where there is neither, the server's first root is believed, which proves nothing
against that server, and is said. --save writes all that was read to a file; the same command verifies such a FILE without any network, from a root that is known: the
one in the file proves nothing.

Exit codes: 0 all of it verifies, 1 something does not, 2 wrong usage.`,
		Example: `  roadstead release verify 4f0c1aa
  roadstead release verify 4f0c1aa --save evidence.json
  roadstead release verify evidence.json --root root.json --offline
  roadstead release verify 4f0c1aa --device kitchen`,
		Args: cmdline.Args(1, 1), ValidArgsFunction: cmdline.ThenFiles(a.Releases()),
	}
	f := cmd.Flags()
	f.StringVar(&root, "root", "", "believe the root in this `FILE`")
	f.StringVar(&save, "save", "", "write what was verified to this `FILE`")
	f.StringVar(&device, "device", "", "compare with what this `DEVICE` says that it runs")
	f.StringVar(&dir, "dir", "", "`DIRECTORY` of the fleet's metadata, in place of ~/.config/roadstead/trust/UUID")
	f.BoolVar(&offline, "offline", false, "ask no server; only a FILE can be verified then")
	cmd.MarkFlagsMutuallyExclusive("offline", "device")
	_ = cmd.RegisterFlagCompletionFunc("device", a.Devices()) // fails only for a flag that is not there
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		st, err := os.Stat(args[0])
		if file := err == nil && st.Mode().IsRegular(); file || offline {
			if !file {
				return fmt.Errorf("--offline: %s is no file of `release verify --save`", args[0])
			}
			b, err := readBundle(args[0])
			if err != nil {
				return err
			}
			if len(b.Releases) != 1 {
				return fmt.Errorf("%s is about %d releases; `release verify --save` writes one", args[0], len(b.Releases))
			}
			if device != "" {
				return cmdline.Usagef("--device needs the server: name the release in place of a file")
			}
			for commit := range b.Releases {
				return a.verdict(cmd.Context(), nil, b, commit, root, dir, "")
			}
		}
		c, err := a.Connect(cmd.Context())
		if err != nil {
			return err
		}
		rel, err := c.FindRelease(cmd.Context(), args[0], client.Query{Select: "id,commit", Expand: "belongs_to__application($select=id,slug,uuid)"})
		if err != nil {
			return err
		}
		b, err := collect(cmd.Context(), c, rel.Fleet.Get().UUID, rel.Commit)
		if err != nil {
			return err
		}
		if save != "" {
			saved := *b
			saved.Status = nil // the server's word, which proves nothing and is not looked at
			if err := saved.write(save); err != nil {
				return err
			}
		}
		return a.verdict(cmd.Context(), c, b, rel.Commit, root, dir, device)
	}
	return cmd
}

// collect reads all that there is about a release.
func collect(ctx context.Context, c *client.Client, fleet, commit string) (*bundle, error) {
	b, err := gather(ctx, c, fleet, want{commits: []string{commit}, proofs: true})
	if err != nil {
		return nil, err
	}
	e := b.Releases[commit]
	var statement json.RawMessage
	statement, e.StatementKeys, e.SBOMs, err = origin.Evidence(ctx, c, commit)
	e.Statement = statement
	return b, err
}

// verdict verifies and tells.
func (a trust) verdict(ctx context.Context, c *client.Client, b *bundle, commit, root, dir, device string) error {
	v := &verdict{Fleet: b.Slug, Commit: commit, Findings: []finding{}, file: c == nil}
	s, err := kept.Open(dir, b.Fleet)
	if err != nil {
		return err
	}
	pinned, source, err := pin(s, root)
	if err != nil {
		return err
	}
	l := v.chain(b, pinned, source)
	if l != nil && device != "" {
		if err := v.device(ctx, c, device, *l); err != nil {
			return err
		}
	}
	v.Verified = !slices.ContainsFunc(v.Findings, func(f finding) bool { return f.Result == "failed" })
	if err := a.Show(v, v.grid(a.App)); err != nil {
		return err
	}
	if !v.Verified {
		a.Say("Release %s does NOT verify.", terminal.Short(commit))
		return cmdline.ErrDifferent
	}
	if slices.ContainsFunc(v.Findings, func(f finding) bool { return f.What == "root" && f.Result == "weak" }) {
		a.Say("Release %s verifies from a root that is this server's word.", terminal.Short(commit))
		return nil
	}
	a.Say("Release %s verifies.", terminal.Short(commit))
	return nil
}

func (v *verdict) grid(app *cmdline.App) func() *terminal.Grid {
	return func() *terminal.Grid {
		g := &terminal.Grid{}
		for _, f := range v.Findings {
			colour := map[string]string{"ok": "32", "weak": "33", "failed": "1;31"}[f.Result]
			g.Add(app.Colour(colour, f.Result), f.What, terminal.Printable(f.Says))
		}
		return g
	}
}

// pin is the root to begin with: that of a file, or the one that is kept; nil when there is neither.
func pin(s *kept.Store, file string) (root []byte, source string, err error) {
	if file != "" {
		root, err = os.ReadFile(file)
		return root, "of " + file, err
	}
	root, err = s.Metadata(api.TrustRoot)
	return root, "kept in " + s.Dir, err
}

// chain goes from the root to the release. It gives the release as it is listed, when that verifies.
func (v *verdict) chain(b *bundle, pinned []byte, source string) *tuf.Listed {
	root, first, err := kept.NewestRoot(b.Fleet, pinned, b.Roots)
	if !v.check("root", err, "chain of roots") {
		return nil
	}
	r, err := tuf.ReadRoot(root)
	if err != nil {
		v.add("root", "failed", "%v", err)
		return nil
	}
	v.HeldBy = r.Mark.HeldBy
	last := &v.Findings[len(v.Findings)-1]
	last.Says = fmt.Sprintf("version %d, SHA-256 %s, signed by %s; from the root %s", r.Version, tuf.Digest(root), strings.Join(shortIDs(signedBy(root, r.Keys[api.TrustRoot])), ", "), source)
	switch {
	case first && v.file:
		*last = finding{"root", "failed", "no root of the fleet is known here, so that the file vouches for itself: give --root"}
	case first:
		*last = finding{"root", "weak", fmt.Sprintf("version %d, SHA-256 %s, as this server says it: no root is known here. Compare the digest with who owns the fleet, or give --root",
			r.Version, tuf.Digest(root))}
	}
	switch {
	case v.HeldBy != api.HeldByOwner:
		v.add("held by", "weak", "the server: who takes it can make another root. `roadstead trust init` makes it yours")
	default:
		v.add("held by", "ok", "its owner, %d of the keys %s", r.Threshold[api.TrustRoot], shorts(r.Keys[api.TrustRoot]))
	}
	t, err := tuf.Open(b.Fleet, root)
	if err == nil {
		t.SetNow(time.Now())
		for _, f := range b.Files {
			if err = t.Take(f); err != nil {
				break
			}
		}
	}
	if !v.check("metadata", err, "timestamp, snapshot, targets and delegations are signed, current and fit together") {
		return nil
	}
	policy, err := t.Policy()
	if err != nil {
		v.add("approval", "failed", "%v", err)
		return nil
	}
	v.Approval = string(policy.Approval)
	l, err := t.Release(v.Commit)
	if !v.check("approval", err, "%s", v.approved(b, policy.Approval)) {
		return nil
	}
	v.SHA256, v.Counter = l.SHA256, l.Counter
	d := v.document(b, l)
	v.log(b, policy, l)
	if d != nil {
		v.origin(b.Releases[v.Commit], d)
	}
	return &l
}

func shortIDs(list []string) []string {
	out := make([]string, len(list))
	for i, id := range list {
		out[i] = short(id)
	}
	return out
}

// approved says who signed the listing.
func (v *verdict) approved(b *bundle, approval api.Approval) string {
	path, err := tuf.ReleasePath(v.Commit)
	targets, errT := tuf.ReadTargets(b.file(api.TrustTargets))
	if err != nil || errT != nil {
		return string(approval)
	}
	var who []string
	if approval != api.ApprovalOwner && targets.Builder != nil {
		who = append(who, "the builder "+short(tuf.KeyID(targets.Builder)))
	}
	if approval != api.ApprovalBuilder {
		who = append(who, "the owner "+strings.Join(shortIDs(signedBy(b.file(tuf.BinRole(api.TrustOwner, path)), targets.Owner)), ", "))
	}
	return string(approval) + ": " + strings.Join(who, "; ")
}

// document checks what is listed against the document itself.
func (v *verdict) document(b *bundle, l tuf.Listed) *api.ReleaseDocument {
	e := b.Releases[v.Commit]
	var err error
	var d *api.ReleaseDocument
	switch {
	case e == nil || len(e.Document) == 0:
		err = errors.New("it is not there")
	case tuf.Digest(e.Document) != l.SHA256 || int64(len(e.Document)) != l.Length:
		err = tuf.Refuse("document", tuf.ReasonDigest, "", l.SHA256, tuf.Digest(e.Document))
	default:
		d, err = origin.ReadDocument(b.Fleet, v.Commit, e.Document)
	}
	images := 0
	if d != nil {
		for _, s := range d.Services {
			images += len(s.Images)
		}
	}
	v.check("document", err, "SHA-256 %s, counter %d, %d images", l.SHA256, l.Counter, images)
	return d
}

// log checks the transparency proof.
func (v *verdict) log(b *bundle, policy api.TrustMark, l tuf.Listed) {
	const what = "transparency"
	e := b.Releases[v.Commit]
	switch {
	case policy.Log == nil:
		v.add(what, "weak", "the fleet's targets name no log")
		return
	case e == nil || e.Proof == nil:
		v.add(what, "failed", "there is no proof that the release stands in the log")
		return
	}
	c, err := tlog.Check(*e.Proof, *policy.Log, tlog.Checkpoint{})
	var entry api.TrustEntry
	if err == nil {
		if err = json.Unmarshal(e.Proof.Entry, &entry); err == nil && (entry.Kind != "release" || entry.Fleet != b.Fleet || entry.Name != v.Commit || entry.SHA256 != l.SHA256 || entry.Version != l.Counter || entry.By != Whose(policy.Approval)) {
			err = tuf.Refuse("entry of the log", tlog.ReasonLog, "", fmt.Sprintf("release %s with counter %d and document %s, by the %s", v.Commit, l.Counter, l.SHA256, Whose(policy.Approval)),
				fmt.Sprintf("%s %s with %d and %s, by the %s", entry.Kind, entry.Name, entry.Version, entry.SHA256, entry.By))
		}
	}
	v.check(what, err, "entry %d in the checkpoint of %d entries of %s", e.Proof.Index, c.Size, c.Origin)
}

// origin checks the statement of where the release comes from, and the bills of materials that it names.
func (v *verdict) origin(e *evidence, d *api.ReleaseDocument) {
	const what = "provenance"
	if d.Provenance == "" {
		v.add(what, "weak", "the release has no statement of where it comes from")
		return
	}
	if len(e.Statement) == 0 {
		v.add(what, "failed", "the document names a statement of where it comes from, and there is none")
		return
	}
	if got := tuf.Digest(e.Statement); got != d.Provenance {
		v.add(what, "failed", "%v", tuf.Refuse("statement", tuf.ReasonDigest, "", d.Provenance, got))
		return
	}
	s, by, err := provenance.Open(e.Statement, e.StatementKeys)
	if err == nil {
		err = about(s, d)
	}
	if !v.check(what, err, "") {
		return
	}
	v.Findings[len(v.Findings)-1].Says = fmt.Sprintf("SHA-256 %s, signed by %s; built by %s, finished %s", d.Provenance, short(by), s.Predicate.RunDetails.Builder.ID, s.Predicate.RunDetails.Metadata.FinishedOn)
	for _, r := range s.Predicate.RunDetails.Byproducts {
		if r.Name != "sbom" {
			continue
		}
		name := strings.TrimSpace("SBOM of " + r.Annotations["service"] + " " + r.Annotations["platform"])
		digest := r.Sum()
		doc, there := e.SBOMs[digest]
		switch {
		case r.Annotations["missing"] != "":
			v.add(name, "weak", "none: %s", r.Annotations["missing"])
		case !there:
			v.add(name, "failed", "%s is not there", digest)
		case "sha256:"+tuf.Digest(doc) != digest:
			v.add(name, "failed", "%v", tuf.Refuse(name, tuf.ReasonDigest, "", digest, "sha256:"+tuf.Digest(doc)))
		default:
			v.add(name, "ok", "%s, %s packages", digest, r.Annotations["packages"])
		}
	}
}

// about checks that a statement is about exactly the images of a document.
func about(s *provenance.Statement, d *api.ReleaseDocument) error {
	b := s.Predicate.BuildDefinition
	if b.InternalParameters.FleetUUID != d.Fleet || b.ExternalParameters.Commit != d.Commit {
		return fmt.Errorf("the statement is about release %s of the fleet %s", b.ExternalParameters.Commit, b.InternalParameters.FleetUUID)
	}
	said, have := map[string]bool{}, map[string]bool{}
	for _, r := range s.Subject {
		said[r.Annotations["service"]+" "+r.Sum()] = true
	}
	for name, sv := range d.Services {
		for _, i := range sv.Images {
			have[name+" "+i.Digest] = true
		}
	}
	if !maps.Equal(said, have) {
		return errors.New("the statement is not about exactly the images of the document")
	}
	return nil
}

// device compares with what a device says.
func (v *verdict) device(ctx context.Context, c *client.Client, ref string, l tuf.Listed) error {
	d, err := c.FindDevice(ctx, ref, client.Query{Select: "id,uuid,device_name"})
	if err != nil {
		return err
	}
	rows, err := client.Get[client.DeviceTrust](ctx, c, "device_trust", client.Query{Filter: client.Where("device eq ?", d.ID), Select: client.TrustFields})
	if err != nil {
		return err
	}
	what := "device " + d.Name
	switch {
	case len(rows) == 0:
		v.add(what, "failed", "it checks nothing (a balena supervisor, or an agent that was given no root), so that nothing is known")
	case rows[0].State == api.TrustRejected:
		r := rows[0]
		v.add(what, "failed", "it refuses: %s: %s, expected %s, got %s", r.What, r.Reason, r.Expected, r.Got)
	case rows[0].SHA256 != l.SHA256:
		v.add(what, "failed", "it says that it runs release %s by the document %s", rows[0].Commit, rows[0].SHA256)
	case rows[0].Counter != nil && *rows[0].Counter != l.Counter:
		v.add(what, "weak", "it runs this document by the listing with counter %d, and the newest is %d", *rows[0].Counter, l.Counter)
	case rows[0].HeldBy != v.HeldBy || rows[0].Approval != v.Approval:
		v.add(what, "weak", "it runs this document, and believes in a root held by %s and the approval %s", rows[0].HeldBy, rows[0].Approval)
	default:
		v.add(what, "ok", "it says that it runs this very document (%s); so says the server", rows[0].SeenAt)
	}
	return nil
}
