package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/roadstead-io/roadstead/internal/agent/deviceapi"
	"github.com/roadstead-io/roadstead/internal/agent/identity"
	"github.com/roadstead-io/roadstead/internal/agent/proxy"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

var hostnameRule = pattern.New(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

// tryProxy is how long a new proxy has to reach the server.
const tryProxy = 20 * time.Second

// HostConfig tells the host name and the proxy.
func (a *Agent) HostConfig(context.Context) (deviceapi.HostConfig, error) {
	name, err := os.Hostname()
	return deviceapi.HostConfig{Hostname: name, Proxy: a.proxy.Get()}, err
}

// SetHostConfig sets the host name; an empty one is the beginning of the uuid. It sets the proxy of what the agent connects to from now on:
// what is open stays so. The device is reached by nothing but these connections, so a proxy that cuts it off is refused.
func (a *Agent) SetHostConfig(ctx context.Context, change deviceapi.HostChange, force bool) error {
	a.confMu.Lock()
	defer a.confMu.Unlock()
	name := ""
	if change.Hostname != nil {
		if name = *change.Hostname; name == "" {
			name = string(a.who.UUID[:7])
		}
		if !hostnameRule.MatchString(name) {
			return fmt.Errorf("%w: %.80q is no host name", deviceapi.ErrInvalid, name)
		}
	}
	if change.Proxy != nil || change.NoProxy {
		if err := a.setProxy(ctx, change, force); err != nil {
			return err
		}
	}
	if change.Hostname == nil {
		return nil
	}
	set := a.cfg.SetHostname
	if set == nil {
		set = setHostname
	}
	if err := identity.SetHostname(a.cfg.ConfigPath, name); err != nil {
		return err
	}
	return set(name)
}

func (a *Agent) setProxy(ctx context.Context, change deviceapi.HostChange, force bool) error {
	var to *proxy.Setting
	through := http.ProxyFromEnvironment
	if change.Proxy != nil {
		before := a.proxy.Get()
		if before == nil {
			before = &proxy.Setting{}
		}
		after := before.With(*change.Proxy)
		if err := after.Check(); err != nil {
			return fmt.Errorf("%w: %w", deviceapi.ErrInvalid, err)
		}
		to, through = &after, after.For
	}
	if !force {
		ctx, cancel := context.WithTimeout(ctx, tryProxy)
		defer cancel()
		if err := a.server.Reached(ctx, through); err != nil {
			return fmt.Errorf("%w: network.proxy: the server would not be reached any more (force sets it all the same): %w", deviceapi.ErrInvalid, err)
		}
	}
	if err := a.proxy.Set(to); err != nil {
		return err
	}
	a.log.Info("what the agent's proxy is was set through the device API", "proxy", to != nil)
	a.server.Close() // what is idle; the next request goes the new way
	return nil
}

func setHostname(name string) error {
	return errors.Join(durable.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644), syscall.Sethostname([]byte(name)))
}
