//go:build !linux

package sandbox

import "errors"

// Enter is for Linux.
func (p Plan) Enter() error {
	return errors.New("sandbox: only Linux can run roles as users of their own")
}

// Harden does nothing on this system.
func Harden(bool) error { return nil }
