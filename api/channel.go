package api

// The control channel is a device's OpenVPN connection. The vpn role asks the api role about every device that knocks, and tells it of
// the sessions that it has.

// ChannelSite says how devices reach the control channel. Its zero value: the server has none.
type ChannelSite struct {
	Host string `json:"host"` // the name in the server's certificate
	Port int    `json:"port"`
}

// On reports whether the server has a control channel.
func (s ChannelSite) On() bool { return s.Host != "" }

// Kinds of proof that a device gives of itself on the channel.
const (
	IdentityCertificate = "certificate" // the device's key, and a certificate of the server's whose key never left the device
	IdentityKey         = "key"         // the device's key alone: the weaker kind
)

// ChannelLogin is POST /internal/channel/login: may this device come in?
type ChannelLogin struct {
	UUID        string `json:"uuid"`        // what it says that it is: the user name
	Key         string `json:"key"`         // the password
	Certificate string `json:"certificate"` // SHA-256 of it in hexadecimal digits; "" when it showed none. TLS has proved that it holds, and its key
	From        string `json:"from"`        // its IP address
	Instance    string `json:"instance"`    // which OpenVPN it came to
	Network     string `json:"network"`     // whose devices have addresses in this network, that of all instances; the first one is the server's
}

// ChannelDevice is the answer: who it is, and the address that it has in the network, always the same.
type ChannelDevice struct {
	Device   int64  `json:"device"`
	UUID     string `json:"uuid"`
	Key      int64  `json:"key"` // id of the API key that it showed, for [ChannelUp]
	Address  string `json:"address"`
	Identity string `json:"identity"`
}

// ChannelReport is POST /internal/channel/sessions: what became of the sessions of one instance since the last report. While there are any,
// an instance reports every second even when nothing has: one that does not for ten seconds has none left.
type ChannelReport struct {
	Instance string        `json:"instance"`
	Boot     string        `json:"boot"` // of the process that reports; a new one begins with a full report
	Full     bool          `json:"full"` // Up is all that there is, of the sessions whose names are after After and not after To
	After    string        `json:"after,omitempty"`
	To       string        `json:"to,omitempty"` // empty: the last one
	Up       []ChannelUp   `json:"up"`
	Down     []ChannelDown `json:"down"`
}

// MaxChannelReport bounds each list of a report. A full report that is longer comes in parts, in the order of the sessions' names: each
// says what there is of its part, so that what has not been told of yet stays as it was.
const MaxChannelReport = 1500

// ChannelUp is a session that has begun.
type ChannelUp struct {
	UUID     string `json:"uuid"`
	Session  string `json:"session"` // its name, like no other one's
	Address  string `json:"address"`
	From     string `json:"from"`
	Since    string `json:"since"` // RFC 3339
	Identity string `json:"identity"`
	Key      int64  `json:"key"`
}

// ChannelDown is a session that has ended.
type ChannelDown struct {
	UUID    string `json:"uuid"`
	Session string `json:"session"`
	At      string `json:"at"`
}

// ChannelAnswer says what the vpn role is to do.
type ChannelAnswer struct {
	Cut   []string `json:"cut"`             // sessions to end: their devices may no longer be here, or are here anew
	Again bool     `json:"again,omitempty"` // nothing is known of this instance: it sends a full report
}

// ChannelCertify is POST /device/v3/channel, from a device: it has made a key for itself.
type ChannelCertify struct {
	PublicKey  string `json:"public_key"`             // PEM, SubjectPublicKeyInfo
	SSHHostKey string `json:"ssh_host_key,omitempty"` // a line of authorized_keys
}

// ChannelIdentity is the answer: what the device shows from now on, and whom it believes.
type ChannelIdentity struct {
	Certificate string `json:"certificate"` // PEM
	ExpiresAt   string `json:"expires_at"`  // it asks again before then, with the same key
	CA          string `json:"ca"`          // PEM: who vouches for the server
	Host        string `json:"host"`        // the server's name, which its certificate has
	Port        int    `json:"port"`

	SSHUserCA          string `json:"ssh_user_ca,omitempty"`          // a line of authorized_keys: who vouches for people
	SSHHostCertificate string `json:"ssh_host_certificate,omitempty"` // of the key that the device gave
}

// ChannelCertificateRequest is POST /v1/channel-certificate of the signer, from the api role.
type ChannelCertificateRequest struct {
	UUID      string `json:"uuid"`
	PublicKey string `json:"public_key"`
}

// ChannelCertificate is the answer.
type ChannelCertificate struct {
	Certificate string `json:"certificate"`
	ExpiresAt   string `json:"expires_at"`
}

// Ways in which people switch the channel of a device or of a fleet (PUT /channel/v1/…).
const (
	ChannelOn   = "on"
	ChannelOff  = "off"
	ChannelAuto = "auto" // a device as its fleet; a fleet as the server has it by default
)

// ChannelSwitch is such a switch. With neither For nor Schedule, on and off last until the next one.
type ChannelSwitch struct {
	Mode     string `json:"mode"`
	Seconds  int64  `json:"seconds,omitempty"`  // on for so long, then as it was
	Schedule string `json:"schedule,omitempty"` // on at these times only: "Mon-Fri 08:00-18:00 UTC"
}

// ChannelMode says whether the channel of a device or a fleet is wanted just now, and why.
type ChannelMode struct {
	Wanted   bool   `json:"wanted"`
	Why      string `json:"why"`
	Mode     string `json:"mode"` // what was switched last: on, off or auto
	Until    string `json:"until,omitempty"`
	Schedule string `json:"schedule,omitempty"`
	Next     string `json:"next,omitempty"` // when that changes by itself
	Server   bool   `json:"server"`         // the server has a control channel at all
}

// ChannelStatus is the channel of one device (GET /channel/v1/device/{uuid}).
type ChannelStatus struct {
	UUID      string `json:"uuid"`
	Connected bool   `json:"connected"`
	Since     string `json:"since,omitempty"`    // of the session, or of its end
	Address   string `json:"address,omitempty"`  // in the tunnel
	From      string `json:"from,omitempty"`     // the device's public address
	Identity  string `json:"identity,omitempty"` // of the session: certificate or key
	Certified bool   `json:"certified"`          // it has a certificate, and does not get in without it
	ExpiresAt string `json:"expires_at,omitempty"`
	Said      string `json:"said,omitempty"`   // by the device, with its last report: on, waiting, failed, off, or locked by its owner
	Reason    string `json:"reason,omitempty"` // of that
	ChannelMode
}
