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
	OpenedBy        string     `json:"opened_by"` // password, provider, device code, passkey or password reset
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
