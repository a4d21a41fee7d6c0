package apiserver

import (
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/apiserver/vpndoor"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/web"
)

// configVars is GET /config/vars: which names a variable may have, and which configuration variables there are, for one device type
// or for those that all have. The rules themselves are enforced by the fleet package; this is their description for clients.
func (t *deviceTypes) configVars(w http.ResponseWriter, r *http.Request) error {
	properties := map[string]any{}
	for name, v := range supervisorVars {
		properties["BALENA_"+name] = v
	}
	maps.Copy(properties, vpndoor.Variables())
	properties[fleet.TunnelPorts] = text("Which ports of devices tunnels may lead to: a list such as 22222,8000-8099, or all, or none")
	properties[fleet.SSHRecord] = onOff("false", "Whether what SSH sessions show is recorded, and kept beside the list of them")
	if name := r.URL.Query().Get("deviceType"); name != "" {
		doc, err := t.find(r, name)
		if err != nil && !errors.Is(err, api.ErrNotFound) { // a type that nobody knows has what all have
			return err
		}
		for name, v := range boardVars(doc) {
			v.WillReboot = true
			properties["BALENA_HOST_"+name] = v
		}
	}
	return web.WriteJSON(w, http.StatusOK, map[string]any{
		"reservedNames":         []string{"RESIN", "BALENA", "USER"},
		"reservedNamespaces":    []string{"RESIN_", "BALENA_"},
		"invalidRegex":          `/^\d|\W/`,
		"configVarInvalidRegex": `/^[0-9:]|[^A-Za-z0-9_:]/`,
		"whiteListedNames":      whiteListed(),
		"whiteListedNamespaces": []string{"RESIN_HOST_", "BALENA_HOST_", "RESIN_UI_", "BALENA_UI_"},
		"blackListedNames": bothPrefixes("RESTART", "DEVICE_RESTART", "SUPERVISOR_OVERRIDE_LOCK", "SUPERVISOR_NATIVE_LOGGER",
			"HOST_LOG_TO_DISPLAY"),
		"configVarSchema": map[string]any{
			"type": "object", "$schema": "http://json-schema.org/draft-06/schema#", "properties": properties,
		},
	})
}

// variable describes one configuration variable in JSON schema, with the one word that clients look for besides. Values are always
// texts; the type says of what.
type variable struct {
	Type        string   `json:"type"`
	Enum        []string `json:"enum,omitempty"`
	Description string   `json:"description"`
	Default     any      `json:"default,omitempty"`
	WillReboot  bool     `json:"will_reboot,omitempty"`
}

// A variable that is on or off, one that is a number, and one that is any text.
func onOff(byDefault, text string) variable {
	return variable{Type: "string", Enum: []string{"true", "false"}, Default: byDefault, Description: text}
}

func number(byDefault int, text string) variable {
	return variable{Type: "integer", Default: byDefault, Description: text}
}

func text(text string) variable { return variable{Type: "string", Description: text} }

// reboots marks what takes effect with the next start only.
func reboots(v variable) variable {
	v.WillReboot = true
	return v
}

// supervisorVars are what every device reads. Source: balena supervisor 19.
var supervisorVars = map[string]variable{
	"SUPERVISOR_POLL_INTERVAL":          number(900000, "How often the device asks for its target state, in milliseconds"),
	"SUPERVISOR_INSTANT_UPDATE_TRIGGER": onOff("true", "Whether the device may be told to ask for its target state at once"),
	"SUPERVISOR_HARDWARE_METRICS":       onOff("true", "Whether the device reports CPU, memory, temperature and storage"),
	"SUPERVISOR_API_REQUEST_TIMEOUT":    number(59000, "How long the device waits for an answer of the server, in milliseconds"),
	"SUPERVISOR_DELTA":                  onOff("false", "Whether the device downloads differences between images"),
	"SUPERVISOR_DELTA_VERSION":          number(2, "Version of the format of differences"),
	"SUPERVISOR_DELTA_REQUEST_TIMEOUT":  number(59000, "How long to wait for a difference to be asked for, in milliseconds"),
	"SUPERVISOR_DELTA_APPLY_TIMEOUT":    number(0, "How long a difference may take to be applied, in milliseconds; 0 is for ever"),
	"SUPERVISOR_DELTA_RETRY_COUNT":      number(30, "How often the download of a difference is tried"),
	"SUPERVISOR_DELTA_RETRY_INTERVAL":   number(10000, "How long to wait between tries, in milliseconds"),
	"SUPERVISOR_LOCAL_MODE":             onOff("false", "Whether the device takes its services from the local network"),
	"SUPERVISOR_LOG_CONTROL":            onOff("true", "Whether the device sends logs"),
	"SUPERVISOR_CONNECTIVITY_CHECK":     onOff("true", "Whether the device checks its way to the server"),
	"SUPERVISOR_VPN_CONTROL":            onOff("true", "Whether the device keeps its control channel open"),
	"SUPERVISOR_PERSISTENT_LOGGING":     reboots(onOff("false", "Whether the device keeps its journal on disk")),
	"SUPERVISOR_DEVELOPMENT_MODE":       onOff("false", "Whether the device is in development mode"),
	"OVERRIDE_LOCK":                     onOff("false", "Whether update locks are ignored"),
	"HOST_DISCOVERABILITY":              onOff("true", "Whether the device announces itself on the local network"),
	"HOST_SPLASH_IMAGE":                 reboots(text("The picture that is shown while the device starts: a PNG as a data address")),
	"HOST_FIREWALL_MODE": {
		Type: "string", Enum: []string{"on", "off", "auto", ""}, Default: "off", Description: "Mode of the device's firewall",
	},
}

// boardVars are what a device type reads besides, at its start: without the prefix BALENA_HOST_.
func boardVars(doc fleet.TypeDocument) map[string]variable {
	switch doc.Family {
	case "raspberrypi-broadcom":
		return configTxt
	case "nvidia-jetson":
		return jetson
	case "up-board":
		return map[string]variable{"CONFIGFS_ssdt": text("Tables of the firmware that are loaded, as in configfs")}
	}
	return nil
}

var jetson = map[string]variable{
	"EXTLINUX_isolcpus": text("Processors that are kept free of other work, as in extlinux.conf"),
	"EXTLINUX_fdt":      text("The device tree that is loaded, as in extlinux.conf"),
	"ODMDATA_configuration": {
		Type: "string", Enum: []string{"1", "2", "3", "4", "5", "6"}, Description: "How lanes are divided between PCIe, USB and SATA",
	},
	"CONFIG_power_mode":  text("How much power the board may use"),
	"CONFIG_fan_profile": text("Whether the fan is to be quiet or to cool"),
}

var configTxt = map[string]variable{
	"CONFIG_hdmi_mode":          text("Screen mode, as in config.txt"),
	"CONFIG_hdmi_group":         text("Group of screen modes, as in config.txt"),
	"CONFIG_hdmi_force_hotplug": text("Whether a screen is assumed, as in config.txt"),
	"CONFIG_display_rotate":     text("Rotation of the screen, as in config.txt"),
	"CONFIG_disable_splash":     text("Whether the rainbow screen is left out, as in config.txt"),
	"CONFIG_dtparam":            text("Device tree parameters, as in config.txt; several as \"a\",\"b\""),
	"CONFIG_dtoverlay":          text("Device tree overlays, as in config.txt; several as \"a\",\"b\""),
	"CONFIG_enable_uart":        text("Whether the serial port is on, as in config.txt"),
	"CONFIG_gpu_mem":            text("Memory of the graphics processor in MB, as in config.txt"),
	"CONFIG_gpu_mem_256":        text("The same, for boards with 256 MB"),
	"CONFIG_gpu_mem_512":        text("The same, for boards with 512 MB"),
	"CONFIG_gpu_mem_1024":       text("The same, for boards with 1 GB"),
	"CONFIG_avoid_warnings":     text("Whether warnings are left out, as in config.txt"),
	"CONFIG_start_x":            text("Whether the camera's firmware is loaded, as in config.txt"),
}

// whiteListed are the configuration variables that may be set besides those of a white-listed namespace.
func whiteListed() []string {
	names := append(slices.Sorted(maps.Keys(supervisorVars)), "APP_RESTART_POLICY", "APP_RESTART_RETRIES")
	return append(bothPrefixes(names...), append(slices.Sorted(maps.Keys(vpndoor.Variables())), fleet.SSHRecord, fleet.TunnelPorts)...)
}

func bothPrefixes(names ...string) []string {
	out := make([]string, 0, 2*len(names))
	for _, name := range names {
		out = append(out, "RESIN_"+name, "BALENA_"+name)
	}
	return out
}
