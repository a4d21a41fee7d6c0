package supervise

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// Config says what to run.
type Config struct {
	Dir    string // the data directory, absolute and without links
	Domain string // the names under which the public sees the server
	Listen string // ADDR:PORT of the one public port
	// Alone is what this machine is ("build worker") when it is no server: it has quiet roles only, no public port, no authority and no
	// administrator, and neither Domain nor Listen.
	Alone string
	Roles []Role   // in the order of their start; they are stopped in reverse
	Off   []Off    // roles that people may look for in vain
	Exe   string   // this program
	Args  []string // that every child gets besides "role NAME --dir DIR"
	Show  []string // files and directories, besides Dir and Exe, that children must reach
	Env   []string // the whole environment of children
	// Database says where the api role keeps its data, for people: its kind, and the place without any secret.
	Database Database
	Log      *slog.Logger
	Stderr   io.Writer        // where the children's lines go
	Ready    func(url string) // called once, when every role answers
}

// Off is a role that does not run here, and why.
type Off struct{ Name, Why string }

// Database is where the data is.
type Database struct {
	Kind string `json:"kind"`
	At   string `json:"at"`
}

// Role is one child process.
type Role struct {
	Name string
	// Of names the role of which this is one more process: it has that role's certificate and Unix user and shares its
	// listener, so that others reach whichever process takes their connection first. Its directory, its place in the status,
	// and the listener on which the parent asks how it is are its own.
	Of string
	// Public marks the role that gets the public listener besides its own.
	Public bool
	// Own is ADDR:PORT of a public port of the role's own, "" for none, and OwnFlag how people say it. With OwnElsewhere, another
	// port is taken when that one is in use.
	Own          string
	OwnFlag      string
	OwnElsewhere bool
	// Tells is what people are told of the role in the status, besides how it is. It gets the address of the role's own public port.
	Tells func(dir string, s api.Site, own string) (string, error)
	// Serves is the first label of a public name ("api") whose connections the public role hands over to this one. It gets a
	// certificate for that name alone and ends TLS itself.
	Serves string
	// Takes are first labels, besides Serves, whose connections the public role hands over to this one.
	Takes []string
	// Names gives the public names of the role's certificate; without it that is the name of Serves.
	Names func(domain string) []string
	// Line names a channel between two roles of the list; each of them has one end of it.
	Line string
	// Quiet marks a child without a listener, which tells the parent how it is over a pipe.
	Quiet bool
	// Needs are the roles that it calls; it learns no other's address.
	Needs []string
	// InGroupOf names the roles whose Unix group it joins, to reach what they share with their group.
	InGroupOf []string
	// Optional roles are not waited for: the platform is ready without them.
	Optional bool
	// Setuid leaves setuid programs working, see sandbox.Plan.
	Setuid bool
	// Config makes the content of role.json.
	Config func(Env) any
	// Prepare makes the role's secrets when they are not there yet. It runs before the first start, as the parent.
	Prepare func(dir string) error
	// PrepareUser makes, as root, what the role's Unix user needs on this machine.
	PrepareUser func(user string) error
	// Contain bounds, as root, what the process just started and all that it starts may take of the machine. Undo is called
	// when it has ended.
	Contain func(pid int) (undo func(), err error)
}

// Env is what a role's configuration is made from.
type Env struct {
	Dir    string            // the role's directory
	Site   api.Site          // the public name and port
	Peers  map[string]string // addresses of the roles it needs; all processes of one role have one address
	Own    map[string]string // addresses of the public ports that roles have of their own
	Layout Layout
}

// kind is what the role is to others: the name in its certificate.
func (r Role) kind() string {
	if r.Of != "" {
		return r.Of
	}
	return r.Name
}

// user is the Unix user of a role.
func (r Role) user() string { return "roadstead-" + r.kind() }

// Validate names the field that is wrong.
func (c Config) Validate() error {
	if c.Dir == "" {
		return errors.New("--data is missing: the directory that holds everything this server keeps")
	}
	if c.Alone != "" {
		return nil
	}
	if err := checkDomain(c.Domain); err != nil {
		return err
	}
	if c.Listen == "" {
		return errors.New("--listen is missing: ADDR:PORT of the public port, for example 0.0.0.0:443")
	}
	if err := CheckListen("--listen", c.Listen); err != nil {
		return err
	}
	for _, r := range c.Roles {
		if r.Own == "" {
			continue
		}
		if err := CheckListen(r.OwnFlag, r.Own); err != nil {
			return err
		}
	}
	return nil
}

// CheckListen refuses what is no address to listen on, in words that name the flag.
func CheckListen(flag, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s %q is not ADDR:PORT", flag, addr)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%s %q: %q is not a port", flag, addr, port)
	}
	if host != "" && net.ParseIP(host) == nil {
		return fmt.Errorf("%s %q: %q is not an IP address", flag, addr, host)
	}
	return nil
}

// checkDomain accepts a DNS name of letters, digits and hyphens, lower case, in at least one label.
func checkDomain(domain string) error {
	if domain == "" {
		return errors.New("--domain is missing: the name under which clients and devices find this server")
	}
	if len(domain) > 200 {
		return fmt.Errorf("--domain %.20s… is too long", domain)
	}
	for _, label := range strings.Split(domain, ".") {
		ok := label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		if !ok || strings.ContainsFunc(label, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' }) {
			return fmt.Errorf("--domain %q is not a domain name (lower-case letters, digits, hyphens and dots)", domain)
		}
	}
	return nil
}
