package api

import (
	"encoding/json"
	"time"
)

// Approval says whose word a release needs before a device of a fleet runs it.
type Approval string

// The approvals. The owner's metadata name one; who has the server cannot change it.
const (
	ApprovalBuilder Approval = "builder"       // what this server built
	ApprovalBoth    Approval = "builder+owner" // what this server built and the owner signed
	ApprovalOwner   Approval = "owner-only"    // what the owner signed
)

// Who holds the root key of a fleet.
const (
	HeldByServer = "server" // the weaker kind: whoever has the signer can make another root
	HeldByOwner  = "owner"
)

// Files of a fleet's metadata. Those of a version are N.NAME.json.
const (
	TrustRoot      = "root"
	TrustTimestamp = "timestamp"
	TrustSnapshot  = "snapshot"
	TrustTargets   = "targets"
	TrustBuilder   = "builder"  // delegates to the bins builder-00 to builder-ff
	TrustOwner     = "owner"    // delegates to the bins owner-00 to owner-ff
	TrustDirector  = "director" // signs what one device should run, and what it should do; in no snapshot
)

// TrustBinBits is how many bits of a release's path choose its bin.
const TrustBinBits = 8

// TrustMark is the member "x-roadstead" of every signed part of a fleet's metadata. Fields that a role does not use are left out.
type TrustMark struct {
	Role     string    `json:"role"`      // as root, builder-3f, director: a file is taken for no other one
	Fleet    string    `json:"fleet"`     // uuid
	SignedAt time.Time `json:"signed_at"` // whole seconds, UTC: a device's clock is never before the newest that it has seen

	HeldBy string `json:"held_by,omitempty"` // root

	Approval  Approval      `json:"approval,omitempty"`  // targets
	Shell     string        `json:"shell,omitempty"`     // targets: "allowed" or "forbidden": whether the server's SSH authority opens devices
	Log       *TrustLogKey  `json:"log,omitempty"`       // targets
	Transfers []TrustLeave  `json:"transfers,omitempty"` // targets: devices that may go to another fleet
	Device    DeviceUUID    `json:"device,omitempty"`    // director
	Nonce     string        `json:"nonce,omitempty"`     // director: what the device sent
	Channel   *TrustChannel `json:"channel,omitempty"`   // director: whether the device's control channel is wanted
}

// TrustLogKey names the transparency log whose proofs a device asks for.
type TrustLogKey struct {
	Origin string `json:"origin"` // its first line
	Key    string `json:"key"`    // as golang.org/x/mod/sumdb/note writes a verifier's key
}

// TrustLeave lets a device go to another fleet: only a root with that digest is taken in its place.
type TrustLeave struct {
	Device DeviceUUID `json:"device"`
	To     string     `json:"to"`   // uuid of the fleet
	Root   string     `json:"root"` // SHA-256 of its first root, hex
}

// TrustChannel is the control channel as it is wanted.
type TrustChannel struct {
	Wanted bool       `json:"wanted"`
	Until  *time.Time `json:"until,omitempty"`
}

// ReleaseDocument is what the builder and the owner sign the digest of: the target releases/COMMIT.json. It does not change once made.
type ReleaseDocument struct {
	Fleet      string                     `json:"fleet"` // uuid
	Commit     string                     `json:"commit"`
	Services   map[string]ReleaseService  `json:"services"`
	Networks   map[string]json.RawMessage `json:"networks,omitempty"` // as the target state has them
	Volumes    map[string]json.RawMessage `json:"volumes,omitempty"`
	Provenance string                     `json:"provenance,omitempty"` // SHA-256 of the signed statement, hex
}

// ReleaseService is one service of a release.
type ReleaseService struct {
	Images      []ReleaseImage    `json:"images"`                // what a target state may name, and what that leads to
	Composition json.RawMessage   `json:"composition,omitempty"` // as the target state has it
	Labels      map[string]string `json:"labels,omitempty"`      // of the image and the composition
	Contract    json.RawMessage   `json:"contract,omitempty"`
}

// ReleaseImage is an image's manifest, or the index of a service that is made for several architectures.
type ReleaseImage struct {
	Platform string `json:"platform,omitempty"` // as linux/arm64; empty: an index
	Digest   string `json:"digest"`             // sha256:…
	Size     int64  `json:"size"`               // bytes of the manifest, or index
}

// ReleaseListing is a release as a bin lists it: the custom part of its target.
type ReleaseListing struct {
	Counter int64 `json:"counter"` // grows with each listing of the fleet
}

// TrustHave asks for what a device lacks: POST /trust/v1/device/UUID/bundle, with the device's key.
type TrustHave struct {
	Nonce    string           `json:"nonce"`              // 16 to 64 characters
	Fleet    string           `json:"fleet,omitempty"`    // uuid of the fleet whose metadata are wanted; empty: the device's
	Commit   string           `json:"commit,omitempty"`   // of the target state that is to be checked; empty: none
	Versions map[string]int64 `json:"versions,omitempty"` // by role, bins too
	Log      int64            `json:"log,omitempty"`      // size of the newest checkpoint that it believes
	Root     string           `json:"root,omitempty"`     // SHA-256 of the root it believes, hex
	Counter  int64            `json:"counter,omitempty"`  // of the release it accepted last
}

// TrustBundle is the answer: what is newer, and what was said to this device.
type TrustBundle struct {
	Fleet    string        `json:"fleet"`              // uuid
	Roots    [][]byte      `json:"roots,omitempty"`    // of versions after the one it has, in order; at most 32
	Files    []TrustFile   `json:"files,omitempty"`    // in the order in which they are to be read
	Director []byte        `json:"director,omitempty"` // signed for this device, with its nonce; of a fleet that it is in only
	Document []byte        `json:"document,omitempty"` // the release's
	Proof    *TrustLogging `json:"proof,omitempty"`    // that the release stands in the log
}

// TrustFile is one file of metadata.
type TrustFile struct {
	Role string `json:"role"`
	Data []byte `json:"data"`
}

// TrustEntry is a leaf of the transparency log: its JSON, as it is made here, is what is hashed.
type TrustEntry struct {
	Kind    string `json:"kind"`              // release, root, targets, owner
	Fleet   string `json:"fleet"`             // uuid
	Name    string `json:"name"`              // of a release its commit, otherwise the role
	Version int64  `json:"version"`           // of a release its counter
	SHA256  string `json:"sha256"`            // of the release's document, or of the file; hex
	By      string `json:"by,omitempty"`      // of a release: builder or owner
	Targets string `json:"targets,omitempty"` // reserved
}

// TrustLogging proves that an entry stands in the log, and that the log is the one which was believed before.
type TrustLogging struct {
	Checkpoint  string   `json:"checkpoint"`            // a signed note
	Entry       []byte   `json:"entry"`                 // the leaf's bytes
	Index       int64    `json:"index"`                 // of the leaf
	Inclusion   [][]byte `json:"inclusion"`             // hashes
	Consistency [][]byte `json:"consistency,omitempty"` // from the size that was asked for
}

// TrustReport is what a device says of its checks: POST /trust/v1/device/UUID/report.
type TrustReport struct {
	State      string           `json:"state"`           // verified, rejected or waiting
	Fleet      string           `json:"fleet,omitempty"` // uuid of the fleet that it believes; "": an older agent does not say
	Commit     string           `json:"commit,omitempty"`
	Counter    int64            `json:"counter,omitempty"`
	SHA256     string           `json:"sha256,omitempty"` // of the document it runs by
	Approval   Approval         `json:"approval,omitempty"`
	HeldBy     string           `json:"held_by,omitempty"`
	Versions   map[string]int64 `json:"versions,omitempty"`
	Checkpoint string           `json:"checkpoint,omitempty"` // the newest it believes: gossip
	Rejection  *TrustRejection  `json:"rejection,omitempty"`
}

// States of a device's trust. A device that says nothing, as a balena supervisor, is unverified.
const (
	TrustVerified   = "verified"   // it runs what it checked
	TrustRejected   = "rejected"   // it was told to run something that it refuses, and runs what ran
	TrustWaiting    = "waiting"    // it cannot check now
	TrustUnverified = "unverified" // it checks nothing
)

// TrustRejection says by name why something is refused.
type TrustRejection struct {
	What     string `json:"what"`               // as "root version 3", "image of service web"
	Reason   string `json:"reason"`             // as expired, signature, threshold, rollback, digest, composition, counter, fleet, log, missing
	Key      string `json:"key,omitempty"`      // id of the key that is concerned
	Expected string `json:"expected,omitempty"` //
	Got      string `json:"got,omitempty"`      //
}

// TrustUpload brings what an owner signed: POST /trust/v1/fleets/UUID/upload. All of it is taken, or nothing. A file with fewer
// signatures than its threshold waits for the others.
type TrustUpload struct {
	Files []TrustFile `json:"files"` // in the order in which they are to be read
	// Try takes nothing, and says whether the caller might upload: [TrustTryFiles], or [TrustTryRoot].
	Try string `json:"try,omitempty"`
}

// What can be tried of an upload.
const (
	TrustTryFiles = "files"
	TrustTryRoot  = "root" // a root, which may be the one that takes the fleet from the server
)

// TrustUploaded is the answer.
type TrustUploaded struct {
	Published []string `json:"published"` // N.ROLE
	Waiting   []string `json:"waiting"`
	Dropped   []string `json:"dropped"` // what waited, and can never be in force any more
}

// TrustWithdrawal takes back files that wait for signatures: POST /trust/v1/fleets/UUID/withdraw. Root, targets and owner go together.
type TrustWithdrawal struct {
	Files []string `json:"files"` // N.ROLE
}

// TrustWithdrawn is the answer.
type TrustWithdrawn struct {
	Withdrawn []string `json:"withdrawn"` // N.ROLE; also what cannot be in force without those that were named
	Published []string `json:"published"` // what had waited only because of them
	Waiting   []string `json:"waiting"`   // what waits still
}

// TrustStatus is what is known of a fleet's trust: GET /trust/v1/fleets/UUID.
type TrustStatus struct {
	Fleet     string           `json:"fleet"`
	Slug      string           `json:"slug"`
	HeldBy    string           `json:"held_by"`
	Approval  Approval         `json:"approval"`
	Shell     string           `json:"shell"`
	Roles     []TrustRole      `json:"roles"`
	Pending   []TrustPending   `json:"pending"`   // files that wait for signatures
	Unsigned  []TrustUnsigned  `json:"unsigned"`  // releases that wait for the owner
	Releases  []TrustListing   `json:"releases"`  // the newest 50 that were built, and who has signed them
	Devices   map[string]int64 `json:"devices"`   // how many, by state
	Rejecting []TrustDevice    `json:"rejecting"` // at most 50
	Leaving   []TrustLeaving   `json:"leaving"`   // at most 50
}

// TrustLeaving is a device that was moved to another fleet and has not been seen to believe that one since: this fleet's word lets it go.
type TrustLeaving struct {
	UUID  DeviceUUID `json:"uuid"`
	Since time.Time  `json:"since"`
}

// TrustRole is one role of a fleet's metadata.
type TrustRole struct {
	Name      string    `json:"name"`
	Version   int64     `json:"version"`
	Expires   time.Time `json:"expires"`
	Keys      []string  `json:"keys"` // ids
	Threshold int       `json:"threshold"`
}

// TrustPending is a file that too few have signed.
type TrustPending struct {
	Role      string    `json:"role"`
	Version   int64     `json:"version"`
	Data      []byte    `json:"data"`
	Signed    []string  `json:"signed"` // ids of keys
	Threshold int       `json:"threshold"`
	By        string    `json:"by"` // name of the user who brought it first; empty: there is no such user any more
	Since     time.Time `json:"since"`
}

// TrustUnsigned is a release that waits for the owner.
type TrustUnsigned struct {
	Commit    string    `json:"commit"`
	SHA256    string    `json:"sha256"` // of its document
	Counter   int64     `json:"counter"`
	CreatedAt time.Time `json:"created_at"`
}

// TrustListing says who has signed a release as it is. What the builder has not listed yet it lists when a device asks.
type TrustListing struct {
	Commit  string `json:"commit"`
	Builder bool   `json:"builder"`
	Owner   bool   `json:"owner"`
}

// Says says it to people, under an approval; waits: it lacks the owner's signature.
func (l TrustListing) Says(approval Approval) (text string, waits bool) {
	switch {
	case l.Owner && l.Builder:
		return "builder and owner", false
	case l.Owner && approval == ApprovalBoth:
		return "owner; the builder has not listed it", false
	case l.Owner:
		return "owner", false
	case approval != ApprovalBuilder:
		return "waits for the owner's signature", true
	case l.Builder:
		return "builder", false
	}
	return "nobody yet: the builder lists it when a device asks for it", false
}

// TrustFleet is a fleet in short: GET /trust/v1/fleets.
type TrustFleet struct {
	Fleet    string           `json:"fleet"` // uuid
	Slug     string           `json:"slug"`
	HeldBy   string           `json:"held_by"` // empty: nothing was signed of the fleet yet
	Approval Approval         `json:"approval"`
	Shell    string           `json:"shell"`
	Devices  map[string]int64 `json:"devices"` // how many, by state
}

// TrustDevice is a device that refuses what it is told.
type TrustDevice struct {
	UUID      DeviceUUID     `json:"uuid"`
	Name      string         `json:"device_name"`
	Rejection TrustRejection `json:"rejection"`
	SeenAt    time.Time      `json:"seen_at"`
}

// ConfigTrust is the member "roadsteadTrust" of config.json: a device's root of trust.
type ConfigTrust struct {
	Fleet string `json:"fleet"` // uuid
	Root  []byte `json:"root"`  // root.json as it is
}

// TrustCommand is the signed part of something that a device is told to do. It is signed with the fleet's director key.
type TrustCommand struct {
	Type    string     `json:"_type"` // command
	Fleet   string     `json:"fleet"`
	Device  DeviceUUID `json:"device"`
	Verb    ActionVerb `json:"verb"`
	Service string     `json:"service,omitempty"`
	Force   bool       `json:"force,omitempty"`
	Digest  string     `json:"digest,omitempty"` // of what is set, the member "network" of a host configuration: SHA-256 of its canonical JSON, hex
	Nonce   string     `json:"nonce"`
	Expires time.Time  `json:"expires"`
}

// NeedsCommand says whether a device that verifies does a verb of its own API, or one that waited, only with a signed command.
func (v ActionVerb) NeedsCommand(force bool) bool {
	switch v {
	case ActReboot, ActShutdown, ActRestart, ActRestartService, ActStopService, ActStartService, ActPurge,
		ActHostConfig, ActRenewKey, ActCleanVolumes:
		return true
	case ActUpdate:
		return force // without it, it is but a poll
	default:
		return false
	}
}

// TrustCommandHeader carries a signed command to a device's own API, in base64.
const TrustCommandHeader = "X-Roadstead-Command"
