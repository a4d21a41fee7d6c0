package builder_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
)

// project is a source that needs no build service.
func project(t testing.TB, more map[string]string) map[string]string {
	t.Helper()
	img := must(random.Image(2000, 1))(t)
	cfg := must(img.ConfigFile())(t).DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	files := map[string]string{".roadstead/images/main.tar": dockerSave(t, must(mutate.ConfigFile(img, cfg))(t))}
	for name, text := range more {
		files[name] = text
	}
	return files
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// manifest lists files as a client does.
func manifest(files map[string]string) (entries []api.SourceEntry) {
	for name, text := range files {
		e := api.SourceEntry{Path: name, Mode: 0o644, Time: 1_700_000_000, Size: int64(len(text)), SHA256: sumOf(text)}
		if strings.HasPrefix(name, ".balena/") {
			e.Size, e.SHA256, e.Data = 0, "", []byte(text)
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b api.SourceEntry) int { return strings.Compare(a.Path, b.Path) })
	return entries
}

func zipped(write func(w io.Writer)) io.Reader {
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	write(zw)
	_ = zw.Close() // into memory
	return &buf
}

// blobs packs contents.
func blobs(texts ...string) io.Reader {
	return zipped(func(w io.Writer) {
		for _, text := range texts {
			sum := sha256.Sum256([]byte(text))
			_, _ = w.Write(binary.BigEndian.AppendUint64(sum[:], uint64(len(text))))
			_, _ = io.WriteString(w, text)
		}
	})
}

// ask sends a request to the builder's own road, and reads the answer if into is not nil. It gives status and text otherwise.
func (w *world) ask(token, method, path string, body io.Reader, into any) (int, string) {
	w.t.Helper()
	req := must(http.NewRequestWithContext(w.t.Context(), method, w.edge.URL+"/build/v1/builds"+path, body))(w.t)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := w.edge.HTTP.Do(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text := must(io.ReadAll(res.Body))(w.t)
	if into != nil && res.StatusCode < 300 {
		check(w.t, json.Unmarshal(text, into))
	}
	return res.StatusCode, string(text)
}

// open sends a manifest.
func (w *world) open(slug string, entries []api.SourceEntry) api.BuildOpened {
	w.t.Helper()
	var opened api.BuildOpened
	body := zipped(func(w io.Writer) {
		for _, e := range entries {
			_ = json.NewEncoder(w).Encode(e)
		}
	})
	if status, text := w.ask(testToken, "POST", "?"+url.Values{"slug": {slug}}.Encode(), body, &opened); status != http.StatusCreated {
		w.t.Fatalf("open: %d %s", status, text)
	}
	return opened
}

// send pushes a project: a manifest, and what is missing. It gives the build and how many contents were sent.
func (w *world) send(slug string, files map[string]string) (build int64, sent int) {
	w.t.Helper()
	opened := w.open(slug, manifest(files))
	var texts []string
	for _, text := range files {
		if slices.Contains(opened.Missing, sumOf(text)) {
			texts = append(texts, text)
		}
	}
	if len(texts) > 0 {
		var left api.BuildOpened
		status, text := w.ask(testToken, "POST", fmt.Sprintf("/%d/blobs", opened.ID), blobs(texts...), &left)
		if status != http.StatusOK || len(left.Missing) > 0 {
			w.t.Fatalf("blobs: %d %s", status, text)
		}
	}
	return opened.ID, len(texts)
}

// following is a stream of events.
type following struct {
	w    *world
	res  *http.Response
	scan *bufio.Scanner
	end  context.CancelFunc
	last int64
	text string
}

func (w *world) follow(token string, build, after int64) *following {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	req := must(http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s/build/v1/builds/%d/events?after=%d", w.edge.URL, build, after), nil))(w.t)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := w.edge.HTTP.Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		w.t.Fatalf("follow: %v, %v", res, err)
	}
	f := &following{w: w, res: res, scan: bufio.NewScanner(res.Body), end: cancel, last: after}
	w.t.Cleanup(f.close)
	return f
}

func (f *following) close() {
	f.end()
	_ = f.res.Body.Close()
}

// until reads until a line holds a text; with "" to the end, and gives how the build ended.
func (f *following) until(text string) string {
	f.w.t.Helper()
	for f.scan.Scan() {
		if len(f.scan.Bytes()) == 0 {
			continue
		}
		var l api.BuildLine
		check(f.w.t, json.Unmarshal(f.scan.Bytes(), &l))
		if l.Seq != f.last+1 {
			f.w.t.Errorf("line %d follows line %d", l.Seq, f.last)
		}
		f.last = l.Seq
		f.text += l.Message + "\n"
		if l.Status != "" || text != "" && strings.Contains(l.Message, text) {
			return l.Status
		}
	}
	if text != "" {
		f.w.t.Fatalf("the stream ended without %q: %v\n%s", text, f.scan.Err(), f.text)
	}
	return ""
}

func TestASecondPushSendsOnlyWhatChanged(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{})
	files := project(t, map[string]string{"a/one": "1", "a/two": "2", "same": "2", "empty": "", ".balena/balena.yml": "build-variables: {}\n"})
	for i, want := range []int{4, 1, 0} {
		if i == 1 {
			files["a/one"] = "changed"
		}
		id, sent := w.send(testFleet, files)
		if i == 0 {
			want++ // the empty file
		}
		if sent != want-1 && sent != want { // two files have one content
			t.Errorf("push %d: %d contents were sent, want %d", i+1, sent, want)
		}
		f := w.follow(testToken, id, 0)
		if status := f.until(""); status != api.StatusSuccess || w.releases.get(id).Status != api.StatusSuccess {
			t.Fatalf("push %d ended as %q:\n%s", i+1, status, f.text)
		}
		if i > 0 && sent != want {
			t.Errorf("push %d: %d contents were sent, want %d", i+1, sent, want)
		}
	}
	await(t, "the work directory is empty", w.workEmpty)
	// Another fleet, of another organization, learns nothing of what is there.
	if opened := w.open(foreignFleet, manifest(files)); len(opened.Missing) != 4 {
		t.Errorf("another tenant is asked for %d contents of 4", len(opened.Missing))
	}
}

func TestAnUploadThatBreaksOffGoesOn(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{})
	files := project(t, map[string]string{"a": strings.Repeat("a", 100_000), "b": strings.Repeat("b", 100_000)})
	opened := w.open(testFleet, manifest(files))
	path := fmt.Sprintf("/%d", opened.ID)
	whole := must(io.ReadAll(blobs(files["a"], files["b"])))(t)
	status, text := w.ask(testToken, "POST", path+"/blobs", bytes.NewReader(whole[:len(whole)-20]), nil)
	if status != http.StatusBadRequest || !strings.Contains(text, "what came whole is kept") {
		t.Errorf("half an upload: %d %s", status, text)
	}
	var left api.BuildOpened
	w.ask(testToken, "GET", path+"/missing", nil, &left)
	if len(left.Missing) != 2 || slices.Contains(left.Missing, sumOf(files["a"])) {
		t.Errorf("missing after half an upload: %v", left.Missing)
	}
	w.ask(testToken, "POST", path+"/blobs", blobs(files["b"], files[".roadstead/images/main.tar"]), &left)
	f := w.follow(testToken, opened.ID, 0)
	if status := f.until(""); status != api.StatusSuccess || len(left.Missing) != 0 {
		t.Errorf("ended as %q, missing %v:\n%s", status, left.Missing, f.text)
	}
}

// The attacks: contents that are not what they are said to be, or that nobody asked for; and manifests that lead outside or never end.
func TestHostileSourcesAreRefused(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{SourceEntries: 1000})
	opened := w.open(testFleet, manifest(map[string]string{"a": "good", "b": "good too"}))
	path := fmt.Sprintf("/%d/blobs", opened.ID)
	frame := func(sum string, size uint64, text string) io.Reader {
		return zipped(func(w io.Writer) {
			raw, _ := hex.DecodeString(sum)
			_, _ = w.Write(binary.BigEndian.AppendUint64(raw, size))
			_, _ = io.WriteString(w, text)
		})
	}
	for title, tt := range map[string]struct {
		body io.Reader
		want string
	}{
		"another content": {frame(sumOf("good"), 4, "evil"), "is something else"},
		"another size":    {frame(sumOf("good"), 5, "evils"), "the manifest says 4 bytes"},
		"negative size":   {frame(sumOf("good"), 1<<63, "x"), "the manifest says 4 bytes"},
		"not asked for":   {blobs("whatever"), "no file of the manifest"},
		"too short":       {frame(sumOf("good"), 4, "go"), "ended early"},
		"no gzip":         {strings.NewReader("hello, this is no gzip"), "damaged"},
	} {
		if status, text := w.ask(testToken, "POST", path, tt.body, nil); status != http.StatusBadRequest || !strings.Contains(text, tt.want) {
			t.Errorf("%s: %d %s, want %q", title, status, text, tt.want)
		}
	}
	var left api.BuildOpened
	if w.ask(testToken, "GET", fmt.Sprintf("/%d/missing", opened.ID), nil, &left); len(left.Missing) != 2 {
		t.Errorf("after all that, missing: %v", left.Missing)
	}
	endless := func(line func(i int) string) io.Reader {
		pr, pw := io.Pipe()
		go func() { // ends with the pipe
			zw := gzip.NewWriter(pw)
			for i := range 10_000_000 {
				if _, err := io.WriteString(zw, line(i)+"\n"); err != nil {
					return
				}
			}
			_ = pw.CloseWithError(zw.Close())
		}()
		t.Cleanup(func() { _ = pr.Close() })
		return pr
	}
	lines := func(text string) io.Reader { return zipped(func(w io.Writer) { _, _ = io.WriteString(w, text) }) }
	for title, tt := range map[string]struct {
		body   io.Reader
		status int
		want   string
	}{
		"traversal":   {lines(`{"path":"../x"}`), 400, `".." are refused`},
		"not JSON":    {lines("hello"), 400, "damaged"},
		"secret kept": {lines(`{"path":".balena/secrets/x","size":1,"sha256":"` + sumOf("x") + `"}`), 400, "may hold secrets"},
		"many":        {endless(func(i int) string { return fmt.Sprintf(`{"path":"%d"}`, i) }), 413, "more than 1000 entries"},
		"long line":   {lines(strings.Repeat(" ", 5<<20)), 400, "damaged"},
		"cut off":     {bytes.NewReader(must(io.ReadAll(lines(strings.Repeat(`{"path":"a"}`, 100))))(t)[:20]), 400, "damaged"},
	} {
		status, text := w.ask(testToken, "POST", "?slug="+testFleet, tt.body, nil)
		if status != tt.status || !strings.Contains(text, tt.want) {
			t.Errorf("%s: %d %s, want %d %q", title, status, text, tt.status, tt.want)
		}
	}
	w.releases.set(func(s *releases) {
		for id, b := range s.builds {
			if id != opened.ID && b.Status != api.StatusFailed {
				t.Errorf("build %d is %q", id, b.Status)
			}
		}
	})
}

func TestTheWrongTenantFindsNoBuild(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{})
	opened := w.open(testFleet, manifest(map[string]string{"a": "x"}))
	for token, want := range map[string][4]int{
		strangerToken: {404, 404, 404, 404}, "": {401, 401, 401, 401}, "rsu_nobody": {401, 401, 401, 401}, readerToken: {200, 403, 403, 0},
	} {
		for i, path := range []string{"", "/missing", "/blobs", "/events"} {
			method := "GET"
			if path == "/blobs" {
				method = "POST"
			}
			if want[i] == 0 {
				continue // it may, for as long as the build lasts
			}
			if status, text := w.ask(token, method, fmt.Sprintf("/%d%s", opened.ID, path), nil, nil); status != want[i] {
				t.Errorf("%s %s as %q: %d %s, want %d", method, path, token, status, text, want[i])
			}
		}
	}
	for _, id := range []string{"0", "x", "99", "-1"} {
		if status, text := w.ask(testToken, "GET", "/"+id+"/events", nil, nil); status != 404 && status != 400 {
			t.Errorf("build %s: %d %s", id, status, text)
		}
	}
}

// Two follow a build, one of them loses the right to, and one comes back where it was: no line is lost or comes twice.
func TestFollowing(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{})
	gate := make(chan struct{})
	w.releases.set(func(s *releases) { s.gate = gate })
	id, _ := w.send(testFleet, project(t, nil))
	first, second := w.follow(testToken, id, 0), w.follow(readerToken, id, 0)
	first.until("Building release")
	second.until("Building release")
	w.releases.set(func(s *releases) { s.gone[readerToken] = true })
	began := time.Now()
	if status := second.until(""); status != "" {
		t.Errorf("who may not any more is told that the build is %q", status)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the stream ended %s after the right to it", took)
	}
	first.close() // the connection drops, and the build goes on
	close(gate)
	again := w.follow(testToken, id, first.last)
	if status := again.until(""); status != api.StatusSuccess {
		t.Errorf("ended as %q:\n%s", status, again.text)
	}
	all := w.follow(testToken, id, 0) // after the end
	if status := all.until(""); status != api.StatusSuccess || all.text != first.text+again.text {
		t.Errorf("%q; all:\n%sin two parts:\n%s", status, all.text, first.text+again.text)
	}
	if n := strings.Count(all.text, "Building release"); n != 1 {
		t.Errorf("a line stands there %d times:\n%s", n, all.text)
	}
}

func TestTooManyDoNotFollow(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{Followers: 1})
	opened := w.open(testFleet, manifest(map[string]string{"a": "x"}))
	w.follow(testToken, opened.ID, 0)
	status, text := w.ask(testToken, "GET", fmt.Sprintf("/%d/events", opened.ID), nil, nil)
	if status != http.StatusTooManyRequests || !strings.Contains(text, "followers_of_build=1") {
		t.Errorf("a second one: %d %s", status, text)
	}
}

func TestABuildWaitsAndIsToldItsPlace(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{Builds: 1, OrganizationQueue: 4})
	gate := make(chan struct{})
	w.releases.set(func(s *releases) { s.gate = gate })
	files := project(t, nil)
	var ids []int64
	for range 4 {
		id, _ := w.send(testFleet, files)
		ids = append(ids, id)
		if len(ids) == 1 {
			w.follow(testToken, id, 0).until("Building release")
		} else {
			w.follow(testToken, id, 0).until(fmt.Sprintf("you are %s of", []string{"", "1st", "2nd", "3rd"}[len(ids)-1]))
		}
	}
	var state api.BuildState
	w.ask(testToken, "GET", fmt.Sprintf("/%d", ids[3]), nil, &state)
	if state.Phase != api.PhaseWaiting || state.Place != 3 || state.Of != 3 || state.Wait != 0 {
		t.Errorf("the last is %+v", state)
	}
	status, text := w.ask(testToken, "POST", "?slug="+testFleet, zipped(func(io.Writer) {}), nil)
	if status != http.StatusTooManyRequests || !strings.Contains(text, "organization_queue=4") {
		t.Errorf("a fifth of the organization: %d %s", status, text)
	}
	// Another organization's comes before those that wait; and one that waits is cancelled at once.
	other, _ := w.send(foreignFleet, files)
	w.follow(testToken, other, 0).until("you are 1st of 4")
	last := w.follow(testToken, ids[3], 0)
	last.until("you are 4th of 4")
	w.releases.set(func(s *releases) { s.builds[ids[2]].Status = api.StatusCancelled })
	f := w.follow(testToken, ids[2], 0)
	if status := f.until(""); status != api.StatusCancelled {
		t.Errorf("the cancelled one is %q:\n%s", status, f.text)
	}
	last.until("you are 3rd of 3")
	close(gate)
	for _, id := range []int64{ids[0], ids[1], ids[3], other} {
		if status := w.follow(testToken, id, 0).until(""); status != api.StatusSuccess {
			t.Errorf("build %d is %q", id, status)
		}
	}
}

func TestAFullQueueNamesItsLimit(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{Queue: 1})
	w.open(testFleet, manifest(map[string]string{"a": "x"}))
	for what, res := range map[string]*http.Response{"tar": w.push(t.Context(), nil, pack(t, nil))} {
		text := must(io.ReadAll(res.Body))(t)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusTooManyRequests || !strings.Contains(string(text), "limit queue=1") {
			t.Errorf("%s: %s %s", what, res.Status, text)
		}
	}
	if status, text := w.ask(testToken, "POST", "?slug="+testFleet, nil, nil); status != 429 || !strings.Contains(text, "limit queue=1") {
		t.Errorf("manifest: %d %s", status, text)
	}
}

// The role stops, or dies, under a build at work, one that waits and one whose source has not come. It goes on with the first two,
// and who followed comes back for the rest.
func TestBuildsGoOnAfterARestart(t *testing.T) {
	w := newWorld(t, noService, builder.Limits{Builds: 1})
	gate := make(chan struct{})
	w.releases.set(func(s *releases) { s.gate = gate })
	works, _ := w.send(testFleet, project(t, map[string]string{".balena/balena.yml": "build-variables: {}\n"}))
	first := w.follow(testToken, works, 0)
	first.until("Building release")
	waits, _ := w.send(foreignFleet, project(t, nil))
	second := w.follow(testToken, waits, 0)
	second.until("you are 1st of 1")
	secret, _ := w.send(testFleet, project(t, map[string]string{".balena/secrets/key": "s3cret-text"}))
	w.follow(testToken, secret, 0).until("you are 2nd of 2")
	for _, file := range must(filepath.Glob(filepath.Join(w.cfg.Dir, "jobs", "*")))(t) {
		if text := string(must(os.ReadFile(file))(t)); strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("s3cret-text"))) {
			t.Errorf("a secret is in %s", file)
		}
	}
	comes := w.open(testFleet, manifest(map[string]string{"not": "sent"})).ID
	w.stop()
	if status := first.until(""); status != "" || w.releases.get(works).Status != api.StatusRunning {
		t.Errorf("when the role stopped, the build was said to be %q, %q", status, w.releases.get(works).Status)
	}
	if r := w.releases.get(comes); r.Status != api.StatusFailed || !strings.Contains(r.result.Log, "push again") {
		t.Errorf("the build without a source is %q: %+v", r.Status, r.result)
	}
	if r := w.releases.get(secret); r.Status != api.StatusFailed || !strings.Contains(r.result.Log, "push again") {
		t.Errorf("the build with a secret is %q: %+v", r.Status, r.result)
	}
	w.startBuilder(slog.New(slog.DiscardHandler))
	close(gate)
	for id, f := range map[int64]*following{works: first, waits: second} {
		again := w.follow(testToken, id, 0)
		if status := again.untilAny(); status != api.StatusSuccess || !strings.Contains(again.text, "going on with the build") {
			t.Errorf("build %d is %q after the restart:\n%s", id, status, again.text)
		}
		back := w.follow(testToken, id, f.last) // the numbers of before mean nothing that is new
		if back.untilAny(); back.text != again.text {
			t.Errorf("who came back after line %d was told:\n%swant:\n%s", f.last, back.text, again.text)
		}
	}
	w.stop()
	w.startBuilder(slog.New(slog.DiscardHandler))
	if status, text := w.ask(testToken, "GET", fmt.Sprintf("/%d", works), nil, nil); status != 404 {
		t.Errorf("a build that has ended is begun again: %d %s", status, text)
	}
}

// untilAny reads to the end, and does not mind that the numbers leap, as they do after a restart.
func (f *following) untilAny() (status string) {
	for f.scan.Scan() {
		var l api.BuildLine
		if json.Unmarshal(f.scan.Bytes(), &l) == nil {
			f.text += l.Message + "\n"
			status = l.Status
		}
	}
	return status
}
