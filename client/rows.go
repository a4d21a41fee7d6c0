package client

import (
	"encoding/json"

	"github.com/roadstead-io/roadstead/api"
)

// The rows below are the columns of the resource model that our programs read. A field is zero when it was not selected;
// times stay in the server's text form (see [ParseTime]).

// Organization owns fleets.
type Organization struct {
	ID     int64  `json:"id"`
	Name   string `json:"name"`
	Handle string `json:"handle"`
}

// DeviceType is a kind of hardware.
type DeviceType struct {
	ID   int64                `json:"id"`
	Slug string               `json:"slug"`
	Name string               `json:"name"`
	Arch Ref[CPUArchitecture] `json:"is_of__cpu_architecture"`
}

// CPUArchitecture is amd64, aarch64, armv7hf, …
type CPUArchitecture struct {
	Slug string `json:"slug"`
}

// Fleet is a row of application.
type Fleet struct {
	ID           int64             `json:"id"`
	UUID         string            `json:"uuid"`
	Name         string            `json:"app_name"`
	Slug         string            `json:"slug"`
	CreatedAt    string            `json:"created_at"`
	TrackLatest  bool              `json:"should_track_latest_release"`
	GitBranch    string            `json:"git_branch"`        // "": main and master
	AlsoBuiltFor string            `json:"is_also_built_for"` // CPU architectures, comma-separated, beside that of the device type
	Actor        Ref[struct{}]     `json:"actor"`
	Organization Ref[Organization] `json:"organization"`
	DeviceType   Ref[DeviceType]   `json:"is_for__device_type"`
	Target       Ref[Release]      `json:"should_be_running__release"`
	Devices      []Device          `json:"owns__device"`
	Services     []Service         `json:"service"`
}

// Service is one container of a fleet's releases.
type Service struct {
	ID   int64  `json:"id"`
	Name string `json:"service_name"`
}

// Device is a row of device.
type Device struct {
	ID              int64            `json:"id"`
	UUID            string           `json:"uuid"`
	Name            string           `json:"device_name"`
	Note            string           `json:"note"`
	CreatedAt       string           `json:"created_at"`
	Status          string           `json:"status"`
	OverallStatus   string           `json:"overall_status"`
	OverallProgress *int64           `json:"overall_progress"`
	UpdateStatus    string           `json:"update_status"`
	IsOnline        bool             `json:"is_online"`
	LastSeen        string           `json:"last_connectivity_event"`
	OSVersion       string           `json:"os_version"`
	AgentVersion    string           `json:"supervisor_version"`
	IPAddress       string           `json:"ip_address"`
	MACAddress      string           `json:"mac_address"`
	PublicAddress   string           `json:"public_address"`
	MemoryUsage     *int64           `json:"memory_usage"`
	MemoryTotal     *int64           `json:"memory_total"`
	StorageUsage    *int64           `json:"storage_usage"`
	StorageTotal    *int64           `json:"storage_total"`
	CPUUsage        *int64           `json:"cpu_usage"`
	CPUTemp         *int64           `json:"cpu_temp"`
	KeyProtection   string           `json:"key_protection"`       // ours, as the next one
	Unsupported     []string         `json:"unsupported_features"` // ours, not balena's
	Fleet           Ref[Fleet]       `json:"belongs_to__application"`
	DeviceType      Ref[DeviceType]  `json:"is_of__device_type"`
	Running         Ref[Release]     `json:"is_running__release"`
	Pinned          Ref[Release]     `json:"is_pinned_on__release"`
	Target          Ref[Release]     `json:"should_be_running__release"`
	Installs        []ImageInstall   `json:"image_install"`
	Tags            []Tag            `json:"device_tag"`
	Services        []ServiceInstall `json:"service_install"`
	Trust           []DeviceTrust    `json:"device_trust"`
}

// DeviceTrust is what a device says of its checks of releases. A device without one checks nothing.
type DeviceTrust struct {
	ID       int64  `json:"id"`
	State    string `json:"state"`
	Commit   string `json:"commit"`
	Counter  *int64 `json:"counter"`
	SHA256   string `json:"sha256"`
	Approval string `json:"approval"`
	HeldBy   string `json:"held_by"`
	What     string `json:"rejected"`
	Reason   string `json:"rejection_reason"`
	Key      string `json:"rejection_key"`
	Expected string `json:"rejection_expected"`
	Got      string `json:"rejection_got"`
	SeenAt   string `json:"seen_at"`
}

// TrustFields are all of them.
const TrustFields = "id,state,commit,counter,sha256,approval,held_by,rejected,rejection_reason,rejection_key,rejection_expected,rejection_got,seen_at"

// TrustState is what a device says, or that it says nothing.
func (d *Device) TrustState() string {
	if len(d.Trust) == 0 {
		return api.TrustUnverified
	}
	return d.Trust[0].State
}

// ImageInstall is one image on one device, as the device reported it.
type ImageInstall struct {
	ID       int64        `json:"id"`
	Status   string       `json:"status"`
	Progress *int64       `json:"download_progress"`
	Image    Ref[Image]   `json:"installs__image"`
	Release  Ref[Release] `json:"is_provided_by__release"`
}

// Image is one service of one release.
type Image struct {
	ID          int64        `json:"id"`
	Status      string       `json:"status"`
	Location    string       `json:"is_stored_at__image_location"`
	ContentHash string       `json:"content_hash"`
	Size        json.Number  `json:"image_size"`
	Error       string       `json:"error_message"`
	Service     Ref[Service] `json:"is_a_build_of__service"`
}

// ReleaseImage links an image to a release.
type ReleaseImage struct {
	ID    int64      `json:"id"`
	Image Ref[Image] `json:"image"`
}

// Release is a row of release.
type Release struct {
	ID          int64           `json:"id"`
	Commit      string          `json:"commit"`
	Status      string          `json:"status"`
	RawVersion  string          `json:"raw_version"`
	IsFinal     bool            `json:"is_final"`
	Source      string          `json:"source"`
	CreatedAt   string          `json:"created_at"`
	StartedAt   string          `json:"start_timestamp"`
	EndedAt     string          `json:"end_timestamp"`
	Note        string          `json:"note"`
	BuildLog    string          `json:"build_log"`
	Composition json.RawMessage `json:"composition"`
	Fleet       Ref[Fleet]      `json:"belongs_to__application"`
	Images      []ReleaseImage  `json:"release_image"`
	Tags        []Tag           `json:"release_tag"`
}

// Tag is a row of application_tag, device_tag or release_tag.
type Tag = api.Tag

// Variable is a row of one of the variables' resources.
type Variable struct {
	ID      int64               `json:"id"`
	Name    string              `json:"name"`
	Value   string              `json:"value"`
	Service Ref[Service]        `json:"service"`
	Install Ref[ServiceInstall] `json:"service_install"`
}

// ServiceInstall links a device to a service of its fleet.
type ServiceInstall struct {
	ID      int64        `json:"id"`
	Service Ref[Service] `json:"installs__service"`
}

// APIKey is what may be known of a key: never the key itself.
type APIKey struct {
	ID          int64  `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	CreatedAt   string `json:"created_at"`
	ExpiryDate  string `json:"expiry_date"`

	LastUsedAt      string   `json:"last_used_at"`
	LastUsedFrom    string   `json:"last_used_from"`
	Verbs           []string `json:"verbs"`
	Channels        []string `json:"channels"`
	Networks        string   `json:"networks"` // with a space between
	IsForSomeFleets bool     `json:"is_for_some_fleets"`

	IsForSomeDevices bool `json:"is_for_some_devices"`
}
