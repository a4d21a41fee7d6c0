package engine

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
)

// Exec is a program to be run in a container beside what runs there.
type Exec struct {
	Container  string
	Command    []string
	Env        []string
	TTY        bool
	Rows, Cols uint // of the terminal
}

// Running is a program that was started in a container.
type Running struct {
	docker *client.Client
	id     string
	tty    bool
	conn   client.HijackedResponse
}

// Exec starts a program.
func (c *Client) Exec(ctx context.Context, e Exec) (*Running, error) {
	size := client.ConsoleSize{Height: e.Rows, Width: e.Cols}
	if !e.TTY {
		size = client.ConsoleSize{}
	}
	made, err := c.docker.ExecCreate(ctx, e.Container, client.ExecCreateOptions{
		TTY: e.TTY, ConsoleSize: size, AttachStdin: true, AttachStdout: true, AttachStderr: true, Env: e.Env, Cmd: e.Command,
	})
	if err != nil {
		return nil, fmt.Errorf("run in container %s: %w", e.Container, err)
	}
	got, err := c.docker.ExecAttach(ctx, made.ID, client.ExecAttachOptions{TTY: e.TTY, ConsoleSize: size})
	if err != nil {
		return nil, fmt.Errorf("run in container %s: %w", e.Container, err)
	}
	return &Running{docker: c.docker, id: made.ID, tty: e.TTY, conn: got.HijackedResponse}, nil
}

// Write gives the program input.
func (r *Running) Write(p []byte) (int, error) { return r.conn.Conn.Write(p) }

// CloseWrite ends its input.
func (r *Running) CloseWrite() error { return r.conn.CloseWrite() }

// Close ends the connection to it, which does not end the program.
func (r *Running) Close() { r.conn.Close() }

// Copy hands on what it puts out, until it ends.
func (r *Running) Copy(stdout, stderr io.Writer) error {
	var err error
	if r.tty {
		_, err = io.Copy(stdout, r.conn.Reader)
	} else {
		_, err = stdcopy.StdCopy(stdout, stderr, r.conn.Reader)
	}
	return err
}

// Resize tells it the size of its terminal.
func (r *Running) Resize(ctx context.Context, rows, cols uint) error {
	_, err := r.docker.ExecResize(ctx, r.id, client.ExecResizeOptions{Height: rows, Width: cols})
	return err
}

// State says whether it runs, under which process id of the engine's machine, and with which code it ended.
func (r *Running) State(ctx context.Context) (running bool, pid, code int, err error) {
	got, err := r.docker.ExecInspect(ctx, r.id, client.ExecInspectOptions{})
	if err != nil {
		return false, 0, 0, fmt.Errorf("look at what runs: %w", err)
	}
	return got.Running, got.PID, got.ExitCode, nil
}

// Inside says where a running container is: the process whose root directory is its own, on the engine's machine, and its addresses.
func (c *Client) Inside(ctx context.Context, id string) (pid int, addresses []string, err error) {
	got, err := c.docker.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return 0, nil, fmt.Errorf("look at container %s: %w", id, err)
	}
	if got.Container.State != nil {
		pid = got.Container.State.Pid
	}
	if got.Container.NetworkSettings != nil {
		for _, n := range got.Container.NetworkSettings.Networks {
			if n != nil && n.IPAddress.IsValid() {
				addresses = append(addresses, net.IP(n.IPAddress.AsSlice()).String())
			}
		}
	}
	return pid, addresses, nil
}
