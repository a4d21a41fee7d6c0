package imagegate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Bounds of what passes.
const (
	maxManifest = 4 << 20
	maxLayers   = 512
	chunk       = 32 << 10 // what is held back at the end of a body until all of it was hashed
)

// The manifests that pass. Older ones name no sizes.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	ociIndex       = "application/vnd.oci.image.index.v1+json"
)

// ServeHTTP answers the engine: the part of the distribution protocol that a pull by digest needs.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	p := g.pullOf(r)
	if p == nil {
		w.Header().Set("WWW-Authenticate", `Basic realm="roadstead-agent"`)
		deny(w, http.StatusUnauthorized, "UNAUTHORIZED", "only the pull that the agent began may use this")
		return
	}
	if !p.begin() {
		deny(w, http.StatusForbidden, "DENIED", "this pull has ended")
		return
	}
	defer p.working.Done()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		deny(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "images are only pulled here")
		return
	}
	if r.URL.Path == "/v2/" {
		w.WriteHeader(http.StatusOK)
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, p.path)
	kind, digest, _ := strings.Cut(rest, "/")
	if !ok || !engine.IsDigest(digest) || kind != "manifests" && kind != "blobs" {
		deny(w, http.StatusForbidden, "DENIED", "this pull is of "+p.Ref)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stop := context.AfterFunc(p.ctx, func() {
		cancel()
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now())
	})
	defer stop()
	r = r.WithContext(ctx)
	var err error
	if kind == "manifests" {
		err = g.manifest(w, r, p, digest)
	} else {
		err = g.blob(w, r, p, digest)
	}
	if err == nil {
		return
	}
	var refused *tuf.Refused
	if errors.As(err, &refused) {
		g.cfg.Log.Warn("refused", "service", p.Service, "image", p.Ref, "reason", refused.Error())
		stop() // the engine is told why, although the pull ends here
		p.refuse(refused)
	} else {
		g.cfg.Log.Info("the engine did not get what it asked for", "image", p.Ref, "error", err)
	}
	var begun *begunError
	if errors.As(err, &begun) {
		panic(http.ErrAbortHandler) // the connection is cut
	}
	if refused != nil {
		deny(w, http.StatusForbidden, "DENIED", refused.Error())
		return
	}
	var answered statusError
	switch errors.As(err, &answered); int(answered) {
	case http.StatusNotFound:
		deny(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "the registry does not have "+digest)
	case http.StatusUnauthorized, http.StatusForbidden:
		deny(w, http.StatusForbidden, "DENIED", "the registry does not let the device have "+digest)
	default:
		deny(w, http.StatusBadGateway, "UNAVAILABLE", "the registry does not answer")
	}
}

// statusError is a status that means no success.
type statusError int

// Error implements error.
func (e statusError) Error() string { return "answered " + strconv.Itoa(int(e)) }

// begunError is an error after the first bytes of a body went out.
type begunError struct{ error }

// Unwrap gives the error.
func (e *begunError) Unwrap() error { return e.error }

func deny(w http.ResponseWriter, status int, code, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": text}}})
}

// manifest is read whole and checked before the engine sees a byte of it.
func (g *Gate) manifest(w http.ResponseWriter, r *http.Request, p *pull, digest string) error {
	body, kind, err := g.read(r.Context(), p, digest)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodHead {
		return nil
	}
	_, _ = w.Write(body)
	return nil
}

// read fetches a manifest, checks it, and learns what it names.
func (g *Gate) read(ctx context.Context, p *pull, digest string) (body []byte, kind string, err error) {
	what := "manifest " + digest + " of service " + p.Service
	size, ok := p.manifest(digest)
	if !ok {
		return nil, "", tuf.Refuse(what, tuf.ReasonDigest, "", "a manifest that the release names", digest)
	}
	resp, err := g.fetch(ctx, p, "manifests", digest, 0)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, size+1))
	if err != nil {
		return nil, "", fmt.Errorf("read %s: %w", what, err)
	}
	if int64(len(body)) != size {
		return nil, "", tuf.Refuse(what, tuf.ReasonSize, "", strconv.FormatInt(size, 10)+" bytes", sizeOf(resp, int64(len(body)), size))
	}
	if got := digestOf(body); got != digest {
		return nil, "", tuf.Refuse(what, tuf.ReasonDigest, "", digest, got)
	}
	kind, err = p.learn(what, body)
	return body, kind, err
}

// size gives how long a blob is. An engine that has the manifest from earlier does not ask for it again: then the gate does.
func (g *Gate) size(ctx context.Context, p *pull, digest string) (int64, error) {
	known := func() (int64, bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		size, ok := p.blobs[digest]
		return size, ok
	}
	p.reading.Lock()
	defer p.reading.Unlock()
	for _, image := range p.Images {
		if size, ok := known(); ok {
			return size, nil
		}
		if p.learned[image.Digest] {
			continue
		}
		if _, _, err := g.read(ctx, p, image.Digest); err != nil {
			return 0, err
		}
		p.learned[image.Digest] = true
	}
	if size, ok := known(); ok {
		return size, nil
	}
	return 0, tuf.Refuse("layer "+digest+" of service "+p.Service, tuf.ReasonDigest, "", "a layer that the image's manifest names", digest)
}

func sizeOf(resp *http.Response, read, size int64) string {
	if read > size && resp.ContentLength < 0 {
		return "more"
	}
	return strconv.FormatInt(max(read, resp.ContentLength), 10)
}

func digestOf(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// descriptor names a blob or a manifest.
type descriptor struct {
	MediaType string   `json:"mediaType"`
	Digest    string   `json:"digest"`
	Size      int64    `json:"size"`
	URLs      []string `json:"urls"`
}

// learn reads a manifest whose digest is right: what it names may pass from now on. It gives its media type.
func (p *pull) learn(what string, body []byte) (kind string, err error) {
	var m struct {
		Schema    int          `json:"schemaVersion"`
		MediaType string       `json:"mediaType"`
		Config    *descriptor  `json:"config"`
		Layers    []descriptor `json:"layers"`
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return "", tuf.Refuse(what, tuf.ReasonMalformed, "", "a manifest", err.Error())
	}
	kind = m.MediaType
	if kind == "" && m.Config != nil {
		kind = ociManifest
	}
	if kind == "" && m.Manifests != nil {
		kind = ociIndex
	}
	switch {
	case m.Schema != 2:
		return "", tuf.Refuse(what, tuf.ReasonMalformed, "", "schemaVersion 2", strconv.Itoa(m.Schema))
	case (kind == dockerIndex || kind == ociIndex) && m.Config == nil && m.Layers == nil:
		return kind, nil // what it leads to must stand in the release as well
	case (kind != dockerManifest && kind != ociManifest) || m.Config == nil || m.Manifests != nil:
		return "", tuf.Refuse(what, tuf.ReasonMalformed, "", "an image's manifest or an index", kind)
	case len(m.Layers) > maxLayers:
		return "", tuf.Refuse(what, tuf.ReasonSize, "", fmt.Sprintf("at most %d layers", maxLayers), strconv.Itoa(len(m.Layers)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range append(m.Layers, *m.Config) {
		if !engine.IsDigest(d.Digest) || d.Size < 0 || len(d.URLs) > 0 {
			return "", tuf.Refuse(what, tuf.ReasonMalformed, "", "digest and size of each layer, and no urls", d.Digest)
		}
		if size, twice := p.blobs[d.Digest]; twice && size != d.Size {
			return "", tuf.Refuse(what, tuf.ReasonSize, "", strconv.FormatInt(size, 10)+" bytes of "+d.Digest, strconv.FormatInt(d.Size, 10))
		}
		p.blobs[d.Digest] = d.Size
	}
	return kind, nil
}

// blob hashes a body while it passes. Its last bytes go out when all of them were right.
func (g *Gate) blob(w http.ResponseWriter, r *http.Request, p *pull, digest string) error {
	what := "layer " + digest + " of service " + p.Service
	size, err := g.size(r.Context(), p, digest)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Accept-Ranges", "bytes")
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		return nil
	}
	from := rangeStart(r.Header.Get("Range"), size)
	l := &layer{size: size, ask: func(at int64) (io.ReadCloser, error) { return g.rest(r.Context(), p, what, digest, at, size) }}
	if l.kept = g.spool.take(r.Context().Done(), digest, size); l.kept != nil {
		l.had = l.kept.size
	}
	defer l.Close()
	if l.had == 0 { // a registry that does not have it, or does not give it, is told of with its status
		if l.rest, err = l.ask(0); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size-from, 10))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, size-1, size))
		w.WriteHeader(http.StatusPartialContent)
	}
	if err := l.pass(w, what, digest, from); err != nil {
		return &begunError{err}
	}
	return nil
}

// rest asks the registry for what comes of a layer from a place on.
func (g *Gate) rest(ctx context.Context, p *pull, what, digest string, at, size int64) (io.ReadCloser, error) {
	resp, err := g.fetch(ctx, p, "blobs", digest, at)
	if err != nil {
		return nil, err
	}
	skip := int64(0)
	if at > 0 && resp.StatusCode != http.StatusPartialContent {
		skip = at // it begins anew
	}
	if n := resp.ContentLength; n >= 0 && n != size-at+skip {
		_ = resp.Body.Close()
		return nil, tuf.Refuse(what, tuf.ReasonSize, "", strconv.FormatInt(size, 10)+" bytes", strconv.FormatInt(n+at-skip, 10))
	}
	if _, err := io.CopyN(io.Discard, resp.Body, skip); err != nil {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return resp.Body, nil
}

// rangeStart reads where "bytes=N-" begins; 0 for anything else.
func rangeStart(header string, size int64) int64 {
	bytes, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return 0
	}
	from, _, _ := strings.Cut(bytes, "-")
	n, err := strconv.ParseInt(from, 10, 64)
	if err != nil || n < 0 || n >= size {
		return 0
	}
	return n
}

// pass copies a layer, hashing all of it and sending what is after from, one chunk behind.
func (l *layer) pass(w io.Writer, what, digest string, from int64) error {
	hash, at := sha256.New(), int64(0) // what was hashed, of which held is the end
	var held []byte
	send := func() error {
		skip := min(max(0, from-(at-int64(len(held)))), int64(len(held)))
		if _, err := w.Write(held[skip:]); err != nil {
			return fmt.Errorf("send %s: %w", what, err)
		}
		return nil
	}
	buffers := [2][]byte{make([]byte, chunk), make([]byte, chunk)}
	for turn := 0; at < l.size; turn++ {
		buf := buffers[turn%2]
		n, err := io.ReadFull(l, buf[:min(chunk, l.size-at)])
		if err != nil {
			// What was cut off may go on later; that the registry says it is shorter shows at the size or the digest then.
			return fmt.Errorf("read %s: %w", what, err)
		}
		if err := send(); err != nil {
			return err
		}
		held = buf[:n]
		hash.Write(held)
		at += int64(n)
	}
	more, _ := io.ReadFull(l, make([]byte, 1))
	got := "sha256:" + hex.EncodeToString(hash.Sum(nil))
	if more == 0 && got == digest {
		return send()
	}
	if l.kept != nil {
		l.kept.drop()
	}
	switch {
	case more > 0:
		return tuf.Refuse(what, tuf.ReasonSize, "", strconv.FormatInt(l.size, 10)+" bytes", "more")
	case l.had > 0:
		return fmt.Errorf("%s: what was kept of it on the disk was damaged; all of it will be fetched", what)
	}
	return tuf.Refuse(what, tuf.ReasonDigest, "", digest, got)
}

// fetch asks the registry. From is where a blob goes on.
func (g *Gate) fetch(ctx context.Context, p *pull, kind, digest string, from int64) (*http.Response, error) {
	at := "https://" + p.host + "/v2/" + p.repo + "/" + kind + "/" + digest
	for attempt := 0; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
		if err != nil {
			return nil, fmt.Errorf("ask for %s: %w", digest, err)
		}
		if kind == "manifests" {
			req.Header.Set("Accept", strings.Join([]string{ociManifest, ociIndex, dockerManifest, dockerIndex}, ", "))
		}
		if from > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
		}
		p.mu.Lock()
		token := p.token
		p.mu.Unlock()
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := g.own.Do(req)
		if err != nil {
			return nil, fmt.Errorf("ask for %s: %w", digest, err)
		}
		switch {
		case resp.StatusCode == http.StatusOK, resp.StatusCode == http.StatusPartialContent && from > 0:
			return resp, nil
		case resp.StatusCode == http.StatusUnauthorized && attempt == 0:
			challenge := resp.Header.Get("WWW-Authenticate")
			_ = resp.Body.Close()
			if err := g.login(ctx, p, challenge); err != nil {
				return nil, err
			}
		case resp.StatusCode >= 300 && resp.StatusCode < 400 && kind == "blobs":
			_ = resp.Body.Close()
			return g.follow(ctx, resp, from)
		default:
			_ = resp.Body.Close()
			return nil, fmt.Errorf("ask the registry for %s: %w", digest, statusError(resp.StatusCode))
		}
	}
}

const maxRedirects = 5

// follow goes where the registry keeps its blobs. It shows nobody there a credential.
func (g *Gate) follow(ctx context.Context, resp *http.Response, from int64) (*http.Response, error) {
	for range maxRedirects {
		to, err := resp.Location()
		if err != nil || to.Scheme != "https" {
			return nil, fmt.Errorf("the registry sends on to %q, which is not an https address", resp.Header.Get("Location"))
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
		if err != nil {
			return nil, fmt.Errorf("go on to %s: %w", to.Host, err)
		}
		if from > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
		}
		next, err := g.foreign.Do(req)
		if err != nil {
			return nil, fmt.Errorf("go on to %s: %w", to.Host, err)
		}
		switch {
		case next.StatusCode == http.StatusOK, next.StatusCode == http.StatusPartialContent && from > 0:
			return next, nil
		case next.StatusCode >= 300 && next.StatusCode < 400:
			_ = next.Body.Close()
			resp = next
		default:
			_ = next.Body.Close()
			return nil, fmt.Errorf("go on to %s: %w", to.Host, statusError(next.StatusCode))
		}
	}
	return nil, errors.New("the registry sends on for ever")
}
