package gitserver

import (
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// update is one thing that a push wants to do.
type update struct{ old, now, ref string }

// order is what a push makes to be built.
type order struct {
	update
	noCache  bool
	emulated bool
	passing  bool // the branch is an option of this push; it is not kept
	draft    bool
	from     string // the repository that it was fetched from; "" when it was pushed
}

const heads = "refs/heads/"

// The branches by which a push gives options to its build.
const (
	branchNoCache  = "balena-nocache"
	branchEmulated = "balena-emulated"
)

var objectID = pattern.New(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

func (u update) deletes() bool { return strings.Trim(u.now, "0") == "" }

// decide says what a push makes to be built: exactly one branch, the configured one, or main or master.
func decide(updates []update, branch string) (order, error) {
	builds := "main or master"
	if branch != "" {
		builds = branch
	}
	if len(updates) != 1 {
		return order{}, api.Errorf(api.Invalid, "Push one branch at a time: what is pushed is built. (This push has %d.)", len(updates))
	}
	u := updates[0]
	if !objectID.MatchString(u.old) || !objectID.MatchString(u.now) {
		return order{}, api.Errorf(api.Invalid, "The push names no commit.")
	}
	name, isBranch := strings.CutPrefix(u.ref, heads)
	switch {
	case strings.HasPrefix(u.ref, "refs/tags/"):
		return order{}, api.Errorf(api.Invalid, "Tags are not kept here; push a branch to %s.", builds)
	case !isBranch:
		return order{}, api.Errorf(api.Invalid, "%.100q is no branch; push to %s.", u.ref, builds)
	case u.deletes():
		return order{}, api.Errorf(api.Invalid, "A branch cannot be deleted here. A fleet's releases stay when its source goes on.")
	}
	o := order{update: u, noCache: name == branchNoCache, emulated: name == branchEmulated}
	o.passing = o.noCache || o.emulated
	if !o.passing && name != branch && (branch != "" || name != "main" && name != "master") {
		return order{}, api.Errorf(api.Invalid,
			"The branch %.100q does not build; push to %s, for example with: git push <remote> HEAD:%s", name, builds, strings.Fields(builds)[0])
	}
	return o, nil
}
