//go:build !linux

package sandbox

import "errors"

// Enter is for Linux.
func (p Plan) Enter() error {
	return errors.New("sandbox: only Linux can run roles as users of their own")
}

// Programs says what programs a role starts.
type Programs int

// What a role starts.
const (
	NoPrograms Programs = iota
	ConfinedPrograms
	AnyPrograms
)

// Harden does nothing on this system.
func Harden(Programs) error { return nil }

// ConfineCommand is the hidden command of a program with which it calls [Confined] on itself.
const ConfineCommand = "__confined"

// Confine says what a program that a role starts may do; it is for Linux.
type Confine struct {
	Read, Write                          []string
	Memory, FileBytes, CPUSeconds, Files uint64
}

// Args are the arguments with which this program becomes the confined program.
func (Confine) Args(program string, args ...string) []string {
	return append([]string{ConfineCommand, "{}", program}, args...)
}

// Confined is for Linux.
func Confined([]string) error { return errors.New("sandbox: only Linux can confine a program") }
