package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/roadstead-io/roadstead/internal/agent/trust"
)

const trustUsage = `roadstead-agent trust shows and mends what this device believes about the releases that it runs.

usage: roadstead-agent trust status [--state DIR]
       roadstead-agent trust checkpoint [FILE] [--state DIR]
       roadstead-agent trust import ROOT [--state DIR]

status      says which fleet, root, release and log this device believes.
checkpoint  prints the newest checkpoint of the transparency log that this device believes. With the file of a checkpoint that another
            device or a witness saw, it compares the two: both must be signed by the log, and be the same where they are of one size.
import      takes the file of a root (root.json) that was brought here, while the agent does not run: the one after the root that is believed;
            any one of the fleet not older than that, when the files of trust are lost; or the first, on a device that verifies nothing yet.

flags:
  --state DIR   the agent's state directory (default /var/lib/roadstead)

examples:
  roadstead-agent trust status
  roadstead-agent trust checkpoint > this.txt; roadstead-agent trust checkpoint other.txt
  roadstead-agent trust import /media/usb/3.root.json

exit codes: 0 done, and nothing contradicts; 1 refused, contradicted, or the files cannot be used; 2 wrong arguments; 3 the agent runs
`

// runTrust is roadstead-agent trust.
func runTrust(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("roadstead-agent trust", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	state := flags.String("state", "/var/lib/roadstead", "")
	var words []string
	for len(args) > 0 { // flags may stand anywhere
		switch err := flags.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			_, _ = io.WriteString(stdout, trustUsage)
			return 0
		case err != nil:
			_, _ = fmt.Fprintf(stderr, "roadstead-agent trust: %v; see --help\n", err)
			return exitUsage
		}
		if args = flags.Args(); len(args) > 0 {
			words, args = append(words, args[0]), args[1:]
		}
	}
	var err error
	switch {
	case len(words) == 1 && words[0] == "status":
		err = trustStatus(*state, stdout)
	case len(words) == 1 && words[0] == "checkpoint":
		err = trustCheckpoint(*state, "", stdout)
	case len(words) == 2 && words[0] == "checkpoint":
		err = trustCheckpoint(*state, words[1], stdout)
	case len(words) == 2 && words[0] == "import":
		err = trustImport(*state, words[1], stdout)
	default:
		_, _ = io.WriteString(stderr, "roadstead-agent trust: status, checkpoint or import is wanted, and import needs a file; see --help\n")
		return exitUsage
	}
	switch {
	case errors.Is(err, trust.ErrRunning):
		_, _ = fmt.Fprintf(stderr, "roadstead-agent trust: %v\n", err)
		return exitRunning
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "roadstead-agent trust: %v\n", err)
		return exitFailed
	}
	return 0
}

func trustStatus(state string, stdout io.Writer) error {
	t, err := trust.Peek(state)
	if errors.Is(err, trust.ErrUnverified) {
		_, err = fmt.Fprintf(stdout, "unverified: %v\n", err)
		return err
	}
	if err != nil {
		return fmt.Errorf("nothing new is run until this is mended: %w", err)
	}
	_, err = io.WriteString(stdout, t.Describe())
	return err
}

func trustCheckpoint(state, file string, stdout io.Writer) error {
	t, err := trust.Peek(state)
	if err != nil {
		return err
	}
	if file == "" {
		text, err := t.Checkpoint()
		if err != nil {
			return err
		}
		_, err = io.WriteString(stdout, text)
		return err
	}
	other, err := readSmall(file)
	if err != nil {
		return err
	}
	same, err := t.Compare(string(other))
	if err != nil {
		return fmt.Errorf("%s does not fit what this device believes: %w", file, err)
	}
	if same {
		_, err = io.WriteString(stdout, "the same\n")
	} else {
		_, err = io.WriteString(stdout, "of another size: nothing contradicts, but only the server can prove that one goes on from the other (roadstead log audit)\n")
	}
	return err
}

func trustImport(state, file string, stdout io.Writer) error {
	root, err := readSmall(file)
	if err != nil {
		return err
	}
	fleet, version, err := trust.Import(state, root)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "this device believes root version %d of fleet %s\n", version, fleet)
	return err
}

// readSmall reads a file that somebody brought.
func readSmall(path string) ([]byte, error) {
	const most = 1 << 20
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(data) > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return data, nil
}
