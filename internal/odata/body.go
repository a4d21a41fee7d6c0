package odata

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
	"github.com/roadstead-io/roadstead/internal/odata/wire"
	"github.com/roadstead-io/roadstead/internal/web"
)

// maxParts bounds the parts of a multipart body.
const maxParts = 64

// body reads the fields of a write, files included, for a row that is there (0: for a new one). What it stored of files is in
// the values; drop takes it back.
func (w *writer) body(r *http.Request, row int64) (map[string]any, error) {
	if !wire.IsMultipart(r) {
		return wire.Body(r, w.e.lim.Body)
	}
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, invalid("the body is not valid multipart/form-data")
	}
	values := map[string]any{}
	left := int64(w.e.lim.Body)
	for n := 0; ; n++ {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return values, nil
		}
		switch {
		case err != nil:
			err = invalid("the body is not valid multipart/form-data")
		case n >= maxParts:
			err = api.Errorf(api.TooLarge, "the body has more than %d parts", maxParts)
		case values[part.FormName()] != nil:
			err = invalid("%q is given twice", syntax.Echo(part.FormName()))
		default:
			err = w.part(part, values, row, &left)
		}
		if err != nil {
			return nil, errors.Join(err, w.drop(values, row))
		}
	}
}

// part reads one part of a multipart body: a text, or a file for a column that holds one.
func (w *writer) part(part *multipart.Part, values map[string]any, row int64, left *int64) error {
	name := part.FormName()
	if col := w.r.column(name); part.FileName() != "" || col != nil && col.Type == WebResource {
		at, err := w.place(name, row)
		if err != nil {
			return err
		}
		f := File{Filename: part.FileName(), ContentType: part.Header.Get("Content-Type")}
		if _, _, err := mime.ParseMediaType(f.ContentType); err != nil {
			f.ContentType = "application/octet-stream"
		}
		if f, err = w.e.files.Put(w.ctx, at, f, part); err == nil {
			values[name] = f
		}
		return err
	}
	text, err := io.ReadAll(io.LimitReader(part, *left+1))
	if err != nil {
		return invalid("the body ended early")
	}
	if *left -= int64(len(text)); *left < 0 {
		return api.Errorf(api.TooLarge, "the body is larger than %d bytes without its files", w.e.lim.Body)
	}
	values[name] = wire.FormText(text)
	return nil
}

// place is where a file goes, if the caller may put one there.
func (w *writer) place(name string, row int64) (Place, error) {
	col := w.r.column(name)
	switch {
	case col == nil || col.base == nil || col.Hidden:
		return Place{}, invalid("%s has no property %q", w.r.Name, syntax.Echo(name))
	case col.Type != WebResource:
		return Place{}, invalid("%q takes no file", name)
	case w.rule != nil && !w.rule.write[col.base.Name]:
		return Place{}, api.Errorf(api.Forbidden, "%q may not be written", name)
	}
	return Place{Resource: w.r.base.Name, Column: col.base.Name, Row: row, Caller: w.caller}, nil
}

// drop forgets the files of a write that failed.
func (w *writer) drop(values map[string]any, row int64) error {
	for name, v := range values {
		if f, ok := v.(File); ok {
			at, err := w.place(name, row)
			if err != nil {
				return err
			}
			w.e.files.Drop(context.WithoutCancel(w.ctx), at, f)
		}
	}
	return nil
}

// single is the one row that a file is given to, found before the file is read.
func (w *writer) single(req *syntax.Request) (id int64, err error) {
	err = w.e.db.Read(w.ctx, func(tx *db.Tx) error {
		ids, err := w.in(tx).targets(req, Update)
		switch {
		case err != nil:
			return err
		case len(ids) == 0:
			return api.Errorf(api.NotFound, "there is no such %s", w.r.Name)
		case len(ids) > 1:
			return invalid("a file is given to one row at a time")
		}
		id = ids[0]
		return nil
	})
	return id, err
}

// upload serves beginUpload, commitUpload and cancelUpload: a file that comes in parts.
func (e *Engine) upload(w http.ResponseWriter, r *http.Request, caller access.Caller, m *mount, req *syntax.Request) error {
	if req.Key == nil || len(req.Given) > 0 {
		return invalid("%s needs a key and nothing else", req.Action)
	}
	action := req.Action
	req.Action = ""
	wr, err := e.writer(r.Context(), nil, caller, m.schema, req.Resource, Update)
	if err != nil {
		return err
	}
	row, err := wr.single(req)
	if err != nil {
		return err
	}
	switch action {
	case "beginUpload":
		return wr.beginUpload(w, r, row)
	case "commitUpload":
		return wr.commitUpload(w, r, req, row)
	}
	var body struct{ UUID string }
	at, err := wr.uploaded(r, row, &body)
	if err != nil {
		return err
	}
	if err := e.files.Cancel(r.Context(), at, body.UUID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (w *writer) beginUpload(rw http.ResponseWriter, r *http.Request, row int64) error {
	var body map[string]struct {
		Filename    string `json:"filename"`
		ContentType string `json:"content_type"`
		Size        int64  `json:"size"`
		ChunkSize   int64  `json:"chunk_size"`
	}
	if err := web.Decode(r, &body); err != nil {
		return err
	}
	if len(body) != 1 {
		return invalid("beginUpload needs one property, with filename, content_type, size and chunk_size")
	}
	for name, f := range body {
		at, err := w.place(name, row)
		switch {
		case err != nil:
			return err
		case f.Filename == "":
			return invalid("\"filename\" of %q is missing", name)
		case f.Size <= 0 || f.ChunkSize <= 0:
			return invalid("\"size\" and \"chunk_size\" of %q must be more than zero", name)
		}
		if _, _, err := mime.ParseMediaType(f.ContentType); err != nil {
			f.ContentType = "application/octet-stream"
		}
		up, err := w.e.files.Begin(w.ctx, at, File{Filename: f.Filename, ContentType: f.ContentType, Size: f.Size}, f.ChunkSize)
		if err != nil {
			return err
		}
		return web.WriteJSON(rw, http.StatusOK, map[string]Upload{name: up})
	}
	return nil
}

// uploaded reads the body of commitUpload or cancelUpload. Neither says which column is meant: a resource has one that files
// come to in parts.
func (w *writer) uploaded(r *http.Request, row int64, into any) (Place, error) {
	if err := web.Decode(r, into); err != nil {
		return Place{}, err
	}
	for _, name := range w.r.order {
		if w.r.columns[name].Type == WebResource {
			return w.place(name, row)
		}
	}
	return Place{}, invalid("%s has no files", w.r.Name)
}

func (w *writer) commitUpload(rw http.ResponseWriter, r *http.Request, req *syntax.Request, row int64) error {
	var body struct {
		UUID string
		Data struct{ Parts []SentPart } `json:"providerCommitData"`
	}
	at, err := w.uploaded(r, row, &body)
	if err != nil {
		return err
	}
	f, err := w.e.files.Commit(w.ctx, at, body.UUID, body.Data.Parts)
	if err != nil {
		return err
	}
	err = w.e.db.Write(w.ctx, func(tx *db.Tx) error {
		in := w.in(tx)
		ids, err := in.targets(req, Update)
		if err != nil {
			return err
		}
		if len(ids) != 1 {
			return api.Errorf(api.NotFound, "there is no such %s", w.r.Name)
		}
		return in.update(ids, map[string]any{at.Column: f})
	})
	if err != nil {
		return err
	}
	shown, err := w.e.shownFile(w.ctx, f)
	if err != nil {
		return err
	}
	return web.WriteJSON(rw, http.StatusOK, json.RawMessage(shown))
}
