package api

// GitKey is what the git role asks (POST /internal/v1/git/key) with a fingerprint when somebody proved to have an SSH key: whose it is.
// It is answered with the name of the user.
type GitKey struct {
	Fingerprint string `json:"fingerprint,omitempty"` // SHA256:…
	User        string `json:"user,omitempty"`
}

// GitOpenRequest asks (POST /internal/v1/git/open) to let somebody into the repository of a fleet: whoever has the SSH key, or whose
// Authorization header comes with the request.
type GitOpenRequest struct {
	Fingerprint string `json:"fingerprint,omitempty"`
	Address     string `json:"address,omitempty"` // where an SSH connection comes from
	Path        string `json:"path"`              // <organization>/<fleet>
}

// GitOpen lets in.
type GitOpen struct {
	// Ticket opens builds of this one fleet for who was let in, as "Authorization: Ticket …" of a request to the builder. It ends by
	// itself soon, and before that with what they had shown, see GitTickets.
	Ticket string     `json:"ticket"`
	User   string     `json:"user"`
	Fleet  BuildFleet `json:"fleet"`
	// Branch is the one that builds; "" means main and master.
	Branch string `json:"branch,omitempty"`
}

// GitTickets are the tickets of all open sessions (POST /internal/v1/git/tickets). The answer has each anew, in the same order, and ""
// for one whose holder is not let in any more.
type GitTickets struct {
	Tickets []string `json:"tickets"`
}

// GitFleets are ids of fleets (POST /internal/v1/git/fleets); the answer lists those of them that are there.
type GitFleets struct {
	IDs []int64 `json:"ids"`
}

// GitSite says how the git role is reached, for people.
type GitSite struct {
	// SSH is the address for git over SSH, host:port; "" when there is none.
	SSH string `json:"ssh,omitempty"`
	// Fingerprint is that of the SSH host key, "SHA256:…".
	Fingerprint string `json:"fingerprint,omitempty"`
	// KnownHosts is the line for a known_hosts file.
	KnownHosts string `json:"known_hosts,omitempty"`
}
