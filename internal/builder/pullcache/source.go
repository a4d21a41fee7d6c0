package pullcache

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/egress"
)

// Account is who fetches from a registry. The zero value is anybody.
type Account struct{ Username, Password string }

// source is one repository of a registry, as one account sees it.
type source struct {
	c       *Cache
	repo    name.Repository
	account Account
	scope   string
	label   string // the registry's name for people

	mu  sync.Mutex // covers way, and is held while it is made
	way http.RoundTripper
}

const (
	maxManifest  = 4 << 20
	manifestKind = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
		"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)

// name is how the repository is called everywhere.
func (s *source) name() string { return s.label + "/" + s.repo.RepositoryStr() }

// from gives the repository as an account sees it.
func (c *Cache) from(repo name.Repository, domain string, account Account) *source {
	label := repo.RegistryStr()
	if label == name.DefaultRegistry {
		label = "docker.io"
	}
	s := &source{c: c, repo: repo, account: account, scope: c.scope(domain, label, account), label: label}
	if s.scope != public {
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.sources[s.name()]; old != nil {
		return old
	}
	if len(c.sources) >= maxNames { // somebody asks for anything
		clear(c.sources)
	}
	c.sources[s.name()] = s
	return s
}

// guarded sends an account's name and password over TLS only.
type guarded struct{ next http.RoundTripper }

var errPlain = errors.New("the registry is asked without TLS")

func (g guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && r.Header.Get("Authorization") != "" {
		return nil, errPlain
	}
	return g.next.RoundTrip(r)
}

// transport signs in, as the registry wants it.
func (s *source) transport(ctx context.Context) (http.RoundTripper, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.way != nil {
		return s.way, nil
	}
	auth, inner := authn.Anonymous, http.RoundTripper(s.c.out)
	if s.account != (Account{}) {
		auth = authn.FromConfig(authn.AuthConfig{Username: s.account.Username, Password: s.account.Password})
		inner = guarded{inner}
	}
	ctx, cancel := context.WithTimeout(ctx, s.c.cfg.Stall)
	defer cancel()
	way, err := transport.NewWithContext(ctx, s.repo.Registry, auth, inner, []string{s.repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, s.failed(err)
	}
	s.way = way
	return way, nil
}

// refused is an answer that is none.
type refused struct {
	status int
	wait   string // what the registry says of when to ask again
}

func (r *refused) Error() string { return fmt.Sprintf("status %d", r.status) }

// do asks for something of the repository. An answer that is not good is an error, worded for people.
func (s *source) do(ctx context.Context, method, what string, head http.Header) (*http.Response, error) {
	for again := true; ; again = false {
		way, err := s.transport(ctx)
		if err != nil {
			return nil, err
		}
		u := url.URL{Scheme: s.repo.Scheme(), Host: s.repo.RegistryStr(), Path: "/v2/" + s.repo.RepositoryStr() + "/" + what}
		req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
		if err != nil {
			return nil, err
		}
		req.Header = head.Clone()
		req.Header.Set("Accept-Encoding", "identity")
		client := http.Client{Transport: way, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return egress.ErrRedirect
			}
			return nil
		}}
		res, err := client.Do(req)
		if err != nil {
			return nil, s.failed(errors.Join(err, context.Cause(ctx)))
		}
		if res.StatusCode < 300 {
			return res, nil
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized || !again {
			return nil, s.failed(&refused{res.StatusCode, res.Header.Get("Retry-After")})
		}
		s.mu.Lock() // it may want people to sign in who need not before
		s.way = nil
		s.mu.Unlock()
	}
}

// failed words what went wrong, and whose doing it is. Its code says whether the registry may do better later.
func (s *source) failed(err error) error {
	var coded *api.Error
	if errors.As(err, &coded) || errors.Is(err, context.Canceled) && !errors.Is(err, errStalled) {
		return err
	}
	word := func(code api.Code, format string, args ...any) error {
		return errors.Join(api.Errorf(code, format, args...), err)
	}
	account := "it wants an account, given with --registry-secrets, or there is no such image"
	if s.account != (Account{}) {
		account = "it does not let the account of --registry-secrets have it, or there is no such image"
	}
	answer := &refused{}
	var sign *transport.Error
	switch {
	case errors.As(err, &sign):
		answer = &refused{status: sign.StatusCode}
	case !errors.As(err, &answer):
		answer = &refused{}
	}
	var cert *x509.UnknownAuthorityError
	switch {
	case errors.Is(err, errPlain):
		return word(api.Invalid, "%s is asked without TLS, and is given no password", s.label)
	case errors.Is(err, egress.ErrAddress), errors.Is(err, egress.ErrScheme):
		return word(api.Invalid, "%s is not at a public address; the operator lets builds reach private ones with --build-allow", s.label)
	case errors.Is(err, egress.ErrRedirect):
		return word(api.Invalid, "%s leads elsewhere again and again", s.label)
	case answer.status == http.StatusUnauthorized, answer.status == http.StatusForbidden:
		return word(api.Invalid, "%s refuses %s: %s", s.label, s.repo.RepositoryStr(), account)
	case answer.status == http.StatusNotFound:
		return word(api.NotFound, "%s has no such image", s.label)
	case answer.status == http.StatusTooManyRequests:
		when := ""
		if answer.wait != "" {
			when = ", it says in " + answer.wait + " s"
		}
		return word(api.RateLimited, "%s lets nobody here fetch more for now (status 429)%s: give the build an account there with "+
			"--registry-secrets, start from a base image of this server, or push again later", s.label, when)
	case answer.status >= 500:
		return word(api.Unavailable, "%s does not work (status %d); push again later", s.label, answer.status)
	case answer.status != 0:
		return word(api.Invalid, "%s answers with status %d", s.label, answer.status)
	case errors.As(err, &cert):
		return word(api.Unavailable, "the certificate of %s is of an authority that this server does not trust (--pull-ca)", s.label)
	}
	return word(api.Unavailable, "%s does not answer: %s", s.label, short(err))
}

// short is the innermost of an error: who could not be reached is said already.
func short(err error) string {
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return dns.Err
	case errors.As(err, &op):
		return op.Err.Error()
	case errors.Is(err, errStalled), errors.Is(err, context.DeadlineExceeded):
		return errStalled.Error()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "its answer breaks off"
	}
	var in *url.Error
	if errors.As(err, &in) {
		return in.Err.Error()
	}
	return err.Error()
}

// passing reports whether a registry may do better later.
func passing(err error) bool {
	code := api.AsError(err).Code
	return code == api.Unavailable || code == api.RateLimited
}

// head asks what a tag stands for; "" means that the registry does not say without sending the manifest.
func (s *source) head(ctx context.Context, tag string) (digest.Digest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*s.c.cfg.Stall, errStalled)
	defer cancel()
	res, err := s.do(ctx, http.MethodHead, "manifests/"+tag, http.Header{"Accept": {manifestKind}})
	if err != nil {
		return "", err
	}
	_ = res.Body.Close()
	d := digest.Digest(res.Header.Get("Docker-Content-Digest"))
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return "", nil
	}
	return d, nil
}

// manifest fetches one by tag or digest.
func (s *source) manifest(ctx context.Context, what string) ([]byte, digest.Digest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*s.c.cfg.Stall, errStalled)
	defer cancel()
	res, err := s.do(ctx, http.MethodGet, "manifests/"+what, http.Header{"Accept": {manifestKind}})
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxManifest+1))
	if err != nil {
		return nil, "", s.failed(err)
	}
	if len(data) > maxManifest {
		return nil, "", api.Errorf(api.TooLarge, "%s sent a manifest of more than %s", s.label, api.FormatBytes(maxManifest))
	}
	got := digest.FromBytes(data)
	if want := digest.Digest(what); want.Validate() == nil && want != got {
		s.c.mu.Lock()
		s.c.counts.Damaged++
		s.c.mu.Unlock()
		return nil, "", errors.Join(api.Errorf(api.Invalid, "%s sent something else for %s, with the digest %s; nothing of it was kept",
			s.label, what, got), errDigest)
	}
	return data, got, nil
}
