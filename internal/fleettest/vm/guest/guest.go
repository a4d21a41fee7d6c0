// Package guest is what a test and the init of its virtual machine tell each other.
package guest

// File is where the init finds what to do.
const File = "/machine.json"

// Bye is what the init says last.
const Bye = "machine: off"

// Door is the port on which a machine's engine is reached.
const Door = 9

// Config says what the init does.
type Config struct {
	Modules []string `json:"modules"` // of the kernel, in order
	Disk    bool     `json:"disk"`    // mount /dev/vda on /disk
	Engine  bool     `json:"engine"`  // mount /dev/vdb on /usr, and run a Docker Engine that keeps its data in /disk/docker, and is reached at Door
	Hosts   []string `json:"hosts"`   // lines of /etc/hosts
	Run     []string `json:"run"`     // the program and its arguments; none: nothing beside the engine
}

// Order is what a test tells the program "hand" of a machine, as a line of JSON. The program answers by a connection of its own, whose first line is the
// order's number. Of the fields that follow one is set.
type Order struct {
	ID   int   `json:"id"`
	Run  *Run  `json:"run,omitempty"`
	Plug *Plug `json:"plug,omitempty"`
}

// Run runs a program. The connection carries what it says, as [Said], and to it what is typed on its terminal.
type Run struct {
	Args     []string `json:"args"`
	Env      []string `json:"env"`
	Input    string   `json:"input"`
	Terminal bool     `json:"terminal"` // it runs on one, and its input is what is typed
}

// Said is a piece of what a program says, or last how it ended.
type Said struct {
	Text  []byte `json:"text,omitempty"`
	Ended string `json:"ended,omitempty"` // "exit status 1"; "ok"
}

// Plug plugs a HID device in, whose place the test takes, until the connection ends: after a line with its file in the machine, as /dev/hidraw0, the
// connection carries its reports.
type Plug struct {
	Name       string `json:"name"` // unique
	Vendor     uint32 `json:"vendor"`
	Product    uint32 `json:"product"`
	Descriptor []byte `json:"descriptor"`
	Report     int    `json:"report"` // size, in both directions
}
