package act

import (
	"encoding/json"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

// hostFlags say what is set of a host configuration.
type hostFlags struct {
	set          *pflag.FlagSet
	hostname     string
	proxy        string
	passwordFile string
	noProxy      []string
}

func (h *hostFlags) add(fs *pflag.FlagSet) {
	h.set = fs
	fs.StringVar(&h.hostname, "hostname", "", "the host `NAME`; an empty one is the beginning of the uuid")
	fs.StringVar(&h.proxy, "proxy", "", "the proxy of what the agent itself connects to: http-connect://[LOGIN@]HOST:PORT, socks5://…, or \"none\"; see docs/agent.md")
	fs.StringVar(&h.passwordFile, "proxy-password-file", "", "`FILE` whose first line is the password for the proxy")
	fs.StringSliceVar(&h.noProxy, "no-proxy", nil, "`ADDRESS`, network or name that is reached without the proxy; may be given several times")
}

func forceUsage(v api.ActionVerb) string {
	if v == api.ActHostConfig {
		return "even a proxy by which the server is not reached: the device may be cut off"
	}
	return "even if a service holds an update lock"
}

// network is what the flags say, as the device takes it.
func (h *hostFlags) network() (json.RawMessage, error) {
	network := map[string]any{}
	if h.set.Changed("hostname") {
		network["hostname"] = h.hostname
	}
	proxy := map[string]any{}
	if h.proxy != "" && h.proxy != "none" {
		u, err := url.Parse(h.proxy)
		if err != nil || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.RawQuery != "" {
			return nil, cmdline.Usagef("--proxy %.200q is not like http-connect://HOST:PORT", h.proxy)
		}
		if _, given := u.User.Password(); given {
			return nil, cmdline.Usagef("--proxy: every user of this machine sees a password there; give it with --proxy-password-file")
		}
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			return nil, cmdline.Usagef("--proxy: %q is no port", u.Port())
		}
		proxy["type"], proxy["ip"], proxy["port"] = u.Scheme, u.Hostname(), port
		if name := u.User.Username(); name != "" {
			proxy["login"] = name
		}
	}
	if h.passwordFile != "" {
		text, err := os.ReadFile(h.passwordFile)
		if err != nil {
			return nil, err
		}
		proxy["password"], _, _ = strings.Cut(strings.TrimRight(string(text), "\r\n"), "\n")
	}
	if h.set.Changed("no-proxy") {
		proxy["noProxy"] = h.noProxy
	}
	switch {
	case h.proxy == "none" && len(proxy) > 0:
		return nil, cmdline.Usagef("--proxy none has neither a password nor exceptions")
	case h.proxy == "none" || len(proxy) > 0:
		network["proxy"] = proxy
	}
	if len(network) == 0 {
		return nil, cmdline.Usagef("give --hostname or --proxy")
	}
	return json.Marshal(network)
}
