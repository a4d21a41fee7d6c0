// Package guest is what a test and the init of its virtual machine tell each other.
package guest

// File is where the init finds what to do.
const File = "/machine.json"

// Bye is what the init says last.
const Bye = "machine: off"

// Config says what the init does.
type Config struct {
	Modules []string `json:"modules"` // of the kernel, in order
	Disk    bool     `json:"disk"`    // mount /dev/vda on /disk
	Hosts   []string `json:"hosts"`   // lines of /etc/hosts
	Run     []string `json:"run"`     // the program and its arguments
}
