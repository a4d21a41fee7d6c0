package api

import "encoding/json"

// TargetState is the body of GET /device/v3/:uuid/state: what each device should run.
type TargetState map[DeviceUUID]*DeviceTarget

// FleetState is the body of GET /device/v3/fleet/:uuid/state: what a device of the fleet would run that has nothing of its own, by
// the fleet's uuid.
type FleetState map[string]*DeviceTarget

// DeviceTarget is one device's part of it.
type DeviceTarget struct {
	Name   string                `json:"name"`
	Config map[string]string     `json:"config"`
	Apps   map[string]*AppTarget `json:"apps"` // by the uuid of the fleet
}

// AppTarget is what one fleet wants on a device; it has at most one release.
type AppTarget struct {
	ID       int64                     `json:"id"`
	Name     string                    `json:"name"`
	IsHost   bool                      `json:"is_host"`
	Class    string                    `json:"class"`
	Releases map[string]*ReleaseTarget `json:"releases,omitempty"` // by commit
}

// ReleaseTarget is a release as a device runs it. Networks and volumes are compose blocks.
type ReleaseTarget struct {
	ID       int64                      `json:"id"`
	Services map[string]*ServiceTarget  `json:"services,omitempty"`
	Networks map[string]json.RawMessage `json:"networks,omitempty"`
	Volumes  map[string]json.RawMessage `json:"volumes,omitempty"`
}

// ServiceTarget is one container of a release.
type ServiceTarget struct {
	ID          int64             `json:"id"`
	ImageID     int64             `json:"image_id"`
	Image       string            `json:"image"` // <registry>/v2/<32 hex>@sha256:<64 hex>
	Environment map[string]string `json:"environment"`
	Labels      map[string]string `json:"labels"`
	Contract    json.RawMessage   `json:"contract,omitempty"`
	Composition json.RawMessage   `json:"composition,omitempty"` // the service's compose block without "build"
}

// Report is the body of PATCH /device/v3/state: only what changed since the last accepted report.
type Report map[DeviceUUID]*DeviceReport

// DeviceReport is one device's part of it. A nil field was not reported. Units: memory and storage in MiB, usage in per cent,
// temperature in degrees Celsius.
type DeviceReport struct {
	Status              *string               `json:"status,omitempty"`
	OSVersion           *string               `json:"os_version,omitempty"`
	OSVariant           *string               `json:"os_variant,omitempty"`
	SupervisorVersion   *string               `json:"supervisor_version,omitempty"`
	ProvisioningState   *string               `json:"provisioning_state,omitempty"`
	IPAddress           *string               `json:"ip_address,omitempty"`  // space separated
	MACAddress          *string               `json:"mac_address,omitempty"` // space separated
	MemoryUsage         *int64                `json:"memory_usage,omitempty"`
	MemoryTotal         *int64                `json:"memory_total,omitempty"`
	StorageUsage        *int64                `json:"storage_usage,omitempty"`
	StorageTotal        *int64                `json:"storage_total,omitempty"`
	StorageBlockDevice  *string               `json:"storage_block_device,omitempty"`
	CPUUsage            *int64                `json:"cpu_usage,omitempty"`
	CPUTemp             *int64                `json:"cpu_temp,omitempty"`
	CPUID               *string               `json:"cpu_id,omitempty"`
	IsUndervolted       *bool                 `json:"is_undervolted,omitempty"`
	APIPort             *int                  `json:"api_port,omitempty"`            // of the device's own API
	APISecret           *string               `json:"api_secret,omitempty"`          // the key to it
	Channel             *DeviceChannel        `json:"channel,omitempty"`             // ours, not balena's
	KeyProtection       *string               `json:"key_protection,omitempty"`      // KeyInFile or KeyInTPM; ours, not balena's
	UnsupportedFeatures []string              `json:"unsupported_features,omitzero"` // compose fields the agent refused or ignored, by name; ours, not balena's
	Apps                map[string]*AppReport `json:"apps,omitempty"`                // by the uuid of the fleet
}

// How a device says that it keeps its keys.
const (
	KeyInFile = "file" // in plain files
	KeyInTPM  = "tpm"  // sealed
)

// States of the control channel as a device has it.
const (
	ChannelStateOn      = "on"      // connected
	ChannelStateWaiting = "waiting" // wanted, and being connected
	ChannelStateFailed  = "failed"  // wanted, but the device has no means or the server refuses it; Reason says which
	ChannelStateOff     = "off"     // not wanted
	ChannelStateLocked  = "locked"  // the device's owner keeps it shut, whatever the server wants
)

// DeviceChannel is how a device's control channel is.
type DeviceChannel struct {
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
}

// AppReport is one fleet's part of a report.
type AppReport struct {
	ReleaseUUID string                    `json:"release_uuid,omitempty"` // commit last applied in full
	Releases    map[string]*ReleaseReport `json:"releases"`               // by commit
}

// ReleaseReport is one release's part of it.
type ReleaseReport struct {
	UpdateStatus string                    `json:"update_status,omitempty"` // rejected, downloading, downloaded, applying changes, aborted, done
	Services     map[string]*ServiceReport `json:"services"`
}

// ServiceReport is one service's part of it.
type ServiceReport struct {
	Image            string `json:"image"`
	Status           string `json:"status"`            // Downloading, Downloaded, Installing, Installed, Starting, Running, exited, Stopping, …
	DownloadProgress *int   `json:"download_progress"` // per cent, or null
}

// UnmarshalJSON also takes a progress with a fraction: a report is refused as a whole, and devices round as they like.
func (s *ServiceReport) UnmarshalJSON(data []byte) error {
	type plain ServiceReport // without this method
	wire := struct {
		*plain
		DownloadProgress *float64 `json:"download_progress"`
	}{plain: (*plain)(s)}
	if err := json.Unmarshal(data, &wire); err != nil {
		return err
	}
	s.DownloadProgress = nil
	if p := wire.DownloadProgress; p != nil {
		whole := int(min(max(*p, 0), 100))
		s.DownloadProgress = &whole
	}
	return nil
}

// LogLine is one line of a device's log. Times are milliseconds since 1970.
type LogLine struct {
	Message   string `json:"message"`
	Timestamp int64  `json:"timestamp"`
	CreatedAt int64  `json:"createdAt,omitempty"` // when the server got it; never sent by a device
	IsSystem  bool   `json:"isSystem"`
	IsStdErr  bool   `json:"isStdErr"`
	ServiceID *int64 `json:"serviceId,omitempty"`
}

// DeviceConfig is config.json, what a device is born with. Keys we do not know are kept by whoever rewrites the file.
type DeviceConfig struct {
	ApplicationID         int64        `json:"applicationId"`
	ApplicationName       string       `json:"applicationName,omitempty"`
	DeviceType            string       `json:"deviceType"`
	APIEndpoint           string       `json:"apiEndpoint"`
	RegistryEndpoint      string       `json:"registryEndpoint,omitempty"` // host[:port]
	APIKey                string       `json:"apiKey,omitempty"`           // the provisioning key; destroyed after registration
	AppUpdatePollInterval int64        `json:"appUpdatePollInterval,omitempty"`
	RootCA                string       `json:"balenaRootCA,omitempty"`   // base64 of PEM
	Trust                 *ConfigTrust `json:"roadsteadTrust,omitempty"` // ours, not balena's
	UUID                  DeviceUUID   `json:"uuid,omitempty"`
	DeviceAPIKey          string       `json:"deviceApiKey,omitempty"`
	DeviceID              int64        `json:"deviceId,omitempty"`
	RegisteredAt          int64        `json:"registered_at,omitempty"` // milliseconds since 1970
	InitialDeviceName     string       `json:"initialDeviceName,omitempty"`
	Hostname              string       `json:"hostname,omitempty"`
	UserID                int64        `json:"userId,omitempty"`
	Username              string       `json:"username,omitempty"`
	ListenPort            int          `json:"listenPort,omitempty"`
	VPNPort               int          `json:"vpnPort,omitempty"`
	VPNEndpoint           string       `json:"vpnEndpoint,omitempty"`
	DeltaEndpoint         string       `json:"deltaEndpoint,omitempty"`
	LogsEndpoint          string       `json:"logsEndpoint,omitempty"`
	MixpanelToken         string       `json:"mixpanelToken,omitempty"`
	Version               string       `json:"version,omitempty"`
	DevelopmentMode       bool         `json:"developmentMode,omitempty"`
	DeviceKeyProtection   string       `json:"deviceKeyProtection,omitempty"` // ours, not balena's: file, tpm or tpm-if-present
	DeviceKeyPCRs         []uint       `json:"deviceKeyPCRs,omitempty"`       // registers of the TPM to bind the keys to
}

// Tag is a row of application_tag, device_tag or release_tag.
type Tag struct {
	ID    int64  `json:"id"`
	Key   string `json:"tag_key"`
	Value string `json:"value"`
}
