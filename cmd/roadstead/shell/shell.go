// Package shell holds the commands with which people enter devices: shells, files, and who was in. They run the machine's own ssh and scp,
// with a key and a certificate that are for this one session, through the server's tunnel.
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/internal/sshentry"
)

// shell adds its commands to what they stand on.
type shell struct{ *cmdline.App }

// DeviceCommands are those of this package that stand under `roadstead device`.
func DeviceCommands(app *cmdline.App) []*cobra.Command {
	a := shell{app}
	return []*cobra.Command{a.ssh(), a.copy(), a.sessions(), a.proxy(), a.hostKey()}
}

func (a shell) ssh() *cobra.Command {
	var forward []string
	var known bool
	var identity string
	cmd := a.Command(cmdline.Action{
		Use: "ssh DEVICE [SERVICE] [-- COMMAND...]", Short: "Enter a device, or a service on it, over SSH", Most: -1, Complete: cmdline.First(a.Devices()),
		Long: `Enter a device, or one of its services, with the machine's own ssh. There is no password and no key to be put anywhere: the server signs a
certificate for this one device, which opens a connection within five minutes and holds for no other. Its end is that of ssh.

The device's host key is certified too: nothing else passes for the device, not even the first time. Escapes (~.) and terminals work as ever.

Support staff whom an owner let in, and everybody where the device's SSH server is none of ours (balenaOS), enter with an SSH key that they uploaded (roadstead ssh-key add), through the server's gateway: the one in ssh-agent or
in ~/.ssh/id_*, or the one that -i names. It forwards no ports.`,
		Example: `  roadstead device ssh kitchen
  roadstead device ssh kitchen web
  roadstead device ssh kitchen -- uname -a
  roadstead device ssh kitchen web -- cat /etc/hostname
  roadstead device ssh kitchen -L 8080:localhost:80
  roadstead device ssh kitchen -i ~/.ssh/support
  roadstead device ssh --known-hosts >>~/.ssh/known_hosts`,
	})
	cmd.Flags().StringArrayVarP(&forward, "forward", "L", nil, "forward `[ADDRESS:]PORT:HOST:PORT` to the device's own ports (HOST is localhost) or a service's (its name)")
	cmd.Flags().StringVarP(&identity, "identity", "i", "", "`FILE` of the uploaded SSH key to enter with, where one is needed")
	cmd.Flags().BoolVar(&known, "known-hosts", false, "print the lines for known_hosts, with which plain ssh knows the gateway and devices, and end")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		c, err := a.Connect(ctx)
		if err != nil {
			return err
		}
		if known {
			return a.knownHosts(ctx, c)
		}
		names, command := args, []string(nil)
		if at := cmd.ArgsLenAtDash(); at >= 0 {
			names, command = args[:at], args[at:]
		}
		if len(names) < 1 || len(names) > 2 {
			return cmdline.Usagef("name a device, and if you like a service on it; a command comes after --")
		}
		service := ""
		if len(names) == 2 {
			if service = names[1]; !serviceName.MatchString(service) {
				return cmdline.Usagef("%q is no name of a service", service)
			}
		}
		p, err := a.prepare(ctx, c, names[0], len(forward) > 0, identity)
		if err != nil {
			return err
		}
		defer p.forget()
		var more []string
		for _, f := range forward {
			more = append(more, "-L", f)
		}
		both := isTerminal(a.In) && isTerminal(a.Out)
		if both && (len(command) > 0 || p.gateway != "") {
			more = append(more, "-t")
		}
		if p.gateway != "" {
			return a.run("ssh", slices.Concat(p.options, more, []string{"-l", p.user, p.gateway, p.wish(service, command)}))
		}
		more = append(more, "-l", login(service), string(p.uuid))
		return a.run("ssh", slices.Concat(p.options, more, command))
	}
	return cmd
}

// knownHosts prints whom plain ssh may believe.
func (a shell) knownHosts(ctx context.Context, c *client.Client) error {
	var known struct {
		api.SSHAuthorities
		Gateway api.SSHSite `json:"gateway"`
	}
	if err := c.Do(ctx, http.MethodGet, "/ssh/v1/authorities", nil, &known); err != nil {
		return err
	}
	names := "*.roadstead,*.balena"
	if host, _, ok := strings.Cut(known.Gateway.KnownHosts, " "); ok {
		names = host + "," + names
	}
	_, err := fmt.Fprintf(a.Out, "@cert-authority %s %s\n", names, known.Hosts)
	return err
}

// pass is all that ssh needs for one session.
type pass struct {
	uuid    api.DeviceUUID
	dir     string
	options []string
	gateway string // its name, where the way leads through it: to the device itself otherwise
	user    string // at the gateway
}

// login is the user name with which one enters a device, or a service on it.
func login(service string) string {
	if service == "" {
		return "root"
	}
	return api.SSHServicePrefix + service
}

// wish is the command that tells the gateway where to go and what to do there.
func (p *pass) wish(service string, command []string) string {
	words := []string{"host", string(p.uuid)}
	if service != "" {
		words = []string{"service", string(p.uuid), service}
	}
	return strings.Join(append(words, command...), " ")
}

func (p *pass) forget() { _ = os.RemoveAll(p.dir) }

// prepare finds the way into a device, and makes what ssh needs for it: a key for one session with a certificate for it, or what the gateway
// asks for.
func (a shell) prepare(ctx context.Context, c *client.Client, ref string, forward bool, identity string) (p *pass, err error) {
	d, err := c.FindDevice(ctx, ref, client.Query{Select: "id,uuid,device_name"})
	if err != nil {
		return nil, err
	}
	up, err := client.Get[struct {
		Connected bool `json:"is_connected_to_vpn"`
	}](ctx, c, "device", client.Query{Select: "id,is_connected_to_vpn", Filter: client.Where("uuid eq ?", d.UUID)})
	if err != nil {
		return nil, err
	}
	if len(up) == 1 && !up[0].Connected {
		return nil, fmt.Errorf("device %s is offline: its control channel is not up (see `roadstead device vpn status`)", d.Name)
	}
	way, err := askWay(ctx, c, d)
	if err != nil {
		return nil, err
	}
	if way.Way == api.SSHByGateway {
		if forward {
			return nil, fmt.Errorf("device %s is entered through the gateway, which forwards no ports", d.Name)
		}
		if p, err = a.gatewayPass(ctx, c, d, way, identity); err == nil {
			p.user = way.User
		}
		return p, err
	}
	return a.certified(ctx, c, d, forward)
}

// certified makes a key for one session and has a certificate signed for it.
func (a shell) certified(ctx context.Context, c *client.Client, d *client.Device, forward bool) (p *pass, err error) {
	key, err := sshentry.NewKey()
	if err != nil {
		return nil, err
	}
	var made api.SSHCertificate
	ask := api.SSHCertificateAsk{Device: api.DeviceUUID(d.UUID), PublicKey: key.Public(), Forward: forward}
	if err := c.Do(ctx, http.MethodPost, "/ssh/v1/certificate", ask, &made); err != nil {
		return nil, fmt.Errorf("enter device %s: %w", d.Name, err)
	}
	private, err := key.PEM()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "roadstead-ssh-") // for its owner alone
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	for name, text := range map[string][]byte{
		"id": private, "id-cert.pub": []byte(made.Certificate + "\n"), "known_hosts": []byte("@cert-authority " + d.UUID + " " + made.Hosts + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	way, err := a.way(d.UUID)
	if err != nil {
		return nil, err
	}
	p = &pass{uuid: api.DeviceUUID(d.UUID), dir: dir}
	p.options = append([]string{"-F", "none"}, options(
		"IdentityFile="+filepath.Join(dir, "id"), "CertificateFile="+filepath.Join(dir, "id-cert.pub"), "IdentitiesOnly=yes", "IdentityAgent=none",
		"UserKnownHostsFile="+filepath.Join(dir, "known_hosts"), "GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes", "HostKeyAlias="+d.UUID,
		"PreferredAuthentications=publickey", "ServerAliveInterval=15", "LogLevel=ERROR", "ProxyCommand="+way,
	)...)
	return p, nil
}

// way is the command that carries ssh's bytes: this program itself, for the same server and with the same login.
func (a shell) way(uuid string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	command := quote(self)
	if a.URL != "" {
		command += " --url " + quote(a.URL)
	}
	return strings.ReplaceAll(command+" device ssh-proxy "+uuid, "%", "%%"), nil
}

// quote makes one word of a text for a shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// run runs a program of OpenSSH's in our place: its streams are ours, and its code is.
func (a shell) run(program string, args []string) error {
	cmd := exec.Command(program, args...) //nolint:gosec // ssh or scp
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.In, a.Out, a.Err
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("this needs the program %s of OpenSSH, which is not installed here", program)
	case errors.As(err, &exit):
		return &cmdline.ExitError{Code: exit.ExitCode()}
	}
	return err
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// proxy is what ssh runs to reach a device.
func (a shell) proxy() *cobra.Command {
	cmd := a.Command(cmdline.Action{
		Use: "ssh-proxy UUID", Short: "Carry the bytes of ssh to a device and back", Least: 1, Most: 1,
		Long: `Carry the bytes of ssh between standard input and output and a device's SSH server. Programs that speak SSH are given it as ProxyCommand;
roadstead device ssh does that by itself.`,
		Example: "  ssh -o ProxyCommand='roadstead device ssh-proxy %h' root@UUID",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			conn, err := c.Tunnel(ctx, api.DeviceUUID(args[0]), api.DeviceSSHPort)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			go func() { // ends with the program
				_, _ = io.Copy(conn, a.In)
				if half, ok := conn.(interface{ CloseWrite() error }); ok {
					_ = half.CloseWrite()
				}
			}()
			_, err = io.Copy(a.Out, conn)
			return err
		},
	})
	return cmd
}

func (a shell) sessions() *cobra.Command {
	var recording, end int64
	cmd := a.Command(cmdline.Action{
		Use: "sessions DEVICE", Short: "List who was in a device over SSH, and is", Least: 0, Most: 1, Complete: cmdline.First(a.Devices()),
		Long: `List who was in a device over SSH, and who is, newest first: from where, for how long, what for, and how it ended. A device that is gone is named
by its whole uuid. What sessions show is recorded where the variable ROADSTEAD_SSH_RECORD of the device or its fleet is true; --recording
prints it, as asciicast. --end ends a session that is open.`,
		Example: "  roadstead device sessions kitchen\n  roadstead device sessions --recording 17 >17.cast\n  roadstead device sessions --end 18",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if recording != 0 {
				var text string
				if err := c.Do(ctx, http.MethodGet, fmt.Sprintf("/ssh/v1/session/%d/recording", recording), nil, &text); err != nil {
					return err
				}
				_, err := io.WriteString(a.Out, text)
				return err
			}
			if end != 0 {
				if err := c.Do(ctx, http.MethodPost, fmt.Sprintf("/ssh/v1/session/%d/end", end), nil, nil); err != nil {
					return err
				}
				a.Say("Session %d is told to end.", end)
				return nil
			}
			if len(args) == 0 {
				return cmdline.Usagef("name a device")
			}
			return a.list(ctx, c, args[0])
		},
	})
	cmd.Flags().Int64Var(&end, "end", 0, "end the session with this `ID`")
	cmd.Flags().Int64Var(&recording, "recording", 0, "print the recording of the session with this `ID`")
	return cmd
}

func (a shell) list(ctx context.Context, c *client.Client, ref string) error {
	uuid := ref
	if d, err := c.FindDevice(ctx, ref, client.Query{Select: "id,uuid"}); err == nil {
		uuid = d.UUID
	} else if len(ref) != 32 {
		return err
	}
	list := []api.SSHSession{}
	if err := c.Do(ctx, http.MethodGet, "/ssh/v1/device/"+uuid+"/sessions", nil, &list); err != nil {
		return err
	}
	return a.Show(list, func() *terminal.Grid {
		g := &terminal.Grid{Head: []string{"Id", "Who", "From", "Began", "Ended", "What", "Where", "In", "Out", "Exit", "Why"}}
		for _, s := range list {
			who, exit := s.User, ""
			if s.Support {
				who += " (support)"
			}
			if s.Recording {
				exit = " (recorded)"
			}
			if s.Exit != nil {
				exit = fmt.Sprint(*s.Exit) + exit
			}
			g.Add(fmt.Sprint(s.ID), who, s.From, local(s.BeganAt), local(s.EndedAt), doing(s), s.Target, amount(s.BytesIn), amount(s.BytesOut), exit, s.Why)
		}
		return g
	})
}

// doing is what a session was for, with the first thing that it was asked to run.
func doing(s api.SSHSession) string {
	if len(s.Commands) == 0 {
		return s.Kind
	}
	first := []rune(s.Commands[0])
	text := s.Kind + ": " + string(first[:min(len(first), 40)])
	if len(first) > 40 {
		text += "…"
	}
	if s.CommandCount > 1 {
		text += fmt.Sprintf(" (and %d more)", s.CommandCount-1)
	}
	return text
}

// local is a moment as the clock of whoever reads it has it.
func local(at string) string {
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return at
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// amount is a number of bytes for people.
func amount(bytes int64) string {
	switch {
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	case bytes >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%d B", bytes)
}
