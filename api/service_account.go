package api

// ServiceAccount is an actor of an organization for automation: it acts by keys only. Body of POST /service-account/v1, of which name
// and organization count, and part of the answer of GET. Ours, not balena's.
type ServiceAccount struct {
	ID           int64  `json:"id"`
	Name         string `json:"name"`
	Organization string `json:"organization"` // handle
	CreatedAt    string `json:"created_at"`
	Keys         int    `json:"keys"`
	LastUsedAt   string `json:"last_used_at,omitempty"` // of any of its keys, to the minute
}
