package imagegate

import (
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"hash"
	"sync"
)

// every is how many bytes of a body lie between two points from which it can go on.
const every = 256 << 10

// maxKept is how many bodies that were cut off are remembered.
const maxKept = 4

// state is the hash of the first bytes of a body, and of some shorter beginnings of it.
type state struct {
	at   int64
	hash hash.Hash
	past [][]byte // the hash's state after each whole multiple of every, beginning with the first
}

func newState() *state { return &state{hash: sha256.New()} }

// add hashes more bytes.
func (s *state) add(data []byte) {
	for len(data) > 0 {
		n := min(int64(len(data)), every-s.at%every)
		s.hash.Write(data[:n])
		s.at += n
		data = data[n:]
		if s.at%every == 0 {
			if text, err := s.hash.(encoding.BinaryMarshaler).MarshalBinary(); err == nil {
				s.past = append(s.past, text)
			}
		}
	}
}

func (s *state) digest() string { return "sha256:" + hex.EncodeToString(s.hash.Sum(nil)) }

// resumes remembers how far bodies were hashed that were cut off, so that the engine may ask for the rest only.
type resumes struct {
	mu    sync.Mutex // covers both
	kept  map[string][][]byte
	order []string // digests, the oldest first
}

func (r *resumes) keep(digest string, s *state) {
	if len(s.past) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(digest)
	if r.kept == nil {
		r.kept = map[string][][]byte{}
	}
	r.kept[digest] = s.past
	r.order = append(r.order, digest)
	if len(r.order) > maxKept {
		r.remove(r.order[0])
	}
}

func (r *resumes) drop(digest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(digest)
}

// remove is called with the lock held.
func (r *resumes) remove(digest string) {
	delete(r.kept, digest)
	for i, d := range r.order {
		if d == digest {
			r.order = append(r.order[:i:i], r.order[i+1:]...)
			return
		}
	}
}

// take gives the state nearest before a place, or an empty one.
func (r *resumes) take(digest string, from int64) *state {
	r.mu.Lock()
	past := r.kept[digest]
	r.remove(digest)
	r.mu.Unlock()
	n := min(int64(len(past)), from/every)
	if n == 0 {
		return newState()
	}
	s := newState()
	if err := s.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(past[n-1]); err != nil {
		return newState()
	}
	s.at, s.past = n*every, past[:n:n]
	return s
}
