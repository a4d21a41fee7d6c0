package api

// TrustLeaf is a leaf of the transparency log: GET /trust/v1/log/entries?start=&end= gives a list of them, from start to before end, at most MaxTrustEntries.
// Of fleets that the caller may not read, only the hash is given.
type TrustLeaf struct {
	Index int64  `json:"index"`
	Hash  string `json:"hash"`            // of the leaf, as the tree has it; hex
	Entry []byte `json:"entry,omitempty"` // the leaf's bytes: a TrustEntry
}

// MaxTrustEntries is how many leaves are given at once.
const MaxTrustEntries = 1000

// TrustCheckpoint is a checkpoint as a note: the answer of GET /trust/v1/log/checkpoint, with the cosignatures of witnesses, and the body of POST, which is
// answered by 200 when it fits this log and by 409 when it does not.
type TrustCheckpoint struct {
	Checkpoint string      `json:"checkpoint"`
	Key        TrustLogKey `json:"key"`                 // of the log; in answers
	Witnesses  []string    `json:"witnesses,omitempty"` // keys of those who cosigned, as text; in answers
}

// TrustWitness is a witness of the transparency log, as the operator sees it.
type TrustWitness struct {
	Name    string `json:"name"`                 // its key, as name+hash+key
	By      string `json:"by,omitempty"`         // name of the user who brought it
	Since   string `json:"created_at,omitempty"` // since when the server knows it
	Removed string `json:"removed_at,omitempty"` // since when it is removed
	Signed  int64  `json:"signed,omitempty"`     // leaves of the newest checkpoint that it signed
}

// TrustCosignature brings the cosignature of a witness: POST /trust/v1/log/cosignature.
type TrustCosignature struct {
	Witness    string `json:"witness"`    // its key as text: NAME+HASH+BASE64
	Checkpoint string `json:"checkpoint"` // the note with the cosignature
}
