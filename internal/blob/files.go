package blob

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// maxPut bounds a file that comes in one request; larger ones come in parts.
const maxPut = 16 << 20

// sniffed is how many bytes tell what a file is.
const sniffed = 512

// Rule says what a column of files takes.
type Rule struct {
	Max   int64    // bytes of a file; 0: as many as the store takes
	Types []string // what it may be, by its bytes and not by its name; nil: anything, called as the sender calls it
}

// Files keeps what the file columns of a model hold. It is an [odata.Files]. A column without a rule takes nothing.
type Files struct {
	Store *Store
	Rules map[string]Rule // by resource and column: "release_asset.asset"
}

func (f Files) rule(at odata.Place) (Rule, error) {
	r, ok := f.Rules[at.Resource+"."+at.Column]
	if !ok {
		return r, fmt.Errorf("blob: %s.%s takes no files: it has no rule", at.Resource, at.Column)
	}
	if r.Max == 0 || r.Max > f.Store.Max() {
		r.Max = f.Store.Max()
	}
	return r, nil
}

// Put keeps a file that came in one request.
func (f Files) Put(ctx context.Context, at odata.Place, file odata.File, r io.Reader) (odata.File, error) {
	rule, err := f.rule(at)
	if err != nil {
		return file, err
	}
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(sniffed)
	if err != nil && !errors.Is(err, io.EOF) {
		return file, err
	}
	if err := rule.judge(at, &file, head); err != nil {
		return file, err
	}
	info, err := f.Store.Put(ctx, in, min(rule.Max, maxPut))
	if err != nil {
		return file, err
	}
	return kept(file, info), nil
}

// judge looks at the beginning of a file, and calls the file what it is.
func (r Rule) judge(at odata.Place, file *odata.File, head []byte) error {
	file.Filename, file.ContentType = Filename(file.Filename), ContentType(file.ContentType)
	if r.Types == nil {
		return nil
	}
	file.ContentType = http.DetectContentType(head)
	if !slices.Contains(r.Types, file.ContentType) {
		return api.Errorf(api.Invalid, "%q must be one of %s", at.Column, strings.Join(r.Types, ", "))
	}
	return nil
}

func kept(file odata.File, info Info) odata.File {
	file.Ref, file.Size, file.Checksum = info.ID, info.Size, info.Checksum
	return file
}

// Drop forgets a file whose row was not written.
func (f Files) Drop(_ context.Context, _ odata.Place, file odata.File) {
	_ = f.Store.Remove(file.Ref) // swept later if this fails
}

// URL is an address of a file's bytes, good for an hour at least.
func (f Files) URL(_ context.Context, file odata.File) (string, error) {
	return f.Store.URL(file.Ref, file.Filename, file.ContentType), nil
}

func owner(at odata.Place) string { return fmt.Sprintf("%s(%d).%s", at.Resource, at.Row, at.Column) }

// Begin prepares for a file that comes in parts.
func (f Files) Begin(_ context.Context, at odata.Place, file odata.File, chunk int64) (odata.Upload, error) {
	rule, err := f.rule(at)
	if err != nil {
		return odata.Upload{}, err
	}
	if file.Size > rule.Max {
		return odata.Upload{}, api.Errorf(api.TooLarge, "the file is larger than %d bytes", rule.Max)
	}
	u, parts, err := f.Store.Begin(Upload{
		Owner: owner(at), By: fmt.Sprintf("%s %d", at.Caller.Kind, at.Caller.Actor),
		Filename: file.Filename, Type: file.ContentType, Size: file.Size, Chunk: chunk,
	})
	if err != nil {
		return odata.Upload{}, err
	}
	out := odata.Upload{UUID: u.ID, Parts: make([]odata.UploadPart, len(parts))}
	for i, p := range parts {
		out.Parts[i] = odata.UploadPart{URL: p.URL, ChunkSize: p.Size, PartNumber: p.Number}
	}
	return out, nil
}

// Commit makes a file of an upload whose parts have arrived.
func (f Files) Commit(ctx context.Context, at odata.Place, uuid string, sent []odata.SentPart) (odata.File, error) {
	rule, err := f.rule(at)
	if err != nil {
		return odata.File{}, err
	}
	parts := make([]Tagged, len(sent))
	for i, p := range sent {
		parts[i] = Tagged{Number: p.PartNumber, Tag: p.ETag}
	}
	u, info, err := f.Store.Commit(ctx, uuid, owner(at), parts)
	if err != nil {
		return odata.File{}, err
	}
	file := kept(odata.File{Filename: u.Filename, ContentType: u.Type}, info)
	head, err := f.head(info.ID)
	if err != nil {
		return file, err
	}
	if err := rule.judge(at, &file, head); err != nil {
		return file, errors.Join(err, f.Store.Remove(info.ID))
	}
	return file, nil
}

// head reads the beginning of a blob.
func (f Files) head(id string) ([]byte, error) {
	in, err := f.Store.Open(id)
	if err != nil {
		return nil, err
	}
	head := make([]byte, sniffed)
	n, err := io.ReadFull(in, head)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return head[:n], errors.Join(err, in.Close())
}

// Cancel gives an upload up.
func (f Files) Cancel(_ context.Context, at odata.Place, uuid string) error {
	return f.Store.Cancel(uuid, owner(at))
}
