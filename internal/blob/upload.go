package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
)

// A large file comes in parts, each by a PUT to a signed address, in any order and again after a failure. All are written into
// one sparse file at their places; the end reads it once and holds every part against the tag that its PUT was answered with. So
// a process that dies on any line leaves nothing but a file that is swept, and a part that was cut short is noticed.

const (
	minChunk    = 64 << 10
	maxParts    = 10_000
	maxOpen     = 4              // uploads of one owner at a time
	maxBy       = 16             // uploads of one sender at a time
	maxUploads  = 10_000         // folders of uploads, those included that ended lately
	uploadTime  = 24 * time.Hour // until an upload that was begun must have ended
	maxNameText = 255            // bytes of a file's name, or of its content type
)

// Upload is a large file that is to come.
type Upload struct {
	ID       string    `json:"id"`
	Owner    string    `json:"owner"` // says what it is for; only the same may commit or cancel it
	By       string    `json:"by"`    // who sends it
	Filename string    `json:"filename"`
	Type     string    `json:"type"`
	Size     int64     `json:"size"`
	Chunk    int64     `json:"chunk"` // bytes of every part but the last
	Begun    time.Time `json:"begun"`
}

// Part is where one part is to be sent.
type Part struct {
	Number int // from 1
	Size   int64
	URL    string
}

// Tagged is one part as its sender names it at the end.
type Tagged struct {
	Number int
	Tag    string
}

func (u *Upload) parts() int { return int((u.Size + u.Chunk - 1) / u.Chunk) }

// bounds are the first byte of a part and the byte after it.
func (u *Upload) bounds(number int) (from, to int64) {
	from = int64(number-1) * u.Chunk
	return from, min(from+u.Chunk, u.Size)
}

func dirOf(id string) string { return uploads + "/" + id }

// Begin prepares for a large file and says where its parts go.
func (s *Store) Begin(u Upload) (Upload, []Part, error) {
	switch {
	case u.Size <= 0:
		return u, nil, api.Errorf(api.Invalid, `"size" must be a whole number of bytes above 0`)
	case u.Size > s.cfg.Max:
		return u, nil, api.Errorf(api.TooLarge, "the file is larger than %d bytes", s.cfg.Max)
	case u.Chunk < min(minChunk, u.Size):
		return u, nil, api.Errorf(api.Invalid, `"chunk_size" must be at least %d bytes`, minChunk)
	case (u.Size-1)/u.Chunk >= maxParts:
		return u, nil, api.Errorf(api.Invalid, `"chunk_size" is too small: a file may have %d parts`, maxParts)
	}
	if err := s.room(u.Size); err != nil {
		return u, nil, err
	}
	if err := s.fewOpen(u); err != nil {
		return u, nil, err
	}
	u.ID, u.Begun = newID(), s.cfg.Now().UTC()
	u.Filename, u.Type = Filename(u.Filename), ContentType(u.Type)
	if err := s.prepare(u); err != nil {
		_ = s.root.RemoveAll(dirOf(u.ID)) // swept later if this fails too
		return u, nil, fmt.Errorf("blob: begin an upload: %w", full(err))
	}
	expires := strconv.FormatInt(u.Begun.Add(uploadTime).Unix(), 10)
	parts := make([]Part, u.parts())
	for i := range parts {
		n := strconv.Itoa(i + 1)
		from, to := u.bounds(i + 1)
		parts[i] = Part{
			Number: i + 1, Size: to - from,
			URL: s.cfg.Base + "uploads/" + u.ID + "/" + n + "?expires=" + expires + "&signature=" + s.mac("put", u.ID, n, expires),
		}
	}
	return u, parts, nil
}

// fewOpen bounds the uploads that are under way: of one file, of one sender, and of all.
func (s *Store) fewOpen(next Upload) error {
	entries, err := fs.ReadDir(s.root.FS(), uploads)
	if err != nil {
		return fmt.Errorf("blob: %w", err)
	}
	if len(entries) >= maxUploads {
		return api.Errorf(api.Unavailable, "too many uploads are under way; try again later")
	}
	owned, sent := 0, 0
	for _, e := range entries {
		u, err := s.upload(e.Name())
		if err != nil || u.Owner != next.Owner && u.By != next.By {
			continue
		}
		if done, err := s.decision(u.ID); err != nil || done.ID != "" {
			continue
		}
		if u.Owner == next.Owner {
			owned++
		}
		if u.By == next.By {
			sent++
		}
	}
	if owned >= maxOpen {
		return api.Errorf(api.Conflict, "there are %d uploads of this file under way already; cancel one", owned)
	}
	if sent >= maxBy {
		return api.Errorf(api.Conflict, "you have %d uploads under way already; finish or cancel one", sent)
	}
	return nil
}

// prepare makes the file that the parts go into; what describes it comes last.
func (s *Store) prepare(u Upload) error {
	if err := s.root.Mkdir(dirOf(u.ID), 0o700); err != nil {
		return err
	}
	f, err := s.root.OpenFile(dirOf(u.ID)+"/data", os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(u.Size), f.Close()); err != nil {
		return err
	}
	data, err := json.Marshal(u)
	if err != nil {
		return err
	}
	return s.root.WriteFile(dirOf(u.ID)+"/upload.json", data, 0o600)
}

// upload reads back what is known of one that has not ended.
func (s *Store) upload(id string) (Upload, error) {
	var u Upload
	if !valid(id) {
		return u, api.ErrNotFound
	}
	data, err := s.root.ReadFile(dirOf(id) + "/upload.json")
	if errors.Is(err, fs.ErrNotExist) || err == nil && json.Unmarshal(data, &u) != nil {
		return u, api.Errorf(api.NotFound, "there is no such upload")
	}
	if err != nil {
		return u, fmt.Errorf("blob: upload: %w", err)
	}
	if s.cfg.Now().Sub(u.Begun) > uploadTime {
		return u, api.Errorf(api.NotFound, "the upload was not finished in time; begin again")
	}
	return u, nil
}

// PutPart takes one part, which must have exactly its size, and gives its tag.
func (s *Store) PutPart(ctx context.Context, id string, number int, r io.Reader) (tag string, err error) {
	u, err := s.upload(id)
	if err != nil {
		return "", err
	}
	if number < 1 || number > u.parts() {
		return "", api.Errorf(api.Invalid, "the upload has the parts 1 to %d", u.parts())
	}
	f, err := s.locked(id, os.O_WRONLY, syscall.LOCK_SH)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	from, to := u.bounds(number)
	if err := s.room(to - from); err != nil {
		return "", err
	}
	sum := sha256.New()
	at := io.NewOffsetWriter(f, from)
	n, err := copyBounded(ctx, io.MultiWriter(sum, &bounded{w: at, left: to - from}), r, to-from)
	if err != nil {
		return "", full(err)
	}
	if n != to-from {
		return "", api.Errorf(api.Invalid, "part %d must have %d bytes, not %d", number, to-from, n)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// bounded drops what goes beyond a part: the bytes of the next one must not suffer before the length is found to be wrong.
type bounded struct {
	w    io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	keep := p[:min(int64(len(p)), b.left)]
	b.left -= int64(len(keep))
	if _, err := b.w.Write(keep); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Commit ends an upload: when every part is what its sender was told that it is, they become a blob. Asked again, because the
// answer or the row that should name the blob got lost, it gives the same blob.
func (s *Store) Commit(ctx context.Context, id, owner string, parts []Tagged) (Upload, Info, error) {
	u, err := s.owned(id, owner)
	if err != nil {
		return u, Info{}, err
	}
	if info, err := s.committed(id); err != nil || info.ID != "" {
		return u, info, err
	}
	if len(parts) != u.parts() {
		return u, Info{}, api.Errorf(api.Invalid, "the upload has %d parts, not %d", u.parts(), len(parts))
	}
	tags := make(map[int]string, len(parts))
	for _, p := range parts {
		tags[p.Number] = strings.Trim(strings.TrimPrefix(p.Tag, "W/"), `"`)
	}
	f, err := s.locked(id, os.O_RDONLY, syscall.LOCK_EX) // until the file has its name: what was checked is what is kept
	if err != nil {
		return u, Info{}, err
	}
	defer func() { _ = f.Close() }()
	checksum, err := check(ctx, f, u, tags)
	if err != nil {
		return u, Info{}, err
	}
	if err := f.Sync(); err != nil {
		return u, Info{}, fmt.Errorf("blob: commit: %w", full(err))
	}
	info := Info{ID: newID(), Size: u.Size, Checksum: checksum}
	data, err := json.Marshal(info)
	if err != nil {
		return u, Info{}, err
	}
	// What it becomes is written down first, so that the same commit again finds it, wherever this one ends.
	if err := durable.WriteFile(filepath.Join(s.cfg.Dir, dirOf(id), "done.json"), data, 0o600); err != nil {
		return u, Info{}, fmt.Errorf("blob: commit: %w", full(err))
	}
	if err := s.settle(dirOf(id)+"/data", info.ID); err != nil {
		return u, Info{}, fmt.Errorf("blob: commit: %w", err)
	}
	return u, info, nil
}

// locked opens the file of an upload: shared by parts on their way, alone for the end. Nobody waits for the other.
func (s *Store) locked(id string, flag, how int) (*os.File, error) {
	name := dirOf(id) + "/data"
	f, err := s.root.OpenFile(name, flag, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(api.NotFound, "the upload has ended")
	}
	if err != nil {
		return nil, fmt.Errorf("blob: upload: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB) //nolint:gosec // a descriptor
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = api.Errorf(api.Conflict, "parts of the upload are still on their way, or it is just being ended")
	}
	if err == nil && !s.same(f, name) { // it got its name between the two steps
		err = api.Errorf(api.NotFound, "the upload has ended")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (s *Store) same(f *os.File, name string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := s.root.Stat(name)
	return err == nil && os.SameFile(mine, there)
}

// decision reads what a commit has decided; nothing when there was none.
func (s *Store) decision(id string) (info Info, err error) {
	data, err := s.root.ReadFile(dirOf(id) + "/done.json")
	if errors.Is(err, fs.ErrNotExist) {
		return info, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err != nil {
		return Info{}, fmt.Errorf("blob: commit: %w", err)
	}
	return info, nil
}

// committed gives the blob that an upload has become, and nothing while it has not. A blob that is gone again cannot be had back.
func (s *Store) committed(id string) (Info, error) {
	info, err := s.decision(id)
	if err != nil || info.ID == "" {
		return info, err
	}
	now := s.cfg.Now() // it is wanted anew
	if err := s.root.Chtimes(place(info.ID), now, now); err == nil {
		return info, nil
	}
	if _, err := s.root.Stat(dirOf(id) + "/data"); err != nil {
		return Info{}, api.Errorf(api.NotFound, "there is no such upload")
	}
	err = s.settle(dirOf(id)+"/data", info.ID) // the process died between the decision and the deed
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Info{}, fmt.Errorf("blob: commit: %w", err)
	}
	return info, nil
}

// check reads all parts, each against its tag, and gives the checksum of the whole.
func check(ctx context.Context, f io.Reader, u Upload, tags map[int]string) (string, error) {
	whole := sha256.New()
	for n := 1; n <= u.parts(); n++ {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		from, to := u.bounds(n)
		part := sha256.New()
		if _, err := io.CopyN(io.MultiWriter(whole, part), f, to-from); err != nil {
			return "", fmt.Errorf("blob: part %d: %w", n, err)
		}
		if got := hex.EncodeToString(part.Sum(nil)); tags[n] != got {
			return "", api.Errorf(api.Invalid, "part %d is not what its ETag says; send it again", n)
		}
	}
	return hex.EncodeToString(whole.Sum(nil)), nil
}

// Cancel gives an upload up. One that is not there, or not the owner's, is no error; what became a blob stays one.
func (s *Store) Cancel(id, owner string) error {
	_, err := s.owned(id, owner)
	if errors.Is(err, api.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.root.RemoveAll(dirOf(id)); err != nil {
		return fmt.Errorf("blob: cancel: %w", err)
	}
	return nil
}

// owned finds an upload that an owner began; nobody learns of another's.
func (s *Store) owned(id, owner string) (Upload, error) {
	u, err := s.upload(id)
	if err == nil && u.Owner != owner {
		err = api.Errorf(api.NotFound, "there is no such upload")
	}
	return u, err
}

// idle reports whether an entry of the uploads is wanted no more: it ended long ago, or nothing came since then. One that has
// time left is never idle.
func (s *Store) idle(e fs.DirEntry, since time.Time) bool {
	if !e.IsDir() {
		return true
	}
	if _, err := s.upload(e.Name()); err == nil {
		done, err := s.root.Stat(dirOf(e.Name()) + "/done.json")
		return err == nil && done.ModTime().Before(since)
	}
	info, err := s.root.Stat(uploads + "/" + e.Name() + "/data")
	return err != nil || info.ModTime().Before(since)
}
