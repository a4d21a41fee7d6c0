package fleettest_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// deployment is a client that pushes by itself, as balena's does.
type deployment struct {
	t     *testing.T
	srv   *fleettest.Server
	c     *client.Client
	fleet int64
	way   *http.Transport
}

// token is the registry token for something.
func (d *deployment) token(scope string) string {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, d.srv.URL+"/auth/v1/token?"+url.Values{
		"service": {"registry2." + d.srv.Domain}, "scope": {scope}}.Encode(), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.srv.Admin.APIKey)
	res, err := d.way.RoundTrip(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var given struct{ Token string }
	if err := json.NewDecoder(res.Body).Decode(&given); err != nil || res.StatusCode != http.StatusOK {
		d.t.Fatalf("token: %s %v", res.Status, err)
	}
	return given.Token
}

func (d *deployment) create(resource string, row map[string]any) int64 {
	d.t.Helper()
	made, err := client.Create[client.Fleet](d.t.Context(), d.c, resource, row)
	if err != nil {
		d.t.Fatalf("%s: %v", resource, err)
	}
	return made.ID
}

func (d *deployment) patch(resource string, id int64, row map[string]any) error {
	return d.c.Patch(d.t.Context(), client.ID(resource, id), client.Query{}, row)
}

// location is where an image lies, or is to be pushed to.
func (d *deployment) location(image int64) string {
	d.t.Helper()
	rows, err := client.Get[struct {
		At string `json:"is_stored_at__image_location"`
	}](d.t.Context(), d.c, "image", client.Query{Select: "is_stored_at__image_location", Filter: fmt.Sprint("id eq ", image)})
	if err != nil || len(rows) != 1 {
		d.t.Fatalf("image: %v %v", rows, err)
	}
	return rows[0].At
}

// push makes the rows of a release and pushes its image, up to where all is said but that it is a success.
func (d *deployment) push(commit string, service int64, img v1.Image) (release, image int64) {
	d.t.Helper()
	const began = "2026-11-21T12:00:00.000Z"
	me, err := d.c.Whoami(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	release = d.create("release", map[string]any{"is_created_by__user": me.ID, "belongs_to__application": d.fleet,
		"composition": map[string]any{"services": map[string]any{"main": map[string]any{"image": "x"}}}, "commit": commit, "status": "running", "source": "local",
		"start_timestamp": began, "is_final": true})
	image = d.create("image", map[string]any{"is_a_build_of__service": service, "status": "running", "start_timestamp": began})
	d.create("image__is_part_of__release", map[string]any{"is_part_of__release": release, "image": image})
	at := d.location(image)
	_, repo, _ := strings.Cut(at, "/")
	ref, err := name.NewTag(at + ":latest")
	if err != nil {
		d.t.Fatal(err)
	}
	auth := &authn.Bearer{Token: d.token("repository:" + repo + ":pull,push")}
	if err := remote.Write(ref, img, remote.WithAuth(auth), remote.WithTransport(d.way)); err != nil {
		d.t.Fatalf("push: %v", err)
	}
	digest, err := img.Digest()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.patch("image", image, map[string]any{"end_timestamp": began, "push_timestamp": began, "project_type": "External image", "build_log": "x",
		"status": "success", "content_hash": digest.String(), "dockerfile": "FROM scratch\n", "image_size": "1000"}); err != nil {
		d.t.Fatal(err)
	}
	return release, image
}

// repositories are those of releases on the registry's disk; pushed is what lies in quarantine.
func (d *deployment) repositories() int {
	entries, _ := os.ReadDir(filepath.Join(d.srv.Dir, "roles/registry/storage/docker/registry/v2/repositories/v2")) // none at first
	return len(entries)
}

func (d *deployment) quarantined() (n int64) {
	_ = filepath.WalkDir(filepath.Join(d.srv.Dir, "roles/registry/quarantine"), func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil //nolint:nilerr // it goes meanwhile
		}
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}

// The builder or the registry dies in the middle of looking at what was pushed: the release is finished all the same, or has failed in words;
// quarantine is emptied, and pushing goes on.
func TestADeploymentSurvivesDeaths(t *testing.T) {
	srv := fleettest.NewServerWith(t, fleettest.Options{})
	pem, err := os.ReadFile(srv.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	d := &deployment{t: t, srv: srv, c: srv.Client(), way: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	t.Cleanup(d.way.CloseIdleConnections)
	id := func(resource, filter string) int64 {
		t.Helper()
		rows, err := client.Get[client.Fleet](t.Context(), d.c, resource, client.Query{Select: "id", Filter: filter})
		if err != nil || len(rows) != 1 {
			t.Fatalf("%s: %v, %v", resource, rows, err)
		}
		return rows[0].ID
	}
	d.fleet = d.create("application", map[string]any{"app_name": "dying", "is_for__device_type": id("device_type", "slug eq 'generic-amd64'"),
		"organization": id("organization", ""), "is_of__class": "fleet"})
	service := d.create("service", map[string]any{"application": d.fleet, "service_name": "main"})
	for i, victim := range []string{"builder", "registry", "nobody"} {
		img, err := random.Image(8<<20, 4)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		cfg = cfg.DeepCopy()
		cfg.OS, cfg.Architecture = "linux", "amd64"
		if img, err = mutate.ConfigFile(img, cfg); err != nil {
			t.Fatal(err)
		}
		release, image := d.push(fmt.Sprintf("%032x", i+1), service, img)
		if d.quarantined() < 30<<20 {
			t.Fatalf("%d bytes are in quarantine", d.quarantined())
		}
		before := d.repositories()
		said := make(chan error, 1)
		go func() {
			said <- d.patch("release", release, map[string]any{"status": "success", "end_timestamp": "2026-11-21T12:02:00.000Z"})
		}()
		fleettest.Eventually(t, 20*time.Second, func() error {
			if d.repositories() == before {
				return fmt.Errorf("nothing is promoted")
			}
			return nil
		})
		if victim != "nobody" {
			kill(t, srv, victim)
		}
		middle := time.Now()
		<-said // its connection may have ended with the registry's or builder's part of it
		var row *client.Release
		fleettest.Eventually(t, 90*time.Second, func() error {
			row, err = client.One[client.Release](t.Context(), d.c, client.ID("release", release), client.Query{Select: "id,status"})
			if err == nil && row.Status == api.StatusRunning {
				err = fmt.Errorf("the release is still %s", row.Status)
			}
			return err
		})
		t.Logf("%s died; %s later the release is %s", victim, time.Since(middle).Round(100*time.Millisecond), row.Status)
		if row.Status != api.StatusSuccess {
			t.Errorf("after the %s died the release is %s", victim, row.Status)
			continue
		}
		at := d.location(image)
		_, repo, _ := strings.Cut(at, "/")
		digest, _ := img.Digest()
		ref, err := name.NewDigest(at + "@" + digest.String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := remote.Image(ref, remote.WithAuth(&authn.Bearer{Token: d.token("repository:" + repo + ":pull")}), remote.WithTransport(d.way))
		if err != nil {
			t.Fatalf("pull what was promoted: %v", err)
		}
		layers, err := got.Layers()
		if err != nil || len(layers) != 4 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		for _, l := range layers {
			rc, err := l.Compressed()
			if err == nil {
				_, err = io.Copy(io.Discard, rc)
			}
			if err != nil {
				t.Errorf("a layer: %v", err)
			}
		}
		fleettest.Eventually(t, 30*time.Second, func() error {
			if n := d.quarantined(); n > 1<<20 {
				return fmt.Errorf("%d bytes are still in quarantine", n)
			}
			return nil
		})
	}
}
