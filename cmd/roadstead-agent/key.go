package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/roadstead-io/roadstead/internal/agent/seal"
)

const keyUsage = `roadstead-agent key says how this device keeps the keys that make it this device.

usage: roadstead-agent key [--state DIR]

It looks at the files alone, and opens nothing: whether the TPM does, the agent's log says. How the keys are kept is said in config.json, with
deviceKeyProtection and deviceKeyPCRs; see docs/device-keys.md.

flags:
  --state DIR   the agent's state directory (default /var/lib/roadstead)

examples:
  roadstead-agent key

exit codes: 0 as it says; 1 the files cannot be used, or are not all sealed yet; 2 wrong arguments
`

// runKey is roadstead-agent key.
func runKey(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("roadstead-agent key", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	state := flags.String("state", "/var/lib/roadstead", "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(stdout, keyUsage)
		return 0
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "roadstead-agent key: %v; see --help\n", err)
		return exitUsage
	}
	text, err := seal.State(*state)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "roadstead-agent key: %v\n", err)
		return exitFailed
	}
	_, _ = fmt.Fprintf(stdout, "the keys of this device are %s\n", text)
	return 0
}
