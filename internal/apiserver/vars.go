package apiserver

import (
	"net/http"
	"strings"

	"github.com/roadstead-io/roadstead/internal/web"
)

// configVars is GET /config/vars: which names a variable may have, and which configuration variables there are. The rules
// themselves are enforced by the fleet package; this is their description for clients.
func (s *Server) configVars(w http.ResponseWriter, r *http.Request) error {
	properties := map[string]any{}
	for name, text := range supervisorVars {
		properties["BALENA_"+name] = variable{Type: "string", Description: text}
	}
	if strings.HasPrefix(r.URL.Query().Get("deviceType"), "raspberrypi") || r.URL.Query().Get("deviceType") == "raspberry-pi" {
		for name, text := range bootVars {
			properties["BALENA_HOST_CONFIG_"+name] = variable{Type: "string", Description: text, WillReboot: true}
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

// variable describes one configuration variable in JSON schema, with the one word that clients look for besides.
type variable struct {
	Type        string `json:"type"`
	Description string `json:"description"`
	WillReboot  bool   `json:"will_reboot,omitempty"`
}

var supervisorVars = map[string]string{
	"SUPERVISOR_POLL_INTERVAL":          "How often the device asks for its target state, in milliseconds",
	"SUPERVISOR_HARDWARE_METRICS":       "Whether the device reports CPU, memory, temperature and storage",
	"SUPERVISOR_DELTA":                  "Whether the device downloads differences between images",
	"SUPERVISOR_DELTA_VERSION":          "Version of the format of differences",
	"SUPERVISOR_DELTA_REQUEST_TIMEOUT":  "How long to wait for a difference to be asked for, in milliseconds",
	"SUPERVISOR_DELTA_APPLY_TIMEOUT":    "How long a difference may take to be applied, in milliseconds",
	"SUPERVISOR_DELTA_RETRY_COUNT":      "How often the download of a difference is tried",
	"SUPERVISOR_DELTA_RETRY_INTERVAL":   "How long to wait between tries, in milliseconds",
	"SUPERVISOR_LOCAL_MODE":             "Whether the device takes its services from the local network",
	"SUPERVISOR_LOG_CONTROL":            "Whether the device sends logs",
	"SUPERVISOR_CONNECTIVITY_CHECK":     "Whether the device checks its way to the server",
	"SUPERVISOR_VPN_CONTROL":            "Whether the device keeps its control channel open",
	"SUPERVISOR_PERSISTENT_LOGGING":     "Whether the device keeps its journal on disk",
	"SUPERVISOR_INSTANT_UPDATE_TRIGGER": "Whether the device may be told to ask for its target state at once",
	"SUPERVISOR_DEVELOPMENT_MODE":       "Whether the device is in development mode",
	"SUPERVISOR_POWER_MODE":             "The device's power mode",
	"OVERRIDE_LOCK":                     "Whether update locks are ignored",
	"HOST_DISCOVERABILITY":              "Whether the device announces itself on the local network",
	"HOST_SPLASH_IMAGE":                 "The image that is shown while the device starts",
	"HOST_FIREWALL_MODE":                "Mode of the device's firewall: on, off or auto",
}

var bootVars = map[string]string{
	"hdmi_mode":          "Screen mode, as in config.txt",
	"hdmi_group":         "Group of screen modes, as in config.txt",
	"disable_splash":     "Whether the rainbow screen is left out, as in config.txt",
	"dtparam":            "Device tree parameters, as in config.txt",
	"dtoverlay":          "Device tree overlays, as in config.txt",
	"enable_uart":        "Whether the serial port is on, as in config.txt",
	"gpu_mem":            "Memory of the graphics processor in MB, as in config.txt",
	"gpu_mem_256":        "The same, for boards with 256 MB",
	"gpu_mem_512":        "The same, for boards with 512 MB",
	"gpu_mem_1024":       "The same, for boards with 1 GB",
	"display_rotate":     "Rotation of the screen, as in config.txt",
	"hdmi_force_hotplug": "Whether a screen is assumed, as in config.txt",
	"avoid_warnings":     "Whether warnings are left out, as in config.txt",
	"start_x":            "Whether the camera's firmware is loaded, as in config.txt",
}

// whiteListed are the configuration variables that may be set besides those of a white-listed namespace.
func whiteListed() []string {
	var names []string
	for name := range supervisorVars {
		names = append(names, name)
	}
	names = append(names, "APP_RESTART_POLICY", "APP_RESTART_RETRIES")
	return bothPrefixes(names...)
}

func bothPrefixes(names ...string) []string {
	out := make([]string, 0, 2*len(names))
	for _, name := range names {
		out = append(out, "RESIN_"+name, "BALENA_"+name)
	}
	return out
}
