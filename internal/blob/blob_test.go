package blob_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/blob"
	"github.com/roadstead-io/roadstead/internal/web"

	"log/slog"
)

// store is a store with a server before it and a clock of its own.
type store struct {
	*blob.Store
	*testing.T
	dir string
	srv *httptest.Server
	now time.Time
}

func open(t *testing.T) *store {
	t.Helper()
	s := &store{T: t, dir: filepath.Join(t.TempDir(), "blobs"), now: time.Now()}
	mux := http.NewServeMux()
	log := slog.New(slog.DiscardHandler)
	mux.Handle("GET /blobs/{id}", web.Handle(log, func(w http.ResponseWriter, r *http.Request) error { return s.Serve(w, r) }))
	mux.Handle("PUT /blobs/uploads/{upload}/{part}",
		web.Handle(log, func(w http.ResponseWriter, r *http.Request) error { return s.Receive(w, r) }))
	s.srv = httptest.NewServer(mux)
	t.Cleanup(s.srv.Close)
	s.reopen()
	return s
}

func (s *store) reopen() {
	s.Helper()
	var err error
	s.Store, err = blob.Open(blob.Config{
		Dir: s.dir, Secret: []byte(strings.Repeat("s", 32)), Base: s.srv.URL + "/blobs/", Max: 8 << 20, Spare: 1,
		Now: func() time.Time { return s.now },
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = s.Close() })
}

func (s *store) put(data string) blob.Info {
	s.Helper()
	info, err := s.Put(s.Context(), strings.NewReader(data), 1<<20)
	if err != nil {
		s.Fatal(err)
	}
	return info
}

// send sends one request and gives the answer with its body read.
func (s *store) send(method, address string, body []byte, headers ...string) (*http.Response, string) {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), method, address, bytes.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	data, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		s.Fatal(err)
	}
	return res, string(data)
}

// files lists what lies in the store.
func (s *store) files() (names []string) {
	s.Helper()
	if err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, path)
		}
		return err
	}); err != nil {
		s.Fatal(err)
	}
	return names
}

func TestABlobComesBackAsItWent(t *testing.T) {
	s := open(t)
	data := strings.Repeat("0123456789", 1000)
	info := s.put(data)
	sum := sha256.Sum256([]byte(data))
	if info.Size != int64(len(data)) || info.Checksum != hex.EncodeToString(sum[:]) {
		t.Errorf("put: %+v", info)
	}
	address := s.URL(info.ID, "notes.txt", "text/plain")
	res, body := s.send("GET", address, nil)
	if res.StatusCode != 200 || body != data {
		t.Fatalf("get: %s, %d bytes", res.Status, len(body))
	}
	for name, want := range map[string]string{
		"Content-Type": "text/plain", "Content-Disposition": `attachment; filename=notes.txt`, "X-Content-Type-Options": "nosniff",
		"Content-Length": "10000", "Content-Security-Policy": "default-src 'none'; sandbox", "Accept-Ranges": "bytes",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if res, body := s.send("GET", address, nil, "Range: bytes=-4"); res.StatusCode != 206 || body != "6789" ||
		res.Header.Get("Content-Range") != "bytes 9996-9999/10000" {
		t.Errorf("the last four bytes: %s %q", res.Status, body)
	}
	if res, _ := s.send("GET", address, nil, "Range: bytes=10000-"); res.StatusCode != 416 {
		t.Errorf("a range beyond the end: %s", res.Status)
	}
	if res, body := s.send("HEAD", address, nil); res.StatusCode != 200 || body != "" || res.ContentLength != 10000 {
		t.Errorf("head: %s, %d", res.Status, res.ContentLength)
	}
	if res, _ := s.send("GET", address, nil, "If-None-Match: "+res.Header.Get("ETag")); res.StatusCode != 304 {
		t.Errorf("asked again: %s", res.Status)
	}
	// Another process with the same directory serves it too, and the same address is given out for a while.
	s.reopen()
	if res, _ := s.send("GET", address, nil); res.StatusCode != 200 || s.URL(info.ID, "notes.txt", "text/plain") != address {
		t.Errorf("after a restart: %s", res.Status)
	}
	if err := errors.Join(s.Remove(info.ID), s.Remove(info.ID)); err != nil {
		t.Error(err)
	}
	if res, _ := s.send("GET", address, nil); res.StatusCode != 404 {
		t.Errorf("after it was removed: %s", res.Status)
	}
}

// Attacks: an address is changed, kept, guessed, or made for something else.
func TestOnlyAddressesGivenOutOpen(t *testing.T) {
	s := open(t)
	mine, other := s.put("mine"), s.put("another's")
	address := s.URL(mine.ID, "a.txt", "text/plain")
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	with := func(name, value string) string {
		q := u.Query()
		q.Set(name, value)
		changed := *u
		changed.RawQuery = q.Encode()
		return changed.String()
	}
	for name, bad := range map[string]string{
		"another blob":  strings.Replace(address, mine.ID, other.ID, 1),
		"another name":  with("name", "b.txt"),
		"another type":  with("type", "text/html"),
		"a later end":   with("expires", "99999999999"),
		"no end":        with("expires", ""),
		"signature cut": with("signature", u.Query().Get("signature")[:63]),
		"no signature":  s.srv.URL + "/blobs/" + mine.ID,
		"parts shifted": with("name", "a.txttext"),
		"a part's door": strings.Replace(address, "/blobs/", "/blobs/uploads/", 1) + "&x=",
	} {
		if res, body := s.send("GET", bad, nil); res.StatusCode != 403 && res.StatusCode != 404 && res.StatusCode != 405 || strings.Contains(body, "mine") {
			t.Errorf("%s: %s %s", name, res.Status, body)
		}
	}
	for _, path := range []string{"..%2f..%2fpepper", "_uploads", "%00", strings.Repeat("a", 31) + "/", mine.ID[:2] + "%2f" + mine.ID} {
		if res, _ := s.send("GET", s.srv.URL+"/blobs/"+path+"?"+u.RawQuery, nil); res.StatusCode == 200 {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	for _, id := range []string{"", "..", "../../etc/passwd", "_uploads", strings.Repeat("g", 32), strings.Repeat("/", 32)} {
		if f, err := s.Open(id); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("open %q: %v, %v", id, f, err)
		}
	}
	s.now = s.now.Add(5*time.Minute - time.Second)
	if res, _ := s.send("GET", address, nil); res.StatusCode != 200 {
		t.Errorf("within five minutes: %s", res.Status)
	}
	s.now = s.now.Add(5 * time.Minute)
	if res, body := s.send("GET", address, nil); res.StatusCode != 403 || !strings.Contains(body, "expired") {
		t.Errorf("ten minutes later: %s %s", res.Status, body)
	}
}

func TestNamesAndTypesAreHarmless(t *testing.T) {
	for in, want := range map[string]string{
		"a.txt": "a.txt", "../../etc/passwd": "passwd", `C:\boot.ini`: "boot.ini", "": "file", "..": "file", "a\r\nSet-Cookie: x": "a__Set-Cookie: x",
		`say "hi"`: "say _hi_", "größe.png": "größe.png", "a\x00b": "a_b", "a/": "file", "\u202egnp.exe": "_gnp.exe",
	} {
		if got := blob.Filename(in); got != want {
			t.Errorf("Filename(%q): %q, want %q", in, got, want)
		}
	}
	if n := len(blob.Filename(strings.Repeat("ü", 1000))); n > 255 {
		t.Errorf("a long name has %d bytes", n)
	}
	for in, want := range map[string]string{
		"image/png": "image/png", "text/plain; charset=utf-8": "text/plain; charset=utf-8", "": "application/octet-stream",
		"text/html\r\nX: y": "application/octet-stream", "nonsense": "application/octet-stream",
		"a/" + strings.Repeat("b", 300): "application/octet-stream",
	} {
		if got := blob.ContentType(in); got != want {
			t.Errorf("ContentType(%q): %q, want %q", in, got, want)
		}
	}
	s := open(t)
	info := s.put("<script>alert(1)</script>")
	res, _ := s.send("GET", s.URL(info.ID, "x.html", "text/html"), nil)
	if !strings.HasPrefix(res.Header.Get("Content-Disposition"), "attachment") || res.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("a page is shown: %v", res.Header)
	}
	if res, _ := s.send("GET", s.URL(info.ID, "x.png", "image/png"), nil); !strings.HasPrefix(res.Header.Get("Content-Disposition"), "inline") {
		t.Errorf("a picture is not shown: %v", res.Header)
	}
}

func TestPutIsBoundedAndLeavesNothing(t *testing.T) {
	s := open(t)
	if _, err := s.Put(t.Context(), strings.NewReader(strings.Repeat("a", 11)), 10); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("11 of 10 bytes: %v", err)
	}
	if _, err := s.Put(t.Context(), strings.NewReader(strings.Repeat("a", 10)), 10); err != nil {
		t.Errorf("10 of 10 bytes: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Put(gone, strings.NewReader("a"), 10); err == nil {
		t.Error("a client that went away")
	}
	if _, err := s.Put(t.Context(), io.MultiReader(strings.NewReader("a"), broken{}), 10); err == nil {
		t.Error("a body that broke")
	}
	if names := s.files(); len(names) != 1 {
		t.Errorf("left: %v", names)
	}
	full, err := blob.Open(blob.Config{Dir: s.dir, Secret: []byte(strings.Repeat("s", 32)), Spare: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := full.Put(t.Context(), strings.NewReader("a"), 10); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a disk without room: %v", err)
	}
	if _, _, err := full.Begin(blob.Upload{Size: 1, Chunk: 1}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a disk without room: %v", err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

func random(t *testing.T, n int) []byte {
	t.Helper()
	data := make([]byte, n)
	_, _ = rand.Read(data) // never fails, see crypto/rand
	return data
}

func TestALargeFileInParts(t *testing.T) {
	s := open(t)
	const chunk = 100 << 10
	data := random(t, 5*chunk+17)
	u, parts, err := s.Begin(blob.Upload{Owner: "row 1", Filename: "../big.bin", Type: "x", Size: int64(len(data)), Chunk: chunk})
	if err != nil || len(parts) != 6 || parts[5].Size != 17 || u.Filename != "big.bin" {
		t.Fatalf("begin: %+v %+v %v", u, parts, err)
	}
	bytesOf := func(p blob.Part) []byte {
		from := (p.Number - 1) * chunk
		return data[from : from+int(p.Size)]
	}
	var tags []blob.Tagged
	for i := range parts {
		p := parts[len(parts)-1-i] // in any order
		if res, body := s.send("PUT", p.URL, bytesOf(p)[:p.Size-1]); res.StatusCode != 400 {
			t.Errorf("a part cut short: %s %s", res.Status, body)
		}
		if res, _ := s.send("PUT", p.URL, append(bytes.Clone(bytesOf(p)), 0)); res.StatusCode != 413 {
			t.Errorf("a part too long: %s", res.Status)
		}
		res, body := s.send("PUT", p.URL, bytesOf(p))
		if res.StatusCode != 200 || res.Header.Get("ETag") == "" {
			t.Fatalf("part %d: %s %s", p.Number, res.Status, body)
		}
		tags = append(tags, blob.Tagged{Number: p.Number, Tag: res.Header.Get("ETag")})
		if i == 2 {
			s.reopen() // the process was killed: what came is still there
		}
	}
	for name, bad := range map[string][]blob.Tagged{
		"a part less": tags[1:], "no parts": nil,
		"a wrong tag": append([]blob.Tagged{{Number: tags[0].Number, Tag: "0"}}, tags[1:]...),
		"twice one":   append([]blob.Tagged{tags[1]}, tags[1:]...),
	} {
		if _, _, err := s.Commit(t.Context(), u.ID, "row 1", bad); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := s.Commit(t.Context(), u.ID, "row 2", tags); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("into another row: %v", err)
	}
	if err := s.Cancel(u.ID, "row 2"); err != nil {
		t.Errorf("cancelled by another: %v", err)
	}
	_, info, err := s.Commit(t.Context(), u.ID, "row 1", tags)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if info.Checksum != hex.EncodeToString(sum[:]) || info.Size != int64(len(data)) {
		t.Errorf("commit: %+v", info)
	}
	if res, body := s.send("GET", s.URL(info.ID, "big.bin", ""), nil); res.StatusCode != 200 || body != string(data) {
		t.Errorf("the file: %s, %d bytes", res.Status, len(body))
	}
	if _, again, err := s.Commit(t.Context(), u.ID, "row 1", tags); err != nil || again != info {
		t.Errorf("the same end again: %+v %v, want %+v", again, err, info)
	}
	if res, _ := s.send("PUT", parts[0].URL, make([]byte, parts[0].Size)); res.StatusCode != 404 {
		t.Errorf("a part after the end: %s", res.Status)
	}
	// Killed between the decision and the deed: the next commit does it.
	was, back := filepath.Join(s.dir, info.ID[:2], info.ID), filepath.Join(s.dir, "_uploads", u.ID, "data")
	if err := os.Rename(was, back); err != nil {
		t.Fatal(err)
	}
	if _, again, err := s.Commit(t.Context(), u.ID, "row 1", tags); err != nil || again != info {
		t.Errorf("after a crash: %+v %v", again, err)
	}
	if res, body := s.send("GET", s.URL(info.ID, "big.bin", ""), nil); res.StatusCode != 200 || body != string(data) {
		t.Errorf("the file after a crash: %s, %d bytes", res.Status, len(body))
	}
	if err := s.Remove(info.ID); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Commit(t.Context(), u.ID, "row 1", tags); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("an end after the blob was removed: %v", err)
	}
}

func TestUploadRefusals(t *testing.T) {
	s := open(t)
	for name, bad := range map[string]blob.Upload{
		"empty": {Size: 0, Chunk: 1 << 20}, "negative": {Size: -1, Chunk: 1 << 20}, "too large": {Size: 9 << 20, Chunk: 1 << 20},
		"tiny chunks": {Size: 1 << 20, Chunk: 1}, "no chunks": {Size: 1 << 20}, "negative chunks": {Size: 1 << 20, Chunk: -1},
	} {
		if _, _, err := s.Begin(bad); err == nil {
			t.Errorf("%s: begun", name)
		}
	}
	if names := s.files(); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
	begin := func(owner string) (blob.Upload, []blob.Part) {
		t.Helper()
		u, parts, err := s.Begin(blob.Upload{Owner: owner, By: "user " + owner, Size: 100, Chunk: 100})
		if err != nil {
			t.Fatal(err)
		}
		return u, parts
	}
	u, parts := begin("a")
	for range 3 {
		begin("a")
	}
	if _, _, err := s.Begin(blob.Upload{Owner: "a", Size: 1, Chunk: 1}); !errors.Is(err, api.ErrConflict) {
		t.Errorf("a fifth upload at once: %v", err)
	}
	for i := range 12 { // each person has a bound of their own
		if _, _, err := s.Begin(blob.Upload{Owner: fmt.Sprint(i), By: "eve", Size: 1, Chunk: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		if _, _, err := s.Begin(blob.Upload{Owner: fmt.Sprint("more", i), By: "eve", Size: 1, Chunk: 1}); (err != nil) != (i == 4) {
			t.Errorf("upload %d of one sender: %v", 13+i, err)
		}
	}
	_, others := begin("b")
	swapped := strings.Replace(parts[0].URL, u.ID, strings.Split(others[0].URL, "/")[5], 1)
	for name, bad := range map[string]string{
		"another upload": swapped, "another part": strings.Replace(parts[0].URL, "/1?", "/2?", 1),
		"not a number": strings.Replace(parts[0].URL, "/1?", "/x?", 1), "unsigned": strings.Split(parts[0].URL, "&")[0],
		"of a blob's": strings.Replace(s.URL(u.ID, "1", ""), u.ID, "uploads/"+u.ID+"/1", 1),
	} {
		if res, _ := s.send("PUT", bad, make([]byte, 100)); res.StatusCode != 403 {
			t.Errorf("%s: %s", name, res.Status)
		}
	}
	if err := s.Cancel(u.ID, "a"); err != nil {
		t.Fatal(err)
	}
	if res, _ := s.send("PUT", parts[0].URL, make([]byte, 100)); res.StatusCode != 404 {
		t.Errorf("a part of a cancelled upload: %s", res.Status)
	}
	s.now = s.now.Add(25 * time.Hour)
	if res, body := s.send("PUT", others[0].URL, make([]byte, 100)); res.StatusCode != 403 || !strings.Contains(body, "expired") {
		t.Errorf("a day later: %s %s", res.Status, body)
	}
}

// The attack: a part is held back until the file was checked and kept, and then changes it.
func TestAPartCannotChangeWhatWasKept(t *testing.T) {
	s := open(t)
	good := []byte(strings.Repeat("g", 100))
	u, parts, err := s.Begin(blob.Upload{Owner: "a", Size: 100, Chunk: 100})
	if err != nil {
		t.Fatal(err)
	}
	res, _ := s.send("PUT", parts[0].URL, good)
	tags := []blob.Tagged{{Number: 1, Tag: res.Header.Get("ETag")}}
	r, w := io.Pipe()
	held := make(chan error, 1)
	go func() { _, err := s.PutPart(t.Context(), u.ID, 1, r); held <- err }()
	if _, err := w.Write([]byte(strings.Repeat("e", 50))); err != nil { // returns once PutPart has read it
		t.Fatal(err)
	}
	if _, _, err := s.Commit(t.Context(), u.ID, "a", tags); !errors.Is(err, api.ErrConflict) && !errors.Is(err, api.ErrInvalid) {
		t.Errorf("an end while a part is on its way: %v", err)
	}
	_, _ = w.Write([]byte(strings.Repeat("e", 50)))
	_ = w.Close()
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Commit(t.Context(), u.ID, "a", tags); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("the part is another than its ETag says: %v", err)
	}
	s.send("PUT", parts[0].URL, good)
	_, info, err := s.Commit(t.Context(), u.ID, "a", tags)
	if err != nil {
		t.Fatal(err)
	}
	if _, body := s.send("GET", s.URL(info.ID, "a", ""), nil); body != string(good) {
		t.Errorf("kept: %q", body)
	}
}

// What nobody wants goes; what somebody wants, or has just brought, stays.
func TestSweep(t *testing.T) {
	s := open(t)
	wanted, orphan := s.put("wanted"), s.put("orphan")
	slow, parts, err := s.Begin(blob.Upload{Owner: "a", Size: 100, Chunk: 100})
	if err != nil {
		t.Fatal(err)
	}
	// A process that was killed in the middle of an upload left this.
	if err := os.WriteFile(filepath.Join(s.dir, "_uploads", "put-x"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	keep := func(id string) bool { return id == wanted.ID }
	if n, err := s.Sweep(t.Context(), time.Hour, keep); n != 0 || err != nil {
		t.Errorf("too early: %d, %v", n, err)
	}
	s.now = s.now.Add(2 * time.Hour)
	fresh := s.put("fresh")
	if err := os.Chtimes(filepath.Join(s.dir, fresh.ID[:2], fresh.ID), s.now, s.now); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Sweep(t.Context(), time.Hour, keep); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	for id, want := range map[string]bool{wanted.ID: true, fresh.ID: true, orphan.ID: false} {
		f, err := s.Open(id)
		if (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", id, err == nil, want)
		}
		if err == nil {
			_ = f.Close()
		}
	}
	if res, _ := s.send("PUT", parts[0].URL, make([]byte, 100)); res.StatusCode != 200 {
		t.Errorf("an upload that has time left was swept: %s", res.Status)
	}
	s.now = s.now.Add(48 * time.Hour)
	if _, err := s.Sweep(t.Context(), time.Hour, func(string) bool { return true }); err != nil {
		t.Error(err)
	}
	if names := s.files(); len(names) != 2 {
		t.Errorf("left: %v, with upload %s", names, slow.ID)
	}
}
