package gitserver

import (
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// verb is one of the two things that a client can ask for.
type verb string

const (
	push  verb = "git-receive-pack"
	fetch verb = "git-upload-pack"
)

// maxSlug is longer than any name of a fleet.
const maxSlug = 255

var (
	// command is the only form of a command: one of two words, one blank, and a path in single quotes. There is no shell here; what would
	// mean something to one is simply no name of a fleet.
	command = pattern.New(`^(git-receive-pack|git-upload-pack) '(/?[^'\\]+)'$`)
	slug    = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9_-]+$`)
)

const onlyGit = "This server takes `git push` and `git fetch` of <organization>/<fleet>.git, and nothing else."

// parseCommand reads what an SSH client asks for.
func parseCommand(text string) (verb, string, error) {
	m := command.FindStringSubmatch(text)
	if m == nil {
		return "", "", api.Errorf(api.Invalid, onlyGit)
	}
	fleet, err := parsePath(m[2])
	return verb(m[1]), fleet, err
}

// parsePath reads the path of a repository: <organization>/<fleet>.git.
func parsePath(path string) (string, error) {
	name, ok := strings.CutSuffix(strings.TrimPrefix(path, "/"), ".git")
	if !ok || len(name) > maxSlug || !slug.MatchString(name) {
		return "", api.Errorf(api.Invalid, "%.100q is no repository here; a fleet's is called <organization>/<fleet>.git", path)
	}
	return name, nil
}
