package api

import "encoding/json"

// What a client pushes by itself, as balena deploy does, lies in quarantine until a builder has looked at it and has copied it into
// the repositories of the release: its promotion.

// QuarantineChore is the answer of POST /internal/v1/quarantine/next (from the builder role): the next thing to do there. With
// neither there is nothing to do.
type QuarantineChore struct {
	Promote *Promotion `json:"promote,omitempty"`
	Empty   *Build     `json:"empty,omitempty"` // a release that has ended: its Quarantine holds what is of no use
}

// Promotion is a release whose maker has pushed everything. It is a build from here on, and ends as one.
type Promotion struct {
	Build       Build            `json:"build"`
	Composition json.RawMessage  `json:"composition"` // as the client sent it
	Contract    json.RawMessage  `json:"contract,omitempty"`
	Images      []PromotionImage `json:"images"`
}

// PromotionImage is one image of it.
type PromotionImage struct {
	BuildImage         // where it goes
	Quarantine  string `json:"quarantine"`       // the repository where it lies
	Digest      string `json:"digest,omitempty"` // what the client says that it pushed
	Dockerfile  string `json:"dockerfile,omitempty"`
	ProjectType string `json:"project_type,omitempty"`
}
