package api

import "time"

// Admin is the content of admin.json: the first administrator of a server. Every field but URL is empty when the server has a
// user already.
type Admin struct {
	Email    string `json:"email"`
	Username string `json:"username"`
	Password string `json:"password"`
	APIKey   string `json:"api_key"`
	URL      string `json:"url"` // of the API
}

// NewUser (POST /internal/v1/users, from the admin role) makes a user; an empty password means that the server invents one.
// The answer has the same shape, with the password only when the server invented it. For POST /internal/v1/users/password,
// which sets a new password, Email may also be a user name and Username is ignored.
type NewUser struct {
	Email    string `json:"email"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// Session is one login of a user, as GET /user/v1/sessions lists them.
type Session struct {
	ID              int64      `json:"id"`
	CreatedAt       time.Time  `json:"created_at"`       // its token; a refresh gives it a new one
	AuthenticatedAt time.Time  `json:"authenticated_at"` // when its user proved who they are
	ExpiresAt       time.Time  `json:"expires_at"`       // whatever is done with it until then
	LastUsedAt      *time.Time `json:"last_used_at"`     // to the minute
	Address         string     `json:"address"`          // from where it was opened, or refreshed last
	LastAddress     string     `json:"last_address"`     // from where it was used last
	UserAgent       string     `json:"user_agent"`
	Client          string     `json:"client"`    // CLI, SDK, browser or other
	OpenedBy        string     `json:"opened_by"` // password, provider, passkey or another session, which let a program in
	Half            bool       `json:"half"`      // it waits for a second factor
	Current         bool       `json:"current"`   // the session that asks
}

// ChangePassword (POST /user/v1/password) gives the caller a new password. Without the current one the session must be fresh.
type ChangePassword struct {
	Current string `json:"current,omitempty"`
	New     string `json:"new"`
}

// User answers GET /user/v1/whoami.
type User struct {
	ID       int64   `json:"id"`
	Username string  `json:"username"`
	Email    *string `json:"email"`
}

// FactorCode carries a code of a second factor: POST /auth/totp/verify, enable, disable and recovery-codes. Old clients disable with a
// password, which is not enough.
type FactorCode struct {
	Code     string `json:"code"`
	Password string `json:"password,omitempty"`
}

// Enrolled answers POST /auth/totp/enable and POST /auth/webauthn/register. The recovery codes are shown this once, with the first
// factor; the token is of the session that takes the place of the one that asked.
type Enrolled struct {
	ID            int64    `json:"id,omitempty"` // of a passkey
	RecoveryCodes []string `json:"recoveryCodes,omitempty"`
	Token         string   `json:"token"`
}

// Factor is one line of GET /user/v1/factors.
type Factor struct {
	ID         int64  `json:"id,omitempty"` // of a passkey
	Kind       string `json:"kind"`         // totp, passkey or recovery codes
	Name       string `json:"name,omitempty"`
	CreatedAt  string `json:"created_at,omitempty"`
	LastUsedAt string `json:"last_used_at,omitempty"`
	WayIn      bool   `json:"way_in,omitempty"`  // a passkey that signs in without a password
	Suspect    bool   `json:"suspect,omitempty"` // a passkey of which there may be a copy
	Left       int    `json:"left,omitempty"`    // recovery codes that were not used
}

// UserInfo is a user as the server's operator sees them: POST /internal/v1/users/list and /internal/v1/users/show.
type UserInfo struct {
	ID            int64             `json:"id"`
	Username      string            `json:"username"`
	Email         string            `json:"email"`
	CreatedAt     string            `json:"created_at"`
	Disabled      bool              `json:"disabled"`
	Support       bool              `json:"support"`
	HasPassword   bool              `json:"has_password"`
	SecondFactor  bool              `json:"second_factor"`
	SessionCount  int               `json:"session_count"`
	KeyCount      int               `json:"key_count"`
	Organizations map[string]string `json:"organizations,omitempty"` // handle → role; only of one user
	Sessions      []Session         `json:"sessions,omitempty"`      // only of one user
}

// What UserChange may do.
const (
	UserDisable           = "disable"
	UserEnable            = "enable"
	UserRevoke            = "revoke" // all sessions and keys, and those that others may know from the user
	UserResetFactor       = "reset-factor"
	UserMakeAdministrator = "make-administrator" // of Organization
)

// DeleteAccount (POST /user/v1/delete) deletes the account of whoever asks, who types their own user name once more.
type DeleteAccount struct {
	Username string `json:"username"`
}

// UserChange (POST /internal/v1/users/change, from the admin role) does something to a user, named by e-mail address or user name.
// POST /internal/v1/users/show and /internal/v1/users/delete read User alone.
type UserChange struct {
	User         string `json:"user"`
	Act          string `json:"act,omitempty"`
	Organization string `json:"organization,omitempty"`
}
