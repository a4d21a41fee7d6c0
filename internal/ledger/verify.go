package ledger

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/roadstead-io/roadstead/api"
)

// maxProblems bounds what is told: after so many places the rest is not worth a line each.
const maxProblems = 100

// maxLine bounds one line of an export: an entry has about 20 fields of at most some kilobytes.
const maxLine = 1 << 20

// Problem is one place at which a log is not what it was.
type Problem struct {
	Seq  int64  `json:"entry"` // the entry, or the first one; 0: the log as a whole
	Text string `json:"text"`
}

func (p Problem) String() string { return p.Text }

// Report is what a verification found.
type Report struct {
	Site        string    `json:"site"`
	After       int64     `json:"after"`   // the log begins after this entry; 0: with the first
	Removed     int64     `json:"removed"` // up to this entry the log itself says that entries were removed when their time was over; 0: it does not
	First       int64     `json:"first"`   // seq of the first and the last entry that were there; 0: none
	Last        int64     `json:"last"`
	Entries     int64     `json:"entries"` // whose content was verified
	Links       int64     `json:"links"`   // of which only the digest is known
	Checkpoints int       `json:"checkpoints"`
	Signed      int64     `json:"signed"`    // the newest entry that a checkpoint covers; 0: none
	SignedAt    string    `json:"signed_at"` // when it was signed
	Keys        []string  `json:"keys"`      // ids of the keys that signed
	Pinned      bool      `json:"pinned"`    // the keys were given by whoever verified, not by the log
	Problems    []Problem `json:"problems"`
}

// Whole reports whether nothing was found.
func (r *Report) Whole() bool { return len(r.Problems) == 0 }

func (r *Report) add(seq int64, format string, args ...any) {
	switch {
	case len(r.Problems) < maxProblems:
		r.Problems = append(r.Problems, Problem{seq, fmt.Sprintf(format, args...)})
	case len(r.Problems) == maxProblems:
		r.Problems = append(r.Problems, Problem{0, "and more"})
	}
}

// gap is a run of entries that did not come where they belong.
type gap struct {
	from, to int64
	before   Hash // of the chain before it
}

// placed is an entry or a link as the chain sees it.
type placed struct {
	seq          int64
	digest, hash Hash
}

// verifier reads a log line by line.
type verifier struct {
	r           Report
	header      bool
	ended       bool
	after       api.AuditAnchor
	seq         int64 // of the newest entry so far
	hash        Hash  // of the chain there
	keys        []api.AuditKey
	told        []api.AuditKey
	gaps        []gap
	held        *placed          // came before the one that was due; what follows says which of the two is in the wrong place
	early       map[int64]placed // came too early
	hashes      []Hash           // of the chain after.Seq+1, +2, …, as the log says
	lost        int64            // how many of them are of entries that are missing
	checkpoints []api.AuditCheckpoint
}

// Verify reads an export and says what is wrong with it. keys, if given, are the only ones that are believed; else those in the export
// are, which proves only that all of it was signed by one and the same. known are checkpoints that the log must fit as well, whether it has
// them or not: what the signer remembers, or an older export had. An error means that it could not be read to its end, or is no export.
func Verify(in io.Reader, keys []api.AuditKey, known ...api.AuditCheckpoint) (*Report, error) {
	v := &verifier{keys: keys, early: map[int64]placed{}, checkpoints: known}
	v.r.Pinned = len(keys) > 0
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	n := 0
	for lines.Scan() {
		n++
		raw := bytes.TrimSpace(lines.Bytes())
		if len(raw) == 0 {
			continue
		}
		var line api.AuditLine
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&line); err != nil || d.More() {
			if !v.header {
				return nil, errors.New("this is no export of an audit log: its first line is not the header of one")
			}
			v.r.add(v.seq+1, "line %d, after entry %d, cannot be read", n, v.seq)
			continue
		}
		if err := v.line(n, &line); err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	if !v.header {
		return nil, errors.New("this is no export of an audit log: it is empty")
	}
	v.finish()
	return &v.r, nil
}

func (v *verifier) line(n int, line *api.AuditLine) error {
	if !v.header {
		h := line.Header
		switch {
		case h == nil:
			return errors.New("this is no export of an audit log: its first line is not the header of one")
		case h.Version != 1:
			return fmt.Errorf("the export has the version %d, which this program does not know", h.Version)
		}
		start, err := ParseHash(h.After.Hash)
		if err != nil || h.After.Seq < 0 {
			return errors.New("the header of the export does not say where it begins")
		}
		v.header, v.r.Site, v.after, v.seq, v.hash, v.told = true, h.Site, h.After, h.After.Seq, start, h.Keys
		v.r.After = h.After.Seq
		return nil
	}
	switch {
	case v.ended:
		v.r.add(v.seq, "line %d stands after the end of the export", n)
	case line.Entry != nil:
		v.r.Entries++
		v.removal(line.Entry)
		v.one(line.Entry.Seq, Digest(line.Entry), line.Entry.Hash)
	case line.Link != nil:
		v.r.Links++
		digest, err := ParseHash(line.Link.Digest)
		if err != nil {
			v.r.add(line.Link.Seq, "entry %d: its digest cannot be read", line.Link.Seq)
		}
		v.one(line.Link.Seq, digest, line.Link.Hash)
	case line.Checkpoint != nil:
		v.checkpoints = append(v.checkpoints, *line.Checkpoint)
	case line.End != nil:
		v.ended = true
		v.settle()
		if line.End.Entries != v.r.Entries || line.End.Links != v.r.Links {
			v.r.add(v.seq, "the end of the export counts %d entries and %d links, and there are %d and %d",
				line.End.Entries, line.End.Links, v.r.Entries, v.r.Links)
		}
		if line.End.Seq > v.seq {
			v.missing(gap{from: v.seq + 1, to: line.End.Seq, before: v.hash})
			v.seq = line.End.Seq
		}
	default:
		v.r.add(v.seq, "line %d is nothing that belongs into an export", n)
	}
	return nil
}

// removal notes what the log says of entries that were removed from its beginning.
func (v *verifier) removal(e *api.AuditEntry) {
	var detail struct{ To int64 }
	if e.Act == ActRemove && e.ByKind == "system" && json.Unmarshal([]byte(e.Detail), &detail) == nil {
		v.r.Removed = max(v.r.Removed, detail.To)
	}
}

// one takes the next entry or link.
func (v *verifier) one(seq int64, digest Hash, said string) {
	hash, err := ParseHash(said)
	if err != nil {
		v.r.add(seq, "entry %d: its hash cannot be read", seq)
	}
	if h := v.held; h != nil {
		v.held = nil
		if v.seq < seq && seq < h.seq {
			v.r.add(h.seq, "entry %d stands before entry %d: they were put into another order", h.seq, seq)
			v.early[h.seq] = *h
		} else {
			v.take(*h)
		}
	}
	p := placed{seq, digest, hash}
	v.takeEarly(seq)
	if seq > v.seq+1 && len(v.early) < maxProblems {
		v.held = &p
		return
	}
	v.take(p)
}

// takeEarly takes what is due and came too early, up to an entry.
func (v *verifier) takeEarly(upTo int64) {
	for len(v.early) > 0 && v.seq+1 < upTo {
		p, ok := v.early[v.seq+1]
		if !ok {
			return
		}
		delete(v.early, p.seq)
		v.take(p)
	}
}

// take goes on with an entry or a link, whether it is due or not.
func (v *verifier) take(p placed) {
	seq, digest, hash := p.seq, p.digest, p.hash
	switch {
	case seq <= v.after.Seq:
		v.r.add(seq, "entry %d does not belong here: the log begins after entry %d", seq, v.after.Seq)
		return
	case seq <= v.seq:
		v.belated(seq, digest, hash)
		return
	case seq-v.seq > 1<<40:
		v.r.add(seq, "entry %d does not belong here: it follows entry %d", seq, v.seq)
		return
	case seq > v.seq+1:
		v.missing(gap{from: v.seq + 1, to: seq - 1, before: v.hash})
	case Next(v.hash, seq, digest) != hash:
		v.r.add(seq, "entry %d: it is not what was sealed; its content or its hash was changed", seq)
	}
	if v.r.First == 0 {
		v.r.First = seq
	}
	v.seq, v.hash, v.r.Last = seq, hash, seq
	if at := seq - v.after.Seq - 1; v.lost+at-int64(len(v.hashes)) <= maxGap {
		for int64(len(v.hashes)) < at {
			v.hashes = append(v.hashes, Hash{})
			v.lost++
		}
		v.hashes = append(v.hashes, hash)
	}
}

// settle takes what was held back, once nothing more comes.
func (v *verifier) settle() {
	if v.held != nil {
		p := *v.held
		v.held = nil
		v.take(p)
	}
	v.takeEarly(1 << 62)
}

// maxGap bounds how much is set aside for entries that are missing, all of them together.
const maxGap = 1 << 20

func (v *verifier) missing(g gap) {
	if len(v.gaps) < maxProblems {
		v.gaps = append(v.gaps, g)
	}
}

// belated takes an entry that comes after one of a higher seq.
func (v *verifier) belated(seq int64, digest, hash Hash) {
	for i, g := range v.gaps {
		if seq < g.from || seq > g.to {
			continue
		}
		rest := []gap{{g.from, seq - 1, g.before}, {seq + 1, g.to, hash}}
		rest = slices.DeleteFunc(rest, func(g gap) bool { return g.from > g.to })
		v.gaps = slices.Replace(v.gaps, i, i+1, rest...)
		v.r.add(seq, "entry %d stands after entry %d: they were put into another order", seq, v.seq)
		if seq == g.from && Next(g.before, seq, digest) != hash {
			v.r.add(seq, "entry %d: it is not what was sealed; its content or its hash was changed", seq)
		}
		return
	}
	v.r.add(seq, "entry %d stands there a second time, after entry %d", seq, v.seq)
}

// finish says what can be said only now that all is known.
func (v *verifier) finish() {
	v.settle()
	for _, g := range v.gaps {
		if g.from == g.to {
			v.r.add(g.from, "entry %d is missing", g.from)
		} else {
			v.r.add(g.from, "entries %d to %d are missing", g.from, g.to)
		}
	}
	if !v.ended {
		v.r.add(v.seq, "the export has no end: it was cut after entry %d", v.seq)
	}
	keys := v.keys
	if !v.r.Pinned {
		keys = v.told
	}
	slices.SortStableFunc(v.checkpoints, func(a, b api.AuditCheckpoint) int { return int(a.Seq - b.Seq) })
	good := v.after.Seq
	for i := range v.checkpoints {
		v.checkpoint(&v.checkpoints[i], keys, &good)
	}
	slices.SortStableFunc(v.r.Problems, func(a, b Problem) int { return int(a.Seq - b.Seq) })
}

// checkpoint judges one checkpoint; good is the newest one before it that holds.
func (v *verifier) checkpoint(c *api.AuditCheckpoint, keys []api.AuditKey, good *int64) {
	at := slices.IndexFunc(keys, func(k api.AuditKey) bool { return k.ID == c.Key })
	if at < 0 {
		v.r.add(c.Seq, "checkpoint at entry %d: it is signed by another key (%.16s…)", c.Seq, c.Key)
		return
	}
	public, err := ParseKey(keys[at])
	switch {
	case err != nil:
		v.r.add(c.Seq, "checkpoint at entry %d: %v", c.Seq, err)
	case !holds(c, public):
		v.r.add(c.Seq, "checkpoint at entry %d: its signature does not hold; it was forged or changed", c.Seq)
	case c.Site != v.r.Site:
		v.r.add(c.Seq, "checkpoint at entry %d: it is of the server %q, not of %q", c.Seq, c.Site, v.r.Site)
	case c.Seq < v.after.Seq:
		v.counted(c) // of a part that this log no longer holds
	case c.Seq > v.seq:
		v.r.add(v.seq+1, "entries %d to %d are missing: a checkpoint of %s covers them", v.seq+1, c.Seq, c.At)
	case v.hashAt(c.Seq) != c.Hash && v.hashAt(c.Seq) != "":
		v.r.add(c.Seq, "checkpoint at entry %d: the log up to there is not the one that was signed on %s; what stands after entry %d was changed",
			c.Seq, c.At, *good)
	default:
		v.counted(c)
		*good = c.Seq
	}
}

func (v *verifier) counted(c *api.AuditCheckpoint) {
	v.r.Checkpoints++
	v.r.Signed, v.r.SignedAt = c.Seq, c.At
	if !slices.Contains(v.r.Keys, c.Key) {
		v.r.Keys = append(v.r.Keys, c.Key)
	}
}

// hashAt is the hash that the log has at an entry; "" when the entry is missing.
func (v *verifier) hashAt(seq int64) string {
	if seq == v.after.Seq {
		return v.after.Hash
	}
	if i := seq - v.after.Seq - 1; i >= 0 && i < int64(len(v.hashes)) && v.hashes[i] != (Hash{}) {
		return v.hashes[i].String()
	}
	return ""
}
