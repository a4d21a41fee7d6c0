package signin

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/roadstead-io/roadstead/internal/egress"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Kind is how a provider is spoken to.
type Kind string

// The kinds.
const (
	OpenID Kind = "oidc"
	Google Kind = "google" // OpenID Connect with Google's own address
	GitHub Kind = "github" // OAuth 2 and GitHub's API
)

const (
	googleIssuer = "https://accounts.google.com"
	githubIssuer = "https://github.com"
)

// Provider is one entry of the operator's file.
type Provider struct {
	// Name stands in addresses and in the database: lower-case letters, digits and hyphens.
	Name string `yaml:"name" json:"name"`
	// Label is what the button says. Empty: the name.
	Label string `yaml:"label" json:"label,omitempty"`
	// Kind is oidc, google or github.
	Kind Kind `yaml:"kind" json:"kind"`
	// Issuer is the provider's address. google has its own; of github it is the address of a GitHub Enterprise Server.
	Issuer string `yaml:"issuer" json:"issuer,omitempty"`
	// ClientID is what the provider knows this server as.
	ClientID string `yaml:"client_id" json:"client_id"`
	// ClientSecretFile holds the secret that goes with it. Without one the client is a public one, which not every provider allows.
	ClientSecretFile string `yaml:"client_secret_file" json:"client_secret_file,omitempty"`
	// Scopes are asked for besides what is needed anyway.
	Scopes []string `yaml:"scopes" json:"scopes,omitempty"`
	// CAFile is the root certificate (PEM) of a provider that is not known to the public.
	CAFile string `yaml:"ca_file" json:"ca_file,omitempty"`
	// AllowPrivate names what may be reached of this provider although it is not public: prefixes, addresses, host names. There,
	// plain http is allowed too.
	AllowPrivate []string `yaml:"allow_private" json:"allow_private,omitempty"`
	// HostedDomain lets in only the accounts of one Google Workspace domain.
	HostedDomain string `yaml:"hosted_domain" json:"hosted_domain,omitempty"`
	// SignUp says who may come in that has no account here yet. Empty: nobody.
	SignUp SignUp `yaml:"sign_up" json:"sign_up"`
	// Organizations turns claims into memberships.
	Organizations []Mapping `yaml:"organizations" json:"organizations,omitempty"`

	// Secret and CA are what the files hold.
	Secret string `yaml:"-" json:"secret,omitempty"`
	CA     string `yaml:"-" json:"ca,omitempty"`
}

// SignUp is who gets an account by signing in.
type SignUp struct {
	// Domains are those of e-mail addresses that the provider has verified.
	Domains []string `yaml:"domains" json:"domains,omitempty"`
	// Anybody lets in everybody whom the provider knows. For a provider of one's own.
	Anybody bool `yaml:"anybody" json:"anybody,omitempty"`
}

// Mapping makes members of an organization of those whose claim holds a value.
type Mapping struct {
	Claim        string `yaml:"claim" json:"claim"`
	Value        string `yaml:"value" json:"value"`
	Organization string `yaml:"organization" json:"organization"` // its handle
	Role         string `yaml:"role" json:"role,omitempty"`       // member, which is the default, or administrator
}

func (p Provider) label() string {
	if p.Label != "" {
		return p.Label
	}
	return p.Name
}

// issuer is the provider's address with the kind's default.
func (p Provider) issuer() string {
	switch {
	case p.Issuer != "":
		return p.Issuer
	case p.Kind == Google:
		return googleIssuer
	case p.Kind == GitHub:
		return githubIssuer
	}
	return ""
}

// needsClaims reports whether more than who somebody is must be known.
func (p Provider) needsClaims() bool {
	return p.SignUp.Anybody || len(p.SignUp.Domains) > 0 || len(p.Organizations) > 0
}

const maxFile = 1 << 20

// ReadFile reads the operator's file (YAML or JSON: a list under "providers") and the secrets that it names. What is misspelt is
// an error.
func ReadFile(path string) ([]Provider, error) {
	data, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	var file struct {
		Providers []Provider `yaml:"providers"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := range file.Providers {
		p := &file.Providers[i]
		for field, from := range map[string]struct {
			file string
			into *string
		}{"client_secret_file": {p.ClientSecretFile, &p.Secret}, "ca_file": {p.CAFile, &p.CA}} {
			if from.file == "" {
				continue
			}
			if !filepath.IsAbs(from.file) { // beside the file that names it
				from.file = filepath.Join(filepath.Dir(path), from.file)
			}
			data, err := readBounded(from.file)
			if err != nil {
				return nil, fmt.Errorf("%s: provider %q: %s: %w", path, p.Name, field, err)
			}
			if *from.into = strings.TrimSpace(string(data)); *from.into == "" {
				return nil, fmt.Errorf("%s: provider %q: %s: %s is empty", path, p.Name, field, from.file)
			}
		}
		p.ClientSecretFile, p.CAFile = "", ""
	}
	if err := ValidateAll(file.Providers); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return file.Providers, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, err
}

// Load reads what a role was given: the providers with their secrets, as [Provider] has them. No file means no provider.
func Load(path string) ([]Provider, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Provider
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

// ValidateAll names the first provider and field that is wrong.
func ValidateAll(list []Provider) error {
	names := map[string]bool{}
	for i, p := range list {
		if err := p.Validate(); err != nil {
			return fmt.Errorf("providers[%d] %q: %w", i, p.Name, err)
		}
		if names[p.Name] {
			return fmt.Errorf("providers[%d]: name: there are two providers %q", i, p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

var providerName = pattern.New(`^[a-z0-9][a-z0-9-]{0,38}$`)

// Validate names the field that is wrong.
func (p Provider) Validate() error {
	switch {
	case !providerName.MatchString(p.Name):
		return errors.New("name: lower-case letters, digits and hyphens, at most 39")
	case !slices.Contains([]Kind{OpenID, Google, GitHub}, p.Kind):
		return fmt.Errorf("kind: %q is none of oidc, google, github", p.Kind)
	case p.Kind == OpenID && p.Issuer == "":
		return errors.New("issuer: not given")
	case p.Kind == Google && p.Issuer != "" && len(p.AllowPrivate) == 0:
		return errors.New("issuer: google has its own; for another provider the kind is oidc")
	case p.ClientID == "":
		return errors.New("client_id: not given")
	case p.Kind == GitHub && p.Secret == "":
		return errors.New("client_secret_file: not given, and GitHub wants a secret")
	case p.HostedDomain != "" && p.Kind != Google:
		return errors.New("hosted_domain: only google has them")
	case len(p.Label) > 100:
		return errors.New("label: more than 100 bytes")
	}
	if err := checkAddress(p.issuer(), len(p.AllowPrivate) > 0); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if _, err := egress.New(egress.Config{Allow: p.AllowPrivate}); err != nil {
		return fmt.Errorf("allow_private: %w", err)
	}
	if p.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(p.CA)) {
		return errors.New("ca_file: holds no certificate")
	}
	for i, d := range p.SignUp.Domains {
		if d == "" || strings.ContainsAny(d, "@ *") || !strings.Contains(d, ".") {
			return fmt.Errorf("sign_up.domains[%d]: %q is not a domain", i, d)
		}
	}
	for i, m := range p.Organizations {
		switch {
		case m.Claim == "" || m.Value == "" || m.Organization == "":
			return fmt.Errorf("organizations[%d]: claim, value and organization are needed", i)
		case m.Role != "" && m.Role != "member" && m.Role != "administrator":
			return fmt.Errorf("organizations[%d].role: %q is neither member nor administrator", i, m.Role)
		case p.Kind == GitHub && m.Claim != "organizations":
			return fmt.Errorf("organizations[%d].claim: GitHub has only \"organizations\"", i)
		}
	}
	return nil
}

// checkAddress refuses an address that a browser or we must not be sent to.
func checkAddress(text string, local bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("is not an address")
	case u.Scheme != "https" && (u.Scheme != "http" || !local):
		return fmt.Errorf("%q does not begin with https://", text)
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return fmt.Errorf("%q is not the address of a host", text)
	}
	return nil
}

// egress makes the provider's own way out.
func (p Provider) egress() (*egress.Client, error) {
	cfg := egress.Config{Allow: p.AllowPrivate}
	if p.CA != "" {
		cfg.Roots = x509.NewCertPool()
		cfg.Roots.AppendCertsFromPEM([]byte(p.CA))
	}
	return egress.New(cfg)
}

// way is how this kind of provider is spoken to.
func (p Provider) way(cfg Config) (protocol, error) {
	out, err := p.egress()
	if err != nil {
		return nil, err
	}
	if p.Kind == GitHub {
		return &github{Provider: p, http: out.HTTP()}, nil
	}
	return newOpenID(p, out.HTTP(), cfg.Now), nil
}
