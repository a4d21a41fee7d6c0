package signer

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/ledger"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Files of the role's directory for the audit log.
const (
	AuditKeyFile = "audit.key"             // signs checkpoints and nothing else; of another kind than the token key
	AuditFile    = "audit-checkpoint.json" // the newest checkpoint: what may be signed next is only what goes on from there
)

const auditKeyName = "audit key"

// maxAuditBody holds a full extension.
const maxAuditBody = 1 << 20

// NewAuditKey writes a fresh key for checkpoints of the audit log. The parent calls it once, before the role first starts.
func NewAuditKey(file string) error { return newEd25519Key(file, auditKeyName) }

// AuditKey is the public half of a key for checkpoints, as it is told to everybody.
func AuditKey(file string) (api.AuditKey, error) {
	key, err := loadAuditKey(file)
	if err != nil {
		return api.AuditKey{}, err
	}
	return ledger.Key(key.Public().(ed25519.PublicKey)), nil
}

func loadAuditKey(file string) (ed25519.PrivateKey, error) { return loadEd25519Key(file, auditKeyName) }

// auditor signs the audit log's chain, and remembers how far. It works the chain out by itself from the entries' digests, so that whoever
// has the api role, or its database, can have more entries signed but none in place of others.
type auditor struct {
	key  ed25519.PrivateKey
	site string
	file string
	now  func() time.Time

	mu sync.Mutex // one checkpoint after the other; the file is read and written under it, which takes a moment once a minute
}

func newAuditor(dir, site string) (*auditor, error) {
	key, err := loadAuditKey(filepath.Join(dir, AuditKeyFile))
	if err != nil {
		return nil, err
	}
	a := &auditor{key: key, site: site, file: filepath.Join(dir, AuditFile), now: time.Now}
	if _, err := LastAudit(a.file); err != nil {
		return nil, err
	}
	return a, nil
}

// LastAudit reads the newest checkpoint that a signer remembers; nil when it has signed none.
func LastAudit(file string) (*api.AuditCheckpoint, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if err != nil {
		return nil, fmt.Errorf("last audit checkpoint: %w", err)
	}
	var c api.AuditCheckpoint
	if err := json.Unmarshal(data, &c); err != nil || c.Seq <= 0 {
		return nil, fmt.Errorf("last audit checkpoint: %s cannot be read; without it the signer does not know what it signed", file)
	}
	return &c, nil
}

// extend signs the chain with some entries more. It remembers that before it says so. Asked again for what it has signed already, because
// an answer got lost, it gives the newest checkpoint that it has.
func (a *auditor) extend(ext api.AuditExtension) (*api.AuditCheckpoint, error) {
	if len(ext.Digests) == 0 || len(ext.Digests) > api.MaxAuditDigests {
		return nil, api.Errorf(api.Invalid, "a checkpoint covers 1 to %d new entries", api.MaxAuditDigests)
	}
	hash, err := ledger.ParseHash(ext.After.Hash)
	if err != nil || ext.After.Seq < 0 {
		return nil, api.Errorf(api.Invalid, "after: is no place in the chain")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	last, err := LastAudit(a.file)
	if err != nil {
		return nil, err
	}
	seq := ext.After.Seq
	if last != nil && seq > last.Seq {
		return nil, api.Errorf(api.Conflict, "entry %d was never signed; the last one was %d", seq, last.Seq)
	}
	if last != nil && seq == last.Seq && ext.After.Hash != last.Hash {
		return nil, api.Errorf(api.Conflict, "entry %d is not the one that was signed", seq)
	}
	known := last == nil || seq == last.Seq // what follows is new
	for _, text := range ext.Digests {
		digest, err := ledger.ParseHash(text)
		if err != nil {
			return nil, api.Errorf(api.Invalid, "digests: %v", err)
		}
		seq++
		hash = ledger.Next(hash, seq, digest)
		if last != nil && seq == last.Seq && !known {
			if hash.String() != last.Hash {
				return nil, api.Errorf(api.Conflict, "entry %d is not the one that was signed", seq)
			}
			known = true
		}
	}
	if last != nil && seq <= last.Seq {
		if !known {
			return nil, api.Errorf(api.Conflict, "entry %d comes before the last one that was signed, %d", seq, last.Seq)
		}
		return last, nil
	}
	c := &api.AuditCheckpoint{Site: a.site, Seq: seq, Hash: hash.String(), At: a.now().UTC().Format("2006-01-02T15:04:05.000Z")}
	ledger.Sign(c, a.key)
	data, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(a.file, append(data, '\n'), 0o600); err != nil {
		return nil, fmt.Errorf("remember checkpoint: %w", err)
	}
	return c, nil
}

// auditCheckpoint is POST /v1/audit-checkpoint.
func (s *Server) auditCheckpoint(w http.ResponseWriter, r *http.Request) error {
	body, err := web.ReadBody(r, maxAuditBody)
	if err != nil {
		return err
	}
	var ext api.AuditExtension
	if err := json.Unmarshal(body, &ext); err != nil {
		return api.Errorf(api.Invalid, "the body is no extension: %v", err)
	}
	c, err := s.audit.extend(ext)
	if err != nil {
		s.log.WarnContext(r.Context(), "a checkpoint is not signed", "after", ext.After.Seq, "entries", len(ext.Digests),
			"request", web.RequestID(r.Context()), "error", err)
		return err
	}
	s.log.InfoContext(r.Context(), "signed", "for", api.RoleAPI, "checkpoint", c.Seq, "request", web.RequestID(r.Context()))
	return web.WriteJSON(w, http.StatusOK, api.AuditSigned{Checkpoint: *c, Key: ledger.Key(s.audit.key.Public().(ed25519.PublicKey))})
}
