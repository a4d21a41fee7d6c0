package apiserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/web"
)

// typesTime is how long the documents of device types are kept: they change when the server starts anew.
const typesTime = 30 * time.Second

// deviceTypes answers what clients ask about device types. It keeps the documents, which every command of the CLI asks for; they may
// be dropped at any time.
type deviceTypes struct {
	db *db.DB

	mu   sync.Mutex // covers what follows
	at   time.Time
	docs []fleet.TypeDocument
	json []byte
	etag string
}

// all gives the documents, and as they go out with their ETag.
func (t *deviceTypes) all(ctx context.Context) (docs []fleet.TypeDocument, data []byte, etag string, err error) {
	t.mu.Lock()
	docs, data, etag, at := t.docs, t.json, t.etag, t.at
	t.mu.Unlock()
	if docs != nil && time.Since(at) < typesTime {
		return docs, data, etag, nil
	}
	if err := t.db.Read(ctx, func(tx *db.Tx) (err error) {
		docs, err = fleet.TypeDocuments(ctx, tx)
		return err
	}); err != nil {
		return nil, nil, "", err
	}
	if data, err = json.Marshal(docs); err != nil {
		return nil, nil, "", err
	}
	sum := sha256.Sum256(data)
	etag = `"` + hex.EncodeToString(sum[:16]) + `"`
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at, t.docs, t.json, t.etag = time.Now(), docs, data, etag
	return docs, data, etag, nil
}

func (t *deviceTypes) list(w http.ResponseWriter, r *http.Request) error {
	_, data, etag, err := t.all(r.Context())
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("ETag", etag)
	h.Set("Cache-Control", "public, max-age=60")
	if slices.Contains(strings.Split(strings.ReplaceAll(r.Header.Get("If-None-Match"), " ", ""), ","), etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	_, _ = w.Write(data) // a client that did not wait is its own business
	return nil
}

func (t *deviceTypes) find(r *http.Request, name string) (fleet.TypeDocument, error) {
	docs, _, _, err := t.all(r.Context())
	if err != nil {
		return fleet.TypeDocument{}, err
	}
	return fleet.FindTypeDocument(docs, name)
}

func (t *deviceTypes) one(w http.ResponseWriter, r *http.Request) error {
	doc, err := t.find(r, r.PathValue("slug"))
	if err != nil {
		return err
	}
	return web.WriteJSON(w, http.StatusOK, doc)
}

// downloadSize is what os.getDownloadSize of the SDK asks. This server keeps no images of operating systems.
func (t *deviceTypes) downloadSize(_ http.ResponseWriter, r *http.Request) error {
	doc, err := t.find(r, r.PathValue("slug"))
	if err != nil {
		return err
	}
	return api.Errorf(api.NotFound, "No image found for device type %s, version %s", doc.Slug, r.PathValue("version"))
}

// download is where clients fetch the image of an operating system.
func (t *deviceTypes) download(_ http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if q.Get("deviceType") == "" {
		return api.Errorf(api.Invalid, "A deviceType is required.")
	}
	doc, err := t.find(r, q.Get("deviceType"))
	if err != nil {
		return err
	}
	return api.Errorf(api.NotFound, "No image found for device type %s", doc.Slug)
}
