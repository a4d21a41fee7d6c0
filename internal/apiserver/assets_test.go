package apiserver_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// webResource is a file as clients read it.
type webResource struct {
	Filename    string `json:"filename"`
	Href        string `json:"href"`
	ContentType string `json:"content_type"`
	Size        int64  `json:"size"`
	Checksum    string `json:"checksum"`
}

// form is a multipart body with texts and one file, as the SDK sends it.
func form(t *testing.T, texts map[string]string, column, filename, kind string, data []byte) (body, header string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for name, value := range texts {
		if err := w.WriteField(name, value); err != nil {
			t.Fatal(err)
		}
	}
	h := textproto.MIMEHeader{}
	h.Set("Content-Disposition", fmt.Sprintf(`form-data; name=%q; filename=%q`, column, filename))
	h.Set("Content-Type", kind)
	part, err := w.CreatePart(h)
	if err == nil {
		_, err = part.Write(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String(), "Content-Type: " + w.FormDataContentType()
}

// fetch follows an address that the server gave out, without a token.
func (s *server) fetch(address string, headers ...string) *answer {
	s.Helper()
	path, ours := strings.CutPrefix(address, "https://api.roadstead.test")
	if !ours {
		s.Fatalf("the address %q is not one of the API", address)
	}
	return s.do("", "GET", path, nil, headers...)
}

func (s *server) asset(token string, release int64, key string) (a webResource) {
	s.Helper()
	rows := s.do(token, "GET", fmt.Sprintf("/v7/release_asset(release=%d,asset_key='%s')?$select=asset", release, key), nil).rows()
	if len(rows) != 1 {
		s.Fatalf("asset %s: %d rows", key, len(rows))
	}
	m, ok := rows[0]["asset"].(map[string]any)
	if !ok {
		s.Fatalf("asset %s: %v", key, rows[0])
	}
	return webResource{Filename: m["filename"].(string), Href: m["href"].(string), ContentType: m["content_type"].(string),
		Size: int64(m["size"].(float64))}
}

// blobs lists the files of the server's store.
func (s *server) blobs() (names []string) {
	s.Helper()
	s.must(filepath.WalkDir(filepath.Join(s.dir, api.RoleAPI, "blobs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, path)
		}
		return err
	}))
	return names
}

func TestReleaseAssets(t *testing.T) {
	s := newServer(t)
	token, stranger := s.login(s.admin.Username, s.admin.Password), s.user("mallory")
	fleet := s.fleet(token, "harbour")
	rel := s.push(token, "harbour")
	upload := func(token, key string, data []byte) *answer {
		t.Helper()
		body, kind := form(t, map[string]string{"release": fmt.Sprint(rel.ID), "asset_key": key}, "asset", "notes.txt", "text/plain", data)
		return s.do(token, "POST", "/v7/release_asset", body, kind)
	}
	var made struct{ ID int64 }
	upload(token, "notes", []byte("hello, world")).want(http.StatusCreated).into(&made)
	upload(token, "notes", []byte("again")).want(http.StatusConflict)
	a := s.asset(token, rel.ID, "notes")
	if a.Filename != "notes.txt" || a.ContentType != "text/plain" || a.Size != 12 {
		t.Errorf("the asset: %+v", a)
	}
	if got := s.fetch(a.Href).want(http.StatusOK); got.body != "hello, world" || got.header.Get("Content-Type") != "text/plain" {
		t.Errorf("the file: %q %v", got.body, got.header)
	}
	if got := s.fetch(a.Href, "Range: bytes=7-").want(http.StatusPartialContent); got.body != "world" {
		t.Errorf("the end of the file: %q", got.body)
	}
	s.fetch(strings.Replace(a.Href, "notes.txt", "notes.exe", 1)).want(http.StatusForbidden)
	rows := s.do(token, "GET", fmt.Sprintf("/v7/release(%d)?$select=id&$expand=release_asset($orderby=id%%20asc;$select=id,asset_key,asset)", rel.ID), nil).rows()
	if got := fmt.Sprint(rows); !strings.Contains(got, "asset_key:notes") || !strings.Contains(got, "/blobs/") || strings.Contains(got, " ref:") {
		t.Errorf("expanded: %s", got)
	}

	// Overwritten, the old bytes go.
	body, kind := form(t, nil, "asset", "../../notes2.txt", "text/html", []byte("<b>new</b>"))
	s.do(token, "PATCH", fmt.Sprintf("/v7/release_asset(%d)", made.ID), body, kind).want(http.StatusOK)
	b := s.asset(token, rel.ID, "notes")
	if b.Filename != "notes2.txt" || s.fetch(b.Href).want(http.StatusOK).body != "<b>new</b>" {
		t.Errorf("overwritten: %+v", b)
	}
	if got := s.fetch(b.Href).header; !strings.HasPrefix(got.Get("Content-Disposition"), "attachment") {
		t.Errorf("a page is shown in our name: %v", got)
	}
	s.fetch(a.Href).want(http.StatusNotFound)
	if n := len(s.blobs()); n != 1 {
		t.Errorf("%d files are kept", n)
	}

	// Another tenant: nothing to see, to change, to add.
	one := fmt.Sprintf("/v7/release_asset(%d)", made.ID)
	if rows := s.do(stranger, "GET", "/v7/release_asset", nil).rows(); len(rows) != 0 {
		t.Errorf("a stranger sees %v", rows)
	}
	upload(stranger, "evil", []byte("x")).want(http.StatusUnauthorized)
	upload("", "evil", []byte("x")).want(http.StatusUnauthorized)
	s.do(stranger, "PATCH", one, body, kind)
	s.do(stranger, "DELETE", one, nil)
	begin := map[string]any{"asset": map[string]any{"filename": "x", "content_type": "text/plain", "size": 6 << 20, "chunk_size": 5 << 20}}
	s.do(stranger, "POST", one+"/beginUpload", begin).want(http.StatusNotFound)
	if got := s.fetch(s.asset(token, rel.ID, "notes").Href).body; got != "<b>new</b>" || len(s.blobs()) != 1 {
		t.Errorf("a stranger changed it: %q, %d files", got, len(s.blobs()))
	}

	// Bad input.
	for i := 2; i <= 10; i++ {
		upload(token, fmt.Sprintf("more/%d", i), []byte("x")).want(http.StatusCreated)
	}
	if got := upload(token, "eleventh", []byte("x")).want(http.StatusBadRequest); !strings.Contains(got.body, "at most 10 release assets") {
		t.Error(got.body)
	}
	s.do(token, "DELETE", fmt.Sprintf("/v7/release_asset(asset_key='more%%2F10',release=%d)", rel.ID), nil).want(http.StatusOK)
	upload(token, "", []byte("x")).want(http.StatusBadRequest)
	upload(token, "a\nb", []byte("x")).want(http.StatusBadRequest)
	upload(token, "large", make([]byte, 17<<20)).want(http.StatusRequestEntityTooLarge)
	s.do(token, "POST", "/v7/release_asset", map[string]any{"release": rel.ID, "asset_key": "text", "asset": "hello"}).want(http.StatusBadRequest)
	other := s.push(token, "harbour")
	s.do(token, "PATCH", one, map[string]any{"release": other.ID}).want(http.StatusBadRequest)
	if n := len(s.blobs()); n != 9 {
		t.Errorf("%d files are kept, want those of 9 assets", n)
	}

	// They go with their release, and with their fleet.
	s.do(token, "POST", "/v7/release_asset", map[string]any{"release": other.ID, "asset_key": "kept", "asset": nil}).want(http.StatusCreated)
	s.do(token, "DELETE", fmt.Sprintf("/v7/release(%d)", rel.ID), nil).want(http.StatusOK)
	if n := len(s.blobs()); n != 0 {
		t.Errorf("%d files outlive their release", n)
	}
	body, kind = form(t, map[string]string{"release": fmt.Sprint(other.ID), "asset_key": "k"}, "asset", "x", "text/plain", []byte("x"))
	s.do(token, "POST", "/v7/release_asset", body, kind).want(http.StatusCreated)
	s.do(token, "DELETE", fmt.Sprintf("/v7/application(%d)", fleet), nil).want(http.StatusOK)
	if n := len(s.blobs()); n != 0 {
		t.Errorf("%d files outlive their fleet", n)
	}
}

// upload is what beginUpload answers.
type upload struct {
	Asset struct {
		UUID  string
		Parts []struct {
			URL        string
			ChunkSize  int
			PartNumber int
		} `json:"uploadParts"`
	}
}

func TestALargeAssetInParts(t *testing.T) {
	s := newServer(t)
	token, stranger := s.login(s.admin.Username, s.admin.Password), s.user("mallory")
	s.fleet(token, "harbour")
	rel := s.push(token, "harbour")
	var made struct{ ID int64 }
	s.do(token, "POST", "/v7/release_asset", map[string]any{"release": rel.ID, "asset_key": "big", "asset": nil}).
		want(http.StatusCreated).into(&made)
	one := fmt.Sprintf("/v7/release_asset(%d)", made.ID)
	const chunk = 5 << 20
	data := make([]byte, 2*chunk+123)
	_, _ = rand.Read(data) // never fails, see crypto/rand
	begin := map[string]any{"asset": map[string]any{
		"filename": "disk.img", "content_type": "application/x-img", "size": len(data), "chunk_size": chunk,
	}}
	var up upload
	s.do(token, "POST", one+"/beginUpload", begin).want(http.StatusOK).into(&up)
	if len(up.Asset.Parts) != 3 || up.Asset.Parts[2].ChunkSize != 123 {
		t.Fatalf("begun: %+v", up)
	}
	var sent []map[string]any
	put := func(i int) *answer {
		p := up.Asset.Parts[i]
		from := i * chunk
		return s.do("", "PUT", strings.TrimPrefix(p.URL, "https://api.roadstead.test"), string(data[from:from+p.ChunkSize]))
	}
	for i := range up.Asset.Parts {
		if i == 1 { // killed in the middle: what came is still there
			s.stop()
			s.start()
		}
		tag := put(i).want(http.StatusOK).header.Get("ETag")
		sent = append(sent, map[string]any{"PartNumber": i + 1, "ETag": tag})
	}
	commit := func(parts any) map[string]any {
		return map[string]any{"uuid": up.Asset.UUID, "providerCommitData": map[string]any{"Parts": parts}}
	}
	s.do(token, "POST", one+"/commitUpload", commit(sent[:2])).want(http.StatusBadRequest)
	s.do(stranger, "POST", one+"/commitUpload", commit(sent)).want(http.StatusNotFound)
	s.do("", "POST", one+"/commitUpload", commit(sent)).want(http.StatusUnauthorized)
	var done webResource
	s.do(token, "POST", one+"/commitUpload", commit(sent)).want(http.StatusOK).into(&done)
	s.do(token, "POST", one+"/commitUpload", commit(sent)).want(http.StatusOK) // the answer got lost
	if done.Size != int64(len(data)) || done.Filename != "disk.img" {
		t.Errorf("committed: %+v", done)
	}
	if got := s.fetch(s.asset(token, rel.ID, "big").Href).want(http.StatusOK); got.body != string(data) {
		t.Errorf("the file came back as %d other bytes", len(got.body))
	}
	put(0).want(http.StatusNotFound)

	// Given up, nothing is left of it.
	s.do(token, "POST", one+"/beginUpload", begin).want(http.StatusOK).into(&up)
	put(0).want(http.StatusOK)
	s.do(token, "POST", one+"/cancelUpload", map[string]any{"uuid": up.Asset.UUID}).want(http.StatusNoContent)
	put(1).want(http.StatusNotFound)
	s.do(token, "POST", one+"/commitUpload", commit(sent)).want(http.StatusNotFound)
	if got := s.fetch(s.asset(token, rel.ID, "big").Href).want(http.StatusOK); len(got.body) != len(data) {
		t.Errorf("a given up upload changed the file: %d bytes", len(got.body))
	}
	for name, bad := range map[string]map[string]any{
		"too large": {"filename": "x", "size": 1 << 40, "chunk_size": chunk}, "tiny chunks": {"filename": "x", "size": chunk, "chunk_size": 1},
		"empty": {"filename": "x", "size": 0, "chunk_size": chunk}, "negative": {"filename": "x", "size": -5, "chunk_size": chunk},
	} {
		if got := s.do(token, "POST", one+"/beginUpload", map[string]any{"asset": bad}); got.status < 400 || got.status >= 500 {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
}

func TestTheLogoOfAnOrganization(t *testing.T) {
	s := newServer(t)
	token, stranger := s.login(s.admin.Username, s.admin.Password), s.user("mallory")
	id := s.do(token, "GET", "/v7/organization?$select=id", nil).rows()[0]["id"]
	one := fmt.Sprintf("/v7/organization(%v)", id)
	put := func(token string, data []byte) *answer {
		body, kind := form(t, nil, "logo_image", "logo.png", "image/png", data)
		return s.do(token, "PATCH", one, body, kind)
	}
	png := append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 100)...)
	put(token, png).want(http.StatusOK)
	logo := func() map[string]any {
		return s.do(token, "GET", one+"?$select=logo_image", nil).rows()[0]["logo_image"].(map[string]any)
	}
	got := s.fetch(logo()["href"].(string)).want(http.StatusOK)
	if got.body != string(png) || got.header.Get("Content-Type") != "image/png" || !strings.HasPrefix(got.header.Get("Content-Disposition"), "inline") {
		t.Errorf("the logo: %v", got.header)
	}
	for name, bad := range map[string][]byte{
		"a page": []byte("<html><script>alert(1)</script>"), "a drawing with a script": []byte(`<svg xmlns="http://www.w3.org/2000/svg" onload="x()"/>`),
		"nothing": nil, "a program": []byte("\x7fELF"),
	} {
		if got := put(token, bad).want(http.StatusBadRequest); !strings.Contains(got.body, "logo_image") {
			t.Errorf("%s: %s", name, got.body)
		}
	}
	put(token, append(png, make([]byte, 3<<20)...)).want(http.StatusRequestEntityTooLarge)
	put(stranger, png)
	s.do(stranger, "GET", one, nil).want(http.StatusOK)
	if logo()["size"] != float64(len(png)) || len(s.blobs()) != 1 {
		t.Errorf("the logo was changed: %v, %d files", logo(), len(s.blobs()))
	}
	s.do(token, "PATCH", one, map[string]any{"logo_image": nil}).want(http.StatusOK)
}

// What no row names goes, once it is old.
func TestSweepOfUploadedFiles(t *testing.T) {
	s := newServer(t)
	token := s.login(s.admin.Username, s.admin.Password)
	s.fleet(token, "harbour")
	rel := s.push(token, "harbour")
	for _, key := range []string{"kept", "lost"} {
		body, kind := form(t, map[string]string{"release": fmt.Sprint(rel.ID), "asset_key": key}, "asset", key, "text/plain", []byte(key))
		s.do(token, "POST", "/v7/release_asset", body, kind).want(http.StatusCreated)
	}
	lost := s.asset(token, rel.ID, "lost").Href
	id := strings.TrimPrefix(strings.Split(lost, "?")[0], "https://api.roadstead.test/blobs/")
	orphan := filepath.Join(s.dir, api.RoleAPI, "blobs", id[:2], id[:2]+strings.Repeat("0", 30))
	s.must(os.WriteFile(orphan, []byte("of a process that was killed before its row was written"), 0o600))
	old := time.Now().Add(-2 * time.Hour)
	for _, name := range s.blobs() {
		s.must(os.Chtimes(name, old, old))
	}
	if err := s.running.SweepOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(orphan); !os.IsNotExist(err) {
		t.Errorf("the orphan is still there: %v", err)
	}
	for _, key := range []string{"kept", "lost"} {
		s.fetch(s.asset(token, rel.ID, key).Href).want(http.StatusOK)
	}
}
