package api

// BuildGivenFile is where a pushed source carries what is meant for its build alone. The builder takes it out before it builds.
const BuildGivenFile = ".roadstead/build.json"

// BuildGiven is what that file holds.
type BuildGiven struct {
	Args    map[string]string `json:"args,omitempty"`    // build arguments of every service
	Secrets map[string][]byte `json:"secrets,omitempty"` // by id, for RUN --mount=type=secret
}
