package api

import "time"

// Whoami answers GET /actor/v1/whoami. Source of the shape: wire of balena-sdk 23, types/auth.
type Whoami struct {
	ID          int64   `json:"id"`        // of the actor
	ActorType   string  `json:"actorType"` // user, application or device
	ActorTypeID int64   `json:"actorTypeId"`
	Username    string  `json:"username,omitempty"`
	Email       *string `json:"email,omitempty"`
	Slug        string  `json:"slug,omitempty"`
	UUID        string  `json:"uuid,omitempty"`

	ServiceAccountOf string `json:"serviceAccountOf,omitempty"` // handle of the organization whose service account it is. Ours
}

// Login is the body of POST /login_.
type Login struct {
	Username string `json:"username"` // user name or e-mail address
	Password string `json:"password"`
}

// NewKey is the body of the key endpoints (/api-key/user/full, /api-key/v2/, …). Every one answers with the key as a
// JSON string; it is shown this once.
type NewKey struct {
	ActorType   string     `json:"actorType,omitempty"` // user, application or device
	ActorTypeID int64      `json:"actorTypeId,omitempty"`
	Roles       []string   `json:"roles,omitempty"`
	Name        string     `json:"name,omitempty"`
	Description string     `json:"description,omitempty"`
	ExpiryDate  *time.Time `json:"expiryDate"`
	MaxUses     int        `json:"maxUses,omitempty"` // of a provisioning key; 0 means no bound. Ours, not balena's
	APIKey      string     `json:"apiKey,omitempty"`  // a device's own key, at /api-key/device/:id/device-key

	// What a user's key is limited to, at /api-key/user/full. Ours, not balena's.
	Level    string   `json:"level,omitempty"`      // observer, operator or developer: at most this in every fleet
	Verbs    []string `json:"verbs,omitempty"`      // at most these; read is always among them
	Fleets   []string `json:"fleets,omitempty"`     // slugs: only in these …
	Tags     []string `json:"tags,omitempty"`       // … and in those that carry a tag: key, or key=value
	Devices  []string `json:"deviceTags,omitempty"` // only devices that carry a tag: key, or key=value
	Channels []string `json:"channels,omitempty"`   // api, git, registry, tunnel: only on these
	Networks []string `json:"networks,omitempty"`   // 192.0.2.0/24: only from these
	ReadOnly bool     `json:"readOnly,omitempty"`   // the same as the level observer
}

// SupportStaff is the body of POST /internal/v1/users/support.
type SupportStaff struct {
	User    string `json:"user"` // e-mail address or user name
	Support bool   `json:"support"`
}

// Invitation is the answer of POST /org/v1/invitations/:id/link and POST /user/v1/invitations/:id/link: what an invited person
// accepts with. Ours, not balena's.
type Invitation struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Register is the body of POST /device/register.
type Register struct {
	Application       int64      `json:"application"`
	UUID              DeviceUUID `json:"uuid"`
	DeviceType        string     `json:"device_type"`
	APIKey            string     `json:"api_key,omitempty"`
	SupervisorVersion string     `json:"supervisor_version,omitempty"`
	OSVersion         string     `json:"os_version,omitempty"`
	OSVariant         string     `json:"os_variant,omitempty"`
	MACAddress        string     `json:"mac_address,omitempty"`
	DeviceName        string     `json:"device_name,omitempty"` // the name to begin with; ours, balena's server ignores it
}

// Registered answers it, with status 201.
type Registered struct {
	ID     int64      `json:"id"`
	UUID   DeviceUUID `json:"uuid"`
	APIKey string     `json:"api_key"`
}

// RegistryToken answers GET /auth/v1/token.
type RegistryToken struct {
	Token string `json:"token"`
}

// Grant is one entry of a registry token's access claim.
type Grant struct {
	Type    string   `json:"type"` // "repository"
	Name    string   `json:"name"` // "v2/<32 hex>"
	Actions []string `json:"actions"`
	// Quarantine says that the name is that of a place in quarantine: another store, of which nothing is ever pulled by a device,
	// and the only one that takes what does not come from the builder.
	Quarantine bool `json:"quarantine,omitempty"`
}

// TokenIssuer is who issues registry tokens: the signer says so in each, and the registry believes no other.
const TokenIssuer = "roadstead-signer"

// PullTokenRequest asks the signer for a pull token; only the api role may ask, and only for pulls. It asks for a list of them,
// because a fleet that updates wants many at once, and is answered with a list of [SignedToken] in the same order.
type PullTokenRequest struct {
	Subject string  `json:"subject"` // "d_<uuid>", a user name, or "" for anonymous
	Access  []Grant `json:"access"`
}

// PushTokenRequest asks the signer for a push token; only the builder role may ask. The signer checks with the api role that
// the build is running and owns the repository.
type PushTokenRequest struct {
	Build      int64  `json:"build"`
	Repository string `json:"repository"` // "v2/<32 hex>"
	// Quarantine asks for a token to read and to empty a place in quarantine that belongs to the build, instead of a push.
	Quarantine bool `json:"quarantine,omitempty"`
}

// MaxGrants is how many grants the signer puts into one token.
const MaxGrants = 100

// MaxPullTokens is how many pull tokens the api role asks for at once.
const MaxPullTokens = 64

// SignedToken is the signer's answer. Of several that are asked for together, one may be refused and the others not.
type SignedToken struct {
	Token     string    `json:"token,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Refused   string    `json:"refused,omitempty"` // why there is no token
}
