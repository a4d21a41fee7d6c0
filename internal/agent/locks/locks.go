// Package locks has the update locks of services: a file in a directory that device and service share keeps the agent from
// stopping the service. The agent takes the locks itself while it acts, so that a service cannot take one meanwhile.
package locks

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Dir is the directory under which each service has its own: DIR/<number of the fleet>/<service>.
type Dir string

// names are the lock's two names; in the container both are in /tmp/balena and in /tmp/resin.
var names = []string{"updates.lock", "resin-updates.lock"}

// agent owns the locks that the agent takes, so that those which a killed one left behind can be told from a service's.
const agent = 65534

// ErrHeld is what every [*Error] is.
var ErrHeld = errors.New("updates are locked")

// Error says who holds a lock.
type Error struct{ Service string }

// Unwrap makes errors.Is(err, ErrHeld) true.
func (e *Error) Unwrap() error { return ErrHeld }

func (e *Error) Error() string { return fmt.Sprintf("updates are locked by service %q", e.Service) }

// Service names one of a fleet.
type Service struct {
	Fleet int64
	Name  string
}

// Path is where the first of a service's locks is.
func (d Dir) Path(s Service) string {
	return filepath.Join(string(d), strconv.FormatInt(s.Fleet, 10), s.Name, names[0])
}

// Held answers with an [*Error] when a service holds its lock.
func (d Dir) Held(list []Service) error {
	for _, s := range list {
		for _, name := range names {
			info, err := os.Lstat(filepath.Join(filepath.Dir(d.Path(s)), name))
			if err == nil && !ours(info) {
				return &Error{s.Name}
			}
		}
	}
	return nil
}

// Take takes the locks of all the services or, when one of them is held, none. With force it answers at once, having taken what it
// could. The function gives them back.
func (d Dir) Take(list []Service, force bool) (release func(), err error) {
	var taken []string
	release = func() {
		for _, path := range taken {
			_ = os.Remove(path) // it is ours; one that stays is taken for ours again
		}
	}
	for _, s := range list {
		for _, name := range names {
			path := filepath.Join(filepath.Dir(d.Path(s)), name)
			switch err := take(path); {
			case err == nil:
				taken = append(taken, path)
			case force || errors.Is(err, fs.ErrNotExist): // the service has no directory yet: it never ran
			case errors.Is(err, fs.ErrExist):
				release()
				return nil, &Error{s.Name}
			default:
				release()
				return nil, fmt.Errorf("take the update lock of %s: %w", s.Name, err)
			}
		}
	}
	return release, nil
}

// take makes the file, complete with its owner at once: an agent that is killed on any line leaves no lock that looks like a service's. One
// that an agent before us left is as good.
func take(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".agent-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // one that stays is no lock
	if os.Geteuid() == 0 {
		err = f.Chown(agent, agent)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	err = os.Link(f.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		if info, statErr := os.Lstat(path); statErr == nil && ours(info) {
			return nil
		}
	}
	return err
}

func ours(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().IsRegular() && stat.Uid == agent && info.Size() == 0
}
