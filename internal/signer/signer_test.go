package signer_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/signer"
)

const (
	mine  = "v2/0123456789abcdef0123456789abcdef"
	other = "v2/ffffffffffffffffffffffffffffffff"
)

var site = api.Site{Domain: "roadstead.test", Port: 443}

// bench is a signer beside an api role that knows two builds: 7 runs and owns mine, 8 has failed.
type bench struct {
	dir, addr string
	log       *roletest.Log
}

func start(t *testing.T) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), log: &roletest.Log{}}
	if err := pki.NewTestIdentities(b.dir, "signer", "api", "builder", "edge", "registry", "parent", "admin"); err != nil {
		t.Fatal(err)
	}
	fleet := &api.BuildFleet{ID: 1, UUID: strings.Repeat("f", 32), Slug: "acme/hello", DeviceType: "generic-amd64", Arch: "amd64"}
	builds := map[string]api.Build{
		"/internal/v1/builds/7": {ID: 7, Status: api.StatusRunning, Repositories: []string{mine}, Fleet: fleet, Commit: strings.Repeat("c", 32)},
		"/internal/v1/builds/8": {ID: 8, Status: api.StatusFailed, Repositories: []string{mine}, Quarantine: []string{other}},
		"/internal/v1/builds/9": {ID: 7, Status: api.StatusRunning, Repositories: []string{mine}},
	}
	ln := roletest.Listen(t)
	roletest.Play(t, filepath.Join(b.dir, "api"), ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if pki.PeerRole(r) != api.RoleSigner {
			t.Errorf("the api role was asked by %q", pki.PeerRole(r))
		}
		build, ok := builds[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(build)
	}))
	if err := errors.Join(signer.NewKey(filepath.Join(b.dir, "signer", signer.KeyFile)),
		signer.NewAuditKey(filepath.Join(b.dir, "signer", signer.AuditKeyFile)),
		signer.NewStatementKey(filepath.Join(b.dir, "signer", signer.StatementKeyFile)),
		signer.NewTrustKey(filepath.Join(b.dir, "signer", signer.TrustKeyFile)),
		signer.NewChannelAuthority(filepath.Join(b.dir, "signer", signer.ChannelCAFile))); err != nil {
		t.Fatal(err)
	}
	b.run(t, ln.Addr().String())
	return b
}

func (b *bench) run(t *testing.T, apiAddr string) {
	t.Helper()
	cfg := signer.Config{Dir: filepath.Join(b.dir, "signer"), Site: site, Peers: map[string]string{"api": apiAddr}}
	s, err := signer.New(cfg, b.log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	ln := roletest.Listen(t)
	b.addr = ln.Addr().String()
	roletest.Run(t, func(ctx context.Context) error { return s.Run(ctx, ln) })
}

func (b *bench) post(t *testing.T, role, path string, body any) (int, string) {
	t.Helper()
	id, err := pki.LoadIdentity(filepath.Join(b.dir, role))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	peer := id.Client(api.RoleSigner, b.addr)
	defer peer.HTTP.CloseIdleConnections()
	res, err := peer.HTTP.Post(peer.URL+path, "application/json", bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	out, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(out)
}

func grant(name string, actions ...string) api.Grant {
	return api.Grant{Type: "repository", Name: name, Actions: actions}
}

func TestWhoMaySignWhat(t *testing.T) {
	b := start(t)
	pull := []api.PullTokenRequest{{Subject: "d_x", Access: []api.Grant{grant(mine, "pull")}}}
	push := api.PushTokenRequest{Build: 7, Repository: mine}
	for _, tt := range []struct {
		name, role, path string
		body             any
		status           int
		says             string
	}{
		{"the api role's pull", "api", "/v1/pull-tokens", pull, 200, ""},
		{"no pull at all", "api", "/v1/pull-tokens", []api.PullTokenRequest{}, 200, "[]"},
		{"too many pulls", "api", "/v1/pull-tokens", make([]api.PullTokenRequest, api.MaxPullTokens+1), 400, "at most"},
		{"one outside of a list", "api", "/v1/pull-tokens", pull[0], 400, ""},
		{"the builder's pull", "builder", "/v1/pull-tokens", pull, 403, "builder"},
		{"the edge's pull", "edge", "/v1/pull-tokens", pull, 403, "edge"},
		{"the registry's pull", "registry", "/v1/pull-tokens", pull, 403, "registry"},
		{"the parent's pull", "parent", "/v1/pull-tokens", pull, 403, "parent"},
		{"the operator's pull", "admin", "/v1/pull-tokens", pull, 403, "admin"},
		{"the builder's push", "builder", "/v1/push-token", push, 200, ""},
		{"the api role's push", "api", "/v1/push-token", push, 403, "api"},
		{"a push of a failed build", "builder", "/v1/push-token", api.PushTokenRequest{Build: 8, Repository: mine}, 403, "not running"},
		{"a push of no build", "builder", "/v1/push-token", api.PushTokenRequest{Build: 99, Repository: mine}, 403, "no build"},
		{"a push elsewhere", "builder", "/v1/push-token", api.PushTokenRequest{Build: 7, Repository: other}, 403, "no repository"},
		{"an answer about another build", "builder", "/v1/push-token", api.PushTokenRequest{Build: 9, Repository: mine}, 500, ""},
		{"a strange repository", "builder", "/v1/push-token", api.PushTokenRequest{Build: 7, Repository: "../../x"}, 400, "not a repository"},
		{"quarantine of a build that ended", "builder", "/v1/push-token", api.PushTokenRequest{Build: 8, Repository: other, Quarantine: true}, 200, ""},
		{"quarantine for the api role", "api", "/v1/push-token", api.PushTokenRequest{Build: 8, Repository: other, Quarantine: true}, 403, "api"},
		{"quarantine of no image", "builder", "/v1/push-token", api.PushTokenRequest{Build: 8, Repository: mine, Quarantine: true}, 403, "no quarantine"},
		{"a push of what is in quarantine", "builder", "/v1/push-token", api.PushTokenRequest{Build: 8, Repository: other}, 403, "not running"},
		{"anything else", "api", "/v1/sign", pull, 404, ""},
	} {
		status, body := b.post(t, tt.role, tt.path, tt.body)
		if status != tt.status || !strings.Contains(body, tt.says) {
			t.Errorf("%s: %d %s, want %d %q", tt.name, status, body, tt.status, tt.says)
		}
	}
}

// One pull that is refused does not keep the others of the list from being signed.
func TestEachPullOfAListIsJudgedByItself(t *testing.T) {
	b := start(t)
	access := func(grants ...api.Grant) api.PullTokenRequest {
		return api.PullTokenRequest{Subject: "d_x", Access: grants}
	}
	list := []struct {
		ask  api.PullTokenRequest
		says string // why it is refused; "" for a token
	}{
		{access(grant(mine, "pull")), ""},
		{access(grant(mine, "pull", "push")), "only pulls"},
		{access(grant(mine, "*")), "only pulls"},
		{api.PullTokenRequest{}, ""},
		{access(grant(mine)), ""},
		{access(api.Grant{Type: "registry", Name: "catalog", Actions: []string{"pull"}}), "catalog"},
		{access(grant("v2/../x", "pull")), "not a repository"},
		{access(make([]api.Grant, 101)...), "at most"},
		{api.PullTokenRequest{Subject: strings.Repeat("x", 200)}, "subject"},
		{access(grant(other, "pull")), ""},
	}
	var asks []api.PullTokenRequest
	for _, l := range list {
		asks = append(asks, l.ask)
	}
	for i, got := range b.pull(t, asks...) {
		if (got.Token == "") != (list[i].says != "") || !strings.Contains(got.Refused, list[i].says) {
			t.Errorf("pull %d: %+v, want %q", i, got, list[i].says)
		}
	}
}

// pull asks for pull tokens as the api role does.
func (b *bench) pull(t *testing.T, asks ...api.PullTokenRequest) (signed []api.SignedToken) {
	t.Helper()
	status, body := b.post(t, "api", "/v1/pull-tokens", asks)
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if err := json.Unmarshal([]byte(body), &signed); err != nil {
		t.Fatal(err)
	}
	if len(signed) != len(asks) {
		t.Fatalf("%d answers to %d questions", len(signed), len(asks))
	}
	return signed
}

func TestTokenHolds(t *testing.T) {
	b := start(t)
	list := b.pull(t, api.PullTokenRequest{Subject: "d_y"}, api.PullTokenRequest{Subject: "d_x", Access: []api.Grant{grant(mine, "pull")}})
	signed := list[1]
	if signed.Token == list[0].Token {
		t.Error("two tokens are the same")
	}
	public, err := signer.PublicKeys(filepath.Join(b.dir, "signer", signer.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(public), `"d"`) {
		t.Error("the public keys hold a private one")
	}
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal(public, &keys); err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseSigned(signed.Token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if kid := token.Headers[0].KeyID; len(keys.Key(kid)) != 1 {
		t.Fatalf("the token's key %q is not among the public ones", kid)
	}
	var claims signer.Claims
	if err := token.Claims(keys.Keys[0].Key, &claims); err != nil {
		t.Fatal(err)
	}
	if claims.Issuer != api.TokenIssuer || claims.Subject != "d_x" || !claims.Audience.Contains("registry2.roadstead.test") || claims.ID == "" {
		t.Errorf("claims: %+v", claims)
	}
	if life := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); life != signer.TokenLife || life > 5*time.Minute {
		t.Errorf("it lives %s", life)
	}
	if len(claims.Access) != 1 || claims.Access[0].Name != mine {
		t.Errorf("access: %+v", claims.Access)
	}
	log := b.log.String()
	if !strings.Contains(log, "signed") || !strings.Contains(log, claims.ID) || strings.Contains(log, signed.Token) {
		t.Errorf("the log must name the token's id and not hold the token: %s", log)
	}
}

func TestWithoutTheAPIRoleNothingIsPushed(t *testing.T) {
	b := start(t)
	gone := roletest.Listen(t)
	addr := gone.Addr().String()
	_ = gone.Close()
	b.run(t, addr)
	status, body := b.post(t, "builder", "/v1/push-token", api.PushTokenRequest{Build: 7, Repository: mine})
	if status != 503 || !strings.Contains(body, "did not say") {
		t.Errorf("%d %s, want 503", status, body)
	}
}

func TestNewRefusesABrokenKey(t *testing.T) {
	b := start(t)
	file := filepath.Join(b.dir, "signer", signer.KeyFile)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want mode 0600", info, err)
	}
	if err := os.WriteFile(file, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := signer.Config{Dir: filepath.Join(b.dir, "signer"), Site: site, Peers: map[string]string{"api": "127.0.0.1:1"}}
	if _, err := signer.New(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "token key") {
		t.Errorf("New with a broken key: %v", err)
	}
	for field, bad := range map[string]signer.Config{
		"dir": {Site: site, Peers: cfg.Peers}, "site.domain": {Dir: "d", Peers: cfg.Peers}, "peers.api": {Dir: "d", Site: site},
	} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("without %s: %v", field, err)
		}
	}
}

// A push is signed for quarantine alone, and what is signed says that it is one.
func TestAPushIsSignedForQuarantineAlone(t *testing.T) {
	b := start(t)
	ask := func(g api.Grant) (signed api.SignedToken) {
		t.Helper()
		status, body := b.post(t, "api", "/v1/pull-tokens", []api.PullTokenRequest{{Subject: "alice", Access: []api.Grant{g}}})
		var list []api.SignedToken
		if err := json.Unmarshal([]byte(body), &list); status != 200 || err != nil || len(list) != 1 {
			t.Fatalf("got %d %s", status, body)
		}
		return list[0]
	}
	if got := ask(grant(mine, "pull", "push")); got.Token != "" || got.Refused == "" {
		t.Error("a push into a repository of a release is signed for the api role")
	}
	place := grant(mine, "pull", "push")
	place.Quarantine = true
	got := ask(place)
	_, rest, _ := strings.Cut(got.Token, ".")
	claims, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(claims)
	if err != nil || !strings.Contains(string(text), `"quarantine":true`) {
		t.Errorf("the token says %s %v", text, err)
	}
	if left := time.Until(got.ExpiresAt); left > 5*time.Minute {
		t.Errorf("the token lives %s", left)
	}
	place.Actions = []string{"delete"}
	if got := ask(place); got.Token != "" {
		t.Error("the api role gets a token to empty quarantine")
	}
}
