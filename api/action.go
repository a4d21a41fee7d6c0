package api

import (
	"encoding/json"
	"time"
)

// DeviceCall is what the api role asks of the vpn role with POST /device/call: one request to an HTTP server on a device, over its
// control channel.
type DeviceCall struct {
	UUID    DeviceUUID        `json:"uuid"`
	Port    int               `json:"port"`
	Method  string            `json:"method"`
	Path    string            `json:"path"` // with the query
	Headers map[string]string `json:"headers,omitempty"`
	Body    []byte            `json:"body,omitempty"`
	Timeout int64             `json:"timeout"` // milliseconds
}

// DeviceCalled is what the device answered. A redirect is an answer like others. A device without a channel is a 404.
type DeviceCalled struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    []byte            `json:"body,omitempty"`
}

// ActionVerb is something that a device can be told to do.
type ActionVerb string

// The verbs. Those about a service name it.
const (
	ActPing           ActionVerb = "ping"
	ActIdentify       ActionVerb = "identify"
	ActReboot         ActionVerb = "reboot"
	ActShutdown       ActionVerb = "shutdown"
	ActRestart        ActionVerb = "restart"
	ActRestartService ActionVerb = "restart-service"
	ActStopService    ActionVerb = "stop-service"
	ActStartService   ActionVerb = "start-service"
	ActPurge          ActionVerb = "purge"
	ActUpdate         ActionVerb = "update"
	ActJournal        ActionVerb = "journal"
	ActState          ActionVerb = "state"
	ActHostConfig     ActionVerb = "host-config"
	ActRenewKey       ActionVerb = "renew-key"
	ActCleanVolumes   ActionVerb = "cleanup-volumes"
)

// ActionVerbs lists them.
func ActionVerbs() []ActionVerb {
	return []ActionVerb{ActPing, ActIdentify, ActReboot, ActShutdown, ActRestart, ActRestartService, ActStopService, ActStartService, ActPurge,
		ActUpdate, ActJournal, ActState, ActHostConfig, ActRenewKey, ActCleanVolumes}
}

// OfService says whether a verb is about one service.
func (v ActionVerb) OfService() bool {
	return v == ActRestartService || v == ActStopService || v == ActStartService
}

// Forces says whether force means something for a verb.
func (v ActionVerb) Forces() bool {
	switch v {
	case ActReboot, ActShutdown, ActRestart, ActRestartService, ActStopService, ActPurge, ActUpdate, ActHostConfig:
		return true
	default:
		return false
	}
}

// ActionState is how far an action is.
type ActionState string

// The states. The first two are open, the others are ends.
const (
	ActionQueued    ActionState = "queued"    // waits for the device
	ActionSent      ActionState = "sent"      // the device has it; a reboot stays so until the device is back
	ActionDone      ActionState = "done"      //
	ActionFailed    ActionState = "failed"    // the message says why
	ActionExpired   ActionState = "expired"   // the device did not come in time
	ActionCancelled ActionState = "cancelled" // before the device had it
)

// Open says whether more is to come.
func (s ActionState) Open() bool { return s == ActionQueued || s == ActionSent }

// NewAction asks for something to be done on some devices: POST /device-actions/v1.
type NewAction struct {
	Devices []DeviceUUID `json:"devices,omitempty"`
	Fleet   string       `json:"fleet,omitempty"` // slug; all its devices that the caller may act on
	Verb    ActionVerb   `json:"verb"`
	Service string       `json:"service,omitempty"` // name
	Force   bool         `json:"force,omitempty"`
	Lines   int          `json:"lines,omitempty"` // of a journal
	// Network is what the host configuration is changed to, as in PATCH /v1/device/host-config: {"hostname"?, "proxy"?}.
	Network json.RawMessage `json:"network,omitempty"`
	Expires int64           `json:"expires,omitempty"` // seconds that a device without a channel may take to come; 0: an hour
	NoQueue bool            `json:"no_queue,omitempty"`
}

// Action is one action on one device.
type Action struct {
	ID        int64       `json:"id"`
	Device    int64       `json:"device"`
	UUID      DeviceUUID  `json:"uuid"`
	Name      string      `json:"device_name"`
	Verb      ActionVerb  `json:"verb"`
	Service   string      `json:"service,omitempty"`
	Force     bool        `json:"force,omitempty"`
	State     ActionState `json:"state"`
	Message   string      `json:"message,omitempty"`
	CreatedAt time.Time   `json:"created_at"`
	ExpiresAt time.Time   `json:"expires_at"`
	Connected bool        `json:"connected"` // its channel is up: it is told at once
}

// ActionRefused is a device of a [NewAction] on which nothing is done, and why.
type ActionRefused struct {
	UUID    DeviceUUID `json:"uuid"`
	Name    string     `json:"device_name,omitempty"`
	Code    Code       `json:"code"`
	Message string     `json:"message"`
}

// ActionsMade is the answer to a [NewAction].
type ActionsMade struct {
	Actions []Action        `json:"actions"`
	Refused []ActionRefused `json:"refused"`
}

// QueuedAction is an action as its device takes it.
type QueuedAction struct {
	ID      int64           `json:"id"`
	Verb    ActionVerb      `json:"verb"`
	Fleet   int64           `json:"fleet"` // the device's own
	Service string          `json:"service,omitempty"`
	Force   bool            `json:"force,omitempty"`
	Lines   int             `json:"lines,omitempty"`
	Network json.RawMessage `json:"network,omitempty"` // of a host configuration
	Expires int64           `json:"expires"`           // seconds from now; a device that did not begin by then does not begin
	Again   bool            `json:"again,omitempty"`   // the device was given it before, and has not said what became of it
	Command []byte          `json:"command,omitempty"` // a signed [TrustCommand] for this action
}

// ActionResult is what a device says of an action that it took.
type ActionResult struct {
	ID      int64           `json:"id"`
	State   ActionState     `json:"state"` // sent: accepted, and going on; done; failed; expired
	Message string          `json:"message,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"` // what was asked for: a JSON value
}

// ActionExchange is POST /device/v3/actions: a device tells results and asks what it has to do.
type ActionExchange struct {
	Boot    string         `json:"boot"` // changes with every start of the device
	Results []ActionResult `json:"results"`
}

// ActionsWaiting is the answer: what the device has to do, and of which results the server has heard, so that the device forgets them.
type ActionsWaiting struct {
	Actions []QueuedAction `json:"actions"`
	Heard   []int64        `json:"heard"`
}

// Bounds of an action.
const (
	MaxActionMessage = 1000      // bytes
	MaxActionResult  = 128 << 10 // bytes
	MaxActionsOpen   = 50        // of one device
	MaxActionTargets = 10_000    // devices of one request
	MaxActionNetwork = 8 << 10   // bytes of a host configuration
)
