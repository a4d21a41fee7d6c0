// Package line is what the vpn role and the process around openvpn say to each other: requests and answers of a few hundred bytes over
// one channel, with open connections beside them. It is the only thing that either process has in common with the other. Both ends
// outlive the processes: one that is started again finds the channel as it is, and takes no answer that was another's.
package line

import (
	"errors"
	"time"
)

// Instance is one openvpn process.
type Instance struct {
	Number  int    `json:"number"`
	Network string `json:"network"` // of its devices
	Server  string `json:"server"`  // the server's own address in it
}

// Hello is how the other process is.
type Hello struct {
	Boot      string     `json:"boot"` // differs after every start
	Instances []Instance `json:"instances"`
}

// Flow is a connection of the public that openvpn has.
type Flow struct {
	Port int    `json:"port"`           // by which openvpn knows it
	From string `json:"from"`           // where it comes from
	Note string `json:"note,omitempty"` // what the vpn role wrote on it
}

// Verbs of requests.
const (
	VerbHello      = "hello"
	VerbManagement = "management" // answered with a connection to openvpn's management interface
	VerbTake       = "take"       // comes with a connection of the public
	VerbDial       = "dial"       // answered with a connection to a device
	VerbFlows      = "flows"
	VerbNote       = "note"
	VerbDrop       = "drop"
)

// Request is what the vpn role asks.
type Request struct {
	ID       string        `json:"id"`
	At       time.Duration `json:"at"` // on the clock that all processes share
	Verb     string        `json:"verb"`
	Instance int           `json:"instance,omitempty"`
	Address  string        `json:"address,omitempty"` // to dial
	Port     int           `json:"port,omitempty"`    // to dial, or of the flow
	From     string        `json:"from,omitempty"`
	Read     []byte        `json:"read,omitempty"` // from the connection, before
	Note     string        `json:"note,omitempty"`
	After    int           `json:"after,omitempty"` // list the flows of ports beyond this one
}

// Answer is what the other process says.
type Answer struct {
	ID    string `json:"id"`
	Error string `json:"error,omitempty"`
	Code  string `json:"code,omitempty"` // of an error that the caller tells from others
	Port  int    `json:"port,omitempty"`
	Hello *Hello `json:"hello,omitempty"`
	Flows []Flow `json:"flows,omitempty"`
}

// FlowsAtOnce is how many flows one answer lists.
const FlowsAtOnce = 100

// MaxRead is how much of a connection may have been read before it is handed on.
const MaxRead = 16 << 10

// Errors that are told apart.
var (
	ErrRefused     = errors.New("line: the device refused the connection")
	ErrUnreachable = errors.New("line: the device cannot be reached")
	ErrForbidden   = errors.New("line: that is no address of a device")
	ErrSilent      = errors.New("line: the process around openvpn does not answer")
)

var codes = map[string]error{"refused": ErrRefused, "unreachable": ErrUnreachable, "forbidden": ErrForbidden}

func codeOf(err error) string {
	for code, known := range codes {
		if errors.Is(err, known) {
			return code
		}
	}
	return ""
}
