package api

import "time"

// The kinds of connections to a device that the api role decides about.
const (
	ReachTunnel = "tunnel" // raw bytes to a port, for whoever may enter the device
	ReachURL    = "url"    // HTTP to the port behind the device's public address
	ReachSSH    = "ssh"    // SSH to the device's own server, through the gateway
)

// What a visitor of a public address is asked for, as the text of the refusal.
const (
	VisitLogin = "login"
	VisitToken = "token"
)

// The ports of what runs on every device.
const (
	PortSSH    = 22222 // the agent's SSH server
	PortDevice = 48484 // the agent's HTTP API
)

// TunnelProtocol is what the dashboard speaks to the vpn role, named in the handshake of TLS: CONNECT to a port of a device, for a visitor.
const TunnelProtocol = "roadstead-tunnel/1"

// ReachRequest asks whether one connection to a device may be opened (POST /internal/reach/permit, by the vpn role).
type ReachRequest struct {
	Kind        string     `json:"kind"`
	Credential  string     `json:"credential,omitempty"`  // a session token or an API key
	Fingerprint string     `json:"fingerprint,omitempty"` // ssh: of the SSH key with which somebody proved who they are, SHA256:…
	UUID        DeviceUUID `json:"uuid"`
	Port        int        `json:"port,omitempty"` // url: none, the device's address has one
	From        string     `json:"from"`           // the IP address that it comes from

	Visit string `json:"visit,omitempty"` // url: what [ReachVisit.Visit] gave the browser
	Token string `json:"token,omitempty"` // url: the token of the address

	PerUser   int `json:"per_user,omitempty"`   // how many a user may have open, if that is fewer than the api role's own bound
	PerDevice int `json:"per_device,omitempty"` // the same of a device

	Detail map[string]string `json:"detail,omitempty"` // what the audit log is to tell beside: the service that is entered, say
}

// ReachPermit lets one connection be opened. It ends on the word of POST /internal/reach/still.
type ReachPermit struct {
	Permit   string     `json:"permit"`
	Device   int64      `json:"device"`
	UUID     DeviceUUID `json:"uuid"`
	Fleet    int64      `json:"fleet"`
	Port     int        `json:"port"`
	User     int64      `json:"user,omitempty"` // nobody: a visitor of an address that asks for no login
	Username string     `json:"username,omitempty"`
	Support  bool       `json:"support,omitempty"`  // it is support staff under a grant
	ByToken  bool       `json:"by_token,omitempty"` // url: the token opened it
	Until    *time.Time `json:"until,omitempty"`    // when it ends by itself, if that is known
}

// ReachStill is what a process of the vpn role has open, and what ended since it asked last (POST /internal/reach/still).
type ReachStill struct {
	Permits []string     `json:"permits"`
	Ended   []ReachEnded `json:"ended,omitempty"`
}

// ReachEnded is a connection that ended.
type ReachEnded struct {
	Permit   string            `json:"permit"`
	BytesIn  int64             `json:"bytes_in"`  // to the device
	BytesOut int64             `json:"bytes_out"` // from the device
	Why      string            `json:"why"`
	Detail   map[string]string `json:"detail,omitempty"` // more for the audit log
}

// ReachEnd answers it: the permits whose connections must end now, and why.
type ReachEnd struct {
	End []ReachOver `json:"end"`
}

// ReachOver is a permit that holds no longer.
type ReachOver struct {
	Permit string `json:"permit"`
	Why    string `json:"why"`
}

// PublicURL is the address of a device that everybody can open in a browser (GET /device-url/v1/<uuid>). It leads to one port.
type PublicURL struct {
	Enabled  bool       `json:"enabled"`
	URL      string     `json:"url"`
	Port     int        `json:"port"`
	Login    bool       `json:"login"`           // who opens it logs in, and may see the device
	HasToken bool       `json:"has_token"`       // or has the token
	Token    string     `json:"token,omitempty"` // told once, when it is made
	Allow    []string   `json:"allow"`           // the networks that it may be opened from; none: all
	Until    *time.Time `json:"until"`           // when it goes off by itself
}

// PublicURLChange changes it (PUT): what is not given stays. To switch it on anew without an end gives it none.
type PublicURLChange struct {
	Enabled *bool      `json:"enabled,omitempty"`
	Port    *int       `json:"port,omitempty"`
	Login   *bool      `json:"login,omitempty"`
	Token   *bool      `json:"token,omitempty"` // true makes a new one, false takes it away
	Allow   *[]string  `json:"allow,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
}

// ReachVisit is a person's leave to open the public address of a device in the browser in which they asked for it. Code is what the
// dashboard sends the browser back with (POST /device-url/v1/<uuid>/visit, as the person); it is good for a minute, and only with State.
type ReachVisit struct {
	State string     `json:"state"` // a hash of what the browser alone knows
	Code  string     `json:"code,omitempty"`
	URL   string     `json:"url,omitempty"` // of the address
	UUID  DeviceUUID `json:"uuid,omitempty"`
	Visit string     `json:"visit,omitempty"` // what the code is exchanged for (POST /internal/reach/visit, by the vpn role)
}
