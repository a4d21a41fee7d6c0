package apiserver

import (
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip" // a fifth of the standard library's CPU time for the same bytes
)

// compressFrom is the size from which an answer is worth compressing.
const compressFrom = 1024

// gzips keeps compressors for the next answer; one costs 800 KiB to make.
type gzips struct{ pool sync.Pool }

func (g *gzips) get(w http.ResponseWriter) *gzip.Writer {
	if z, ok := g.pool.Get().(*gzip.Writer); ok {
		z.Reset(w)
		return z
	}
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant of the package
	}
	return z
}

// gzipWriter holds an answer's first bytes back until it is known whether it is worth compressing.
type gzipWriter struct {
	http.ResponseWriter
	zips   *gzips
	accept bool

	status int // given by the handler, not sent yet
	head   []byte
	sent   bool
	zip    *gzip.Writer
}

// compress wraps an answer. Close must be called when the handler is done.
func (s *Server) compress(w http.ResponseWriter, r *http.Request) *gzipWriter {
	return &gzipWriter{ResponseWriter: w, zips: &s.zips, accept: r.Method != http.MethodHead && acceptsGzip(r.Header.Get("Accept-Encoding"))}
}

func acceptsGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(part, ";")
		name = strings.TrimSpace(name)
		if name != "gzip" && name != "*" {
			continue
		}
		q := strings.ReplaceAll(params, " ", "")
		return q != "q=0" && !strings.HasPrefix(q, "q=0.0")
	}
	return false
}

func (g *gzipWriter) wrote() bool { return g.sent || g.status != 0 || len(g.head) > 0 }

// WriteHeader implements http.ResponseWriter.
func (g *gzipWriter) WriteHeader(status int) {
	if g.status == 0 {
		g.status = status
	}
}

// Write implements http.ResponseWriter.
func (g *gzipWriter) Write(p []byte) (int, error) {
	if g.status == 0 {
		g.status = http.StatusOK
	}
	if !g.sent && len(g.head)+len(p) < compressFrom {
		g.head = append(g.head, p...)
		return len(p), nil
	}
	if err := g.start(true); err != nil {
		return 0, err
	}
	if g.zip != nil {
		return g.zip.Write(p)
	}
	return g.ResponseWriter.Write(p)
}

// start sends the header and what was held back.
func (g *gzipWriter) start(large bool) error {
	if g.sent {
		return nil
	}
	g.sent = true
	h := g.Header()
	if h.Get("Content-Type") != "" {
		h.Add("Vary", "Accept-Encoding")
	}
	if large && g.accept && h.Get("Content-Encoding") == "" && compressible(h.Get("Content-Type")) {
		h.Set("Content-Encoding", "gzip")
		h.Del("Content-Length")
		g.zip = g.zips.get(g.ResponseWriter)
	}
	if g.status != 0 {
		g.ResponseWriter.WriteHeader(g.status)
	}
	if len(g.head) == 0 {
		return nil
	}
	var err error
	if g.zip != nil {
		_, err = g.zip.Write(g.head)
	} else {
		_, err = g.ResponseWriter.Write(g.head)
	}
	g.head = nil
	return err
}

func compressible(contentType string) bool {
	return strings.HasPrefix(contentType, "application/json") || strings.HasPrefix(contentType, "text/") ||
		strings.HasPrefix(contentType, "application/xml")
}

// Close sends what is left. A handler that wrote nothing leaves the answer to others.
func (g *gzipWriter) Close() {
	if !g.wrote() {
		return
	}
	_ = g.start(false) // a client that did not wait is its own business
	if g.zip != nil {
		_ = g.zip.Close()
		g.zips.pool.Put(g.zip)
		g.zip = nil
	}
}
