package logs

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/seen"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// alarm is something that an audit found.
type alarm struct {
	Index int64  `json:"index"`
	Says  string `json:"says"`
}

// audit is the JSON form of `log audit`.
type audit struct {
	Origin string  `json:"origin"`
	From   int64   `json:"from"`
	Size   int64   `json:"size"`
	Root   string  `json:"root"`
	Hidden int64   `json:"hidden"` // new entries of which only the hash was shown
	Kinds  []kind  `json:"kinds"`  // of the others
	Alarms []alarm `json:"alarms"`
}

// kind is what an audit did with the new entries of one kind.
type kind struct {
	Kind    string `json:"kind"`    // root, targets, owner, release by builder, release by owner
	Entries int64  `json:"entries"` // each is what its hash says, and none contradicts another
	Same    int64  `json:"same"`    // the same as what was signed or verified on this machine
	Older   int64  `json:"older"`   // of fleets that this machine knows, and of versions that it does not keep
	Foreign int64  `json:"foreign"` // of fleets of which this machine knows no root
}

// What an entry was found to be. One that is wrong is an alarm.
const (
	isSame    = "same"
	isOlder   = "older"
	isForeign = "foreign"
)

// count counts an entry by its kind.
func (v *audit) count(e *api.TrustEntry, is string) {
	name := terminal.Printable(e.Kind)
	if e.Kind == "release" {
		name += " by " + terminal.Printable(e.By)
	}
	at := slices.IndexFunc(v.Kinds, func(k kind) bool { return k.Kind == name })
	if at < 0 {
		at, v.Kinds = len(v.Kinds), append(v.Kinds, kind{Kind: name})
	}
	k := &v.Kinds[at]
	k.Entries++
	switch is {
	case isSame:
		k.Same++
	case isOlder:
		k.Older++
	case isForeign:
		k.Foreign++
	}
}

func (a logs) auditing() *cobra.Command {
	var state, write string
	var strict bool
	cmd := a.Command(cmdline.Action{
		Use: "audit", Short: "Check that the log goes on from what was seen before, and hide nothing",
		Long: `Read the entries of the log that are new since the last audit, from the very first one where there was none, and work out the root of its tree from them: it must be
the one that the server signed. Entries about fleets whose trust is kept here are compared with what was signed here: a root or a set of targets that your keys did
not make is an alarm, and so is a release of yours with another document.

It tells, by kind, how many entries were the same as here, and how many could not be compared: they are older than what is kept here, or of fleets that this machine knows
no root of. Of entries whose hash alone is shown nothing is known but that they are there. Exit code 0 says that nothing that was looked at is wrong, not that all was
looked at; with --strict, entries that are hidden are wrong, too. 1: something is wrong.

What was seen is kept in ~/.config/roadstead/trust/logs, or in the file of --state.`,
		Example: "  roadstead log audit\n  roadstead log audit --write checkpoint.txt",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			head, v, err := a.audit(ctx, c, state)
			if err != nil {
				return err
			}
			if write != "" {
				if err := os.WriteFile(write, []byte(head.Checkpoint), 0o644); err != nil {
					return err
				}
			}
			return a.report(v, strict)
		},
	})
	cmd.Flags().BoolVar(&strict, "strict", false, "fail when an entry is shown by its hash alone: for who may read every fleet")
	cmd.Flags().StringVar(&state, "state", "", "keep what was seen in this `FILE`")
	cmd.Flags().StringVar(&write, "write", "", "write the checkpoint that was audited to this `FILE`, for `log compare` elsewhere")
	return cmd
}

func (a logs) report(v *audit, strict bool) error {
	if a.Output == "json" {
		if err := a.JSON(v); err != nil {
			return err
		}
	}
	for _, al := range v.Alarms {
		a.Say("!! entry %d: %s", al.Index, al.Says)
	}
	a.Say("The log %s has %d entries, of which %d are new since the last audit here; their root is the one that it signed.", v.Origin, v.Size, v.Size-v.From)
	if len(v.Kinds) > 0 && a.Output != "json" {
		g := &terminal.Grid{Head: []string{"New entries", "Number", "Same as here", "Not kept here", "Of fleets unknown here"}}
		for _, k := range v.Kinds {
			g.Add(k.Kind, fmt.Sprint(k.Entries), fmt.Sprint(k.Same), fmt.Sprint(k.Older), fmt.Sprint(k.Foreign))
		}
		a.Table(g)
	}
	if v.Hidden > 0 {
		a.Say("Of %d new entries only the hash was shown: they are about fleets that you may not read, and nothing is known of them but that they are there. Where you may read all, somebody hides them.", v.Hidden)
	}
	if len(v.Alarms) > 0 {
		a.Say("%d alarms.", len(v.Alarms))
		return cmdline.ErrDifferent
	}
	if strict && v.Hidden > 0 {
		a.Say("With --strict that is wrong.")
		return cmdline.ErrDifferent
	}
	return nil
}

// audit walks the log from what was seen to the newest checkpoint.
func (a logs) audit(ctx context.Context, c *client.Client, state string) (*api.TrustCheckpoint, *audit, error) {
	head, cp, err := seen.Newest(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	s, err := loadSeen(head.Key, state)
	if err != nil {
		return nil, nil, err
	}
	before := s.State()
	v := &audit{Origin: cp.Origin, From: before.Size, Size: cp.Size, Root: hex.EncodeToString(cp.Root[:]), Kinds: []kind{}, Alarms: []alarm{}}
	if err := seen.Consistent(ctx, c, before, cp); err != nil {
		if _, refused := tuf.Rejection(err); !refused {
			return nil, nil, err
		}
		return nil, nil, fmt.Errorf("the log does NOT go on from what was seen here (kept in %s): %w", s.Path(), err)
	}
	look := newWatch(ctx, c)
	bar := a.Counter("entries", cp.Size-before.Size)
	defer bar.End()
	for s.Size < cp.Size {
		list, hashes, err := seen.Entries(ctx, c, s.Size, min(cp.Size, s.Size+api.MaxTrustEntries))
		if err != nil {
			return nil, nil, err
		}
		for i, l := range list {
			s.Add(hashes[i])
			e := viewEntry(l).TrustEntry
			if e == nil {
				v.Hidden++
				continue
			}
			is, says, err := look.at(e)
			if err != nil {
				return nil, nil, err
			}
			if v.count(e, is); says != "" {
				v.Alarms = append(v.Alarms, alarm{l.Index, says})
			}
		}
		bar.Add(int64(len(list)))
	}
	slices.SortFunc(v.Kinds, func(a, b kind) int { return strings.Compare(a.Kind, b.Kind) })
	if cp.Size > 0 && s.Root() != cp.Root {
		return nil, nil, fmt.Errorf("the entries of the log do not give the root that it signed: %s has %d entries with the root %s, and they give %s. The server shows another history than it signed",
			cp.Origin, cp.Size, cp.Root, s.Root())
	}
	return head, v, s.Save(head.Checkpoint)
}

// watch looks at entries for what should not be.
type watch struct {
	ctx    context.Context // of the audit
	c      *client.Client
	said   map[string]string // what stands in the log, by fleet, kind, name, version and who said it
	stores map[string]*kept.Store
}

func newWatch(ctx context.Context, c *client.Client) *watch {
	return &watch{ctx, c, map[string]string{}, map[string]*kept.Store{}}
}

// at says what an entry is to this machine, and what is wrong with it, or "".
func (w *watch) at(e *api.TrustEntry) (is, says string, err error) {
	key := strings.Join([]string{e.Fleet, e.Kind, e.Name, fmt.Sprint(e.Version), e.By}, " ")
	if before, twice := w.said[key]; twice && before != e.SHA256 {
		return "", fmt.Sprintf("%s %s %d of the fleet %s stands there twice, with different contents (%s, %s)", e.Kind, e.Name, e.Version, e.Fleet, before, e.SHA256), nil
	}
	w.said[key] = e.SHA256
	s := w.stores[e.Fleet]
	if s == nil {
		if s, err = kept.Open("", e.Fleet); err != nil {
			return isForeign, "", nil //nolint:nilerr // an entry whose fleet has no proper name is not one of ours
		}
		w.stores[e.Fleet] = s
	}
	pinned, err := s.Metadata(api.TrustRoot)
	if err != nil {
		return "", "", err
	}
	if pinned == nil {
		return isForeign, "", nil
	}
	if e.Kind == "release" {
		return release(s, e)
	}
	return w.signed(s, pinned, e)
}

// release compares a release with what the owner's keys have signed here.
func release(s *kept.Store, e *api.TrustEntry) (is, says string, err error) {
	path, err := tuf.ReleasePath(e.Name)
	if err != nil || e.By != api.TrustOwner {
		return isOlder, "", nil //nolint:nilerr // a release that nobody can list, or that the builder lists, is none of ours
	}
	role := tuf.BinRole(api.TrustOwner, path)
	data, err := s.Metadata(role)
	if err != nil || data == nil {
		return isOlder, "", err
	}
	bin, err := tuf.ReadBin(role, data)
	if err != nil {
		return "", "", fmt.Errorf("%s is damaged: %w; put it back from a backup", s.Path("metadata/"+role+".json"), err)
	}
	switch l, listed := bin.Listed[path]; {
	case !listed || l.Counter != e.Version:
		return isOlder, "", nil
	case l.SHA256 != e.SHA256:
		return "", fmt.Sprintf("release %s with the counter %d of the fleet %s has the document %s, and the one that was signed here %s", e.Name, e.Version, e.Fleet, e.SHA256, l.SHA256), nil
	}
	return isSame, "", nil
}

// signed compares a root, targets or a delegation of a fleet of ours with what was signed here.
func (w *watch) signed(s *kept.Store, pinned []byte, e *api.TrustEntry) (is, says string, err error) {
	name := e.Name
	if e.Kind == api.TrustRoot {
		name = fmt.Sprintf("%d.root", e.Version)
	}
	if name != filepath.Base(name) {
		return isOlder, "", nil
	}
	root, err := tuf.ReadRoot(pinned)
	if err != nil {
		return "", "", err
	}
	first, err := s.FirstOwned()
	if err != nil {
		return "", "", err
	}
	mine, err := s.Metadata(name)
	if err != nil {
		return "", "", err
	}
	switch {
	case e.Kind == api.TrustRoot && e.Version > root.Version:
		return "", fmt.Sprintf("root %d of the fleet %s is newer than the root %d that is kept here: did another owner sign it? `roadstead trust status` verifies it", e.Version, e.Fleet, root.Version), nil
	case e.Kind == api.TrustRoot && e.Version >= first && mine == nil:
		return "", fmt.Sprintf("root %d of the fleet %s was not signed here", e.Version, e.Fleet), nil
	case mine == nil:
		return isOlder, "", nil
	}
	version, _, err := kept.VersionOf(e.Kind, mine)
	if err != nil {
		return isOlder, "", nil //nolint:nilerr // a role that is not ours to know
	}
	if e.Kind != api.TrustRoot && e.Version > version {
		return "", fmt.Sprintf("%s %d of the fleet %s is newer than version %d, which is kept here: did another owner sign it? `roadstead trust status` verifies it", e.Kind, e.Version, e.Fleet, version), nil
	}
	switch {
	case version != e.Version:
		return isOlder, "", nil
	case tuf.Digest(mine) == e.SHA256:
		return isSame, "", nil
	case version < first:
		return isOlder, "", nil
	}
	// It may be the same with more signatures: those of other owners, or the server's own.
	theirs, err := trust.MetadataFile(w.ctx, w.c, e.Fleet, name)
	if err != nil {
		return "", "", err
	}
	switch {
	case tuf.Digest(theirs) == e.SHA256 && kept.Same(mine, theirs):
		return isSame, "", nil
	case tuf.Digest(theirs) != e.SHA256 && e.Kind != api.TrustRoot:
		return isOlder, "", nil // the server has a newer one by now, so that there is nothing to compare
	}
	return "", fmt.Sprintf("%s %d of the fleet %s is not the one that is kept here (%s, here %s)", e.Name, e.Version, e.Fleet, e.SHA256, tuf.Digest(mine)), nil
}
