// Package reach holds the commands with which people reach a port of a device: tunnels, and the public address.
package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// reach adds its commands to what they stand on.
type reach struct{ *cmdline.App }

// DeviceCommands are those of this package that stand under `roadstead device`.
func DeviceCommands(app *cmdline.App) []*cobra.Command {
	a := reach{app}
	return []*cobra.Command{a.tunnel(), a.url(), a.vpn()}
}

// mapping is one -p: a port of the device, and where it is found here.
type mapping struct {
	Remote int    `json:"remote"`
	Local  string `json:"local"` // address and port
}

// parseMapping reads REMOTE[:[LOCALIP:]LOCALPORT].
func parseMapping(text string) (m mapping, err error) {
	bad := cmdline.Usagef("--port %q: write REMOTE, REMOTE:LOCAL or REMOTE:ADDRESS:LOCAL, such as 22222:127.0.0.1:4321", text)
	remote, local, _ := strings.Cut(text, ":")
	if m.Remote, err = port(remote); err != nil {
		return m, bad
	}
	host, number := "127.0.0.1", remote
	if local != "" {
		if _, err := strconv.ParseUint(local, 10, 16); err == nil {
			number = local
		} else if i := strings.LastIndexByte(local, ':'); i >= 0 && !strings.HasSuffix(local, "]") {
			host, number = local[:i], local[i+1:]
		} else {
			host = local
		}
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" || host == "" {
		host = "127.0.0.1"
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return m, bad
	}
	if n, err := strconv.ParseUint(number, 10, 16); err != nil || n == 0 && number != "0" {
		return m, bad
	}
	m.Local = net.JoinHostPort(host, number)
	return m, nil
}

func port(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err == nil && n == 0 {
		err = errors.New("0 is no port")
	}
	return int(n), err
}

func (a reach) tunnel() *cobra.Command {
	var specs []string
	cmd := a.Command(cmdline.Action{
		Use: "tunnel DEVICE -p REMOTE[:[ADDRESS:]LOCAL]...", Short: "Make ports of a device ports of this computer",
		Long: `Make ports of a device ports of this computer, for as long as the command runs. What connects to a local port is connected to that port of the device,
through the server; the device needs no address of its own. Without a local port it has the number of the remote one, and without an address
only this computer can connect. While the device is away for a moment, connections wait for it.

Everything that listens on the device can be reached, unless the fleet's variable ROADSTEAD_TUNNEL_PORTS names the ports that may be.`,
		Example: `  roadstead device tunnel kitchen -p 22222:4321
  roadstead device tunnel kitchen -p 80:8080 -p 5432
  roadstead device tunnel kitchen -p 80:192.168.1.5:8080`,
		Least: 1, Most: 1, Complete: cmdline.First(a.Devices()),
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			if len(specs) == 0 {
				return cmdline.Usagef("say which ports: -p 80:8080")
			}
			var maps []mapping
			for _, spec := range specs {
				m, err := parseMapping(spec)
				if err != nil {
					return err
				}
				maps = append(maps, m)
			}
			return a.tunnels(ctx, c, args[0], maps)
		},
	})
	cmd.Flags().StringArrayVarP(&specs, "port", "p", nil, "a port of the device, and where it is to be found here: `REMOTE[:[ADDRESS:]LOCAL]`; may be given again")
	return cmd
}

// tunnels listens for every mapping until the context ends.
func (a reach) tunnels(ctx context.Context, c *client.Client, ref string, maps []mapping) error {
	d, err := c.FindDevice(ctx, ref, client.Query{Select: "id,uuid,device_name"})
	if err != nil {
		return err
	}
	t := tunnels{reach: a, c: c, uuid: api.DeviceUUID(d.UUID), name: d.Name}
	if err := t.online(ctx, d.ID); err != nil {
		return err
	}
	var listeners []net.Listener
	defer func() {
		for _, ln := range listeners {
			_ = ln.Close()
		}
	}()
	for i, m := range maps {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", m.Local)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", m.Local, err)
		}
		listeners = append(listeners, ln)
		maps[i].Local = ln.Addr().String()
	}
	for _, m := range maps {
		if a.Output == "json" {
			if err := a.Line(m); err != nil {
				return err
			}
			continue
		}
		a.Say("%s is port %d of %s.", m.Local, m.Remote, d.Name)
	}
	if a.Output != "json" {
		a.Say("Stop it with Ctrl-C.")
	}
	var wait sync.WaitGroup
	for i, ln := range listeners {
		wait.Go(func() { t.serve(ctx, ln, maps[i].Remote) })
	}
	<-ctx.Done()
	for _, ln := range listeners {
		_ = ln.Close()
	}
	wait.Wait()
	return ctx.Err()
}

// tunnels is what all connections to one device have in common.
type tunnels struct {
	reach
	c    *client.Client
	uuid api.DeviceUUID
	name string
}

// online refuses to begin with a device that is not there.
func (t tunnels) online(ctx context.Context, id int64) error {
	rows, err := client.Get[struct {
		Connected bool `json:"is_connected_to_vpn"`
	}](ctx, t.c, "device", client.Query{Select: "id,is_connected_to_vpn", Filter: client.Where("id eq ?", id)})
	if err != nil {
		return err
	}
	if len(rows) == 1 && !rows[0].Connected {
		return api.Errorf(api.Unavailable, "%s is offline: its control channel is not connected (see `roadstead device vpn status %s`)", t.name, terminal.Short(string(t.uuid)))
	}
	return nil
}

func (t tunnels) serve(ctx context.Context, ln net.Listener, remote int) {
	var wait sync.WaitGroup
	defer wait.Wait()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		wait.Go(func() {
			defer func() { _ = conn.Close() }()
			if err := t.carry(ctx, conn, remote); err != nil && ctx.Err() == nil {
				t.Say("port %d of %s: %v", remote, t.name, err)
			}
		})
	}
}

// away is for how long a connection waits for a device that is not there, and how often it is looked for.
const (
	away      = 30 * time.Second
	lookEvery = time.Second
)

// carry connects a local connection to the device.
func (t tunnels) carry(ctx context.Context, local net.Conn, remote int) error {
	var device net.Conn
	for began := time.Now(); ; {
		var err error
		if device, err = t.c.Tunnel(ctx, t.uuid, remote); err == nil {
			break
		}
		if !errors.Is(err, client.ErrOffline) || time.Since(began) > away {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookEvery):
		}
	}
	defer func() { _ = device.Close() }()
	stop := context.AfterFunc(ctx, func() { _, _ = local.Close(), device.Close() })
	defer stop()
	var wait sync.WaitGroup
	wait.Go(func() { pass(device, local) })
	wait.Go(func() { pass(local, device) })
	wait.Wait()
	return nil
}

// pass copies one way, and hands the end on; when that cannot be, the other way ends too.
func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	half, ok := to.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		_, _ = to.Close(), from.Close()
	}
}
