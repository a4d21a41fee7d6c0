package signer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// signedOf is what the signer remembers of one fleet, so that whoever has the api role, or an old copy of its database, can have nothing older signed.
type signedOf struct {
	version int64 // of what is signed online, whatever the role
	counter int64 // the highest that was listed
	root    int64
	targets int64
	owned   bool     // a root of the owner's was signed over to
	handed  [32]byte // the SHA-256 of what was signed of it: that one may be signed again, when the answer got lost
}

// rises refuses what is not newer than what is remembered.
func (m signedOf) rises(to signedOf) error {
	for _, f := range []struct {
		name   string
		of, to int64
	}{{"version", m.version, to.version}, {"counter", m.counter, to.counter}, {"root version", m.root, to.root}, {"targets version", m.targets, to.targets}} {
		if f.to < f.of {
			return api.Errorf(api.Conflict, "%s %d is older than %d, which was signed", f.name, f.to, f.of)
		}
	}
	return nil
}

// A record is what is remembered of one fleet: it takes the place of those before it. Numbers have the big end first.
const (
	memoryMagic  = "roadstead trust 1\n"
	memoryRecord = 16 + 4*8 + 1 + 32 + 4 // the fleet, numbers, owned, handed, and the CRC of all that
)

// memory is a file of records. It is appended to, and written anew when most of it is of no use any more; at its end there may be part
// of a record whose writing was interrupted, and whose signature therefore nobody got.
type memory struct {
	path string

	mu      sync.Mutex // covers what follows; the file is written under it
	fleets  map[[16]byte]signedOf
	file    *os.File
	records int
	broken  error
}

// newMemory makes the file of a signer that has signed nothing.
func newMemory(path string) error { return durable.WriteFile(path, []byte(memoryMagic), 0o600) }

func openMemory(path string) (*memory, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("trust: %w; without it the signer does not know what it signed", err)
	}
	if !bytes.HasPrefix(data, []byte(memoryMagic)) {
		return nil, fmt.Errorf("trust: %s cannot be read; without it the signer does not know what it signed", path)
	}
	m := &memory{path: path, fleets: map[[16]byte]signedOf{}}
	data = data[len(memoryMagic):]
	for at := 0; len(data)-at >= memoryRecord; at += memoryRecord {
		key, s, ok := decode(data[at : at+memoryRecord])
		if !ok && len(data)-at < 2*memoryRecord {
			break // the last one
		}
		if !ok {
			return nil, fmt.Errorf("trust: %s is damaged at byte %d; without it the signer does not know what it signed", path, at+len(memoryMagic))
		}
		m.fleets[key] = s
		m.records++
	}
	return m, m.rewrite()
}

// rewrite leaves one record of each fleet in the file.
func (m *memory) rewrite() error {
	all := make([]byte, 0, len(memoryMagic)+len(m.fleets)*memoryRecord)
	all = append(all, memoryMagic...)
	for key, s := range m.fleets {
		all = append(all, encode(key, s)...)
	}
	if err := durable.WriteFile(m.path, all, 0o600); err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	file, err := os.OpenFile(m.path, os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	if m.file != nil {
		_ = m.file.Close() // nothing is in it that is not in the new one
	}
	m.file, m.records = file, len(m.fleets)
	return nil
}

func memoryKey(fleet string) (key [16]byte) {
	sum := sha256.Sum256([]byte(fleet))
	copy(key[:], sum[:])
	return key
}

// of is what is remembered of a fleet.
func (m *memory) of(fleet string) signedOf {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fleets[memoryKey(fleet)]
}

// change remembers something about a fleet, durably, before anybody gets a signature. decide is given what is known and says what is to be known.
func (m *memory) change(fleet string, decide func(now signedOf) (signedOf, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return m.broken
	}
	key := memoryKey(fleet)
	before := m.fleets[key]
	after, err := decide(before)
	if err != nil || after == before {
		return err
	}
	if err := before.rises(after); err != nil {
		return err
	}
	if m.records > 4*len(m.fleets)+1000 {
		if err := m.rewrite(); err != nil {
			return err
		}
	}
	at := int64(len(memoryMagic) + m.records*memoryRecord)
	if _, err := m.file.WriteAt(encode(key, after), at); err != nil {
		return fmt.Errorf("trust: remember: %w", errors.Join(err, m.cut(at)))
	}
	if err := m.file.Sync(); err != nil {
		return fmt.Errorf("trust: remember: %w", errors.Join(err, m.cut(at)))
	}
	m.fleets[key] = after
	m.records++
	return nil
}

// cut takes away part of a record. Where that fails too, nothing is signed before the signer starts anew.
func (m *memory) cut(at int64) error {
	err := m.file.Truncate(at)
	if err != nil {
		m.broken = fmt.Errorf("trust: %s cannot be written: %w", m.path, err)
	}
	return err
}

func encode(key [16]byte, s signedOf) []byte {
	b := append(make([]byte, 0, memoryRecord), key[:]...)
	for _, n := range []int64{s.version, s.counter, s.root, s.targets} {
		b = binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // never negative
	}
	owned := byte(0)
	if s.owned {
		owned = 1
	}
	b = append(append(b, owned), s.handed[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func decode(b []byte) (key [16]byte, s signedOf, ok bool) {
	if crc32.ChecksumIEEE(b[:memoryRecord-4]) != binary.BigEndian.Uint32(b[memoryRecord-4:]) {
		return key, s, false
	}
	r := bytes.NewReader(b)
	_, _ = io.ReadFull(r, key[:])
	numbers := make([]int64, 4)
	_ = binary.Read(r, binary.BigEndian, numbers)
	s = signedOf{version: numbers[0], counter: numbers[1], root: numbers[2], targets: numbers[3], owned: b[48] == 1}
	copy(s.handed[:], b[49:])
	return key, s, s.version >= 0 && s.counter >= 0 && s.root >= 0 && s.targets >= 0
}
