package signin_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// liar is an OpenID Connect provider that keeps to the protocol unless a test has it lie.
type liar struct {
	testing.TB
	*httptest.Server
	key *ecdsa.PrivateKey
	kid string

	mu        sync.Mutex // covers what follows
	now       time.Time
	claims    map[string]any // of the next ID token, beside those of the protocol
	token     func(claims map[string]any) string
	doc       func(doc map[string]any)
	codes     map[string]url.Values // code → the request that it answers
	infoSub   string
	keyAsks   int
	docAsks   int
	tokenAsks int
	broken    bool
	redirect  string
	hang      chan struct{} // what is asked of hangAt waits until it is closed
	hangAt    string
	noKeys    bool
	info      map[string]any // more of what it says of a user when it is asked
}

const clientID, clientSecret = "roadstead-test", "a secret between two"

func newLiar(t testing.TB) *liar {
	t.Helper()
	l := &liar{TB: t, kid: "k1", claims: map[string]any{"sub": "u-1"}, codes: map[string]url.Values{}, now: time.Now()}
	var err error
	if l.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", l.serve(l.discovery))
	mux.HandleFunc("GET /keys", l.serve(l.keys))
	mux.HandleFunc("POST /token", l.serve(l.redeem))
	mux.HandleFunc("GET /userinfo", l.serve(l.userinfo))
	l.Server = httptest.NewServer(mux)
	t.Cleanup(l.Close)
	return l
}

func (l *liar) serve(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		hang, at := l.hang, l.hangAt
		l.mu.Unlock()
		if hang != nil && r.URL.Path == at {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.broken {
			http.Error(w, "secret inner words", http.StatusBadGateway)
			return
		}
		if l.redirect != "" {
			http.Redirect(w, r, l.redirect, http.StatusFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		h(w, r)
	}
}

// say changes the provider while requests may come.
func (l *liar) say(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *liar) discovery(w http.ResponseWriter, _ *http.Request) {
	l.docAsks++
	doc := map[string]any{
		"issuer": l.URL, "authorization_endpoint": l.URL + "/authorize", "token_endpoint": l.URL + "/token", "jwks_uri": l.URL + "/keys",
		"userinfo_endpoint": l.URL + "/userinfo", "id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"},
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
	}
	if l.doc != nil {
		l.doc(doc)
	}
	_ = json.NewEncoder(w).Encode(doc)
}

func (l *liar) keys(w http.ResponseWriter, _ *http.Request) {
	l.keyAsks++
	if l.noKeys {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: l.key.Public(), KeyID: l.kid, Algorithm: "ES256", Use: "sig"}}})
}

// agree is the person's yes at the provider: it gives the code that the browser would bring back.
func (l *liar) agree(address string) (code string, asked url.Values) {
	l.Helper()
	u, err := url.Parse(address)
	if err != nil {
		l.Fatal(err)
	}
	q := u.Query()
	if q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || q.Get("nonce") == "" ||
		q.Get("state") == "" || q.Get("client_id") != clientID {
		l.Errorf("the provider was asked with %v: code, S256, a challenge, a nonce and a state are wanted", q)
	}
	code = "code-" + base64.RawURLEncoding.EncodeToString([]byte(q.Get("nonce")))[:20]
	l.say(func() { l.codes[code] = q })
	return code, q
}

func (l *liar) redeem(w http.ResponseWriter, r *http.Request) {
	l.tokenAsks++
	_ = r.ParseForm()
	asked, known := l.codes[r.PostForm.Get("code")]
	delete(l.codes, r.PostForm.Get("code")) // once
	id, secret, _ := r.BasicAuth()
	sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	if !known || id != clientID || secret != url.QueryEscape(clientSecret) && secret != clientSecret ||
		asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || asked.Get("redirect_uri") != r.PostForm.Get("redirect_uri") {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_grant","error_description":"<script>words from outside</script>"}`))
		return
	}
	claims := map[string]any{
		"iss": l.URL, "aud": clientID, "nonce": asked.Get("nonce"), "iat": l.now.Unix(), "exp": l.now.Add(5 * time.Minute).Unix(),
	}
	for k, v := range l.claims {
		claims[k] = v
	}
	var token string
	if l.token != nil {
		token = l.token(claims)
	} else {
		token = sign(l, jose.ES256, l.key, l.kid, claims)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "at", "token_type": "Bearer", "id_token": token, "expires_in": 300})
}

func (l *liar) userinfo(w http.ResponseWriter, _ *http.Request) {
	sub := l.claims["sub"]
	if l.infoSub != "" {
		sub = l.infoSub
	}
	says := map[string]any{"sub": sub}
	maps.Copy(says, l.info)
	_ = json.NewEncoder(w).Encode(says)
}

func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, kid string, claims map[string]any) string {
	t.Helper()
	opts := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		opts = opts.WithHeader("kid", kid)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Error(err)
		return ""
	}
	data, _ := json.Marshal(claims)
	signed, err := s.Sign(data)
	if err != nil {
		t.Error(err)
		return ""
	}
	text, _ := signed.CompactSerialize()
	return text
}

// unsigned is a token of the algorithm "none".
func unsigned(claims map[string]any) string {
	b64 := func(v any) string { data, _ := json.Marshal(v); return base64.RawURLEncoding.EncodeToString(data) }
	return strings.Join([]string{b64(map[string]string{"alg": "none", "typ": "JWT"}), b64(claims), ""}, ".")
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
