// Command roadstead-agent runs on a device: it registers the device with its server, keeps the containers of the fleet's
// release running, and reports. See docs/agent.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/roadstead-io/roadstead/internal/agent"
	"github.com/roadstead-io/roadstead/internal/agent/channel"
	"github.com/roadstead-io/roadstead/internal/engine"
)

// Set by the build.
var (
	version = "dev"
	built   = ""
)

// Exit codes. Whoever starts the agent may start it again after any of them.
const (
	exitFailed  = 1
	exitUsage   = 2 // wrong flags, or a config.json that must be mended
	exitRunning = 3 // another agent has the files
)

const usage = `roadstead-agent keeps a device at the target state that its server gives it.

usage: roadstead-agent [flags]
       roadstead-agent trust status|checkpoint|import     what this device believes; see roadstead-agent trust --help
       roadstead-agent key                                how its keys are kept; see roadstead-agent key --help

flags:
`

const examples = `
examples:
  roadstead-agent --config /boot/config.json --state /var/lib/roadstead
  roadstead-agent --config ./config.json --state ./state --engine unix:///run/docker.sock --once

exit codes: 0 ended as told; 1 failed; 2 wrong flags or config.json; 3 another agent runs with these files
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "trust" {
		return runTrust(args[1:], stdout, stderr)
	}
	if len(args) > 0 && args[0] == "key" {
		return runKey(args[1:], stdout, stderr)
	}
	flags := flag.NewFlagSet("roadstead-agent", flag.ContinueOnError)
	flags.SetOutput(stderr)
	config := flags.String("config", "/boot/config.json", "the device's config.json; the provisioning key in it is destroyed after use")
	state := flags.String("state", "/var/lib/roadstead", "directory for what must survive a restart")
	runDir := flags.String("run", "/run/roadstead", "directory for what may vanish with a reboot")
	downloads := flags.String("downloads", "", `directory for images while they come, so that one that is cut off goes on from there (default: "downloads" in the state directory); "none" keeps nothing`)
	host := flags.String("engine", engine.DefaultHost, "where the container engine listens: unix:///path or tcp://host:port")
	certs := flags.String("certs-dir", engine.DefaultCertsDir, "where the engine looks for the certificates of registries")
	openvpn := flags.String("openvpn", "", "the openvpn program (default: from the PATH)")
	noChannel := flags.Bool("no-channel", false, "keep the control channel shut, whatever the server says; the file "+channel.OwnerLock+" does the same")
	power := flags.String("power-command", "", `a program that takes the device down; it gets "reboot" or "shutdown" (default: the system's own reboot and poweroff)`)
	led := flags.String("led", "", "the file that lights the device's light, such as /sys/class/leds/ACT/brightness")
	tpm := flags.String("tpm", "", "the TPM that seals the device's keys where config.json says so: a device, or the Unix socket of one in software (default: /dev/tpmrm0 or /dev/tpm0)")
	once := flags.Bool("once", false, "apply the target state once, report, and end")
	level := flags.String("log-level", "info", "debug, info, warn or error")
	showVersion := flags.Bool("version", false, "print the version and end")
	flags.Usage = func() {
		_, _ = io.WriteString(flags.Output(), usage)
		flags.PrintDefaults()
		_, _ = io.WriteString(flags.Output(), examples)
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	case flags.NArg() > 0:
		_, _ = fmt.Fprintf(stderr, "roadstead-agent: unexpected argument %q; see --help\n", flags.Arg(0))
		return exitUsage
	}
	if *showVersion {
		_, _ = fmt.Fprintf(stdout, "roadstead-agent %s %s\n", version, built)
		return 0
	}
	var logLevel slog.Level
	if err := logLevel.UnmarshalText([]byte(*level)); err != nil {
		_, _ = fmt.Fprintf(stderr, "roadstead-agent: --log-level: %v\n", err)
		return exitUsage
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: logLevel}))

	// A device is small: collect early, and hard when near the limit.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(16 << 20)

	docker, err := engine.New(*host)
	if err != nil {
		log.Error("could not start", "error", err)
		return exitUsage
	}
	socket, _ := strings.CutPrefix(*host, "unix://")
	a, err := agent.New(agent.Config{
		ConfigPath: *config, StateDir: *state, RunDir: *runDir, Downloads: *downloads, Engine: docker, EngineSocket: socket, CertsDir: *certs, TPM: *tpm,
		Version: version, Log: log, Channel: &agent.Channel{Program: *openvpn, Locked: *noChannel}, Power: *power, LED: *led,
	})
	if err != nil {
		log.Error("could not start", "error", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log.Info("starting", "version", version)
	if *once {
		err = a.Once(ctx)
	} else {
		err = a.Run(ctx)
	}
	switch {
	case err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled):
		return 0
	case errors.Is(err, agent.ErrRunning):
		log.Error("another agent is running with the same config.json or state directory", "error", err)
		return exitRunning
	case errors.Is(err, agent.ErrConfig):
		log.Error("could not start", "error", err)
		return exitUsage
	}
	log.Error("ended", "error", err)
	return exitFailed
}
