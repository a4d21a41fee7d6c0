// Package line is what the vpn role and the process around openvpn say to each other: requests and answers of a few hundred bytes over
// one channel, with open connections beside them. It is the only thing that either process has in common with the other.
package line

import "os"

// Client asks.
type Client struct{ end *os.File }

// NewClient uses an end of the channel.
func NewClient(end *os.File) (*Client, error) { return &Client{end: end}, nil }
