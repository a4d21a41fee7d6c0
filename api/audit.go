package api

// AuditEntry is one entry of the audit log: who did what to which thing, from where, and what came of it. How it is hashed says
// docs/audit.md.
type AuditEntry struct {
	Seq          int64  `json:"seq"`          // its place in the chain: 1, 2, 3, …
	At           string `json:"at"`           // when, as YYYY-MM-DDTHH:MM:SS.sssZ
	Act          string `json:"act"`          // a noun and a verb: "device.delete"
	Result       string `json:"result"`       // "done" or "refused"
	Kind         string `json:"kind"`         // of the thing: "device", "api_key", …
	ThingID      int64  `json:"thing_id"`     // 0: it has none
	Name         string `json:"name"`         // of the thing, as people know it
	Organization int64  `json:"organization"` // whose administrators may read of it; 0: nobody's
	Fleet        int64  `json:"fleet"`        // whose administrators may read of it, too; 0: none
	User         int64  `json:"user"`         // whom it is about; 0: nobody
	Support      bool   `json:"support"`      // it was done under a support grant
	Detail       string `json:"detail"`       // JSON, as a text, because its bytes are hashed; "" when there is no more to say
	ByKind       string `json:"by_kind"`      // kind of who did it
	ByUser       int64  `json:"by_user"`      // 0: no person
	ByKey        int64  `json:"by_key"`       // the API key that was used; 0: none
	BySession    int64  `json:"by_session"`   // the session that was used; 0: none
	ByName       string `json:"by_name"`      // user name, "d_<uuid>", role
	Address      string `json:"address"`      // IP address that the request came from
	Request      string `json:"request"`      // its id, as in the server's log
	Salt         string `json:"salt"`         // 16 random bytes in hexadecimal, so that nobody finds the content by its digest
	Hash         string `json:"hash"`         // of the chain up to this entry, in hexadecimal
}

// AuditLink stands in an export for an entry that the reader may not see: enough to go on with the chain, nothing to read.
type AuditLink struct {
	Seq    int64  `json:"seq"`
	Digest string `json:"digest"` // of the entry's content and salt
	Hash   string `json:"hash"`
}

// AuditCheckpoint is the signer's word that the chain had this hash at this entry.
type AuditCheckpoint struct {
	Site      string `json:"site"` // domain of the server
	Seq       int64  `json:"seq"`
	Hash      string `json:"hash"`
	At        string `json:"at"`        // when it was signed, by the signer's clock
	Key       string `json:"key"`       // id of the key
	Signature string `json:"signature"` // Ed25519, base64
}

// AuditKey is a public key that checkpoints are signed with.
type AuditKey struct {
	ID     string `json:"id"`     // SHA-256 of the key, in hexadecimal
	Public string `json:"public"` // 32 bytes, base64
}

// AuditAnchor is where a chain, or a part of one, begins: after this entry.
type AuditAnchor struct {
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"`
}

// AuditHeader is the first line of an export.
type AuditHeader struct {
	Version    int         `json:"roadstead_audit"` // 1
	Site       string      `json:"site"`
	ExportedAt string      `json:"exported_at"`
	After      AuditAnchor `json:"after"`
	Last       int64       `json:"last"` // seq of the newest entry when the export began
	Keys       []AuditKey  `json:"keys"`
}

// AuditEnd is the last line of an export. Without it the file was cut.
type AuditEnd struct {
	Seq     int64 `json:"seq"`     // of the last entry
	Entries int64 `json:"entries"` // how many the reader may see
	Links   int64 `json:"links"`   // how many not
}

// AuditLine is one line of an export: exactly one of its fields is there.
type AuditLine struct {
	Header     *AuditHeader     `json:"header,omitempty"`
	Entry      *AuditEntry      `json:"entry,omitempty"`
	Link       *AuditLink       `json:"link,omitempty"`
	Checkpoint *AuditCheckpoint `json:"checkpoint,omitempty"`
	End        *AuditEnd        `json:"end,omitempty"`
}

// AuditExtension asks the signer for a checkpoint: POST /v1/audit-checkpoint. The signer works the chain out by itself, from the last
// entry that it signed on, so that it never signs anything but a continuation.
type AuditExtension struct {
	After   AuditAnchor `json:"after"`   // the last checkpoint that the api role has; seq 0 at the beginning
	Digests []string    `json:"digests"` // of the entries after it, in order
}

// AuditSigned is the signer's answer: its newest checkpoint, which may be newer than the one that was asked for when an answer got lost,
// and the key.
type AuditSigned struct {
	Checkpoint AuditCheckpoint `json:"checkpoint"`
	Key        AuditKey        `json:"key"`
}

// MaxAuditDigests bounds one extension.
const MaxAuditDigests = 5000
