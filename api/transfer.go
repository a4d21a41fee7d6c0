package api

import "time"

// NewTransfer is the body of POST /transfer/v1: a fleet that is to go to another organization.
type NewTransfer struct {
	Fleet        string `json:"fleet"`        // its slug
	Organization string `json:"organization"` // the handle of the other one
}

// Transfer is a fleet that an organization offers to another one, until somebody who administers that accepts or declines it.
type Transfer struct {
	ID        int64     `json:"id,omitempty"`
	Fleet     string    `json:"fleet"` // its slug
	From      string    `json:"from"`  // handles of organizations
	To        string    `json:"to"`
	OfferedBy string    `json:"offered_by,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// Moved says that the fleet is there: who offered it administers both organizations, or it was accepted. Fleet is its new slug.
	Moved bool `json:"moved,omitempty"`
}
