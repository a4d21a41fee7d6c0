package builder_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/registry"
)

// awaitChore keeps a builder waiting that asks for something to do, as the api role does.
func (s *releases) awaitChore(ctx context.Context) {
	end := time.After(3 * time.Second)
	for {
		due := false
		s.set(func(s *releases) {
			for _, b := range s.builds {
				due = due || b.promotion != nil && (b.Status != api.StatusRunning || !b.leased)
			}
		})
		select {
		case <-ctx.Done():
			return
		case <-end:
			return
		case <-time.After(10 * time.Millisecond):
			if due {
				return
			}
		}
	}
}

// nextChore is the api role's end of quarantine.
func (s *releases) nextChore(*http.Request, *release) (any, error) {
	for id := range int64(len(s.builds)) {
		b := s.builds[id+1]
		switch {
		case b.promotion == nil:
		case b.Status != api.StatusRunning:
			return api.QuarantineChore{Empty: &b.Build}, nil
		case !b.leased:
			b.leased = true
			p := *b.promotion
			p.Build = b.Build
			return api.QuarantineChore{Promote: &p}, nil
		}
	}
	return api.QuarantineChore{}, nil
}

// made is an image of a platform.
func made(t testing.TB, arch string) v1.Image {
	t.Helper()
	img := must(random.Image(2000, 2))(t)
	cfg := must(img.ConfigFile())(t).DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	cfg.Config.Labels = map[string]string{"io.example.x": "1"}
	return must(mutate.ConfigFile(img, cfg))(t)
}

// quarantine is the repository where a service's image is pushed to.
func quarantine(build int64, i int) string { return fmt.Sprintf("v2/%030x%02x", build+1000, i) }

// deploy pushes images as a client does, and has them promoted: service → what is pushed for it. said changes what the client says.
func (w *world) deploy(pushed map[string]remote.Taggable, said func(p *api.Promotion), also ...api.BuildArch) (id int64) {
	w.t.Helper()
	w.releases.set(func(s *releases) { id = int64(len(s.builds) + 1) })
	p := &api.Promotion{Composition: json.RawMessage(`{"version":"2.1","networks":{},"volumes":{"resin-data":{}},"services":{}}`)}
	services := map[string]any{}
	b := &release{promotion: p, Build: api.Build{ID: id, Commit: fmt.Sprintf("%032x", id), Status: api.StatusRunning,
		Fleet: &api.BuildFleet{ID: 1, UUID: strings.Repeat("f", 32), Slug: testFleet, DeviceType: "generic-amd64", Arch: "amd64", Also: also, Organization: 1}}}
	i := 0
	for service, img := range pushed {
		services[service] = map[string]any{
			"build": map[string]any{"context": "./" + service}, "privileged": true, "tty": true, "restart": "always", "network_mode": "host",
			"volumes": []string{"resin-data:/data"}, "labels": map[string]string{"io.resin.features.dbus": "1"}, "command": "echo $HOME",
		}
		repo := quarantine(id, i)
		b.Quarantine = append(b.Quarantine, repo)
		image := api.PromotionImage{Quarantine: repo, Dockerfile: "FROM scratch\n", ProjectType: "Standard Dockerfile"}
		image.ID, image.Service = id*100+int64(i), service
		if img != nil {
			check(w.t, w.pushOutside(repo, img))
			raw := must(img.RawManifest())(w.t)
			hash, _, err := v1.SHA256(bytes.NewReader(raw))
			check(w.t, err)
			image.Digest = hash.String()
		}
		p.Images = append(p.Images, image)
		i++
	}
	p.Composition = must(json.Marshal(map[string]any{"version": "2.1", "networks": map[string]any{}, "volumes": map[string]any{"resin-data": map[string]any{}}, "services": services}))(w.t)
	if said != nil {
		said(p)
	}
	w.releases.set(func(s *releases) { s.builds[id] = b })
	return id
}

// pushOutside pushes through the edge into quarantine, with a token that the api role had the signer make.
func (w *world) pushOutside(repo string, img remote.Taggable) error {
	w.t.Helper()
	asker := must(pki.LoadIdentity(filepath.Join(w.dir, api.RoleAPI)))(w.t).Client(api.RoleSigner, w.cfg.Peers[api.RoleSigner])
	grant := api.Grant{Type: "repository", Name: repo, Actions: []string{"pull", "push"}, Quarantine: true}
	body := must(json.Marshal([]api.PullTokenRequest{{Subject: "pusher", Access: []api.Grant{grant}}}))(w.t)
	res := must(asker.HTTP.Post(asker.URL+"/v1/pull-tokens", "application/json", bytes.NewReader(body)))(w.t)
	defer res.Body.Close()
	var signed []api.SignedToken
	check(w.t, json.NewDecoder(res.Body).Decode(&signed))
	edge := must(pki.LoadIdentity(filepath.Join(w.dir, api.RoleEdge)))(w.t).Client(api.RoleRegistry, w.registry)
	way := bearing{edge.HTTP.Transport, signed[0].Token}
	ref := must(name.NewTag(w.registry + "/" + repo + ":latest"))(w.t)
	if list, ok := img.(v1.ImageIndex); ok {
		return remote.WriteIndex(ref, list, remote.WithTransport(way), remote.WithAuth(authn.Anonymous))
	}
	return remote.Write(ref, img.(v1.Image), remote.WithTransport(way), remote.WithAuth(authn.Anonymous))
}

type bearing struct {
	next  http.RoundTripper
	token string
}

func (b bearing) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// promoted waits for the end of a promotion, and until its quarantine is empty.
func (w *world) promoted(id int64) release {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		b := w.releases.get(id)
		if b.result != nil && b.Quarantine == nil {
			return b
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the promotion does not end: %+v", b.Build)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// What a client pushed is checked and copied, by its own digests; what was in quarantine is thrown away.
func TestAPromotion(t *testing.T) {
	w := newWorld(t, "unix:///nowhere", builder.Limits{})
	web, db := made(t, "amd64"), made(t, "amd64")
	b := w.promoted(w.deploy(map[string]remote.Taggable{"web": web, "db": db}, nil))
	if b.Status != api.StatusSuccess {
		t.Fatalf("the release is %s: %s", b.Status, b.result.Error)
	}
	var composition struct {
		Services map[string]struct {
			Command    []string
			Image      string
			Build      any
			Privileged bool
			Labels     map[string]string
		}
	}
	check(t, json.Unmarshal(b.ask.Composition, &composition))
	if s := composition.Services["web"]; strings.Join(s.Command, " ") != "echo $HOME" || s.Build != nil || !s.Privileged || s.Labels["io.resin.features.dbus"] != "1" {
		t.Errorf("the composition is %s", b.ask.Composition)
	}
	runs := must(provenance.CompositionSum(b.ask.Composition))(t)
	if said := w.statement(b).Predicate.BuildDefinition.ExternalParameters; said.Composition != runs || len(said.Services["web"].Labels) != 0 {
		t.Errorf("the statement says of how services run %+v, want %s", said, runs)
	}
	want := map[string]string{"web": must(web.Digest())(t).String(), "db": must(db.Digest())(t).String()}
	service := map[int64]string{}
	for _, i := range b.images {
		service[i.ID] = i.Service
	}
	for _, i := range b.result.Images {
		if i.Digest != want[service[i.ID]] || i.Size == 0 || i.Labels["io.example.x"] != "1" || i.Dockerfile != "FROM scratch\n" {
			t.Errorf("image %d of %s: %+v, want %s", i.ID, service[i.ID], i, want[service[i.ID]])
		}
	}
	n, err := registry.VerifyBlobs(t.Context(), registry.Config{Dir: filepath.Join(w.dir, api.RoleRegistry), Site: site})
	if err != nil || n < 8 { // two images of two layers, a configuration and a manifest, and what is known of them
		t.Errorf("the registry holds %d blobs, want 8 and more: %v", n, err)
	}
	left, err := filepath.Glob(filepath.Join(w.dir, api.RoleRegistry, registry.QuarantineDir, "*", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("in quarantine is left: %v %v", left, err)
	}
}

// What is wrong is said, and nothing of it gets into the registry.
func TestPromotionsThatFail(t *testing.T) {
	w := newWorld(t, "unix:///nowhere", builder.Limits{})
	good := made(t, "amd64")
	many := good
	for range 130 {
		many = must(mutate.AppendLayers(many, must(random.Layer(10, "application/vnd.docker.image.rootfs.diff.tar.gzip"))(t)))(t)
	}
	uneven := must(mutate.ConfigFile(good, &v1.ConfigFile{OS: "linux", Architecture: "amd64"}))(t)
	strange := must(mutate.AppendLayers(empty.Image, must(random.Layer(10, "application/vnd.example.model"))(t)))(t)
	cfg := must(strange.ConfigFile())(t).DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	strange = must(mutate.ConfigFile(strange, cfg))(t)
	list := func(platforms ...string) v1.ImageIndex {
		var add []mutate.IndexAddendum
		for _, p := range platforms {
			add = append(add, mutate.IndexAddendum{Add: made(t, p), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: p}}})
		}
		return mutate.AppendManifests(empty.Index, add...)
	}
	for what, tt := range map[string]struct {
		pushed map[string]remote.Taggable
		said   func(p *api.Promotion)
		says   string
	}{
		"for other machines":    {map[string]remote.Taggable{"web": made(t, "arm64")}, nil, "for linux/arm64"},
		"one of two":            {map[string]remote.Taggable{"web": good, "db": made(t, "arm64")}, nil, "service db: the image is for linux/arm64"},
		"another digest said":   {map[string]remote.Taggable{"web": good}, func(p *api.Promotion) { p.Images[0].Digest = "sha256:" + strings.Repeat("0", 64) }, "and it did not"},
		"no digest said":        {map[string]remote.Taggable{"web": nil}, nil, "no image was pushed"},
		"a digest that is none": {map[string]remote.Taggable{"web": good}, func(p *api.Promotion) { p.Images[0].Digest = "latest" }, "no digest"},
		"a service without an image": {map[string]remote.Taggable{"web": good}, func(p *api.Promotion) {
			p.Composition = json.RawMessage(`{"services":{"web":{},"db":{}}}`)
		}, "service db: no image"},
		"an image without a service": {map[string]remote.Taggable{"web": good, "db": good}, func(p *api.Promotion) {
			p.Composition = json.RawMessage(`{"services":{"web":{}}}`)
		}, "images of 2 services"},
		"a composition that is refused": {map[string]remote.Taggable{"web": good}, func(p *api.Promotion) {
			p.Composition = json.RawMessage(`{"services":{"web":{"volumes":["/etc:/etc"]}}}`)
		}, "/etc"},
		"too many layers":      {map[string]remote.Taggable{"web": many}, nil, "layers; an engine stacks"},
		"uneven":               {map[string]remote.Taggable{"web": uneven}, nil, "names 0 layers"},
		"no image":             {map[string]remote.Taggable{"web": strange}, nil, "cannot unpack"},
		"a list without it":    {map[string]remote.Taggable{"web": list("arm64", "s390x")}, nil, "has none for linux/amd64"},
		"a list with it twice": {map[string]remote.Taggable{"web": list("amd64", "amd64")}, nil, "has two for"},
	} {
		t.Run(what, func(t *testing.T) {
			b := w.promoted(w.deploy(tt.pushed, tt.said))
			if b.Status != api.StatusFailed || !strings.Contains(b.result.Error, tt.says) || !strings.Contains(b.result.Log, tt.says) {
				t.Errorf("the release is %s: %s\n%s\nwant %q", b.Status, b.result.Error, b.result.Log, tt.says)
			}
			for _, i := range b.result.Images {
				if i.Status == api.StatusSuccess && len(tt.pushed) == 1 {
					t.Errorf("image %d is good", i.ID)
				}
			}
		})
	}
}

// Of a list, as newer engines push it, the image for the fleet's devices becomes the release's.
func TestAPromotionChoosesFromAList(t *testing.T) {
	w := newWorld(t, "unix:///nowhere", builder.Limits{})
	mine, other := made(t, "amd64"), made(t, "arm64")
	list := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	b := w.promoted(w.deploy(map[string]remote.Taggable{"web": list}, nil))
	if b.Status != api.StatusSuccess || b.result.Images[0].Digest != must(mine.Digest())(t).String() {
		t.Errorf("the release is %s: %+v", b.Status, b.result)
	}
}

// For a fleet of several architectures the list must have an image for each, and becomes an index of these; anything less is refused
// with words.
func TestAPromotionForSeveralArchitectures(t *testing.T) {
	w := newWorld(t, "unix:///nowhere", builder.Limits{})
	amd, arm, other := made(t, "amd64"), made(t, "arm64"), made(t, "riscv64")
	list := func(images ...v1.Image) v1.ImageIndex {
		idx := v1.ImageIndex(empty.Index)
		for _, img := range images {
			arch := must(img.ConfigFile())(t).Architecture
			idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
		}
		return idx
	}
	deploy := func(what remote.Taggable) release {
		id := w.deploy(map[string]remote.Taggable{"web": what}, nil, api.BuildArch{Arch: "aarch64", DeviceType: "generic-aarch64"})
		return w.promoted(id)
	}
	b := deploy(list(other, arm, amd))
	if b.Status != api.StatusSuccess {
		t.Fatalf("the release is %s: %s", b.Status, b.result.Error)
	}
	images := w.index(b.images[0].Repository, b.result.Images[0].Digest)
	if len(images) != 2 || must(images["linux/amd64"].Digest())(t) != must(amd.Digest())(t) || must(images["linux/arm64"].Digest())(t) != must(arm.Digest())(t) {
		t.Errorf("the release has images for %v", images)
	}
	for what, says := range map[remote.Taggable]string{
		amd:              "the image is for linux/amd64, but the fleet's devices are linux/arm64",
		list(amd, other): "the list of images that was pushed has none for linux/arm64",
	} {
		if b := deploy(what); b.Status != api.StatusFailed || !strings.Contains(b.result.Error, says) {
			t.Errorf("the release is %s: %q, want %q", b.Status, b.result.Error, says)
		}
	}
}

// A builder that is stopped in the middle ends nothing; the next one does the same work again, and comes to its end.
func TestAPromotionGoesOnWithTheNextBuilder(t *testing.T) {
	w := newWorld(t, "unix:///nowhere", builder.Limits{})
	gate := make(chan struct{})
	w.releases.set(func(s *releases) { s.gate = gate })
	img := made(t, "amd64")
	id := w.deploy(map[string]remote.Taggable{"web": img}, nil)
	deadline := time.Now().Add(20 * time.Second)
	for !w.releases.get(id).leased {
		if time.Now().After(deadline) {
			t.Fatal("no builder takes it")
		}
		<-time.After(10 * time.Millisecond)
	}
	w.stop()
	if b := w.releases.get(id); b.Status != api.StatusRunning || b.result != nil {
		t.Fatalf("the builder that was stopped ended the release: %s %+v", b.Status, b.result)
	}
	close(gate)
	w.releases.set(func(s *releases) { s.gate, s.builds[id].leased = nil, false })
	w.startBuilder(slog.New(slog.DiscardHandler))
	b := w.promoted(id)
	if b.Status != api.StatusSuccess || b.result.Images[0].Digest != must(img.Digest())(t).String() {
		t.Errorf("the release is %s: %+v", b.Status, b.result)
	}
	if entries, err := os.ReadDir(filepath.Join(w.dir, api.RoleBuilder, "work")); err != nil || len(entries) > 1 {
		t.Errorf("the builder left %v %v", entries, err)
	}
}
