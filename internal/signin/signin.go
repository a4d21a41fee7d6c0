// Package signin owns the ways in besides a password: identities at sign-in providers (OpenID Connect, GitHub), and the codes with which
// a program without a browser is let in from one that has.
//
// Who somebody is at a provider is its issuer and its subject, nothing else: an e-mail address is never taken for a person. What a
// provider says is believed only after the whole of the protocol held: state, binding to the browser, PKCE, nonce, signature,
// issuer and audience.
package signin

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/job"
	"github.com/roadstead-io/roadstead/internal/seal"
)

//go:embed migrations
var migrations embed.FS

// Migrations gives the tables of this package, numbered 0110 to 0119 and 0136; see [db.DB.Migrate].
func Migrations() fs.FS {
	return db.Folder(migrations)
}

// Config says what the package works with.
type Config struct {
	DB        *db.DB
	Accounts  *account.Accounts
	Site      api.Site
	Pepper    []byte // the server's; keys of this package are derived from it
	Providers []Provider
	Log       *slog.Logger
	Now       func() time.Time // nil: the clock
}

// SignIn is the running part of the package.
type SignIn struct {
	cfg       Config
	providers map[string]*provider
	seal      seal.Key // of states
}

// provider is a configured one and how it is spoken to.
type provider struct {
	Provider
	protocol
	waiting places // of the sign-ins that wait for its answers
}

// protocol is how a provider is asked who somebody is.
type protocol interface {
	// address is where the browser goes.
	address(ctx context.Context, a attempt) (string, error)
	// redeem asks the provider whom a code stands for. The answer has passed every check.
	redeem(ctx context.Context, a attempt, code, issuer string) (proven, error)
}

// proven is who somebody is at a provider.
type proven struct {
	issuer, subject string
	label           string // an e-mail address or a user name, for people
	username        string // what the user would like to be called
	email           string
	verified        bool      // the provider says that the e-mail address is the user's
	doubted         bool      // the provider says anything else about that
	at              time.Time // when the user proved it there; zero: the provider does not say
	claims          map[string]any
}

// New checks the providers; it asks none of them.
func New(cfg Config) (*SignIn, error) {
	switch {
	case cfg.DB == nil || cfg.Accounts == nil:
		return nil, errors.New("signin: no database or no accounts")
	case len(cfg.Pepper) < 32:
		return nil, fmt.Errorf("signin: the pepper has %d bytes, not 32", len(cfg.Pepper))
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &SignIn{cfg: cfg, providers: map[string]*provider{}}
	var err error
	if s.seal, err = seal.New(mac(cfg.Pepper, "sign-in state key", "v1")); err != nil {
		return nil, err
	}
	if err := ValidateAll(cfg.Providers); err != nil {
		return nil, err
	}
	for _, p := range cfg.Providers {
		way, err := p.way(cfg)
		if err != nil {
			return nil, fmt.Errorf("provider %s: %w", p.Name, err)
		}
		s.providers[p.Name] = &provider{Provider: p, protocol: way}
	}
	return s, nil
}

// Providers lists who people may sign in with, in the order of the configuration.
func (s *SignIn) Providers() []api.SignInProvider {
	list := []api.SignInProvider{}
	for _, p := range s.cfg.Providers {
		list = append(list, api.SignInProvider{Name: p.Name, Label: p.label(), Kind: string(p.Kind)})
	}
	return list
}

func (s *SignIn) provider(name string) (*provider, error) {
	p := s.providers[name]
	if p == nil {
		return nil, api.Errorf(api.NotFound, "there is no sign-in provider %q", name)
	}
	return p, nil
}

// Callback is the dashboard's page that a provider sends browsers back to. It has one for each, so that none can answer for another.
func Callback(site api.Site, provider string) string {
	return site.URL("dashboard") + "/login/callback/" + provider
}

// forgetEvery is how often what has expired is removed.
const forgetEvery = 5 * time.Minute

// Run removes what has expired, until the context ends.
func (s *SignIn) Run(ctx context.Context) error {
	return job.Every(ctx, s.cfg.Log, "sign-in", forgetEvery, s.RunOnce)
}

// RunOnce removes what has expired. Several processes may do so at the same time.
func (s *SignIn) RunOnce(ctx context.Context) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		for query, at := range map[string]time.Time{
			`DELETE FROM sign_in_state WHERE expires_at < ?`:  tx.Now,
			`DELETE FROM device_login WHERE expires_at < ?`:   tx.Now.Add(-deviceKept),
			`DELETE FROM device_login_miss WHERE last_at < ?`: tx.Now.Add(-missForget),
		} {
			if _, err := tx.ExecContext(ctx, query, db.FormatTime(at)); err != nil {
				return fmt.Errorf("forget sign-ins: %w", err)
			}
		}
		return nil
	})
}

// mac derives keys and hashes from the pepper, each domain its own.
func mac(pepper []byte, domain, text string) []byte {
	m := hmac.New(sha256.New, pepper)
	m.Write([]byte(domain))
	m.Write([]byte{0})
	m.Write([]byte(text))
	return m.Sum(nil)
}

// hash is what the database keeps of a secret.
func (s *SignIn) hash(domain, secret string) string {
	return hex.EncodeToString(mac(s.cfg.Pepper, domain, secret))
}

// random makes a secret of 256 bits.
func random() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b)
}
