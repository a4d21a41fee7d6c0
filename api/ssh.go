package api

import "time"

// Names and bounds of SSH into devices.
const (
	// DeviceSSHPort is where a device's agent serves SSH, on its tunnel address alone.
	DeviceSSHPort = 22222
	// SSHUserCertificateLife is how long a user's certificate opens new connections.
	SSHUserCertificateLife = 5 * time.Minute
	// SSHHostCertificateLife is how long a host's certificate holds; it is made anew with every registration of the channel.
	SSHHostCertificateLife = 90 * 24 * time.Hour
	// MaxSSHRecording bounds the recording of one connection, in bytes.
	MaxSSHRecording = 1 << 20
	// MaxSSHCommands and MaxSSHCommand bound which of a session's commands are told of, and how much of each, in bytes.
	MaxSSHCommands = 10
	MaxSSHCommand  = 200
	// SSHServicePrefix begins the user name with which one enters a service and not the device: "service/main".
	SSHServicePrefix = "service/"
)

// SSHUserAsk is what the signer is asked (POST /v1/ssh-user-certificate) by the api role, which has decided.
type SSHUserAsk struct {
	PublicKey string    `json:"public_key"` // a line of authorized_keys
	Device    string    `json:"device"`     // uuid: the only principal
	Grant     string    `json:"grant"`      // names the permission in the api role; part of the key id
	User      string    `json:"user"`       // for the log of whoever sees the certificate; part of the key id
	Until     time.Time `json:"until"`      // never later than SSHUserCertificateLife from now
	Forward   bool      `json:"forward"`    // whether ports may be forwarded
	// Own is not for the signer: the device's SSH server is none of ours.
	Own *SSHOwnServer `json:"-"`
}

// SSHOwnServer is how the gateway enters a device whose SSH server is none of ours: with the key that it gave, which is for some minutes one of
// the user's to the device.
type SSHOwnServer struct {
	User    string `json:"user"`
	HostKey string `json:"host_key,omitempty"` // a line of authorized_keys; "": none was seen yet
	Grant   string `json:"grant,omitempty"`    // names the permission: the gateway tells of the session, for such a device tells of none
}

// How a device is known over SSH.
const (
	HostKeyCertified  = "certified"  // its host key is certified by this server
	HostKeyRemembered = "remembered" // nobody vouches for it: it is the first that was seen
	HostKeyUnseen     = "unseen"     // nobody vouches for it, and none was seen yet
)

// SSHHostKey says how a device is known over SSH (GET /ssh/v1/device/<uuid>/host-key; DELETE has the next one count as the first).
type SSHHostKey struct {
	Kind        string `json:"kind"`
	Fingerprint string `json:"fingerprint,omitempty"`
	PublicKey   string `json:"public_key,omitempty"` // a line of authorized_keys
	Since       string `json:"since,omitempty"`
}

// SSHSawHostKey is what the gateway tells (POST /internal/ssh/host-key) when a device shows it a host key that nobody vouches for. The answer
// has the one that is remembered.
type SSHSawHostKey struct {
	Device    string `json:"device"`
	PublicKey string `json:"public_key"`
}

// SSHHostAsk is what the signer is asked (POST /v1/ssh-host-certificate): for a device by its uuid, or for the gateway.
type SSHHostAsk struct {
	PublicKey string `json:"public_key"`
	Device    string `json:"device,omitempty"`
	Gateway   bool   `json:"gateway,omitempty"`
}

// SSHCertificate is a certificate, and the authorities that people and devices know.
type SSHCertificate struct {
	Certificate string    `json:"certificate"` // a line as it stands in a -cert.pub file
	Until       time.Time `json:"until"`
	SSHAuthorities
	// Own is there, and no certificate is, where the gateway enters a device whose SSH server is none of ours.
	Own *SSHOwnServer `json:"own,omitempty"`
}

// SSHAuthorities are the public keys of the two SSH authorities, lines of authorized_keys. Neither stands in for the other.
type SSHAuthorities struct {
	Users string `json:"users,omitempty"` // signs certificates of users; devices trust it
	Hosts string `json:"hosts,omitempty"` // signs certificates of devices and of the gateway; people's clients trust it
}

// SSHCertificateAsk asks (POST /ssh/v1/certificate) for a certificate to enter one device.
type SSHCertificateAsk struct {
	Device    DeviceUUID `json:"device"`
	PublicKey string     `json:"public_key"`
	Forward   bool       `json:"forward,omitempty"`
}

// How somebody enters a device.
const (
	SSHByCertificate = "certificate" // with a certificate for this one session, through a tunnel
	SSHByGateway     = "gateway"     // with an uploaded key of their own, through the gateway
)

// SSHWay says how whoever asks may enter a device (GET /ssh/v1/device/<uuid>/way).
type SSHWay struct {
	Way     string `json:"way"`
	Support bool   `json:"support,omitempty"` // they are let in by a support grant alone
	// OwnServer says that the device has an SSH server which is none of ours, as balenaOS has: it knows no certificates.
	OwnServer bool    `json:"own_server,omitempty"`
	User      string  `json:"user"`            // whose uploaded keys the gateway knows them by
	Hosts     string  `json:"hosts,omitempty"` // the authority that vouches for the gateway, a line of authorized_keys
	Gateway   SSHSite `json:"gateway"`
}

// SSHKeyAsk is what a device asks (POST /device/v3/ssh/key): whether the owner of a key may enter it.
type SSHKeyAsk struct {
	Fingerprint string `json:"fingerprint"` // SHA256:…
}

// SSHKeyAnswer says who may.
type SSHKeyAnswer struct {
	User    string    `json:"user"`
	Until   time.Time `json:"until,omitzero"` // of a support grant; zero: there is no end
	Forward bool      `json:"forward"`
}

// SSHBegin is what a device reports (POST /device/v3/ssh/begin) when it has let somebody in: by a certificate with this grant, or by a
// key with this fingerprint.
type SSHBegin struct {
	Grant       string `json:"grant,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
}

// SSHBegun answers a begin.
type SSHBegun struct {
	Session int64     `json:"session"`
	Token   string    `json:"token"` // with it the device tells of this one session, also when the device's own key is gone
	User    string    `json:"user"`
	Until   time.Time `json:"until,omitzero"`
	Record  bool      `json:"record,omitempty"` // what the session shows is to be recorded
}

// SSHProgress is what a device tells of one session: while it is open in SSHStill, and at its end (POST /device/v3/ssh/end).
type SSHProgress struct {
	Session  int64  `json:"session"`
	Token    string `json:"token"`
	Kind     string `json:"kind,omitempty"`   // shell, exec, sftp, forward; several with a comma between
	Target   string `json:"target,omitempty"` // host, or names of services
	BytesIn  int64  `json:"bytes_in"`         // to the device
	BytesOut int64  `json:"bytes_out"`
	// Commands are what it was asked to run, the first of them; while it is open only what was not told yet. A shell's are nobody's business.
	Commands     []string `json:"commands,omitempty"`
	CommandCount int      `json:"command_count,omitempty"` // how many there were

	Exit      *int   `json:"exit,omitempty"`      // at the end: of the last program
	Why       string `json:"why,omitempty"`       // at the end: closed, idle, revoked …
	Recording string `json:"recording,omitempty"` // at the end: asciicast version 2
}

// SSHStill is the open sessions of a device (POST /device/v3/ssh/still). The answer names those that must end.
type SSHStill struct {
	Sessions []SSHProgress `json:"sessions,omitempty"`
	End      []int64       `json:"end,omitempty"`
	// Why says why each of those ends.
	Why map[int64]string `json:"why,omitempty"`
}

// SSHSession is one entry of a device's SSH sessions, as its owners read it.
type SSHSession struct {
	ID       int64  `json:"id"`
	Device   string `json:"device"` // uuid
	User     string `json:"user"`
	Support  bool   `json:"support,omitempty"` // it was let in by a support grant
	By       string `json:"by"`                // certificate or key
	Kind     string `json:"kind"`
	Target   string `json:"target"`
	From     string `json:"from,omitempty"` // address of the person
	BeganAt  string `json:"began_at"`
	EndedAt  string `json:"ended_at,omitempty"`
	BytesIn  int64  `json:"bytes_in"`
	BytesOut int64  `json:"bytes_out"`
	Exit     *int   `json:"exit,omitempty"`
	Why      string `json:"why,omitempty"`
	// Commands are what it was asked to run, the first of them, cut and escaped; CommandCount is how many there were.
	Commands     []string `json:"commands,omitempty"`
	CommandCount int      `json:"command_count,omitempty"`
	Recording    bool     `json:"recording,omitempty"` // there is one
}

// SSHGatewayKey is what the gateway asks (POST /internal/ssh/key) with the fingerprint of a key that signed: whose it is.
type SSHGatewayKey struct {
	Fingerprint string `json:"fingerprint,omitempty"`
	User        string `json:"user,omitempty"`
}

// SSHGatewayAsk asks (POST /internal/ssh/certificate) for a certificate with which the gateway enters a device for the owner of a key.
type SSHGatewayAsk struct {
	Fingerprint string `json:"fingerprint"`
	Device      string `json:"device"`
	PublicKey   string `json:"public_key"` // of the gateway's own key, made for this session
	From        string `json:"from"`
	Forward     bool   `json:"forward,omitempty"`
}

// SSHGatewayBegin is what the gateway reports (POST /internal/ssh/begin) when a device whose SSH server is none of ours has let somebody in. The
// answer is SSHBegun.
type SSHGatewayBegin struct {
	Device string `json:"device"`
	Grant  string `json:"grant"`
}

// SSHGatewayStill is a session that the gateway has open there (POST /internal/ssh/still). The answer is SSHStill; its end is told by POST /internal/ssh/end.
type SSHGatewayStill struct {
	Device string `json:"device"`
	SSHProgress
}

// SSHSite says how the gateway is reached, for people.
type SSHSite struct {
	// Address is host:port; "" when there is none.
	Address string `json:"address,omitempty"`
	// Fingerprint is that of the gateway's host key.
	Fingerprint string `json:"fingerprint,omitempty"`
	// KnownHosts is the line for a known_hosts file: the authority that signs the gateway's key and those of devices.
	KnownHosts string `json:"known_hosts,omitempty"`
}
