package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/remote"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// farewell is how long a device that is to go down keeps talking, so that who asked hears of it.
const farewell = time.Second

// descent is a reboot or shutdown that will happen.
type descent struct {
	what    string
	release func() // the update locks that were taken for it
}

// Reboot starts the device anew.
func (a *Agent) Reboot(_ context.Context, force bool) error { return a.descend("reboot", force) }

// Shutdown switches the device off.
func (a *Agent) Shutdown(_ context.Context, force bool) error { return a.descend("shutdown", force) }

func (a *Agent) descend(what string, force bool) error {
	if _, err := a.powerCommand(what); err != nil {
		return err
	}
	want := a.wanted()
	release, err := a.locks().Take(a.lockable(want, nil), force || a.overridden(want))
	if err != nil {
		return err
	}
	select {
	case a.down <- descent{what, release}:
		a.logs.system(map[string]string{"reboot": "Rebooting", "shutdown": "Shutting down"}[what])
		return nil
	default:
		release()
		return errors.New("the device is going down already")
	}
}

// powerCommand is what takes the device down.
func (a *Agent) powerCommand(what string) ([]string, error) {
	if a.cfg.Power != "" {
		return []string{a.cfg.Power, what}, nil
	}
	program := map[string]string{"reboot": "reboot", "shutdown": "poweroff"}[what]
	for _, name := range []string{program, "/sbin/" + program, "/usr/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return []string{path}, nil
		}
	}
	return nil, fmt.Errorf("%w: it has no program %s", deviceapi.ErrMissing, program)
}

// goDown does what Reboot and Shutdown promise.
func (a *Agent) goDown(ctx context.Context) error {
	for {
		var d descent
		select {
		case <-ctx.Done():
			return nil
		case d = <-a.down:
		}
		err := remote.Sleep(ctx, farewell)
		if err == nil {
			var command []string
			if command, err = a.powerCommand(d.what); err == nil {
				a.log.Warn("the device goes down", "how", d.what)
				err = run(ctx, command...)
			}
		}
		if err == nil {
			_ = remote.Sleep(ctx, time.Minute) // until it is down; a device that stays up goes on
		} else if ctx.Err() == nil {
			a.log.Error("could not "+d.what, "error", err)
			a.logs.system(fmt.Sprintf("Could not %s: %v", d.what, err))
		}
		d.release()
	}
}

func run(ctx context.Context, command ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(out.String()))
	}
	return nil
}

// blinkFor is how long the device shows which one it is.
const blinkFor = 15 * time.Second

// Blink lets the device's light blink, if it has one, and says so in its log.
func (a *Agent) Blink(context.Context) error {
	a.log.Info("identify: this is the device")
	a.logs.system("This device was asked to show itself")
	poke(a.blink)
	return nil
}

func (a *Agent) blinkOn(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.blink:
		}
		if a.cfg.LED == "" {
			continue
		}
		for end := time.Now().Add(blinkFor); time.Now().Before(end) && ctx.Err() == nil; {
			for _, light := range []string{"1", "0"} {
				if err := os.WriteFile(a.cfg.LED, []byte(light), 0); err != nil {
					a.log.Warn("the light does not blink", "error", err)
					end = time.Now()
				}
				_ = remote.Sleep(ctx, 250*time.Millisecond) // the loop sees the end
			}
		}
	}
}

// Journal runs journalctl. Every value goes to it within one argument, so none can be taken for an option.
func (a *Agent) Journal(ctx context.Context, what deviceapi.Journal, to io.Writer) error {
	program, err := exec.LookPath("journalctl")
	if err != nil {
		return fmt.Errorf("%w: it has no journal", deviceapi.ErrMissing)
	}
	args := []string{"--no-pager"}
	for _, opt := range []struct {
		on   bool
		text string
	}{
		{what.All, "--all"}, {what.Follow, "--follow"}, {what.Count > 0, "--lines=" + strconv.Itoa(what.Count)}, {what.Unit != "", "--unit=" + what.Unit},
		{true, "--output=" + orShort(what.Format)}, {what.Since != "", "--since=" + what.Since}, {what.Until != "", "--until=" + what.Until},
	} {
		if opt.on {
			args = append(args, opt.text)
		}
	}
	if what.ContainerID != "" {
		if !hexRule.MatchString(what.ContainerID) {
			return fmt.Errorf("%w: %.80q is no container", deviceapi.ErrInvalid, what.ContainerID)
		}
		args = append(args, "CONTAINER_ID_FULL="+what.ContainerID)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.WaitDelay = to, time.Second
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("journalctl: %w", err)
	}
	return nil
}

var hexRule = pattern.New(`^[0-9a-f]{12,64}$`)

func orShort(format string) string {
	if format == "" {
		return "short"
	}
	return format
}
