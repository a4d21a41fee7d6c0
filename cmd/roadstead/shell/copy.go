package shell

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// place is one end of a copy.
type place struct {
	device  string // "": here
	service string // "": the device itself
	path    string
}

var serviceName = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// parsePlace reads PATH, DEVICE:PATH or DEVICE:SERVICE:PATH. A path here with a colon in it begins with ./ or /.
func parsePlace(text string) place {
	device, rest, remote := strings.Cut(text, ":")
	if !remote || strings.ContainsRune(device, '/') || device == "" || device == "." || len(device) == 1 && filepath.Separator == '\\' {
		return place{path: text}
	}
	p := place{device: device, path: rest}
	if service, path, ok := strings.Cut(rest, ":"); ok && serviceName.MatchString(service) {
		p.service, p.path = service, path
	}
	if p.path == "" {
		p.path = "."
	}
	return p
}

func (a shell) copy() *cobra.Command {
	var identity string
	cmd := a.Command(cmdline.Action{
		Use: "cp SOURCE... DESTINATION", Short: "Copy files and directories to a device or from it", Least: 2, Most: -1,
		Long: `Copy files and directories, with their times and modes, between here and a device, or a service on it, with the machine's own scp. An end on a
device is DEVICE:PATH, one in a service DEVICE:SERVICE:PATH. On a terminal the progress is shown. Who may, and with what, is as for device ssh.`,
		Example: `  roadstead device cp app.conf kitchen:/etc/app.conf
  roadstead device cp kitchen:/var/log ./logs
  roadstead device cp ./assets kitchen:web:/srv/assets
  roadstead device cp kitchen:web:/srv/data.db .`,
		Complete: cmdline.ThenFiles(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			places := make([]place, len(args))
			for i, text := range args {
				places[i] = parsePlace(text)
			}
			far, err := farEnd(places)
			if err != nil {
				return err
			}
			p, err := a.prepare(ctx, c, far.device, false, identity)
			if err != nil {
				return err
			}
			defer p.forget()
			user, host := login(far.service), string(p.uuid)
			if p.gateway != "" { // where the device stands in the place of the user
				if user, host = string(p.uuid), p.gateway; far.service != "" {
					user += "+" + far.service
				}
			}
			with := append(p.options, "-o", "User="+user, "-r", "-p", "--")
			for _, one := range places {
				if one.device == "" {
					with = append(with, here(one.path))
				} else {
					with = append(with, host+":"+one.path)
				}
			}
			return a.run("scp", with)
		},
	})
	cmd.Flags().StringVarP(&identity, "identity", "i", "", "`FILE` of the uploaded SSH key to enter with, where one is needed")
	return cmd
}

// farEnd is the one device that a copy is with.
func farEnd(places []place) (far place, err error) {
	last := places[len(places)-1]
	for _, one := range places[:len(places)-1] {
		if (one.device == "") == (last.device == "") {
			return far, cmdline.Usagef("one end of a copy is on a device and the other is here: DEVICE:PATH")
		}
		if one.device != "" && far.device != "" && (one.device != far.device || one.service != far.service) {
			return far, cmdline.Usagef("a copy is from one device, or one service on it")
		}
		if one.device != "" {
			far = one
		}
	}
	if last.device != "" {
		far = last
	}
	return far, nil
}

// here keeps a local path from being read as one on another machine, or as an option.
func here(path string) string {
	if strings.HasPrefix(path, "/") || strings.HasPrefix(path, "./") || strings.HasPrefix(path, "../") || path == "." || path == ".." {
		return path
	}
	return "./" + path
}
