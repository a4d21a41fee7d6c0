package signer

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/note"
	sumdb "golang.org/x/mod/sumdb/tlog"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/tlog"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Files of the transparency log: the hash of each leaf, 32 bytes after 32 bytes, and the newest checkpoint, which says how many of them count.
const (
	TrustLeavesFile = "trust-log.leaves"
	TrustLogFile    = "trust-log.json"
)

const maxTrustLogBody = 2 << 20

// logger signs the transparency log. It keeps the leaves' hashes and works the root out from them, so that whoever has the api role, or its
// database, can have more leaves signed but none in place of others.
type logger struct {
	origin   string
	key      note.Signer
	verifier string
	dir      string

	mu     sync.Mutex // covers what follows; the files are written under it
	leaves *os.File
	size   int64
	edge   map[int64]tlog.Hash // stored hashes of the complete trees that the log now consists of
	newest string              // checkpoint
}

// RenewTrustLog leaves the log of a signer that does not run behind, and says what it was: the signer begins another one.
func RenewTrustLog(dir string) (before tlog.Checkpoint, err error) {
	file := filepath.Join(dir, TrustLogFile)
	data, err := os.ReadFile(file)
	if err != nil {
		return before, fmt.Errorf("trust log: %w", err)
	}
	var last logState // one that cannot be read is left behind as well
	_ = json.Unmarshal(data, &last)
	if err := durable.Remove(file); err != nil { // the leaves go when the next log begins
		return before, fmt.Errorf("trust log: %w", err)
	}
	return tlog.Checkpoint{Origin: last.Origin, Size: last.Size}, nil
}

// openLogger opens the log. Its name stays what it was when its first checkpoint was signed, though the server be called otherwise now.
func openLogger(dir, origin string, key ed25519.PrivateKey) (*logger, error) {
	l := &logger{origin: origin, dir: dir, edge: map[int64]tlog.Hash{}}
	var last logState
	data, err := os.ReadFile(filepath.Join(dir, TrustLogFile))
	switch {
	case errors.Is(err, fs.ErrNotExist): // a new log, also where a backup was put back: what devices have seen of the one before, this one does not go on from
		last.Origin = origin + "-" + newID()[:8]
		if err := l.remember(last); err != nil {
			return nil, err
		}
		if err := durable.Remove(filepath.Join(dir, TrustLeavesFile)); err != nil {
			return nil, fmt.Errorf("trust log: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("trust log: %w", err)
	case json.Unmarshal(data, &last) != nil || last.Size < 0 || (last.Checkpoint == "") != (last.Size == 0):
		return nil, fmt.Errorf("trust log: %s cannot be read; without it the signer does not know what it signed", TrustLogFile)
	}
	if l.origin = last.Origin; l.origin == "" {
		l.origin, _, _ = strings.Cut(last.Checkpoint, "\n")
	}
	if l.key, err = tlog.NewSigner(l.origin, key); err != nil {
		return nil, fmt.Errorf("trust log: %w", err)
	}
	if l.verifier, err = tlog.VerifierKey(l.origin, key.Public().(ed25519.PublicKey)); err != nil {
		return nil, fmt.Errorf("trust log: %w", err)
	}
	l.leaves, err = os.OpenFile(filepath.Join(dir, TrustLeavesFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("trust log: %w", err)
	}
	if err := l.load(last); err != nil {
		return nil, errors.Join(err, l.leaves.Close())
	}
	return l, nil
}

// logState is what is in the file beside the leaves.
type logState struct {
	Origin string `json:"origin"`
	api.TrustExtended
}

func (l *logger) remember(s logState) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(l.dir, TrustLogFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("trust log: remember: %w", err)
	}
	return nil
}

// load reads the leaves that count. What was appended after them nobody got a signature for.
func (l *logger) load(last logState) error {
	hashes, err := l.read(0, last.Size)
	if err != nil {
		return fmt.Errorf("trust log: %s does not hold the %d leaves that were signed: %w", TrustLeavesFile, last.Size, err)
	}
	if err := l.leaves.Truncate(last.Size * sumdb.HashSize); err != nil {
		return fmt.Errorf("trust log: %w", err)
	}
	for _, h := range hashes {
		if err := l.grow(h); err != nil {
			return err
		}
	}
	l.newest = last.Checkpoint
	if last.Size > 0 {
		text, err := l.checkpoint()
		if err == nil && text != last.Checkpoint {
			err = fmt.Errorf("trust log: the leaves in %s are not those that were signed", TrustLeavesFile)
		}
		return err
	}
	return nil
}

// read gives the hashes of some leaves.
func (l *logger) read(from, to int64) ([]tlog.Hash, error) {
	data := make([]byte, (to-from)*sumdb.HashSize)
	if _, err := l.leaves.ReadAt(data, from*sumdb.HashSize); err != nil && len(data) > 0 {
		return nil, err
	}
	list := make([]tlog.Hash, to-from)
	for i := range list {
		copy(list[i][:], data[i*sumdb.HashSize:])
	}
	return list, nil
}

// ReadHashes gives hashes of the edge: no other is ever asked for.
func (l *logger) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	list := make([]tlog.Hash, len(indexes))
	for i, n := range indexes {
		h, ok := l.edge[n]
		if !ok {
			return nil, fmt.Errorf("trust log: hash %d is not at the edge", n)
		}
		list[i] = h
	}
	return list, nil
}

// grow takes one leaf into the edge.
func (l *logger) grow(leaf tlog.Hash) error {
	stored, _, err := tlog.Append(l.size, []tlog.Hash{leaf}, l)
	if err != nil {
		return fmt.Errorf("trust log: %w", err)
	}
	at := tlog.LeafIndex(l.size)
	for i, h := range stored {
		l.edge[at+int64(i)] = h
	}
	l.size++
	for n := range l.edge { // what is inside of a larger tree is not needed any more
		level, k := sumdb.SplitStoredHashIndex(n)
		if whole := (k + 1) << level; l.size>>level != k+1 || whole > l.size || (l.size>>level)&1 == 0 {
			delete(l.edge, n)
		}
	}
	return nil
}

// checkpoint is the signed note of the log as it is.
func (l *logger) checkpoint() (string, error) {
	root, err := tlog.Root(l.size, l)
	if err != nil {
		return "", fmt.Errorf("trust log: %w", err)
	}
	return tlog.Checkpoint{Origin: l.origin, Size: l.size, Root: root}.Sign(l.key)
}

// extend signs the log with some leaves more. What was signed already may come again, when the answer got lost, but nothing else in its place.
func (l *logger) extend(ask api.TrustExtension) (out api.TrustExtended, err error) {
	leaves := make([]tlog.Hash, len(ask.Leaves))
	if ask.Size < 0 || len(leaves) > api.MaxTrustLeaves {
		return out, api.Errorf(api.Invalid, "leaves: at most %d at once, after none or more", api.MaxTrustLeaves)
	}
	for i, text := range ask.Leaves {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != sumdb.HashSize {
			return out, api.Errorf(api.Invalid, "leaves: %.70q is no hash", text)
		}
		copy(leaves[i][:], raw)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if ask.Size > l.size {
		return out, api.Errorf(api.Conflict, "size: leaf %d was never signed; the log has %d", ask.Size-1, l.size)
	}
	again := leaves[:min(int64(len(leaves)), l.size-ask.Size)]
	have, err := l.read(ask.Size, ask.Size+int64(len(again)))
	if err != nil {
		return out, fmt.Errorf("trust log: %w", err)
	}
	for i, h := range have {
		if h != again[i] {
			return out, api.Errorf(api.Conflict, "leaves: leaf %d is not the one that was signed", ask.Size+int64(i))
		}
	}
	if fresh := leaves[len(again):]; len(fresh) > 0 {
		if err := l.add(fresh); err != nil {
			return out, err
		}
	}
	return api.TrustExtended{Size: l.size, Checkpoint: l.newest}, nil
}

// add writes leaves, and then the checkpoint by which they count. Where that fails the log is as it was.
func (l *logger) add(leaves []tlog.Hash) (err error) {
	data := make([]byte, 0, len(leaves)*sumdb.HashSize)
	for _, h := range leaves {
		data = append(data, h[:]...)
	}
	size, edge := l.size, make(map[int64]tlog.Hash, len(l.edge))
	for n, h := range l.edge {
		edge[n] = h
	}
	defer func() {
		if err != nil {
			l.size, l.edge = size, edge
		}
	}()
	if _, err := l.leaves.WriteAt(data, l.size*sumdb.HashSize); err != nil {
		return fmt.Errorf("trust log: %w", err)
	}
	if err := l.leaves.Sync(); err != nil {
		return fmt.Errorf("trust log: %w", err)
	}
	for _, h := range leaves {
		if err := l.grow(h); err != nil {
			return err
		}
	}
	text, err := l.checkpoint()
	if err != nil {
		return err
	}
	if err := l.remember(logState{Origin: l.origin, TrustExtended: api.TrustExtended{Size: l.size, Checkpoint: text}}); err != nil {
		return err
	}
	l.newest = text
	return nil
}

// from gives the hashes of the leaves that were signed.
func (l *logger) from(first int64) (out api.TrustLeaves, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out = api.TrustLeaves{Size: l.size, Leaves: []string{}}
	if first < 0 || first > l.size {
		return out, api.Errorf(api.Invalid, "from: the log has %d leaves", l.size)
	}
	list, err := l.read(first, min(l.size, first+api.MaxTrustLeaves))
	if err != nil {
		return out, fmt.Errorf("trust log: %w", err)
	}
	for _, h := range list {
		out.Leaves = append(out.Leaves, hex.EncodeToString(h[:]))
	}
	return out, nil
}

// trustLog is POST /v1/trust/log.
func (s *Server) trustLog(w http.ResponseWriter, r *http.Request) error {
	var ask api.TrustExtension
	if err := decodeLarge(r, maxTrustLogBody, &ask); err != nil {
		return err
	}
	out, err := s.trust.log.extend(ask)
	if err != nil {
		s.log.WarnContext(r.Context(), "the log is not signed", "size", ask.Size, "leaves", len(ask.Leaves), "request", web.RequestID(r.Context()), "error", err)
		return err
	}
	if len(ask.Leaves) > 0 {
		s.log.InfoContext(r.Context(), "signed", "for", api.RoleAPI, "log", out.Size, "request", web.RequestID(r.Context()))
	}
	return web.WriteJSON(w, http.StatusOK, out)
}

// trustLeaves is POST /v1/trust/log-leaves.
func (s *Server) trustLeaves(w http.ResponseWriter, r *http.Request) error {
	var ask api.TrustLeavesAsk
	if err := web.Decode(r, &ask); err != nil {
		return err
	}
	out, err := s.trust.log.from(ask.From)
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, out)
}

func decodeLarge(r *http.Request, limit int64, v any) error {
	body, err := web.ReadBody(r, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return api.Errorf(api.Invalid, "the body is not what is asked here: %v", err)
	}
	return nil
}
