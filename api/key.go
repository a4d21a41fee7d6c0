package api

// KeyExplanation is the answer of GET /api-key/v1/:id/explain: what a key is and what it can do, as the server enforces it.
// Ours, not balena's.
type KeyExplanation struct {
	ID          int64    `json:"id"`
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Principal   string   `json:"principal"`            // user, scoped key, device, frozen, fleet key or provisioning
	Of          string   `json:"of"`                   // user name, slug of the fleet or uuid of the device
	Level       string   `json:"level,omitempty"`      // the highest of which a scoped key has every verb
	AllFleets   bool     `json:"all_fleets,omitempty"` // of a scoped key: not limited to some
	Fleets      []string `json:"fleets"`               // slugs that a scoped key is limited to …
	Tags        []string `json:"tags"`                 // … beside the fleets that carry one of these: key, or key=value
	DeviceTags  []string `json:"device_tags"`          // in them, a scoped key is for devices that carry one of these; none: for all
	Verbs       []string `json:"verbs,omitempty"`      // of a user's key: at most these
	Channels    []string `json:"channels"`             // on which it may come
	Networks    []string `json:"networks"`             // from which it may come; none: from everywhere
	CreatedAt   string   `json:"created_at"`
	CreatedBy   string   `json:"created_by,omitempty"`
	ExpiryDate  string   `json:"expiry_date,omitempty"`
	LastUsedAt  string   `json:"last_used_at,omitempty"` // to the minute

	LastUsedFrom string            `json:"last_used_from,omitempty"` // address
	LastUsedFor  map[string]string `json:"last_used_for,omitempty"`  // verb → day
	Unused       []string          `json:"unused,omitempty"`         // verbs that it has and did not use for 30 days; it is older than that

	MaxUses *int     `json:"max_uses,omitempty"`
	Uses    int      `json:"uses"`
	Ended   string   `json:"ended,omitempty"` // why it opens nothing any more; empty: it does
	Reads   []string `json:"reads"`           // resources, of some rows at least
	Makes   []string `json:"makes"`
	Changes []string `json:"changes"`
	Deletes []string `json:"deletes"`
	Routes  []string `json:"routes"`
}
