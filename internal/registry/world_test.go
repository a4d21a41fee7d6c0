package registry_test

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/storage"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/registry"
	"github.com/roadstead-io/roadstead/internal/release/releasetest"
	"github.com/roadstead-io/roadstead/internal/release/stored"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/web"
)

// world is a registry with the real rows behind it: a database with its releases, and the routes of the api role over them.
type world struct {
	*store
	rows  *releasetest.World
	peers map[string]string
}

// newWorld starts both. change may change the registry's configuration, keep that of the rows.
func newWorld(t *testing.T, keep stored.Config, change ...func(*registry.Config)) *world {
	t.Helper()
	w := &world{store: prepare(t), rows: releasetest.New(t)}
	keep.Site = releasetest.Site
	id, err := pki.LoadIdentity(filepath.Join(w.dir, api.RoleAPI))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for _, rt := range storage.Routes(stored.New(keep), w.rows.DB) {
		if len(rt.Roles) == 0 {
			continue
		}
		mux.Handle(rt.Method+" "+rt.Path, web.Handle(w.log.Logger(), func(res http.ResponseWriter, r *http.Request) error {
			if !slices.Contains(rt.Roles, pki.PeerRole(r)) {
				return api.Errorf(api.NotFound, "")
			}
			return rt.Handle(res, r)
		}))
	}
	ln := roletest.Listen(t)
	w.peers = map[string]string{api.RoleAPI: ln.Addr().String()}
	srv := &http.Server{Handler: mux, TLSConfig: id.ServerTLS(), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(tls.NewListener(ln, srv.TLSConfig)) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	if err := os.WriteFile(filepath.Join(w.dir, "registry", registry.CredentialsFile), []byte("aws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = secret-of-the-bucket\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	cfg := registry.Config{Peers: w.peers}
	for _, f := range change {
		f(&cfg)
	}
	w.run(cfg)
	return w
}

// build opens a build with one image and gives the repository of it.
func (w *world) build(by access.Caller, slug string) (b api.Build, repository string) {
	w.t.Helper()
	b, images := w.rows.Open(by, slug, false, "main")
	return b, images[0].Repository
}

// finish ends a build.
func (w *world) finish(b api.Build, status string) {
	w.t.Helper()
	var images []api.BuildImage
	w.rows.Read(func(tx *db.Tx) error {
		ids, err := db.Column[int64](w.t.Context(), tx, `SELECT image FROM release_image WHERE is_part_of__release = ?`, b.ID)
		for _, id := range ids {
			images = append(images, api.BuildImage{ID: id})
		}
		return err
	})
	result := releasetest.Result(images)
	result.Status = status
	for i := range result.Images {
		result.Images[i].Status = status
	}
	if _, err := w.rows.Finish(b.ID, result); err != nil {
		w.t.Fatal(err)
	}
}

// remove deletes a release of a fleet that has another target.
func (w *world) remove(by access.Caller, b api.Build) {
	w.t.Helper()
	w.rows.Want(by, "DELETE", "release("+itoa(int(b.ID))+")", nil, 200, "")
}

// release pushes an image as a release and gives its build.
func (w *world) release(by access.Caller, slug string, img v1.Image) (api.Build, string) {
	w.t.Helper()
	b, repo := w.build(by, slug)
	w.push(repo, img)
	w.finish(b, api.StatusSuccess)
	return b, repo
}

// ask asks the registry as the operator.
func (w *world) ask(path string, in, out any) (int, string) {
	w.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		w.t.Fatal(err)
	}
	res, text := w.do("admin", "", "POST", path, strings.NewReader(string(body)), "Content-Type", "application/json")
	if res.StatusCode == http.StatusOK && out != nil {
		if err := json.Unmarshal([]byte(text), out); err != nil {
			w.t.Fatal(err)
		}
	}
	return res.StatusCode, text
}

// collect has the registry collect with a grace in seconds.
func (w *world) collect(grace int64, scan bool) api.RegistryCollected {
	w.t.Helper()
	var done api.RegistryCollected
	if status, text := w.ask("/internal/v1/collect", api.RegistryAsk{Grace: &grace, Scan: scan}, &done); status != http.StatusOK {
		w.t.Fatalf("collect: %d %s", status, text)
	}
	return done
}

// pull gets every byte of an image, or says why not.
func (s *store) pull(repo string, digest v1.Hash) error {
	ref, err := name.NewDigest(s.addr + "/" + repo + "@" + digest.String())
	if err != nil {
		return err
	}
	img, err := remote.Image(ref, remote.WithTransport(s.transport("edge", s.token(grant(repo, "pull"), nil))), remote.WithAuth(authn.Anonymous))
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, rc)
		if err2 := rc.Close(); err == nil {
			err = err2
		}
		if err != nil {
			return err
		}
	}
	_, err = img.RawConfigFile()
	return err
}

// call asks the api role as another role.
func (w *world) call(role, path string, in, out any) error {
	w.t.Helper()
	id, err := pki.LoadIdentity(filepath.Join(w.dir, role))
	if err != nil {
		return err
	}
	peer := id.Client(api.RoleAPI, w.peers[api.RoleAPI])
	defer peer.HTTP.CloseIdleConnections()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	res, err := peer.HTTP.Post(peer.URL+"/internal/v1/registry/"+path, "application/json", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return &api.Error{Code: api.CodeOf(res.StatusCode), Text: string(text)}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// stray puts a blob into the storage that no repository has.
func (s *store) stray(l v1.Layer) {
	s.t.Helper()
	rc, err := l.Compressed()
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	data, err := io.ReadAll(rc)
	if err != nil {
		s.t.Fatal(err)
	}
	h, err := l.Digest()
	if err != nil {
		s.t.Fatal(err)
	}
	dir := filepath.Join(s.dir, "registry", registry.StorageDir, "docker", "registry", "v2", "blobs", "sha256", h.Hex[:2], h.Hex)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}
