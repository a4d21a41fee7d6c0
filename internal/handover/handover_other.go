//go:build !linux

package handover

import (
	"context"
	"errors"
	"net"
	"os"
)

var errOnlyLinux = errors.New("handover: only on Linux")

// Pair is for Linux.
func Pair() (giver, taker *os.File, err error) { return nil, nil, errOnlyLinux }

// Giver is for Linux.
type Giver struct{}

// NewGiver is for Linux.
func NewGiver(*os.File) (*Giver, error) { return nil, errOnlyLinux }

// Run is for Linux.
func (g *Giver) Run(context.Context) error { return errOnlyLinux }

// Give is for Linux.
func (g *Giver) Give(context.Context, *net.TCPConn, []byte) error { return errOnlyLinux }

// Taker is for Linux.
type Taker struct{ net.Listener }

// NewTaker is for Linux.
func NewTaker(*os.File) (*Taker, error) { return nil, errOnlyLinux }
