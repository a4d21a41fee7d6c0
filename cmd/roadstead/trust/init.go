package trust

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
	"github.com/roadstead-io/roadstead/internal/ownerkey"
)

// serverKeys takes the server's keys, as it tells them, into a plan.
func (r *run) serverKeys(p *plan) error {
	if r.bundleKeys == nil {
		return fmt.Errorf("what was read does not have the server's public keys: export it again")
	}
	p.server = r.bundleKeys
	return nil
}

// init is the ceremony.
func (a trust) init() *cobra.Command {
	o, m := &options{}, &makeFlags{}
	var keys, threshold int
	approval, shell := string(api.ApprovalBuilder), "allowed"
	cmd := a.command("init FLEET", "Make the keys with which you vouch for a fleet", `Make keys, and with them a new root of trust for the fleet: from then on devices take a change of whose word counts from these keys alone. Devices that trust
the server's root, which is the weaker state, follow in place.

By default one key is made, in a file under a passphrase. That is simple, and a loss for good when file or passphrase is lost: with "--keys 3 --threshold 2" any
two of three sign, and one may be lost. Keys belong in different places; those that others have are named by their public halves (--public).

The passphrase is asked for, or read from --passphrase-file or the file that ROADSTEAD_TRUST_PASSPHRASE_FILE names. What is made is kept in
~/.config/roadstead/trust/UUID, or in the directory of --out: back it up.`, `  roadstead trust init hello
  roadstead trust init hello --approval builder+owner --shell forbidden
  roadstead trust init hello --public alice.pub --public bob.pub --keys 3 --threshold 2
  roadstead trust init hello --pkcs11 'pkcs11:token=Alice;object=hello?module-path=/usr/lib/softhsm/libsofthsm2.so'
  roadstead trust init hello --from request.json --offline answer.json`, 1, 1, o, func(ctx context.Context, r *run, args []string) error {
		more := keys - m.count()
		switch {
		case keys == 0 && m.count() == 0:
			more = 1
		case keys == 0:
			more = 0
		case more < 0:
			return cmdline.Usagef("--keys %d is fewer than the %d keys that --pkcs11, --fido2 and --public name", keys, m.count())
		}
		if total := more + m.count(); threshold < 1 || threshold > total {
			return cmdline.Usagef("--threshold %d cannot be reached with %d keys", threshold, total)
		}
		if err := checkApproval(approval); err != nil {
			return err
		}
		if err := checkShell(shell); err != nil {
			return err
		}
		if err := o.checkOffline(); err != nil {
			return err
		}
		return r.ceremony(ctx, args[0], m, more, threshold, api.TrustMark{Approval: api.Approval(approval), Shell: shell})
	})
	f := cmd.Flags()
	m.register(cmd)
	f.IntVar(&keys, "keys", 0, "how many keys there are; those that nothing else says are made in files under passphrases")
	f.IntVar(&threshold, "threshold", 1, "how many of them must sign")
	f.StringVar(&approval, "approval", approval, "whose word a release needs: "+fmt.Sprint(approvals))
	f.StringVar(&shell, "shell", shell, "whether the server's SSH authority opens devices: allowed or forbidden")
	f.StringVar(&o.dir, "out", "", "keep keys and metadata in this `DIRECTORY`; the same as --dir")
	cmdline.Fixed(cmd, "approval", approvals...)
	cmdline.Fixed(cmd, "shell", "allowed", "forbidden")
	o.registerLife(cmd)
	return cmd
}

func (r *run) ceremony(ctx context.Context, fleet string, m *makeFlags, more, threshold int, mark api.TrustMark) error {
	expires, err := r.expires(now())
	if err != nil {
		return err
	}
	b, s, err := r.open(ctx, fleet, want{keys: true, owned: true})
	if err != nil {
		return err
	}
	if pinned, err := s.Metadata(api.TrustRoot); err != nil {
		return err
	} else if pinned != nil {
		return fmt.Errorf("there was a ceremony for %s already: its keys and metadata are in %s. `roadstead trust restore` sends them again; for new keys there is `roadstead trust rotate`", b.Slug, s.Dir)
	}
	h, err := hold(b, s)
	if err != nil {
		return err
	}
	if h.owned() {
		return fmt.Errorf("the trust of %s is held by an owner already, by the keys %s: `roadstead trust add-key` there adds yours", b.Slug, shorts(h.root.Keys[api.TrustRoot]))
	}
	if err := b.free(api.TrustRoot, api.TrustTargets, api.TrustOwner); err != nil {
		return err
	}
	if err := r.may(ctx, b, api.TrustTryRoot); err != nil {
		return err
	}
	files, err := r.make(ctx, s, m, more)
	if err != nil {
		return err
	}
	p := h.plan(expires)
	p.keys, p.threshold = nil, threshold
	if err := p.add(files); err != nil {
		return err
	}
	if err := r.serverKeys(&p); err != nil {
		return err
	}
	transfers := p.mark.Transfers
	p.mark, p.mark.Transfers = mark, transfers
	list, err := h.files(p)
	if err != nil {
		return err
	}
	r.Say("The fleet %s (%s).", b.Slug, b.Fleet)
	made, err := r.approve(ctx, h, s, list, "Make this the trust of the fleet?")
	if err != nil {
		return err
	}
	if err := r.deliver(ctx, b, s, made); err != nil {
		return err
	}
	r.warn(s, files, threshold)
	return nil
}

// warn tells plainly what the keys that were made are worth.
func (r *run) warn(s *kept.Store, files []*ownerkey.File, threshold int) {
	here := 0
	for _, f := range files {
		r.Say("Key %s: %s, %s", short(f.ID), f.Describe(), f.Path())
		if f.Kind == ownerkey.KindPassphrase || f.Kind == ownerkey.KindFIDO2 {
			here++
		}
	}
	r.Say("Back up %s now, on something that is not this machine.", s.Dir)
	switch {
	case len(files) == 1:
		r.Say("WARNING: there is one key. Who gets it and its passphrase can have devices run anything; if it is lost, devices can never be given another " +
			"trust but by hand. `roadstead trust add-key` adds others.")
	case here >= threshold && threshold > 1:
		r.Say("WARNING: %d keys are on this machine, and %d of them are enough. Move them to different places (the files in %s/keys; `--key FILE` signs with one "+
			"that is elsewhere).", here, threshold, s.Dir)
	}
}
