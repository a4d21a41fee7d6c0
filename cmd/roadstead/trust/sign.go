package trust

import (
	"context"
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
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// ahead is how far a release's counter, which is at least the second in which it was listed, may be before the clock here.
const ahead = 7 * 24 * time.Hour

// sign is `trust sign`: another signature for what waits.
func (a trust) sign() *cobra.Command {
	o := &options{}
	cmd := a.command("sign FLEET|FILE", "Add your signature to what waits for it", `Show in words what waits for signatures, and sign it: what waits at the server, or what is in a file that "trust export" or --offline wrote. A file is signed without
asking any server, and the answer goes to the file that --offline names.`, "  roadstead trust sign hello\n  roadstead trust sign request.json --offline answer.json", 1, 1, o,
		func(ctx context.Context, r *run, args []string) error { return r.signWaiting(ctx, args[0]) })
	inner := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if st, err := os.Stat(args[0]); err == nil && st.Mode().IsRegular() && o.from == "" {
			o.from = args[0]
			args = []string{""}
		}
		return inner(cmd, args)
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		list, _ := a.Fleets()(cmd, args, typed)
		return list, cobra.ShellCompDirectiveDefault
	}
	return cmd
}

func (r *run) signWaiting(ctx context.Context, fleet string) error {
	if err := r.checkOffline(); err != nil {
		return err
	}
	b, s, err := r.open(ctx, fleet, want{owned: true})
	if err != nil {
		return err
	}
	h, err := hold(b, s)
	if err != nil {
		return err
	}
	files := slices.Clone(b.Signed)
	if b.Status != nil && len(files) == 0 {
		for _, p := range b.Status.Pending {
			files = append(files, api.TrustFile{Role: p.Role, Data: p.Data})
		}
	}
	slices.SortFunc(files, kept.InOrder)
	if len(files) == 0 {
		if len(b.Releases) > 0 && r.c == nil {
			return r.signReleases(ctx, b, s, slices.Sorted(maps.Keys(b.Releases)))
		}
		return fmt.Errorf("%w: nothing of %s waits for signatures", errNothing, b.Slug)
	}
	for _, f := range files {
		if err := r.evidence(ctx, b, h, f); err != nil {
			return err
		}
	}
	if err := r.may(ctx, b, api.TrustTryFiles); err != nil {
		return err
	}
	made, err := r.approve(ctx, h, s, files, "Sign this?")
	if err != nil {
		return err
	}
	return r.deliver(ctx, b, s, made)
}

// evidence shows what the releases are that a waiting bin lists and the one before did not.
func (r *run) evidence(ctx context.Context, b *bundle, h *held, f api.TrustFile) error {
	bin, err := tuf.ReadBin(f.Role, f.Data)
	if err != nil {
		return nil //nolint:nilerr // it is no bin; what is wrong with it is said when it is put into words
	}
	for _, path := range slices.Sorted(maps.Keys(bin.Listed)) {
		l, commit := bin.Listed[path], strings.TrimSuffix(strings.TrimPrefix(path, "releases/"), ".json")
		if h.bins[f.Role].Listed[path].SHA256 == l.SHA256 {
			continue
		}
		if r.c != nil {
			if err := b.release(ctx, r.c, commit, false); err != nil {
				return err
			}
		}
		e := b.Releases[commit]
		if e == nil || tuf.Digest(e.Document) != l.SHA256 {
			r.Say("!! The document of release %s is not there: you see its digest only.", commit)
			continue
		}
		d, err := origin.ReadDocument(b.Fleet, commit, e.Document)
		if err != nil {
			return fmt.Errorf("release %s: %w", terminal.Short(commit), err)
		}
		r.Say("Release %s:", commit)
		r.images(d)
		if _, err := origin.Document(r.App, nil, d); err != nil {
			return err
		}
	}
	return nil
}

// images shows those of a release.
func (r *run) images(d *api.ReleaseDocument) {
	for _, name := range slices.Sorted(maps.Keys(d.Services)) {
		for _, img := range d.Services[name].Images {
			platform := img.Platform
			if platform != "" {
				platform = " for " + platform
			}
			r.Say("  service %s%s: %s", name, platform, img.Digest)
		}
	}
}

// releaseSign is `release sign`.
func (a trust) releaseSign() *cobra.Command {
	o := &options{}
	var all bool
	var fleet string
	cmd := a.command("sign RELEASE...", "Sign releases, so that devices run them", `Sign releases as the fleet's owner. What is signed is shown first: the document's digest, the images, and what the services may do beyond the last release that you
signed. Where the approval is builder+owner, the builder's own signature over the same document is verified first.

Variables and the configuration of devices are not part of it: the server can change these.`, "  roadstead release sign 4f0c1aa\n  roadstead release sign --all-pending --fleet hello", 0, -1, o,
		func(ctx context.Context, r *run, args []string) error {
			if (len(args) == 0) == !all {
				return cmdline.Usagef("name releases, or give --all-pending with --fleet")
			}
			if err := o.checkOffline(); err != nil {
				return err
			}
			b, s, commits, err := r.releases(ctx, fleet, args)
			if err != nil {
				return err
			}
			return r.signReleases(ctx, b, s, commits)
		})
	cmd.ValidArgsFunction = a.Releases()
	a.FleetFlag(cmd, &fleet, "the fleet, for --all-pending and --from")
	cmd.Flags().BoolVar(&all, "all-pending", false, "all releases of the fleet that wait for you")
	o.registerLife(cmd)
	return cmd
}

// releases finds what is to be signed.
func (r *run) releases(ctx context.Context, fleet string, refs []string) (*bundle, *kept.Store, []string, error) {
	w := want{owned: true, pending: true}
	var commits []string
	if r.c != nil {
		for _, ref := range refs {
			rel, err := r.c.FindRelease(ctx, ref, client.Query{Select: "id,commit", Expand: "belongs_to__application($select=id,slug)"})
			if err != nil {
				return nil, nil, nil, err
			}
			slug := rel.Fleet.Get().Slug
			if fleet != "" && len(commits) > 0 && fleet != slug {
				return nil, nil, nil, cmdline.Usagef("releases of one fleet are signed at a time, and these are of %s and %s", fleet, slug)
			}
			fleet = slug
			commits = append(commits, rel.Commit)
		}
		if len(refs) > 0 {
			w = want{owned: true, commits: commits}
		}
	}
	b, s, err := r.open(ctx, fleet, w)
	if err != nil {
		return nil, nil, nil, err
	}
	if r.c == nil {
		commits = refs
	}
	if len(refs) == 0 {
		for _, u := range b.Status.Unsigned {
			commits = append(commits, u.Commit)
		}
	}
	if len(commits) == 0 {
		return nil, nil, nil, fmt.Errorf("%w: no release of %s waits for its owner", errNothing, b.Slug)
	}
	return b, s, commits, nil
}

func (r *run) signReleases(ctx context.Context, b *bundle, s *kept.Store, commits []string) error {
	h, err := hold(b, s)
	if err != nil {
		return err
	}
	if !h.owned() {
		return fmt.Errorf("the trust of %s is held by the server, so that there is nothing for you to sign: `roadstead trust init %s` makes it yours", b.Slug, b.Slug)
	}
	if h.targets.Mark.Approval == api.ApprovalBuilder {
		return fmt.Errorf("in %s the builder's word is enough; `roadstead trust approval %s builder+owner` has devices ask for yours too", b.Slug, b.Slug)
	}
	if err := r.heldUp(b, h); err != nil {
		return err
	}
	var before kept.Last
	if err := s.ReadJSON("last.json", &before); err != nil {
		return err
	}
	expires, err := r.expires(now())
	if err != nil {
		return err
	}
	bins := map[string]tuf.Bin{}
	newest := before
	for i, commit := range commits {
		l, document, err := r.listing(b, h, commit)
		if err != nil {
			return err
		}
		path, err := tuf.ReleasePath(commit)
		if err != nil {
			return err
		}
		role := tuf.BinRole(api.TrustOwner, path)
		bin, there := bins[role]
		if !there {
			bin = h.bins[role]
			listed := maps.Clone(bin.Listed)
			if listed == nil {
				listed = map[string]tuf.Listed{}
			}
			bin = tuf.Bin{Role: role, Version: bin.Version + 1, Expires: expires, Mark: api.TrustMark{Fleet: h.fleet, SignedAt: now()}, Listed: listed}
		}
		if bin.Listed[path] == l {
			r.Say("Release %s is signed already.", terminal.Short(commit))
			continue
		}
		bin.Listed[path] = l
		bins[role] = bin
		if err := r.show(b, h, commit, l, document, &newest, len(commits) > 1, i); err != nil {
			return err
		}
		if l.Counter > newest.Counter {
			newest = kept.Last{Commit: commit, Counter: l.Counter, Document: b.Releases[commit].Document}
		}
	}
	var files []api.TrustFile
	for _, role := range slices.Sorted(maps.Keys(bins)) {
		data, err := bins[role].Make()
		if err != nil {
			return err
		}
		files = append(files, api.TrustFile{Role: role, Data: data})
	}
	if err := b.freeFor(files); err != nil {
		return err
	}
	if err := r.may(ctx, b, api.TrustTryFiles); err != nil {
		return err
	}
	made, err := r.approve(ctx, h, s, files, "Sign this?")
	if errors.Is(err, errNothing) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.WriteJSON("last.json", newest); err != nil {
		return err
	}
	return r.deliver(ctx, b, s, made)
}

// listing is a release as it would be listed: what its document is, which nobody's word is taken for, and its counter.
func (r *run) listing(b *bundle, h *held, commit string) (tuf.Listed, *api.ReleaseDocument, error) {
	e := b.Releases[commit]
	if e == nil {
		return tuf.Listed{}, nil, fmt.Errorf("there is no document of release %s in what was read", commit)
	}
	document, err := origin.ReadDocument(b.Fleet, commit, e.Document)
	if err != nil {
		return tuf.Listed{}, nil, fmt.Errorf("release %s: %w", terminal.Short(commit), err)
	}
	l := tuf.Listed{Length: int64(len(e.Document)), SHA256: tuf.Digest(e.Document)}
	if h.targets.Mark.Approval == api.ApprovalBoth {
		t, err := b.trusted(h, time.Now())
		if err != nil {
			return tuf.Listed{}, nil, err
		}
		builder, err := t.Listing(api.TrustBuilder, commit)
		if err != nil {
			return tuf.Listed{}, nil, fmt.Errorf("the builder's word about release %s does NOT verify, and nothing is signed: %w", terminal.Short(commit), err)
		}
		if builder.SHA256 != l.SHA256 || builder.Length != l.Length {
			return tuf.Listed{}, nil, fmt.Errorf("the document of release %s is not the one that the builder signed: it has SHA-256 %s, and should have %s", terminal.Short(commit), l.SHA256, builder.SHA256)
		}
		l.Counter = builder.Counter
	} else {
		for _, u := range b.Status.Unsigned {
			if u.Commit == commit {
				if u.SHA256 != l.SHA256 {
					return tuf.Listed{}, nil, fmt.Errorf("the document of release %s is not the one that the server says waits for you", terminal.Short(commit))
				}
				l.Counter = u.Counter
			}
		}
		if l.Counter == 0 { // it was listed before, and is again
			l.Counter = max(now().Unix(), h.highest()+1)
		}
	}
	if l.Counter < 1 || l.Counter > now().Add(ahead).Unix() {
		return tuf.Listed{}, nil, fmt.Errorf("the counter of release %s is %d, which is ahead of the clock here: signed, it would keep devices from every later release", terminal.Short(commit), l.Counter)
	}
	return l, document, nil
}

// highest is the highest counter that the owner's keys have signed.
func (h *held) highest() int64 {
	n := int64(0)
	for _, bin := range h.bins {
		for _, l := range bin.Listed {
			n = max(n, l.Counter)
		}
	}
	return n
}

// show says what a release is before it is signed.
func (r *run) show(b *bundle, h *held, commit string, l tuf.Listed, d *api.ReleaseDocument, before *kept.Last, several bool, i int) error {
	if several && i > 0 {
		r.Say("")
	}
	r.Say("Release %s of %s: counter %d, document SHA-256 %s", commit, b.Slug, l.Counter, l.SHA256)
	r.images(d)
	var old *api.ReleaseDocument
	if before.Document != nil && h.listedAs(before.Commit, before.Document) {
		var err error
		if old, err = origin.ReadDocument(b.Fleet, before.Commit, before.Document); err != nil {
			return err
		}
		r.Say("Compared with release %s, the last that was signed here:", terminal.Short(before.Commit))
	} else {
		r.Say("No earlier signed release is known here: all that its services may do is new.")
	}
	if _, err := origin.Document(r.App, old, d); err != nil {
		return err
	}
	if high := h.highest(); l.Counter < high {
		r.Say("!! Its counter is lower than that of a release that you signed (%d): devices that run that one do not take it.", high)
	}
	return nil
}

// listedAs says whether the owner's keys have signed this document for a release, or it was read just now to be signed.
func (h *held) listedAs(commit string, document []byte) bool {
	path, err := tuf.ReleasePath(commit)
	if err != nil {
		return false
	}
	return h.bins[tuf.BinRole(api.TrustOwner, path)].Listed[path].SHA256 == tuf.Digest(document)
}

// trusted verifies all metadata of a bundle as a device does.
func (b *bundle) trusted(h *held, at time.Time) (*tuf.Trusted, error) {
	t, err := tuf.Open(b.Fleet, h.file)
	if err != nil {
		return nil, err
	}
	t.SetNow(at)
	for _, f := range b.Files {
		if err := t.Take(f); err != nil {
			return nil, fmt.Errorf("what the server has does not verify: %w", err)
		}
	}
	return t, nil
}
