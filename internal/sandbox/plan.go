package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// envName carries a plan from the parent to the child that carries it out.
const envName = "ROADSTEAD_SANDBOX"

// Plan says what a child process becomes.
type Plan struct {
	UID    int   `json:"uid"`
	GID    int   `json:"gid"`
	Groups []int `json:"groups,omitempty"` // besides GID
	// Setuid leaves the way back open that setuid programs are. Only the build service needs it: RootlessKit maps the ids of
	// its user namespace with newuidmap.
	Setuid bool `json:"setuid,omitempty"`
	// Show lists files and directories that the user must reach although a directory above them is closed to it. They get a
	// private view of the file system in which that directory holds nothing but them.
	Show []string `json:"show,omitempty"`
}

// Env is the plan as an environment variable.
func (p Plan) Env() string {
	data, err := json.Marshal(p)
	if err != nil {
		panic(err) // numbers and strings always marshal
	}
	return envName + "=" + string(data)
}

// FromEnv reads the plan that the parent gave, nil when it gave none.
func FromEnv() (*Plan, error) {
	text, ok := os.LookupEnv(envName)
	if !ok {
		return nil, nil //nolint:nilnil // no plan is an answer
	}
	var p Plan
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return nil, fmt.Errorf("%s: %w", envName, err)
	}
	if p.UID <= 0 || p.GID <= 0 {
		return nil, fmt.Errorf("%s: user %d and group %d are root's", envName, p.UID, p.GID)
	}
	return &p, nil
}

// Closed is the topmost directory above path that a user may not pass through, "" when the way is open. The path is absolute
// and holds no links.
func (p Plan) Closed(path string) string {
	var above []string
	for dir := filepath.Dir(filepath.Clean(path)); ; dir = filepath.Dir(dir) {
		above = append(above, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	for i := len(above) - 1; i >= 0; i-- {
		if info, err := os.Stat(above[i]); err == nil && !p.passes(info) {
			return above[i]
		}
	}
	return ""
}
