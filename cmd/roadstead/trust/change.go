package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
	"github.com/roadstead-io/roadstead/internal/ownerkey"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// plan is how a fleet's trust shall be.
type plan struct {
	keys      []*metadata.Key // of the owner
	threshold int
	mark      api.TrustMark        // of targets: approval, shell, log, transfers
	server    *api.TrustServerKeys // nil: as they are
	root      bool                 // a new root, whether anything in it changes or not
	all       bool                 // all files anew
	expires   time.Time
}

// plan begins with how it is.
func (h *held) plan(expires time.Time) plan {
	return plan{keys: h.root.Keys[api.TrustRoot], threshold: h.root.Threshold[api.TrustRoot], mark: h.targets.Mark, expires: expires}
}

// files makes what has to be signed so that it is as planned.
func (h *held) files(p plan) ([]api.TrustFile, error) {
	if p.threshold < 1 || p.threshold > len(p.keys) {
		return nil, cmdline.Usagef("a threshold of %d cannot be reached with %d keys", p.threshold, len(p.keys))
	}
	at := now()
	mark := func() api.TrustMark { return api.TrustMark{Fleet: h.fleet, SignedAt: at} }
	var list []api.TrustFile
	add := func(role string, data []byte, err error) error {
		list = append(list, api.TrustFile{Role: role, Data: data})
		return err
	}
	targets := h.targets
	if p.server != nil {
		var err error
		if targets.Builder, err = key("builder", p.server.Builder); err != nil {
			return nil, err
		}
		if targets.Director, err = key("director", p.server.Director); err != nil {
			return nil, err
		}
		log := p.server.Log
		p.mark.Log = &log
	}
	rekeyed := sameHolders(p.keys, p.threshold, h.root.Keys[api.TrustRoot], h.root.Threshold[api.TrustRoot]) != nil || !h.owned()
	if rekeyed || p.root || p.server != nil {
		root := tuf.Root{Version: h.root.Version + 1, Expires: p.expires, Mark: mark(), Keys: maps.Clone(h.root.Keys), Threshold: maps.Clone(h.root.Threshold)}
		root.Mark.HeldBy = api.HeldByOwner
		for _, role := range []string{api.TrustRoot, api.TrustTargets} {
			root.Keys[role], root.Threshold[role] = p.keys, p.threshold
		}
		if p.server != nil {
			for role, text := range map[string]json.RawMessage{api.TrustSnapshot: p.server.Snapshot, api.TrustTimestamp: p.server.Timestamp} {
				k, err := key(role, text)
				if err != nil {
					return nil, err
				}
				root.Keys[role], root.Threshold[role] = []*metadata.Key{k}, 1
			}
		}
		data, err := root.Make()
		if err := add(api.TrustRoot, data, err); err != nil {
			return nil, err
		}
	}
	targets.Version, targets.Expires = h.targets.Version+1, p.expires
	targets.Owner, targets.OwnerThreshold = p.keys, p.threshold
	approval, shell, log, transfers := p.mark.Approval, p.mark.Shell, p.mark.Log, p.mark.Transfers
	targets.Mark = mark()
	targets.Mark.Approval, targets.Mark.Shell, targets.Mark.Log, targets.Mark.Transfers = approval, shell, log, transfers
	data, err := targets.Make()
	if err := add(api.TrustTargets, data, err); err != nil {
		return nil, err
	}
	if rekeyed || p.all || h.owner == nil {
		// What is signed by keys that do not count any more is signed again, as it is.
		data, err := tuf.Delegator{By: api.TrustOwner, Version: h.version(api.TrustOwner) + 1, Expires: p.expires, Mark: mark(), Keys: p.keys, Threshold: p.threshold}.Make()
		if err := add(api.TrustOwner, data, err); err != nil {
			return nil, err
		}
		for _, role := range slices.Sorted(maps.Keys(h.bins)) {
			bin := h.bins[role]
			bin.Version, bin.Expires, bin.Mark = bin.Version+1, p.expires, mark()
			data, err := bin.Make()
			if err := add(role, data, err); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// key reads a public key of the server's.
func key(what string, text json.RawMessage) (*metadata.Key, error) {
	k := &metadata.Key{}
	if err := json.Unmarshal(text, k); err != nil {
		return nil, fmt.Errorf("the server's key for %s: %w", what, err)
	}
	if err := tuf.CheckKey(k); err != nil {
		return nil, fmt.Errorf("the server's key for %s: %w", what, err)
	}
	return k, nil
}

// change is a command that changes a fleet's trust: alter says how, and may make keys.
func (a trust) change(use, short, long, example string, least, most int, o *options, alter func(ctx context.Context, r *run, s *kept.Store, h *held, p *plan, args []string) error) *cobra.Command {
	cmd := a.command(use, short, long, example, least, most, o, func(ctx context.Context, r *run, args []string) error {
		if err := o.checkOffline(); err != nil {
			return err
		}
		expires, err := o.expires(now())
		if err != nil {
			return err
		}
		b, s, err := r.open(ctx, args[0], want{keys: true, owned: true})
		if err != nil {
			return err
		}
		h, err := hold(b, s)
		if err != nil {
			return err
		}
		if !h.owned() {
			return fmt.Errorf("the trust of %s is held by the server: `roadstead trust init %s` makes it yours", b.Slug, b.Slug)
		}
		if err := b.free(api.TrustRoot, api.TrustTargets); err != nil {
			return err
		}
		if err := r.may(ctx, b, api.TrustTryRoot); err != nil {
			return err
		}
		p := h.plan(expires)
		if err := alter(ctx, r, s, h, &p, args[1:]); err != nil {
			return err
		}
		files, err := h.files(p)
		if err != nil {
			return err
		}
		if err := b.freeFor(files); err != nil {
			return err
		}
		made, err := r.approve(ctx, h, s, files, "Sign this?")
		if err != nil {
			return err
		}
		return r.deliver(ctx, b, s, made)
	})
	o.registerLife(cmd)
	return cmd
}

// find gives the key of the owner's that a person names by the first digits of its id.
func (p *plan) find(ref string) (int, error) {
	if ref == "" && len(p.keys) == 1 {
		return 0, nil
	}
	found := -1
	for i, id := range ids(p.keys) {
		if strings.HasPrefix(id, strings.ToLower(ref)) && ref != "" {
			if found >= 0 {
				return 0, cmdline.Usagef("several keys begin with %q: give more digits", ref)
			}
			found = i
		}
	}
	if found < 0 {
		return 0, cmdline.Usagef("no key of this fleet begins with %q; name one of %s", ref, shorts(p.keys))
	}
	return found, nil
}

func (p *plan) add(files []*ownerkey.File) error {
	for _, f := range files {
		if slices.Contains(ids(p.keys), f.ID) {
			return fmt.Errorf("the key %s is one of the fleet's already", short(f.ID))
		}
		p.keys = append(slices.Clone(p.keys), f.Public)
	}
	return nil
}

func (a trust) addKey() *cobra.Command {
	o, m := &options{}, &makeFlags{}
	var threshold int
	cmd := a.change("add-key FLEET", "Add a key to those of a fleet", `Add a key to those that vouch for a fleet: a new one under a passphrase, one on a token, or one that somebody else has. It is signed by the keys
that there are, and by the new one where that is needed.`, "  roadstead trust add-key hello\n  roadstead trust add-key hello --public alice.pub --threshold 2", 1, 1, o,
		func(ctx context.Context, r *run, s *kept.Store, _ *held, p *plan, _ []string) error {
			more := 0
			if m.count() == 0 {
				more = 1
			}
			files, err := r.make(ctx, s, m, more)
			if err != nil {
				return err
			}
			if threshold > 0 {
				p.threshold = threshold
			}
			return p.add(files)
		})
	m.register(cmd)
	cmd.Flags().IntVar(&threshold, "threshold", 0, "how many keys must sign from then on; 0: as before")
	return cmd
}

func (a trust) removeKey() *cobra.Command {
	o := &options{}
	var threshold int
	cmd := a.change("remove-key FLEET KEY", "Remove a key, as one that was lost or stolen", `Remove a key from those that vouch for a fleet. What it signed and the others did not is signed again. A key that was lost is removed by the
others, as long as they reach the threshold; see docs/trust.md.`, "  roadstead trust remove-key hello 3f9a1c22\n  roadstead trust remove-key hello 3f9a1c22 --threshold 1", 2, 2, o,
		func(_ context.Context, _ *run, _ *kept.Store, _ *held, p *plan, args []string) error {
			i, err := p.find(args[0])
			if err != nil {
				return err
			}
			if len(p.keys) == 1 {
				return errors.New("this is the only key: `roadstead trust rotate` puts another in its place")
			}
			p.keys = slices.Delete(slices.Clone(p.keys), i, i+1)
			if threshold > 0 {
				p.threshold = threshold
			}
			return nil
		})
	cmd.Flags().IntVar(&threshold, "threshold", 0, "how many keys must sign from then on; 0: as before")
	return cmd
}

func (a trust) rotate() *cobra.Command {
	o, m := &options{}, &makeFlags{}
	cmd := a.change("rotate FLEET [KEY]", "Put a new key in the place of one", `Make a new key and put it in the place of one that there is; when there is one only, it need not be named. The new root is signed by the threshold of the keys before and by that of the keys from then on, so
that devices follow it, however long they were off. The old key's file stays where it is.`,
		"  roadstead trust rotate hello 3f9a1c22\n  roadstead trust rotate hello 3f9a1c22 --pkcs11 'pkcs11:token=Alice;object=hello'", 1, 2, o,
		func(ctx context.Context, r *run, s *kept.Store, _ *held, p *plan, args []string) error {
			i, err := p.find(strings.Join(args, ""))
			if err != nil {
				return err
			}
			if m.count() > 1 {
				return cmdline.Usagef("one key takes the place of one")
			}
			files, err := r.make(ctx, s, m, 1-m.count())
			if err != nil {
				return err
			}
			p.keys = slices.Delete(slices.Clone(p.keys), i, i+1)
			return p.add(files)
		})
	m.register(cmd)
	return cmd
}

func (a trust) threshold() *cobra.Command {
	o := &options{}
	return a.change("threshold FLEET NUMBER", "Say how many of a fleet's keys must sign", "", "  roadstead trust threshold hello 2", 2, 2, o,
		func(_ context.Context, _ *run, _ *kept.Store, _ *held, p *plan, args []string) error {
			var n int
			if _, err := fmt.Sscanf(args[0], "%d", &n); err != nil || fmt.Sprint(n) != args[0] {
				return cmdline.Usagef("%q is no number", args[0])
			}
			p.threshold = n
			return nil
		})
}

// approvals are those that may be named.
var approvals = []string{string(api.ApprovalBuilder), string(api.ApprovalBoth), string(api.ApprovalOwner)}

func (a trust) approval() *cobra.Command {
	o := &options{}
	cmd := a.change("approval FLEET builder|builder+owner|owner-only", "Say whose word a release needs before a device runs it", `Say whose word a release needs before a device runs it:

  builder         what this server built is run
  builder+owner   what this server built is run once you have signed it: "roadstead release sign"
  owner-only      what you have signed is run`, "  roadstead trust approval hello builder+owner", 2, 2, o,
		func(_ context.Context, _ *run, _ *kept.Store, _ *held, p *plan, args []string) error {
			p.mark.Approval = api.Approval(args[0])
			return checkApproval(args[0])
		})
	cmd.ValidArgsFunction = cmdline.Each(a.Fleets(), cobra.FixedCompletions(approvals, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func checkApproval(text string) error {
	if !slices.Contains(approvals, text) {
		return cmdline.Usagef("the approval %q is none of %s", text, strings.Join(approvals, ", "))
	}
	return nil
}

func (a trust) shell() *cobra.Command {
	o := &options{}
	cmd := a.change("shell FLEET allowed|forbidden", "Say whether the server's SSH authority opens devices", `Say whether devices take SSH sessions that the server's own SSH authority vouches for. Where it is forbidden, who has the server gets no shell.`,
		"  roadstead trust shell hello forbidden", 2, 2, o,
		func(_ context.Context, _ *run, _ *kept.Store, _ *held, p *plan, args []string) error {
			p.mark.Shell = args[0]
			return checkShell(args[0])
		})
	cmd.ValidArgsFunction = cmdline.Each(a.Fleets(), cobra.FixedCompletions([]string{"allowed", "forbidden"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func checkShell(text string) error {
	if text != "allowed" && text != "forbidden" {
		return cmdline.Usagef("the shell is %q; it can be allowed or forbidden", text)
	}
	return nil
}

func (a trust) renew() *cobra.Command {
	o := &options{}
	var server bool
	cmd := a.change("renew FLEET", "Sign a fleet's root, targets and releases anew before they expire", `Sign everything that your keys have signed once more, unchanged, with a new date of expiry. With --server-keys the server's present keys for builder, director,
snapshot, timestamp and log are taken over: after the server has lost or changed its own.`, "  roadstead trust renew hello --life 2y\n  roadstead trust renew hello --server-keys", 1, 1, o,
		func(_ context.Context, r *run, s *kept.Store, h *held, p *plan, args []string) error {
			p.root, p.all = true, true
			if server {
				return r.serverKeys(p)
			}
			return nil
		})
	cmd.Flags().BoolVar(&server, "server-keys", false, "take over the server's present keys")
	return cmd
}

// transfer lets a device go to another fleet.
func (a trust) transfer() *cobra.Command {
	o := &options{}
	var to string
	cmd := a.command("transfer UUID", "Let a device go to another fleet", `Let a device, which trusts its present fleet only, go to another one: it is said to it, signed, what the other fleet's first root is. Move it afterwards.`,
		"  roadstead trust transfer 5f0c --to acme/other", 1, 1, o, func(ctx context.Context, r *run, args []string) error {
			if to == "" {
				return cmdline.Usagef("say by --to which fleet the device goes to")
			}
			if r.c == nil {
				return cmdline.Usagef("a transfer needs the server; write what is signed to a file by --offline")
			}
			return r.letGo(ctx, args[0], to)
		})
	cmd.ValidArgsFunction = cmdline.First(a.Devices())
	cmd.Flags().StringVar(&to, "to", "", "the other `FLEET`")
	_ = cmd.RegisterFlagCompletionFunc("to", a.Fleets()) // fails only for a flag that is not there
	o.registerLife(cmd)
	return cmd
}

func (r *run) letGo(ctx context.Context, device, to string) error {
	expires, err := r.expires(now())
	if err != nil {
		return err
	}
	d, err := r.c.FindDevice(ctx, device, client.Query{Select: "uuid,device_name", Expand: "belongs_to__application($select=id,slug,uuid)"})
	if err != nil {
		return err
	}
	other, err := r.c.FindFleet(ctx, to, client.Query{})
	if err != nil {
		return err
	}
	b, s, err := r.open(ctx, d.Fleet.Get().Slug, want{owned: true})
	if err != nil {
		return err
	}
	h, err := hold(b, s)
	if err != nil {
		return err
	}
	if !h.owned() {
		return fmt.Errorf("the trust of %s is held by the server, which lets devices go by itself: move the device", b.Slug)
	}
	if b.Fleet == other.UUID {
		return cmdline.Usagef("the device is in %s already", other.Slug)
	}
	var root json.RawMessage
	if err := r.c.Do(ctx, http.MethodGet, FleetPath(other.UUID)+"/metadata/1.root.json", nil, &root); err != nil {
		return fmt.Errorf("ask for the first root of %s: %w", other.Slug, err)
	}
	if _, err := tuf.Open(other.UUID, root); err != nil {
		return fmt.Errorf("the first root of %s: %w", other.Slug, err)
	}
	if theirs, err := kept.Open("", other.UUID); err != nil {
		return err
	} else if mine, err := theirs.Read("metadata/1.root.json"); err != nil {
		return err
	} else if mine == nil {
		r.Say("The first root of %s is the server's word alone: compare its digest with who owns that fleet (`trust status` shows it).", other.Slug)
	} else if !kept.Same(mine, root) {
		return fmt.Errorf("the server's first root of %s is not the one that is kept here", other.Slug)
	}
	p := h.plan(expires)
	leave := api.TrustLeave{Device: api.DeviceUUID(d.UUID), To: other.UUID, Root: tuf.Digest(root)}
	p.mark.Transfers = slices.DeleteFunc(slices.Clone(p.mark.Transfers), func(t api.TrustLeave) bool { return t.Device == leave.Device })
	p.mark.Transfers = append(p.mark.Transfers, leave)
	files, err := h.files(p)
	if err != nil {
		return err
	}
	if err := b.freeFor(files); err != nil {
		return err
	}
	if err := r.may(ctx, b, api.TrustTryFiles); err != nil {
		return err
	}
	made, err := r.approve(ctx, h, s, files, fmt.Sprintf("Let %s go to %s?", d.Name, other.Slug))
	if err != nil {
		return err
	}
	return r.deliver(ctx, b, s, made)
}
