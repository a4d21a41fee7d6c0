package supervise

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// site is what a data directory records of itself.
type site struct {
	Domain string `json:"domain"`
	Alone  string `json:"alone,omitempty"` // see Config.Alone
}

// claim makes the data directory, or refuses one that belongs to another domain or cannot be written.
func (p *Parent) claim() error {
	l := p.layout
	if err := os.MkdirAll(string(l), 0o711); err != nil {
		return fmt.Errorf("the data directory cannot be made: %w", err)
	}
	if err := p.checkEmptyOrOurs(); err != nil {
		return err
	}
	dirs := map[string]fs.FileMode{string(l): 0o711, l.Path("roles"): 0o711, l.Run(): 0o700, l.Path("pki"): 0o700, l.Bases(): 0o755}
	if p.cfg.Alone != "" {
		delete(dirs, l.Path("pki"))
		delete(dirs, l.Bases())
	}
	for dir, mode := range dirs {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("the data directory cannot be written: %w", err)
		}
		if err := os.Chmod(dir, mode); err != nil { // MkdirAll obeys the umask
			return fmt.Errorf("the data directory is not ours: %w", err)
		}
	}
	return nil
}

func (p *Parent) checkEmptyOrOurs() error {
	l := p.layout
	data, err := os.ReadFile(l.SiteFile())
	if errors.Is(err, fs.ErrNotExist) {
		names, err := os.ReadDir(string(l))
		if err != nil {
			return fmt.Errorf("the data directory cannot be read: %w", err)
		}
		for _, n := range names {
			switch n.Name() {
			case "run", "pki", "roles", "bases", "lost+found": // a first start that was cut short
			case "contracts": // the operator's own boards, there before the server
			default:
				return fmt.Errorf("%s is neither empty nor a data directory of ours: it holds %s; choose another with --data", l, n.Name())
			}
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("the data directory cannot be read: %w", err)
	}
	var s site
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%s is damaged: %w", l.SiteFile(), err)
	}
	if s.Alone != p.cfg.Alone {
		return fmt.Errorf("%s is the directory of a %s; choose another", l, cmp.Or(s.Alone, "server of "+s.Domain))
	}
	if s.Domain != p.cfg.Domain {
		return fmt.Errorf("%s belongs to the domain %s, not to %s: the names stand in certificates, tokens and on devices; "+
			"use --domain %s, or another --data", l, s.Domain, p.cfg.Domain, s.Domain)
	}
	return nil
}

func (p *Parent) record() error {
	if _, err := os.Stat(p.layout.SiteFile()); err == nil {
		return nil
	}
	data, err := json.Marshal(site{Domain: p.cfg.Domain, Alone: p.cfg.Alone})
	if err != nil {
		return err
	}
	return durable.WriteFile(p.layout.SiteFile(), append(data, '\n'), 0o644)
}

// authorities loads or makes the internal and the public authority.
func (p *Parent) authorities() (err error) {
	l := p.layout
	p.internal, err = authority(l.authorityFile("internal.pem"), l.authorityFile("internal.key"), "Roadstead roles of "+p.cfg.Domain)
	if err != nil {
		return err
	}
	p.outside, err = authority(l.PublicCA(), l.authorityFile("public.key"), "Roadstead "+p.cfg.Domain, p.cfg.Domain)
	return err
}

func authority(certFile, keyFile, name string, domains ...string) (*pki.Authority, error) {
	// The certificate is written last: without it there is no authority yet, whatever else a cut-short start left.
	if _, err := os.Stat(certFile); err == nil {
		return pki.LoadAuthority(certFile, keyFile)
	}
	a, err := pki.NewAuthority(name, domains...)
	if err != nil {
		return nil, err
	}
	return a, a.Save(certFile, keyFile)
}

// publicNames are the names of the public role's certificate.
func (p *Parent) publicNames() []string {
	d := p.cfg.Domain
	return []string{d, "*." + d, "*.devices." + d}
}

// secrets makes a role's directory and the secrets that only it will hold.
func (p *Parent) secrets(c *child) error {
	dir := p.layout.Role(c.role.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if c.role.Prepare == nil {
		return nil
	}
	return c.role.Prepare(dir)
}

// furnish makes a role's identity and configuration, and gives its directory to its user.
func (p *Parent) furnish(c *child, peers map[string]string) error {
	dir := p.layout.Role(c.role.Name)
	if err := p.certify(c); err != nil {
		return err
	}
	env := Env{Dir: dir, Site: p.site, Peers: map[string]string{}, Own: map[string]string{}, Layout: p.layout}
	for name := range p.own {
		env.Own[name] = p.ownAddress(name)
	}
	for _, name := range c.role.Needs {
		if addr := peers[name]; addr != "" {
			env.Peers[name] = addr
		}
	}
	data, err := json.MarshalIndent(c.role.Config(env), "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, "role.json"), append(data, '\n'), 0o600); err != nil {
		return err
	}
	if c.role.Tells != nil {
		if c.tells, err = c.role.Tells(dir, p.site, p.ownAddress(c.role.Name)); err != nil {
			return err
		}
	}
	if c.account == nil {
		return nil
	}
	return give(dir, c.account.uid, c.account.gid, !c.role.Setuid)
}

// certify makes a role's certificates, or renews them when they are old. A role sees a renewal by itself, see pki.KeyPair.
func (p *Parent) certify(c *child) error {
	dir := p.layout.Role(c.role.Name)
	if !c.role.Quiet && !p.internal.GoodRole(filepath.Join(dir, "cert.pem"), c.role.kind()) {
		leaf, err := p.internal.IssueRole(c.role.kind())
		if err != nil {
			return err
		}
		if err := pki.SaveIdentity(dir, leaf, p.internal.PEM()); err != nil {
			return err
		}
	}
	var names []string
	switch {
	case c.role.Public:
		names = p.publicNames()
	case c.role.Names != nil:
		names = c.role.Names(p.cfg.Domain)
	case c.role.Serves != "":
		names = []string{c.role.Serves + "." + p.cfg.Domain}
	}
	if len(names) == 0 || p.outside.Good(filepath.Join(dir, "tls.pem"), names...) {
		return nil
	}
	leaf, err := p.outside.IssueServer(names...)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, "tls.key"), leaf.Key, 0o600); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, "tls.pem"), leaf.Cert, 0o600)
}

// renewEvery is how often a running server looks whether a certificate is old.
const renewEvery = 12 * time.Hour

// renew keeps the certificates of a server that is never restarted good.
func (p *Parent) renew(ctx context.Context) {
	for {
		wait(ctx, renewEvery)
		if ctx.Err() != nil {
			return
		}
		errs := []error{p.callers()}
		for _, c := range p.children {
			errs = append(errs, p.certify(c))
		}
		if err := errors.Join(errs...); err != nil {
			p.log.Error("a certificate could not be renewed; it is tried again", "error", err, "again_in", renewEvery)
		}
	}
}

// callers makes the identities of those who call roles and are never called: the parent itself and the operator.
func (p *Parent) callers() error {
	for _, name := range []string{api.RoleParent, api.RoleAdmin} {
		dir := p.layout.Role(name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if p.internal.GoodRole(filepath.Join(dir, "cert.pem"), name) {
			continue
		}
		leaf, err := p.internal.IssueClient(name)
		if err != nil {
			return err
		}
		if err := pki.SaveIdentity(dir, leaf, p.internal.PEM()); err != nil {
			return err
		}
	}
	return nil
}

// give makes a user the owner of a directory and what is in it. Links are given, never followed. What lies deeper is walked
// only when it, or the directory itself, belonged to another: after a restore, when the user is new, when it was another role's.
// A role that makes files of further users (builds do) keeps its folders as they are.
func give(dir string, uid, gid int, folders bool) error {
	if err := giveFolder(dir, uid, gid); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.Type().IsRegular():
			err = os.Lchown(path, uid, gid)
		case folders && e.IsDir():
			err = giveFolder(path, uid, gid)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// giveFolder makes a user the owner of all of a folder that belongs to another.
func giveFolder(dir string, uid, gid int) error {
	info, err := os.Lstat(dir)
	if err != nil || owner(info) == uid {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}
