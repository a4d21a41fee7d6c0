package odata_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// shelf keeps files in memory.
type shelf struct {
	mu      sync.Mutex
	kept    map[string]string // ref → bytes
	places  []string
	uploads map[string]odata.File
}

func (s *shelf) Put(_ context.Context, at odata.Place, f odata.File, r io.Reader) (odata.File, error) {
	data, err := io.ReadAll(io.LimitReader(r, 1001))
	if err != nil {
		return f, err
	}
	if len(data) > 1000 {
		return f, api.Errorf(api.TooLarge, "a file of more than 1000 bytes")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places = append(s.places, fmt.Sprintf("%s(%d).%s", at.Resource, at.Row, at.Column))
	f.Ref, f.Size = fmt.Sprintf("ref%d", len(s.places)), int64(len(data))
	s.kept[f.Ref] = string(data)
	return f, nil
}

func (s *shelf) Drop(_ context.Context, _ odata.Place, f odata.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kept, f.Ref)
}

func (s *shelf) URL(_ context.Context, f odata.File) (string, error) {
	return "https://files.example.com/" + f.Ref, nil
}

func (s *shelf) Begin(_ context.Context, at odata.Place, f odata.File, chunk int64) (odata.Upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := fmt.Sprintf("up%d-%d", at.Row, len(s.uploads))
	s.uploads[id] = f
	return odata.Upload{UUID: id, Parts: []odata.UploadPart{{URL: "https://files.example.com/" + id, ChunkSize: chunk, PartNumber: 1}}}, nil
}

func (s *shelf) Commit(_ context.Context, _ odata.Place, uuid string, parts []odata.SentPart) (odata.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.uploads[uuid]
	if !ok || len(parts) != 1 || parts[0].ETag != "e" || parts[0].PartNumber != 1 {
		return f, api.Errorf(api.Invalid, "no such upload")
	}
	f.Ref = "ref-" + uuid
	s.kept[f.Ref] = strings.Repeat("x", int(f.Size))
	return f, nil
}

func (s *shelf) Cancel(_ context.Context, _ odata.Place, uuid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, uuid)
	return nil
}

// assets adds files to the releases of the test model.
func assets(s *shelf) func(*odata.Config) {
	return func(c *odata.Config) {
		c.Files = s
		c.Model.Resources = append(c.Model.Resources, &odata.Resource{
			Name: "release_asset", Synonyms: []string{"release__has__asset_key"},
			Columns: []odata.Column{id(), key("release", "release"), text("asset_key"), {Name: "asset", Type: odata.WebResource, Null: true}},
			Keys:    [][]string{{"release", "asset_key"}},
			Rules:   users("release/any(r:r/"+mineByApp+")", "release", "asset_key", "asset"),
		})
	}
}

// multi sends a multipart body; a value that starts with @ is a file.
func (s *server) multi(as access.Caller, method, url string, fields ...string) answer {
	s.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for i := 0; i < len(fields); i += 2 {
		value, isFile := strings.CutPrefix(fields[i+1], "@")
		if !isFile {
			if err := w.WriteField(fields[i], value); err != nil {
				s.t.Fatal(err)
			}
			continue
		}
		part, err := w.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {`form-data; name="` + fields[i] + `"; filename="../notes.txt"`}, "Content-Type": {"text/plain"}})
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := io.WriteString(part, value); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	r := httptest.NewRequest(method, url, &body)
	r.Header.Set("Content-Type", w.FormDataContentType())
	return s.send(as, r)
}

func TestFiles(t *testing.T) {
	keep := &shelf{kept: map[string]string{}, uploads: map[string]odata.File{}}
	s := newServer(t, assets(keep))
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	shown := func(ref string, size int) string {
		return fmt.Sprintf(`{"filename":"notes.txt","href":"https://files.example.com/%s","content_type":"text/plain","size":%d}`, ref, size)
	}
	expect := func(what string, a answer, status int, body string) {
		t.Helper()
		if a.status != status || a.body != body {
			t.Errorf("%s: got %d %s, want %d %s", what, a.status, a.body, status, body)
		}
	}
	expect("new", s.multi(bob, "POST", "/v7/release_asset", "release", "700", "asset_key", "a/b", "asset", "@hello"), 201,
		`{"id":1,"release":{"__id":700},"asset_key":"a/b","asset":`+shown("ref1", 5)+`}`)
	expect("again", s.multi(bob, "POST", "/v7/release_asset", "release", "700", "asset_key", "a/b", "asset", "@twice"), 409,
		`"Unique key constraint violated"`)
	expect("of a stranger", s.multi(eve, "POST", "/v7/release_asset", "release", "700", "asset_key", "e", "asset", "@mine"), 401, "")
	expect("too large", s.multi(bob, "POST", "/v7/release_asset", "release", "700", "asset_key", "l", "asset", "@"+strings.Repeat("x", 2000)), 413,
		`"a file of more than 1000 bytes"`)
	expect("not a file column", s.multi(bob, "POST", "/v7/release_asset", "release", "700", "asset_key", "@x"), 400, `"\"asset_key\" takes no file"`)
	expect("unknown column", s.multi(bob, "POST", "/v7/release_asset", "nope", "@x"), 400, `"release_asset has no property \"nope\""`)
	expect("after a file", s.multi(bob, "POST", "/v7/release_asset", "asset", "@x", "asset", "@y"), 400, `"\"asset\" is given twice"`)
	expect("nobody", s.multi(nobody, "POST", "/v7/release_asset", "asset", "@x"), 401, "")
	expect("change", s.multi(bob, "PATCH", "/v7/release_asset(1)", "asset", "@changed"), 200, "")
	expect("change a stranger's", s.multi(eve, "PATCH", "/v7/release_asset(1)", "asset", "@stolen"), 404, `"there is no such release_asset"`)
	expect("change all", s.multi(bob, "PATCH", "/v7/release_asset?$filter=true", "asset", "@x"), 200, "")
	check(t, s, []exchange{
		{bob, "", "release_asset(release=700,asset_key='a%2Fb')?$select=asset", "", 0, `[{"asset":` + shown("ref6", 1) + `}]`},
		{eve, "", "release_asset?$select=asset", "", 0, `[]`},
		{bob, "", "release_asset?$filter=asset ne null&$select=id", "", 0, `[{"id":1}]`},
		{bob, "GET", "release_asset?$filter=contains(asset,'ref')", "", 400, `"a JSON value is given where a text is needed"`},
		{bob, "PATCH", "release_asset(1)", `{"asset":{"ref":"ref1","filename":"x"}}`, 400, `"\"asset\" is given as a file, in a multipart/form-data body"`},
		{bob, "PATCH", "release_asset(1)", `{"asset":null}`, 200, ""},
		{bob, "", "release_asset?$select=id,asset", "", 0, `[{"id":1,"asset":null}]`},
	})
	// What was stored for a refused write is gone again.
	if got, want := fmt.Sprint(keep.kept), "map[ref1:hello ref5:changed ref6:x]"; got != want {
		t.Errorf("kept: got %s, want %s", got, want)
	}
	if got := strings.Join(keep.places, " "); !strings.Contains(got, "release_asset(1).asset") || strings.Contains(got, "stolen") {
		t.Errorf("places: got %s", got)
	}
}

func TestUploadInParts(t *testing.T) {
	keep := &shelf{kept: map[string]string{}, uploads: map[string]odata.File{}}
	s := newServer(t, assets(keep))
	const begin = `{"asset":{"filename":"big.bin","content_type":"application/zip","size":10,"chunk_size":6}}`
	const commit = `{"uuid":"up1-0","providerCommitData":{"Parts":[{"PartNumber":1,"ETag":"e"}]}}`
	const shown = `{"filename":"big.bin","href":"https://files.example.com/ref-up1-0","content_type":"application/zip","size":10}`
	check(t, s, []exchange{
		{bob, "POST", "release_asset", `{"release":700,"asset_key":"big","asset":null}`, 201, `{"id":1,"release":{"__id":700},"asset_key":"big","asset":null}`},
		{eve, "POST", "release_asset(1)/beginUpload", begin, 404, `"there is no such release_asset"`},
		{nobody, "POST", "release_asset(1)/beginUpload", begin, 401, ""},
		{bob, "POST", "release_asset(1)/beginUpload", `{}`, 400, `"beginUpload needs one property, with filename, content_type, size and chunk_size"`},
		{bob, "POST", "release_asset(1)/beginUpload", `{"asset_key":{"filename":"x","size":1,"chunk_size":1}}`, 400, `"\"asset_key\" takes no file"`},
		{bob, "POST", "release_asset(1)/beginUpload", `{"asset":{"filename":"x"}}`, 400, `"\"size\" and \"chunk_size\" of \"asset\" must be more than zero"`},
		{bob, "POST", "release_asset/beginUpload", begin, 400, `"beginUpload needs a key and nothing else"`},
		{bob, "GET", "release_asset(1)/beginUpload", "", 400, `"beginUpload is asked with POST"`},
		{bob, "POST", "release_asset(1)/beginUpload", begin, 200,
			`{"asset":{"uuid":"up1-0","uploadParts":[{"url":"https://files.example.com/up1-0","chunkSize":6,"partNumber":1}]}}`},
		{eve, "POST", "release_asset(1)/commitUpload", commit, 404, `"there is no such release_asset"`},
		{bob, "POST", "release_asset(1)/commitUpload", strings.Replace(commit, "up1", "up9", 1), 400, `"no such upload"`},
		{bob, "POST", "release_asset(1)/commitUpload", commit, 200, shown},
		{bob, "", "release_asset(1)?$select=asset", "", 0, `[{"asset":` + shown + `}]`},
		{bob, "POST", "device(200)/commitUpload", commit, 400, `"device has no files"`},
		{bob, "POST", "release_asset(1)/cancelUpload", `{"uuid":"up1-0"}`, 204, ""},
	})
	if len(keep.uploads) != 0 {
		t.Errorf("a cancelled upload is still there: %v", keep.uploads)
	}
	var f odata.File
	if err := json.Unmarshal([]byte(shown), &f); err != nil || f.Size != 10 {
		t.Errorf("%v %v", f, err)
	}
}

// TestFilesNeedAKeeper: a model with files and nothing that keeps them does not start.
func TestFilesNeedAKeeper(t *testing.T) {
	cfg := odata.Config{Model: testModel()}
	assets(nil)(&cfg)
	cfg.Files = nil
	if _, err := odata.New(cfg); err == nil || !strings.Contains(err.Error(), "nothing keeps them") {
		t.Errorf("New: got %v", err)
	}
}
