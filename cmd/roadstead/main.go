// Command roadstead is the platform's command line: every action that a person takes has a command here, and `-o json` on any
// of them gives the same objects to a script.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// Set by the linker, see Makefile.
var (
	version = "dev"
	built   = ""
)

func main() { os.Exit(run()) }

// run is main for tests: scripts start it as a program of its own.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second Ctrl-C ends the program at once, whatever it is still tidying up.
	context.AfterFunc(ctx, stop)
	a := &app{&cmdline.App{Version: version, Terminal: &terminal.Terminal{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}}}
	return a.Run(ctx, a.command(), os.Args[1:])
}
