package fleettest_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// The attack: a build takes another organization's image out of this server's own registry, as nobody, with the account of whoever pushes,
// and out of what the builder keeps of images. The server lets builds reach it, so that nothing but the right to the image is in the way:
// with an account that has it, the same build is a release.
func TestAnothersImageIsNotTaken(t *testing.T) {
	if os.Geteuid() != 0 || !fleettest.CanBuild() {
		t.Skip("only root gives this machine an address, and buildkitd and the base image must be there")
	}
	address := fmt.Sprintf("10.98.%d.1", os.Getpid()%250) // nothing lets builds reach 127.0.0.1
	ip := func(args ...string) {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	ip("address", "replace", address+"/32", "dev", "lo")
	t.Cleanup(func() { ip("address", "del", address+"/32", "dev", "lo") })
	srv := fleettest.NewServerWith(t, fleettest.Options{Builds: true, Listen: address})
	srv.Restart("--build-allow", address, "--pull-ca", srv.CA)
	ann, err := srv.ClientAs("").Login(t.Context(), srv.Admin.Email, srv.Admin.Password)
	if err != nil {
		t.Fatal(err)
	}
	owner := srv.ClientAs(ann)
	slug, fleet := newFleet(t, owner, "harbour")
	if p := push(t, owner, slug, "FROM base/busybox\nRUN echo whatever it is >/only-hers\n", "", nil); p.status != api.StatusSuccess {
		t.Fatalf("%v\n%s", p.err, p.said)
	}
	images, err := client.Get[struct {
		Location string `json:"is_stored_at__image_location"`
		Digest   string `json:"content_hash"`
	}](t.Context(), owner, "image", client.Query{Select: "is_stored_at__image_location,content_hash"})
	if err != nil || len(images) != 1 {
		t.Fatalf("images of fleet %d: %+v, %v", fleet, images, err)
	}
	hers := images[0].Location + "@" + images[0].Digest

	cmd := exec.CommandContext(t.Context(), fleettest.Program(t, "roadsteadd"), "admin", "user", "add", "bob@example.com", "--username", "bob",
		"--password-stdin", "--data", srv.Dir)
	cmd.Stdin = strings.NewReader("plover tin 44 rhubarb stair")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	bob, err := srv.ClientAs("").Login(t.Context(), "bob", "plover tin 44 rhubarb stair")
	if err != nil {
		t.Fatal(err)
	}
	his := srv.ClientAs(bob)
	own, _ := newFleet(t, his, "pier")
	host, _, _ := strings.Cut(images[0].Location, "/")
	with := func(dockerfile, token string) map[string]string {
		files := map[string]string{"Dockerfile": dockerfile}
		if token != "" {
			text, err := json.Marshal(map[string]any{host: map[string]string{"username": "whoever", "password": token}})
			if err != nil {
				t.Fatal(err)
			}
			files[".balena/registry-secrets.json"] = string(text)
		}
		return files
	}
	attack := func(when string) {
		for _, dockerfile := range []string{
			"FROM " + hers + "\n", fmt.Sprintf("FROM scratch\nCOPY --from=%s /only-hers /\n", hers),
			fmt.Sprintf("FROM base/busybox\nRUN --mount=from=%s,target=/hers cat /hers/only-hers\n", hers),
		} {
			for name, token := range map[string]string{"nobody": "", "his own account": bob, "a guess": "guess"} {
				p := pushFiles(t, his, own, with(dockerfile, token), "", nil)
				if p.status != api.StatusFailed || strings.Contains(p.said, "whatever it is") || !strings.Contains(p.said, "cannot be had") {
					t.Errorf("%s, as %s: %s %v\n%s\n%s", when, name, p.status, p.err, dockerfile, p.said)
				}
			}
		}
	}
	attack("at first")
	if p := pushFiles(t, owner, slug, with("FROM "+hers+"\nRUN cat /only-hers\n", ann), "", nil); p.status != api.StatusSuccess || !strings.Contains(p.said, "whatever it is") {
		t.Errorf("whoever may have it: %s %v\n%s", p.status, p.err, p.said)
	}
	attack("now that the builder has it")
}
