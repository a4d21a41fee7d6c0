package agent_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/trust/trusttest"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// sizeAndLayers asks the registry about an image that was pushed.
func (w *world) sizeAndLayers(ref string) (size int64, layers []string) {
	w.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.Root)
	_, rest, _ := strings.Cut(ref, "/")
	parsed, err := name.NewDigest("127.0.0.1:" + w.Port + "/" + rest)
	if err != nil {
		w.t.Fatal(err)
	}
	transport := &bearerTransport{&http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	img, err := remote.Image(parsed, remote.WithTransport(transport))
	if err != nil {
		w.t.Fatal(err)
	}
	all, err := img.Layers()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, layer := range all {
		layers = append(layers, must(layer.Digest()).String())
	}
	return must(img.Size()), layers
}

// A device that verifies pulls through its agent: what a registry changes never gets to the engine, and the device says what it was.
func TestRegistryThatLiesToADevice(t *testing.T) {
	needsDocker(t)
	w := newWorld(t)
	fleet := trusttest.New(fleetUUID)
	fleet.Rotate()
	w.mu.Lock()
	w.fleets = map[string]*trusttest.Fleet{fleetUUID: fleet}
	w.mu.Unlock()
	v := newVirtualWith(t, w, buildAgent(t), map[string]any{"roadsteadTrust": fleet.Given()})
	roletest.Eventually(t, "registered", registered(w))
	publish := func(commit, image string) api.DeviceTarget {
		to := release(commit, map[string]string{"web": image}, map[string]string{"web": `{"ports":["80:80"],"stop_signal":"SIGKILL"}`})
		var doc api.ReleaseDocument
		if err := json.Unmarshal(fleet.Document(commit, releaseOf(to, commit)), &doc); err != nil {
			t.Fatal(err)
		}
		doc.Services["web"].Images[0].Size, _ = w.sizeAndLayers(image)
		counter := fleet.Build(commit, releaseOf(to, commit)) // the number comes from here, the document is this one
		fleet.List(commit, must(json.Marshal(doc)), counter)
		fleet.Publish()
		return to
	}
	one := w.push(strings.Repeat("1", 32), map[string]string{"run.sh": pageRun, "www/index.html": "page one"})
	w.setTarget(publish(commitA, one))
	roletest.Eventually(t, "the page", func() bool { return page(v.ip) == "page one" })
	roletest.Eventually(t, "it says that it verified", func() bool { return w.said().State == api.TrustVerified })
	if images := v.exec("docker", "images", "--digests"); !strings.Contains(images, "127.48.48.4:48480/registry2.device.test__"+w.Port+"/v2/") {
		t.Errorf("the image did not come through the agent:\n%s", images)
	}

	if rss := residentMiB(v.agentPID()); rss > 25 || rss == 0 {
		t.Errorf("the agent that verifies has %d MiB resident", rss)
	} else {
		t.Logf("the agent that verifies has %d MiB resident", rss)
	}
	two := w.push(strings.Repeat("1", 32), map[string]string{"run.sh": pageRun, "www/index.html": "page two"})
	_, layers := w.sizeAndLayers(two)
	flip := func(rw http.ResponseWriter, r *http.Request, honest http.Handler) {
		if !strings.HasSuffix(r.URL.Path, layers[0]) {
			honest.ServeHTTP(rw, r)
			return
		}
		rec := httptest.NewRecorder()
		honest.ServeHTTP(rec, r)
		body := bytes.Clone(rec.Body.Bytes())
		body[len(body)/2] ^= 1
		_, _ = rw.Write(body)
	}
	w.mu.Lock()
	w.lie = flip
	w.mu.Unlock()
	w.setTarget(publish(commitB, two))
	roletest.Eventually(t, "the device rejects the image", func() bool { return w.said().State == api.TrustRejected && w.said().Rejection != nil })
	if r := w.said().Rejection; r.What != "layer "+layers[0]+" of service web" || r.Reason != tuf.ReasonDigest || r.Expected != layers[0] || r.Got == "" {
		t.Errorf("the rejection is %+v", r)
	}
	roletest.Eventually(t, "its log says so", func() bool { return w.logged("Refused image") })
	if got := page(v.ip); got != "page one" {
		t.Errorf("it serves %q, want the page of the release before", got)
	}
	if images := v.exec("docker", "images", "--digests"); strings.Contains(images, two[strings.Index(two, "@")+1:]) {
		t.Errorf("the engine has the image:\n%s", images)
	}

	w.mu.Lock()
	w.lie = nil
	w.mu.Unlock()
	roletest.Eventually(t, "the next page, once the registry is honest", func() bool { return page(v.ip) == "page two" })
	roletest.Eventually(t, "it says that it verified", func() bool { return w.said().State == api.TrustVerified && w.said().Commit == commitB })
	roletest.Eventually(t, "the old image is gone", func() bool {
		return !strings.Contains(v.exec("docker", "images", "--digests"), one[strings.Index(one, "@")+1:])
	})
}
