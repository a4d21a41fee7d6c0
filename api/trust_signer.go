package api

import "encoding/json"

// What the api role asks of the signer about trust. Bytes stand in base64, as JSON has them.

// TrustKeysAsk asks for the public keys of a fleet: POST /v1/trust/keys.
type TrustKeysAsk struct {
	Fleet string `json:"fleet"` // uuid
}

// TrustServerKeys are the public keys that the server has for a fleet: GET /trust/v1/fleets/FLEET/keys. Keys are as TUF metadata list them.
type TrustServerKeys struct {
	Builder   json.RawMessage `json:"builder"`
	Director  json.RawMessage `json:"director"`
	Snapshot  json.RawMessage `json:"snapshot"`
	Timestamp json.RawMessage `json:"timestamp"`
	Log       TrustLogKey     `json:"log"`
}

// TrustFleetKeys is the signer's answer: those keys, those of the weaker kind of root, and what the signer remembers of the fleet.
type TrustFleetKeys struct {
	TrustServerKeys
	Root    json.RawMessage `json:"root"`
	Targets json.RawMessage `json:"targets"`

	Version        int64 `json:"version"`         // the newest that was signed, of any role but root and targets
	Counter        int64 `json:"counter"`         // the highest that was listed
	RootVersion    int64 `json:"root_version"`    // the newest that was signed
	TargetsVersion int64 `json:"targets_version"` // the newest that was signed
	Owned          bool  `json:"owned"`           // a root of the owner's was seen: root and targets are not signed any more
}

// TrustSignAsk asks for files of one fleet to be signed, all or none: POST /v1/trust/sign.
type TrustSignAsk struct {
	Fleet string      `json:"fleet"`
	Files []TrustSign `json:"files"`
}

// TrustSign is one file, and what the signer needs to see for it.
type TrustSign struct {
	Role   string       `json:"role"`
	Data   []byte       `json:"data"`             // the file; the signer adds its signature
	Before []byte       `json:"before,omitempty"` // of a bin: the one that it takes the place of
	Proofs []TrustShown `json:"proofs,omitempty"` // of a bin: for each release that was not in the one before
}

// TrustShown is what a release is listed for: its document, and the signed statement of where it comes from.
type TrustShown struct {
	Document  []byte `json:"document"`
	Statement []byte `json:"statement"`
}

// TrustSignedFiles is the answer, in the same order.
type TrustSignedFiles struct {
	Files [][]byte `json:"files"`
}

// TrustDirect asks for what is said to one device: POST /v1/trust/director, a list of at most MaxTrustBatch.
type TrustDirect struct {
	Fleet   string         `json:"fleet"`
	Device  DeviceUUID     `json:"device"`
	Nonce   string         `json:"nonce"`
	Release *TrustDirected `json:"release,omitempty"` // none: the device should run none
	Channel *TrustChannel  `json:"channel,omitempty"`
}

// TrustDirected is a release as the director names it.
type TrustDirected struct {
	Commit  string `json:"commit"`
	Length  int64  `json:"length"` // of the document
	SHA256  string `json:"sha256"`
	Counter int64  `json:"counter"`
}

// TrustSigned is the answer for one of a list; the others are signed all the same.
type TrustSigned struct {
	Data    []byte `json:"data,omitempty"`
	Refused string `json:"refused,omitempty"`
}

// MaxTrustBatch is how many statements or commands are signed at once.
const MaxTrustBatch = 500

// TrustExtension asks for a checkpoint over the log with some leaves more: POST /v1/trust/log. Without leaves the answer is the newest one.
type TrustExtension struct {
	Size   int64    `json:"size"`   // how many leaves there are before them
	Leaves []string `json:"leaves"` // their hashes, hex
}

// MaxTrustLeaves is how many leaves are signed at once.
const MaxTrustLeaves = 10_000

// TrustExtended is the answer.
type TrustExtended struct {
	Size       int64  `json:"size"`
	Checkpoint string `json:"checkpoint"`
}

// TrustLeavesAsk asks for the leaves that the signer has signed: POST /v1/trust/log-leaves.
type TrustLeavesAsk struct {
	From int64 `json:"from"`
}

// TrustLeaves is the answer: at most MaxTrustLeaves.
type TrustLeaves struct {
	Size   int64    `json:"size"` // of the whole log
	Leaves []string `json:"leaves"`
}
