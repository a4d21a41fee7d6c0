package sshgate

import (
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

const maxCommand = 64 << 10

// usage is what somebody is told who says nothing that we understand.
const usage = `Say which device, and what in it:
  ssh … host UUID [COMMAND]             the device itself
  ssh … service UUID NAME [COMMAND]     a service on it
  ssh … enter UUID CONTAINER            a container, by its id
Files come by scp or sftp, with the device in the place of the user: UUID@…, or UUID+NAME@… for a service.`

// wish is where somebody wants to be.
type wish struct {
	device  api.DeviceUUID
	user    string // with which the device is entered
	command string // "" is a shell
	files   bool   // the subsystem sftp, and no command
	inside  string // the service, or the container; "" is the device itself
	id      bool   // inside is a container's id
	own     bool   // the device's SSH server is none of ours
	what    string // for the audit log
}

var (
	uuidForm      = pattern.New(`^([0-9a-f]{32}|[0-9a-f]{62})$`)
	containerForm = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
)

// parse reads a command as the command line of balena sends it, or people write it. What follows the device is for the device, as it is.
func parse(text string) (w wish, err error) {
	if len(text) > maxCommand {
		return w, &plain{"the command is too long"}
	}
	verb, rest := word(text)
	uuid, rest := word(rest)
	if verb != "host" && verb != "enter" && verb != "service" {
		return w, &plain{usage}
	}
	if !uuidForm.MatchString(uuid) {
		return w, &plain{"a device is named by its whole uuid: 32 digits 0-9 a-f"}
	}
	w.device, w.user, w.what = api.DeviceUUID(uuid), "root", "host"
	if verb != "host" {
		var name string
		if name, rest = word(rest); !containerForm.MatchString(name) {
			return w, &plain{"name the service, or the container"}
		}
		if verb == "enter" && strings.TrimSpace(rest) != "" {
			return w, &plain{"a container is entered without a command; `service` takes one"}
		}
		w.user, w.what, w.inside, w.id = api.SSHServicePrefix+name, name, name, verb == "enter"
	}
	w.command = strings.TrimSpace(rest)
	return w, nil
}

// files reads whose files somebody wants, from the user name that they come with.
func files(login string) (w wish, err error) {
	uuid, service, inside := strings.Cut(login, "+")
	if !uuidForm.MatchString(uuid) || inside && !containerForm.MatchString(service) {
		return w, &plain{usage}
	}
	w = wish{device: api.DeviceUUID(uuid), user: "root", what: "files of the host", files: true}
	if inside {
		w.user, w.what, w.inside = api.SSHServicePrefix+service, "files of "+service, service
	}
	return w, nil
}

// word takes the first word off a text.
func word(text string) (first, rest string) {
	first, rest, _ = strings.Cut(strings.TrimLeft(text, " \t"), " ")
	return first, rest
}

// printable keeps what came from outside from being more than text on somebody's terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 || r == 0xfffd {
			return '?'
		}
		return r
	}, text)
}
