package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/roadstead-io/roadstead/api"
)

const (
	// maxLife is how long a token may live that this registry believes; the signer's live five minutes.
	maxLife = 6 * time.Minute
	// skew is how far clocks may differ.
	skew = 10 * time.Second
)

// verifier knows the signer's public keys and nothing secret.
type verifier struct {
	keys  jose.JSONWebKeySet
	aud   string
	realm string
	now   func() time.Time
}

func newVerifier(file string, site api.Site) (*verifier, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("public keys: %w", err)
	}
	v := &verifier{aud: site.Host("registry2"), realm: site.URL("api") + "/auth/v1/token", now: time.Now}
	if err := json.Unmarshal(data, &v.keys); err != nil {
		return nil, fmt.Errorf("public keys: %s: %w", file, err)
	}
	if len(v.keys.Keys) == 0 {
		return nil, fmt.Errorf("public keys: %s holds none", file)
	}
	for _, k := range v.keys.Keys {
		if !k.IsPublic() || !k.Valid() {
			return nil, fmt.Errorf("public keys: %s: key %q is not a valid public key", file, k.KeyID)
		}
	}
	return v, nil
}

var errNoToken = errors.New("no token")

// grants checks the request's token and tells what it allows.
func (v *verifier) grants(r *http.Request) ([]api.Grant, error) {
	scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || raw == "" {
		return nil, errNoToken
	}
	token, err := jwt.ParseSigned(strings.TrimSpace(raw), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if len(token.Headers) != 1 {
		return nil, errors.New("token: not one signature")
	}
	keys := v.keys.Key(token.Headers[0].KeyID)
	if len(keys) != 1 {
		return nil, errors.New("token: unknown key")
	}
	var claims struct {
		jwt.Claims
		Access []api.Grant `json:"access"`
	}
	if err := token.Claims(keys[0].Key, &claims); err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if claims.Expiry == nil || claims.IssuedAt == nil || claims.Expiry.Time().Sub(claims.IssuedAt.Time()) > maxLife {
		return nil, errors.New("token: lives too long")
	}
	expected := jwt.Expected{Issuer: api.TokenIssuer, AnyAudience: jwt.Audience{v.aud}, Time: v.now()}
	if err := claims.ValidateWithLeeway(expected, skew); err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return claims.Access, nil
}

// allows reports whether the grants hold every action on a repository.
func allows(grants []api.Grant, repository string, actions ...string) bool {
	for _, want := range actions {
		if !slices.ContainsFunc(grants, func(g api.Grant) bool {
			return !g.Quarantine && g.Type == "repository" && g.Name == repository && slices.Contains(g.Actions, want)
		}) {
			return false
		}
	}
	return true
}

// challenge tells an engine where to get a token, and for what.
func (v *verifier) challenge(repository string, actions []string, reason string) string {
	s := fmt.Sprintf("Bearer realm=%q,service=%q", v.realm, v.aud)
	if repository != "" {
		s += fmt.Sprintf(",scope=%q", "repository:"+repository+":"+strings.Join(actions, ","))
	}
	if reason != "" {
		s += fmt.Sprintf(",error=%q", reason)
	}
	return s
}
