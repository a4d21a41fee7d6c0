package signin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/roadstead-io/roadstead/api"
)

// How long what a provider says of itself is believed, and how long it is left alone after it could not say it.
const (
	discoveryLife  = time.Hour
	discoveryPause = 5 * time.Second
	stale          = 24 * time.Hour // for how long it is gone on with while the provider does not answer
)

// algorithms are those of ID tokens. All are asymmetric: a token signed with the client's secret could be made by everybody who has
// that, and "none" by everybody.
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA,
}

// openID speaks OpenID Connect with one provider.
type openID struct {
	Provider
	http *http.Client
	now  func() time.Time

	known atomic.Pointer[discovered]
	queue chan struct{} // a place for each who waits for the turn, or has it

	turn  chan struct{} // held while known is renewed; covers what follows
	tried time.Time
	fault error
}

// discovered is what the provider says of itself.
type discovered struct {
	at       time.Time
	endpoint oauth2.Endpoint
	userinfo string
	keys     *keySet
	says     struct {
		Issuer     string   `json:"issuer"`
		Keys       string   `json:"jwks_uri"`
		UserInfo   string   `json:"userinfo_endpoint"`
		NamesIss   bool     `json:"authorization_response_iss_parameter_supported"`
		ClientAuth []string `json:"token_endpoint_auth_methods_supported"`
	}
}

func newOpenID(p Provider, client *http.Client, now func() time.Time) *openID {
	return &openID{Provider: p, http: client, now: now, queue: make(chan struct{}, maxBusy), turn: make(chan struct{}, 1)}
}

// discover gives what the provider is, and asks it now and then. One asks; the others go on with what is known, or some of them wait.
func (o *openID) discover(ctx context.Context) (*discovered, error) {
	known, now := o.known.Load(), o.now()
	switch {
	case known != nil && now.Sub(known.at) < discoveryLife:
		return known, nil
	case known != nil && now.Sub(known.at) < stale:
		select {
		case o.turn <- struct{}{}:
		default:
			return known, nil
		}
	default:
		select {
		case o.queue <- struct{}{}:
			defer func() { <-o.queue }()
		default:
			return nil, o.tooMany()
		}
		select {
		case o.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer func() { <-o.turn }()
	return o.renew(ctx)
}

// renew asks the provider what it is, unless another has done so meanwhile. It is called with the turn.
func (o *openID) renew(ctx context.Context) (*discovered, error) {
	known, now := o.known.Load(), o.now()
	if known != nil && now.Sub(known.at) < discoveryLife {
		return known, nil
	}
	if o.fault == nil || now.Sub(o.tried) >= discoveryPause {
		d, err := o.ask(context.WithoutCancel(ctx)) // who hangs up makes the provider no worse
		if err == nil {
			if known != nil && known.says.Keys == d.says.Keys {
				d.keys = known.keys
			}
			o.known.Store(d)
			o.fault = nil
			return d, nil
		}
		o.tried, o.fault = now, &unreachableError{o.label(), err}
	}
	if known != nil && now.Sub(known.at) < stale { // what it said last is better than nothing
		return known, nil
	}
	return nil, o.fault
}

// unreachableError is a provider that does not answer as one.
type unreachableError struct {
	provider string
	err      error
}

func (e *unreachableError) Error() string {
	return "sign-in provider " + e.provider + ": " + e.err.Error()
}

// Unwrap shows people which provider it is, and nothing of the way to it.
func (e *unreachableError) Unwrap() []error {
	return []error{
		api.Errorf(api.Unavailable, "the sign-in provider %q does not answer; try again later, or sign in another way", e.provider), e.err,
	}
}

func (o *openID) ask(ctx context.Context) (*discovered, error) {
	p, err := oidc.NewProvider(oidc.ClientContext(ctx, o.http), o.issuer())
	if err != nil {
		return nil, err
	}
	d := &discovered{at: o.now(), endpoint: p.Endpoint()}
	if err := p.Claims(&d.says); err != nil {
		return nil, err
	}
	local := len(o.AllowPrivate) > 0
	addresses := map[string]string{"authorization_endpoint": d.endpoint.AuthURL, "token_endpoint": d.endpoint.TokenURL, "jwks_uri": d.says.Keys}
	if d.says.UserInfo != "" {
		addresses["userinfo_endpoint"] = d.says.UserInfo
	}
	for name, address := range addresses {
		if err := checkAddress(address, local); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	d.endpoint.AuthStyle = oauth2.AuthStyleInHeader // which is what no word about it means
	if o.Secret == "" || len(d.says.ClientAuth) > 0 && !slices.Contains(d.says.ClientAuth, "client_secret_basic") {
		d.endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	d.userinfo = d.says.UserInfo
	d.keys = &keySet{label: o.label(), address: d.says.Keys, http: o.http, now: o.now, turn: make(chan struct{}, 1)}
	return d, nil
}

func (o *openID) config(d *discovered, redirect string) oauth2.Config {
	scopes := []string{oidc.ScopeOpenID, "email", "profile"}
	for _, s := range o.Scopes {
		if !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	return oauth2.Config{ClientID: o.ClientID, ClientSecret: o.Secret, Endpoint: d.endpoint, RedirectURL: redirect, Scopes: scopes}
}

func (o *openID) address(ctx context.Context, a attempt) (string, error) {
	d, err := o.discover(ctx)
	if err != nil {
		return "", err
	}
	cfg := o.config(d, a.redirect)
	opts := []oauth2.AuthCodeOption{oidc.Nonce(a.Nonce), oauth2.S256ChallengeOption(a.Verifier)}
	if a.Fresh && o.Kind == OpenID { // Google has no such thing
		opts = append(opts, oauth2.SetAuthURLParam("prompt", "login"), oauth2.SetAuthURLParam("max_age", "0"))
	}
	if o.HostedDomain != "" {
		opts = append(opts, oauth2.SetAuthURLParam("hd", o.HostedDomain))
	}
	return cfg.AuthCodeURL(a.state, opts...), nil
}

func (o *openID) redeem(ctx context.Context, a attempt, code, issuer string) (proven, error) {
	var who proven
	d, err := o.discover(ctx)
	if err != nil {
		return who, err
	}
	// RFC 9207: a provider that names itself in its answers always does, and no other answers in its place.
	if (issuer != "" || d.says.NamesIss) && issuer != o.issuer() {
		return who, distrusted("the answer is not from %s", o.label())
	}
	ctx = oidc.ClientContext(ctx, o.http)
	cfg := o.config(d, a.redirect)
	token, err := cfg.Exchange(ctx, code, oauth2.VerifierOption(a.Verifier))
	if err != nil {
		return who, o.noToken(err)
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok || len(raw) > 64<<10 {
		return who, distrusted("the provider gave no ID token")
	}
	verifier := oidc.NewVerifier(o.issuer(), d.keys, &oidc.Config{ClientID: o.ClientID, SupportedSigningAlgs: algorithms, Now: o.now})
	var away *unreachableError
	if _, err := d.keys.VerifySignature(ctx, raw); errors.As(err, &away) { // which Verify would hide
		return who, away
	}
	id, err := verifier.Verify(ctx, raw)
	if err != nil {
		return who, distrusted("the ID token does not hold: %v", err)
	}
	claims := map[string]any{}
	if err := id.Claims(&claims); err != nil {
		return who, distrusted("the ID token cannot be read")
	}
	switch azp, named := claims["azp"]; {
	case id.Nonce == "" || id.Nonce != a.Nonce:
		return who, distrusted("the ID token is not for this sign-in")
	case named && azp != o.ClientID, len(id.Audience) > 1 && !named:
		return who, distrusted("the ID token is for another")
	case id.Subject == "" || len(id.Subject) > 255 || strings.ContainsFunc(id.Subject, unicode.IsControl):
		return who, distrusted("the ID token does not say for whom it is")
	}
	if id.AccessTokenHash != "" && id.VerifyAccessToken(token.AccessToken) != nil {
		return who, distrusted("the tokens do not belong together")
	}
	if o.HostedDomain != "" && claims["hd"] != o.HostedDomain {
		return who, api.Errorf(api.Forbidden, "only accounts of %s may sign in here", o.HostedDomain)
	}
	if err := o.more(ctx, d, token, id.Subject, claims); err != nil {
		return who, err
	}
	return o.who(id.Subject, claims), nil
}

// more adds what the provider says only when it is asked for it.
func (o *openID) more(ctx context.Context, d *discovered, token *oauth2.Token, subject string, claims map[string]any) error {
	if d.userinfo == "" || !o.needsClaims() && claims["email"] != nil {
		return nil
	}
	more, err := o.userInfo(ctx, d.userinfo, token)
	if err == nil && more["sub"] != subject {
		return distrusted("the provider speaks of somebody else")
	}
	if err != nil {
		if !o.needsClaims() {
			return nil // a label is all that is missing
		}
		return &unreachableError{o.label(), err}
	}
	// An e-mail address and the word about it belong together.
	signed, _ := claims["email"].(string)
	asked, _ := more["email"].(string)
	switch {
	case signed == "":
		delete(claims, "email_verified")
	case signed != asked:
		delete(more, "email_verified")
	}
	maps.DeleteFunc(more, func(name string, _ any) bool { _, signed := claims[name]; return signed })
	maps.Copy(claims, more)
	return nil
}

func (o *openID) userInfo(ctx context.Context, address string, token *oauth2.Token) (map[string]any, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token.AccessToken)
	var claims map[string]any
	return claims, askJSON(o.http, req, &claims)
}

// askJSON makes a request whose answer is JSON.
func askJSON(c *http.Client, req *http.Request, into any) error {
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "roadstead")
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // read to its end, or of no use
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", req.URL.Host, res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", req.URL.Host, err)
	}
	return nil
}

// who reads the claims. An e-mail address is verified when the provider says so with a truth value: the text "true" has come from
// providers that meant nothing by it.
func (o *openID) who(subject string, claims map[string]any) proven {
	text := func(name string) string { s, _ := claims[name].(string); return s }
	who := proven{
		issuer: o.issuer(), subject: subject, claims: claims, email: text("email"), username: text("preferred_username"),
	}
	said, about := claims["email_verified"]
	who.verified, _ = said.(bool)
	// Google verifies once that somebody reads an address; it stands for a domain only where it is the domain's, or its own.
	if hosted, _ := claims["hd"].(string); o.Kind == Google && hosted == "" && !strings.HasSuffix(strings.ToLower(who.email), "@gmail.com") {
		who.verified = false
	}
	who.doubted = about && !who.verified
	if at, ok := claims["auth_time"].(float64); ok && at > 0 {
		who.at = time.Unix(int64(at), 0)
	}
	for _, label := range []string{who.email, who.username, text("name"), subject} {
		if label != "" {
			who.label = label
			break
		}
	}
	return who
}

// noToken says why a code gave no token. Of what the provider wrote only the error's name is kept.
func (o *openID) noToken(err error) error {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.Response.StatusCode < 500 {
		return distrusted("the provider refused: %s", word(refused.ErrorCode))
	}
	if errors.As(err, &refused) {
		err = errors.New(refused.Response.Status)
	}
	return &unreachableError{o.label(), err}
}

// distrusted refuses what came from a provider.
func distrusted(format string, args ...any) error {
	return api.Errorf(api.Unauthorized, "the sign-in failed: "+format, args...)
}

// word keeps the name of an error from outside, and nothing else that may stand in its place.
func word(s string) string {
	if len(s) > 60 {
		s = s[:60]
	}
	clean := []rune{}
	for _, c := range s {
		if c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			clean = append(clean, c)
		}
	}
	if len(clean) == 0 {
		return "without a reason"
	}
	return string(clean)
}
