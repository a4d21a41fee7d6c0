package blob

import (
	"crypto/hmac"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/roadstead-io/roadstead/api"
)

// linkTime is how long an address of a blob is good for, at least; at most twice as long. Within it the address stays the same,
// so that caches and comparisons of rows work. It needs no token, so that it outlives a right that is taken away; not by much.
const linkTime = 5 * time.Minute

// idleTime is how long a client may be silent while bytes are on their way.
const idleTime = 30 * time.Second

// URL is an address under which a blob can be fetched without a token for the next minutes.
func (s *Store) URL(id, filename, contentType string) string {
	now := s.cfg.Now()
	expires := strconv.FormatInt(now.Truncate(linkTime).Add(2*linkTime).Unix(), 10)
	filename, contentType = Filename(filename), ContentType(contentType)
	q := url.Values{
		"name": {filename}, "type": {contentType}, "expires": {expires},
		"signature": {s.mac("get", id, filename, contentType, expires)},
	}
	return s.cfg.Base + id + "?" + q.Encode()
}

// Filename makes a name harmless: no folders, no control characters, not empty, not long.
func Filename(name string) string {
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	name = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == '"' || r == utf8.RuneError {
			return '_'
		}
		return r
	}, name)
	for len(name) > maxNameText {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	if strings.Trim(name, ". ") == "" {
		return "file"
	}
	return name
}

// ContentType keeps a type that can be said in a header and makes everything else bytes.
func ContentType(t string) string {
	kind, params, err := mime.ParseMediaType(t)
	if err != nil || len(t) > maxNameText {
		return "application/octet-stream"
	}
	if formatted := mime.FormatMediaType(kind, params); formatted != "" && strings.Contains(kind, "/") {
		return formatted
	}
	return "application/octet-stream"
}

// shown are the types that a browser may show in a page of ours; everything else is only ever saved.
var shown = []string{"image/png", "image/jpeg", "image/gif", "image/webp"}

// signed checks the signature and the time of an address.
func (s *Store) signed(q url.Values, parts ...string) error {
	expires := q.Get("expires")
	if !hmac.Equal([]byte(q.Get("signature")), []byte(s.mac(append(parts, expires)...))) {
		return api.Errorf(api.Forbidden, "the address is not one that this server gave out")
	}
	at, err := strconv.ParseInt(expires, 10, 64)
	if err != nil || s.cfg.Now().Unix() >= at {
		return api.Errorf(api.Forbidden, "the address has expired; ask for a new one")
	}
	return nil
}

// Serve answers GET and HEAD of a blob's address, whole or in ranges. The blob's id is the path value "id".
func (s *Store) Serve(w http.ResponseWriter, r *http.Request) error {
	id, q := r.PathValue("id"), r.URL.Query()
	name, kind := q.Get("name"), q.Get("type")
	if err := s.signed(q, "get", id, name, kind); err != nil {
		return err
	}
	f, err := s.Open(id)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	how := "attachment"
	if slices.Contains(shown, kind) {
		how = "inline"
	}
	disposition := mime.FormatMediaType(how, map[string]string{"filename": name})
	if disposition == "" {
		disposition = how
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Disposition", disposition)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox") // an uploaded page runs nothing in our name
	h.Set("Cache-Control", "private, max-age=3600")
	h.Set("ETag", `"`+id+`"`) // a blob never changes
	http.ServeContent(&patient{ResponseWriter: w, rc: http.NewResponseController(w)}, r, "", time.Time{}, f)
	return nil
}

// patient gives a client time as long as it takes something, and no longer.
type patient struct {
	http.ResponseWriter
	rc *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.rc.SetWriteDeadline(time.Now().Add(idleTime)) // not supported in some tests
	return p.ResponseWriter.Write(b)
}

// Receive answers PUT of a part's address. The upload and the part's number are the path values "upload" and "part".
func (s *Store) Receive(w http.ResponseWriter, r *http.Request) error {
	id, part := r.PathValue("upload"), r.PathValue("part")
	if err := s.signed(r.URL.Query(), "put", id, part); err != nil {
		return err
	}
	number, err := strconv.Atoi(part)
	if err != nil {
		return api.Errorf(api.Invalid, "the number of a part must be a number")
	}
	rc := http.NewResponseController(w)
	tag, err := s.PutPart(r.Context(), id, number, readerFunc(func(p []byte) (int, error) {
		_ = rc.SetReadDeadline(time.Now().Add(idleTime))
		n, err := r.Body.Read(p)
		if err != nil && err != io.EOF { //nolint:errorlint // io.Reader gives io.EOF itself
			err = api.Errorf(api.Invalid, "the body ended early")
		}
		return n, err
	}))
	if err != nil {
		return err
	}
	_ = rc.SetWriteDeadline(time.Now().Add(idleTime))
	w.Header().Set("ETag", `"`+tag+`"`)
	w.WriteHeader(http.StatusOK)
	return nil
}
