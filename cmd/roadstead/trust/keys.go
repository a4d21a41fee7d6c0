package trust

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/kept"
	"github.com/roadstead-io/roadstead/cmd/roadstead/trust/unlock"
	"github.com/roadstead-io/roadstead/internal/ownerkey"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// keyFiles are the keys that may sign: those that are kept, and those of --key.
func keyFiles(k *unlock.Flags, s *kept.Store) ([]*ownerkey.File, error) {
	list, err := s.Keys()
	if err != nil {
		return nil, err
	}
	for _, path := range k.Files {
		f, err := ownerkey.Read(path)
		if err != nil {
			return nil, fmt.Errorf("--key: %w", err)
		}
		// It comes first: a kept file may be the public half only.
		list = slices.DeleteFunc(list, func(o *ownerkey.File) bool { return o.ID == f.ID })
		list = append([]*ownerkey.File{f}, list...)
	}
	return slices.DeleteFunc(list, func(f *ownerkey.File) bool { return f.Kind == ownerkey.KindPublic }), nil
}

// need is a number of signatures of some keys.
type need struct {
	keys      []*metadata.Key
	threshold int
	have      []string // ids of keys that have signed
}

// open gives signers for what is needed, as far as there are keys here. No more keys are opened than that takes.
func (r *run) signers(ctx context.Context, s *kept.Store, needs []need) ([]tuf.Signer, error) {
	files, err := keyFiles(&r.Flags, s)
	if err != nil {
		return nil, err
	}
	var list []tuf.Signer
	for _, f := range files {
		useful := false
		for i := range needs {
			n := &needs[i]
			if slices.Contains(ids(n.keys), f.ID) && !slices.Contains(n.have, f.ID) && len(n.have) < n.threshold {
				n.have = append(n.have, f.ID)
				useful = true
			}
		}
		if !useful {
			continue
		}
		signer, err := r.Open(ctx, r.App, f)
		if err != nil {
			return nil, err
		}
		list = append(list, signer)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no key here may sign this, or all that may have signed: keys are in %s, and others are named by --key", s.Path("keys"))
	}
	return list, nil
}

// signed is a file with signatures; whole says whether it has as many as it needs.
type signed struct {
	api.TrustFile
	whole bool
}

// signAll has each file signed by those signers who may.
func (h *held) signAll(files []api.TrustFile, signers []tuf.Signer) ([]signed, error) {
	now := h.copy()
	var list []signed
	for _, f := range files {
		needs, err := now.needs(f)
		if err != nil {
			return nil, err
		}
		for _, s := range signers {
			if slices.ContainsFunc(needs, func(n need) bool { return slices.Contains(ids(n.keys), tuf.KeyID(s.Public())) }) {
				if f.Data, err = tuf.AddSignature(f.Data, s); err != nil {
					return nil, err
				}
			}
		}
		whole := true
		for _, n := range needs {
			whole = whole && enough(f.Data, n.keys, n.threshold)
		}
		list = append(list, signed{f, whole})
		if err := now.take(f.Role, f.Data); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// needs are the signatures that a file needs, after those before it were taken. Those of a server are not among them: it adds them itself.
func (h *held) needs(f api.TrustFile) ([]need, error) {
	if f.Role != api.TrustRoot {
		keys, threshold := h.holders(f.Role)
		return []need{{keys, threshold, signedBy(f.Data, keys)}}, nil
	}
	next, err := tuf.ReadRoot(f.Data)
	if err != nil {
		return nil, err
	}
	keys := next.Keys[api.TrustRoot]
	list := []need{{keys, next.Threshold[api.TrustRoot], signedBy(f.Data, keys)}}
	if before := h.root.Keys[api.TrustRoot]; h.owned() {
		list = append(list, need{before, h.root.Threshold[api.TrustRoot], signedBy(f.Data, before)})
	}
	return list, nil
}

// allNeeds are those of several files.
func (h *held) allNeeds(files []api.TrustFile) ([]need, error) {
	now := h.copy()
	var list []need
	for _, f := range files {
		needs, err := now.needs(f)
		if err != nil {
			return nil, err
		}
		list = append(list, needs...)
		if err := now.take(f.Role, f.Data); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// approve shows files in words, asks, and signs them.
func (r *run) approve(ctx context.Context, h *held, s *kept.Store, files []api.TrustFile, question string) ([]signed, error) {
	if len(files) == 0 {
		return nil, errNothing
	}
	words, err := h.words(files)
	if err != nil {
		return nil, err
	}
	if h.first && h.owned() {
		r.Say("This machine knows no root of the fleet yet: what follows is compared with root %d as it was read (SHA-256 %s). Compare that with the other owners.", h.root.Version, tuf.Digest(h.file))
	}
	for _, n := range append(h.notes, words...) {
		r.Say("%s", n)
	}
	if err := r.Confirm(r.sure, question); err != nil {
		return nil, err
	}
	needs, err := h.allNeeds(files)
	if err != nil {
		return nil, err
	}
	signers, err := r.signers(ctx, s, needs)
	if err != nil {
		return nil, err
	}
	// Who signs on top of it believes it from now on.
	if h.owned() {
		if err := h.keep(s); err != nil {
			return nil, err
		}
	}
	return h.signAll(files, signers)
}

// makeFlags are how new keys are made.
type makeFlags struct {
	pkcs11 []string
	fido2  bool
	public []string
}

func (m *makeFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&m.pkcs11, "pkcs11", nil, "a key on a PKCS#11 token: `URI`, as pkcs11:token=LABEL;object=NAME?module-path=FILE; it is made when it is not there; may be given several times")
	f.BoolVar(&m.fido2, "fido2", false, "a key in a file that only a FIDO2 token opens, with its PIN if it has one")
	f.StringArrayVar(&m.public, "public", nil, "a key that somebody else has: `FILE` with its public half, of `roadstead trust key`; may be given several times")
}

func (m *makeFlags) count() int {
	n := len(m.pkcs11) + len(m.public)
	if m.fido2 {
		n++
	}
	return n
}

// make makes keys in the store: those of the flags, and so many more under passphrases.
func (r *run) make(ctx context.Context, s *kept.Store, m *makeFlags, more int) ([]*ownerkey.File, error) {
	var list []*ownerkey.File
	add := func(f *ownerkey.File, err error) error {
		if err == nil {
			f, err = settle(f, s.Path("keys/"+short(f.ID)+".key"))
		}
		if err == nil {
			list = append(list, f)
		}
		return err
	}
	fresh := s.Path("keys/new")
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, path := range m.public {
		f, err := ownerkey.Read(path)
		if err != nil {
			return list, fmt.Errorf("--public: %w", err)
		}
		if err := add(f.WritePublic(fresh)); err != nil {
			return list, err
		}
	}
	for _, uri := range m.pkcs11 {
		if err := add(ownerkey.Token(ctx, fresh, uri, r.Unlock(r.App, ""))); err != nil {
			return list, fmt.Errorf("--pkcs11: %w", err)
		}
	}
	if m.fido2 {
		if err := add(ownerkey.CreateFIDO2(ctx, fresh, r.Unlock(r.App, ""))); err != nil {
			return list, fmt.Errorf("--fido2: %w", err)
		}
	}
	for n := range more {
		passphrase, err := r.NewPassphrase(r.App, n)
		if err != nil {
			return list, err
		}
		if err := add(ownerkey.Create(fresh, passphrase)); err != nil {
			return list, err
		}
	}
	return list, nil
}

// key is `trust key`.
func (a trust) key() *cobra.Command {
	o, m := &options{}, &makeFlags{}
	var public string
	cmd := &cobra.Command{
		Use: "key FILE", Short: "Make a key that is not yet one of a fleet's, or print the public half of one",
		Long: `Make a key in FILE, on the machine of whoever shall sign with it, without a network. Its public half goes to whoever makes the fleet's trust, who names it by
--public; what is secret stays here. With --show nothing is made.`,
		Example: "  roadstead trust key ~/alice.key --write-public alice.pub\n  roadstead trust key ~/alice.key --show",
		Args:    cmdline.Args(1, 1),
	}
	var show bool
	o.Register(cmd)
	cmd.Flags().StringArrayVar(&m.pkcs11, "pkcs11", nil, "a key on a PKCS#11 token: `URI`")
	cmd.Flags().BoolVar(&m.fido2, "fido2", false, "a key in a file that only a FIDO2 token opens, with its PIN if it has one")
	cmd.Flags().StringVar(&public, "write-public", "", "write the public half to this `FILE`")
	cmd.Flags().BoolVar(&show, "show", false, "read the key that is there")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, path := cmd.Context(), args[0]
		var f *ownerkey.File
		var err error
		switch {
		case show:
			f, err = ownerkey.Read(path)
		case m.fido2 && len(m.pkcs11) > 0 || len(m.pkcs11) > 1:
			return cmdline.Usagef("one key is made at a time")
		case m.fido2:
			f, err = ownerkey.CreateFIDO2(ctx, path, o.Unlock(a.App, ""))
		case len(m.pkcs11) == 1:
			f, err = ownerkey.Token(ctx, path, m.pkcs11[0], o.Unlock(a.App, ""))
		default:
			var passphrase []byte
			if passphrase, err = o.NewPassphrase(a.App, 0); err == nil {
				f, err = ownerkey.Create(path, passphrase)
			}
		}
		if err != nil {
			return err
		}
		if public != "" {
			if _, err := f.WritePublic(public); err != nil {
				return err
			}
		}
		return a.Show(map[string]any{"id": f.ID, "kind": f.Kind, "public": f.Public, "created": f.Created}, keyGrid(f))
	}
	return cmd
}

// settle gives a new key's file its name. A key that is there already stays: its file may hold more than the new one, as the secret half.
func settle(f *ownerkey.File, path string) (*ownerkey.File, error) {
	there, err := ownerkey.Read(path)
	switch {
	case err == nil && there.ID == f.ID && there.Kind != ownerkey.KindPublic:
		return there, os.Remove(f.Path())
	case err == nil && there.ID != f.ID:
		return nil, fmt.Errorf("%s holds another key", path)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	if err := os.Rename(f.Path(), path); err != nil {
		return nil, err
	}
	return ownerkey.Read(path)
}

func keyGrid(files ...*ownerkey.File) func() *terminal.Grid {
	return func() *terminal.Grid {
		g := &terminal.Grid{Head: []string{"Key", "Kind", "File"}}
		for _, f := range files {
			g.Add(f.ID, f.Describe(), f.Path())
		}
		return g
	}
}
