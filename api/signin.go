package api

import "time"

// SignInProvider is one entry of GET /auth/v1/providers: who people may sign in with besides a password.
type SignInProvider struct {
	Name  string `json:"name"`
	Label string `json:"label"`
	Kind  string `json:"kind"` // oidc, google or github
}

// What a sign-in through a provider is for.
const (
	SignInLogin = "login" // a session
	SignInLink  = "link"  // one more way in for the user who asks
)

// StartSignIn (POST /auth/v1/providers/{name}/start) begins a sign-in. Redirect may be empty: it is the dashboard's own page.
type StartSignIn struct {
	Redirect string `json:"redirect,omitempty"`
	Purpose  string `json:"purpose"`
	Fresh    bool   `json:"fresh,omitempty"` // the provider shall ask who it is, even if it knows
}

// StartedSignIn answers it. The browser goes to URL; Binding stays with it, and only what holds it can finish the sign-in.
type StartedSignIn struct {
	URL     string `json:"url"`
	State   string `json:"state"`
	Binding string `json:"binding"`
}

// FinishSignIn (POST /auth/v1/providers/{name}/finish) is what the provider sent the browser back with, and the binding.
type FinishSignIn struct {
	State   string `json:"state"`
	Binding string `json:"binding"`
	Code    string `json:"code,omitempty"`
	Issuer  string `json:"iss,omitempty"`
	Error   string `json:"error,omitempty"` // the provider's word for why there is no code
}

// Identity is one way in through a provider, as GET /user/v1/identities lists them.
type Identity struct {
	ID         int64      `json:"id"`
	Provider   string     `json:"provider"`
	Issuer     string     `json:"issuer"`
	Subject    string     `json:"subject"`
	Label      string     `json:"label"` // what the provider calls the user
	CreatedAt  time.Time  `json:"created_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
}

// DeviceCode answers POST /auth/v1/device/code, in the words of RFC 8628.
type DeviceCode struct {
	DeviceCode              string `json:"device_code"`
	UserCode                string `json:"user_code"`
	VerificationURI         string `json:"verification_uri"`
	VerificationURIComplete string `json:"verification_uri_complete"`
	ExpiresIn               int    `json:"expires_in"`
	Interval                int    `json:"interval"`
}

// DeviceToken answers POST /auth/v1/device/token: a token, or, with status 400, why there is none (yet).
type DeviceToken struct {
	AccessToken string `json:"access_token,omitempty"`
	TokenType   string `json:"token_type,omitempty"`
	Error       string `json:"error,omitempty"`
}

// What DeviceToken.Error can be.
const (
	DevicePending  = "authorization_pending"
	DeviceSlowDown = "slow_down"
	DeviceDenied   = "access_denied"
	DeviceExpired  = "expired_token"
)

// DeviceApproval is the body of POST /auth/v1/device/lookup (who waits for this code?) and /auth/v1/device/approve.
type DeviceApproval struct {
	UserCode string `json:"user_code"`
	Deny     bool   `json:"deny,omitempty"`
}

// DeviceWaiting answers a lookup: what waits for a code.
type DeviceWaiting struct {
	Client    string    `json:"client"`
	Address   string    `json:"address"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
}
