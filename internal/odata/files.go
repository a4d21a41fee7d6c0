package odata

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/roadstead-io/roadstead/internal/access"
)

// File is the value of a WebResource column. It is stored as JSON text; the bytes lie where [Files] keeps them.
type File struct {
	Ref         string `json:"ref"` // names the bytes for Files; never shown to a client
	Filename    string `json:"filename"`
	ContentType string `json:"content_type"`
	Disposition string `json:"content_disposition,omitempty"`
	Size        int64  `json:"size"`
	Checksum    string `json:"checksum,omitempty"`
}

// Place is the column of a row that a file is for.
type Place struct {
	Resource, Column string
	Row              int64 // 0: a row that is being made
	Caller           access.Caller
}

// Upload is a file on its way in parts; each part is sent with PUT to an address of its own.
type Upload struct {
	UUID  string       `json:"uuid"`
	Parts []UploadPart `json:"uploadParts"`
}

// UploadPart is one part of an upload.
type UploadPart struct {
	URL        string `json:"url"`
	ChunkSize  int64  `json:"chunkSize"`
	PartNumber int    `json:"partNumber"`
}

// SentPart is a part that the client says has arrived, with the ETag that it was answered with.
type SentPart struct {
	PartNumber int
	ETag       string
}

// Files keeps the bytes of WebResource columns. The engine checks first that the caller may write the column of that row; coded
// errors are shown to the caller.
//
// Bytes whose row is deleted or gets another file stay until Files finds that no row names their Ref any more: the engine cannot
// know of rows that a foreign key deletes.
type Files interface {
	// Put reads a file to its end and keeps it. It bounds what it reads. f holds what the client said: name, type, disposition.
	Put(ctx context.Context, at Place, f File, r io.Reader) (File, error)
	// Drop forgets what Put kept when the write of the row failed.
	Drop(ctx context.Context, at Place, f File)
	// URL is an address from which anybody may fetch the bytes for a while.
	URL(ctx context.Context, f File) (string, error)
	// Begin prepares an upload of f.Size bytes in chunks.
	Begin(ctx context.Context, at Place, f File, chunk int64) (Upload, error)
	// Commit makes a file of an upload whose parts have all arrived. The same Commit again gives the same file.
	Commit(ctx context.Context, at Place, uuid string, parts []SentPart) (File, error)
	// Cancel forgets an upload. One that is not there is no error.
	Cancel(ctx context.Context, at Place, uuid string) error
}

// storedFile shows a file as it is stored.
func (e *Engine) storedFile(ctx context.Context, text []byte) ([]byte, error) {
	var f File
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("odata: a stored file: %w", err)
	}
	return e.shownFile(ctx, f)
}

// shownFile is what clients read of a file.
func (e *Engine) shownFile(ctx context.Context, f File) ([]byte, error) {
	href, err := e.files.URL(ctx, f)
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Filename    string `json:"filename"`
		Href        string `json:"href"`
		ContentType string `json:"content_type"`
		Disposition string `json:"content_disposition,omitempty"`
		Size        int64  `json:"size"`
		Checksum    string `json:"checksum,omitempty"`
	}{f.Filename, href, f.ContentType, f.Disposition, f.Size, f.Checksum})
}
