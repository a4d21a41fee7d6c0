package fleettest_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/fleettest/fidotoken"
	"github.com/roadstead-io/roadstead/internal/fleettest/vm"
	"github.com/roadstead-io/roadstead/internal/fleettest/vm/guest"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// desk is an owner's machine: a virtual one, with the command line and the programs of fido2-tools, into which tokens are plugged.
type desk struct {
	t    *testing.T
	hand *vm.Hand
	env  []string
}

// ask is a token that waits to be touched.
type ask struct {
	what   string
	answer chan<- fidotoken.Answer
}

// token is one that is somewhere near the desk.
type token struct {
	*fidotoken.Token
	t    *testing.T
	name string
	asks chan ask
	in   *vm.Plugged
}

func newDesk(t *testing.T, srv *fleettest.Server, files map[string]string) *desk {
	t.Helper()
	d := &desk{t: t, hand: vm.NewHand(t)}
	newRelay(t, srv)
	d.env = []string{"ROADSTEAD_URL=" + srv.URL, "SSL_CERT_FILE=/etc/ca.pem"}
	all := map[string]string{"/bin/roadstead": fleettest.Program(t, "roadstead"), "/etc/ca.pem": srv.CA}
	for name, text := range files {
		all[name] = filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(all[name], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	vm.Start(t, d.hand.Into(vm.Config{
		Kernel: vm.KernelHID(t), Memory: 512, Modules: []string{"uhid", "hid_generic"}, Hosts: []string{vm.Host + " api." + srv.Domain}, Files: all,
	}, "fido2-token", "fido2-cred", "fido2-assert"))
	return d
}

// token makes a token that nobody has seen before.
func (d *desk) token(name string) *token {
	k := &token{Token: fidotoken.New(), t: d.t, name: name, asks: make(chan ask)}
	k.Person = func(ctx context.Context, what string) fidotoken.Answer {
		answer := make(chan fidotoken.Answer, 1)
		select {
		case k.asks <- ask{what, answer}:
		case <-ctx.Done():
			return fidotoken.TooLate
		}
		select {
		case a := <-answer:
			return a
		case <-ctx.Done():
			return fidotoken.TooLate
		}
	}
	return k
}

func (d *desk) plug(k *token) {
	d.t.Helper()
	k.in = d.hand.Plug(guest.Plug{Name: k.name, Vendor: 0x1209, Product: 0xf1d0, Descriptor: fidotoken.Descriptor, Report: fidotoken.Report}, func(conn io.ReadWriter) error {
		return k.Serve(context.WithoutCancel(d.t.Context()), conn)
	})
}

func (d *desk) pull(k *token) {
	d.t.Helper()
	k.in.Pull()
}

// start starts the command line.
func (d *desk) start(args ...string) *vm.Running {
	d.t.Helper()
	return d.hand.Start(guest.Run{Args: append([]string{"/bin/roadstead"}, args...), Env: d.env})
}

// does has the command line do something for which tokens are touched so many times, and gives what it said.
func (d *desk) does(touches map[*token]int, args ...string) string {
	d.t.Helper()
	r := d.start(args...)
	over := make(chan struct{})
	var all sync.WaitGroup
	for k, n := range touches {
		all.Go(func() {
			for touched := 0; ; touched++ {
				select {
				case a := <-k.asks:
					a.answer <- fidotoken.Touched
				case <-over:
					if touched != n {
						d.t.Errorf("roadstead %s: the token %s was touched %d times, want %d", strings.Join(args, " "), k.name, touched, n)
					}
					return
				}
			}
		})
	}
	said, how := r.Ended()
	close(over)
	all.Wait()
	if how != "ok" {
		d.t.Fatalf("roadstead %s: %s\n%s", strings.Join(args, " "), how, said)
	}
	return said
}

// refuses has the command line fail, without a touch, and say why.
func (d *desk) refuses(why string, args ...string) {
	d.t.Helper()
	d.failed(d.start(args...), why)
}

func (d *desk) failed(r *vm.Running, why string) {
	d.t.Helper()
	said, how := r.Ended()
	if how != "exit status 1" || !strings.Contains(said, why) {
		d.t.Errorf("it ended with %q, want exit status 1 and %q:\n%s", how, why, said)
	}
}

// asked waits until the token is to be touched, and has said some times that it waits; the program waits with it.
func (k *token) asked(r *vm.Running) ask {
	k.t.Helper()
	end := make(chan struct{})
	var over sync.Once
	go func() {
		_, _ = r.Ended()
		over.Do(func() { close(end) })
	}()
	select {
	case a := <-k.asks:
		return a
	case <-end:
		said, how := r.Ended()
		k.t.Fatalf("the program has ended (%s) without asking for a touch:\n%s", how, said)
	}
	return ask{}
}

// waits proves that the program waits as long as the token does: the token says many times that it is not touched yet.
func (k *token) waits(r *vm.Running) ask {
	k.t.Helper()
	a := k.asked(r)
	before := k.Waited()
	fleettest.Eventually(k.t, 5*time.Minute, func() error {
		if n := k.Waited() - before; n < 10 {
			return fmt.Errorf("it has said %d times that it waits", n)
		}
		return nil
	})
	if !r.Runs() {
		said, how := r.Ended()
		k.t.Fatalf("the program did not wait for the touch: %s\n%s", how, said)
	}
	return a
}

// asBuilder takes what goes to the registry's public name to the role itself, which only the builder may write to.
type asBuilder struct{ registry *pki.Peer }

func (b *asBuilder) RoundTrip(r *http.Request) (*http.Response, error) {
	to, err := url.Parse(b.registry.URL)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Host = r.URL.Host
	r.URL.Scheme, r.URL.Host = to.Scheme, to.Host
	return b.registry.HTTP.Transport.RoundTrip(r)
}

// store makes a release whose image is in the registry, as the builder puts it there.
func (s *several) store() (commit, image string) {
	s.t.Helper()
	return s.built(func(b api.Build, at api.BuildImage) string {
		s.t.Helper()
		img, err := random.Image(1000, 1)
		if err != nil {
			s.t.Fatal(err)
		}
		digest, err := img.Digest()
		if err != nil {
			s.t.Fatal(err)
		}
		ref, err := name.NewDigest(at.Location + "@" + digest.String())
		if err != nil {
			s.t.Fatal(err)
		}
		id, err := pki.LoadIdentity(filepath.Join(s.srv.Dir, "roles", api.RoleBuilder))
		if err != nil {
			s.t.Fatal(err)
		}
		signer := id.Client(api.RoleSigner, s.role(api.RoleSigner).Address)
		defer signer.HTTP.CloseIdleConnections()
		registry := id.Client(api.RoleRegistry, s.role(api.RoleRegistry).Address)
		defer registry.HTTP.CloseIdleConnections()
		var token api.SignedToken
		s.into(s.must(http.StatusOK, send(s.t.Context(), signer.HTTP, signer.URL, "POST", "/v1/push-token", "", api.PushTokenRequest{Build: b.ID, Repository: at.Repository})), &token)
		if err := remote.Write(ref, img, remote.WithAuth(&authn.Bearer{Token: token.Token}), remote.WithTransport(&asBuilder{registry})); err != nil {
			s.t.Fatalf("put the image into the registry: %v", err)
		}
		return digest.String()
	})
}

// An owner keeps a key behind a FIDO2 token: the ceremony, a release that a device runs once the token was touched, and what goes wrong with tokens. All of it is
// real but the token's case: the programs of fido2-tools, the kernel's HID, the command line, the server and the agent.
func TestOwnersKeyOnFIDO2Token(t *testing.T) {
	vm.KernelHID(t)
	s := waysTo(t, fleettest.NewServerWith(t, fleettest.Options{Listen: behind}))
	_, image := s.store()
	text, err := s.srv.Client().DownloadConfig(t.Context(), client.NewConfig{Fleet: s.fleet.ID, Version: "6.0.0", DeviceType: "generic-amd64"})
	if err != nil {
		t.Fatal(err)
	}
	var born map[string]any // with the root that the device trusts
	s.into(text, &born)
	boat := s.launchWith(born)
	boat.engine.Publish(image)
	d := newDesk(t, s.srv, map[string]string{"/etc/pin": "sea horse\n", "/etc/wrong": "sea cow\n", "/etc/short": "cow\n"})
	login := d.hand.Start(guest.Run{Args: []string{"/bin/roadstead", "login", "--email", s.srv.Admin.Email, "--password-stdin"}, Env: d.env, Input: s.srv.Admin.Password})
	if said, how := login.Ended(); how != "ok" {
		t.Fatalf("log in: %s\n%s", how, said)
	}
	fleettest.Eventually(t, 5*time.Minute, func() error { return boat.runs(image) })

	t.Log("the ceremony")
	one, two := d.token("one"), d.token("two")
	ceremony := []string{"trust", "init", s.fleet.Slug, "--fido2", "--approval", "builder+owner", "--yes"}
	d.refuses("plug it in", ceremony...)
	d.plug(one)
	r := d.start(ceremony...)
	making := one.waits(r)
	if !strings.Contains(making.what, "make a credential") {
		t.Errorf("it is to be touched to %s", making.what)
	}
	making.answer <- fidotoken.TooLate
	d.failed(r, "was not touched in time")
	r = d.start(ceremony...)
	one.asked(r).answer <- fidotoken.Refused
	d.failed(r, "the token refused")
	out := d.does(map[*token]int{one: 3}, ceremony...) // made, opened to seal the key, and opened to sign
	for _, words := range []string{"Touch the FIDO2 token to make a credential", "Touch the FIDO2 token to open the key", "file that a FIDO2 token opens"} {
		if !strings.Contains(out, words) {
			t.Errorf("the ceremony does not say %q:\n%s", words, out)
		}
	}

	t.Log("a release")
	commit, image := s.store()
	boat.engine.Publish(image)
	sign := []string{"release", "sign", commit, "--yes"}
	r = d.start(sign...)
	waiting := one.waits(r)
	if err := boat.runs(image); err == nil {
		t.Error("the device runs what was not signed yet")
	}
	waiting.answer <- fidotoken.TooLate
	d.failed(r, "was not touched in time")
	if err := boat.runs(image); err == nil {
		t.Error("the device runs what was not signed")
	}

	r = d.start(sign...)
	left := one.asked(r)
	r.Interrupt()
	if said, how := r.Ended(); how == "ok" || !strings.Contains(said, "interrupted") {
		t.Errorf("interrupted while the token waits: %s\n%s", how, said)
	}
	d.refuses("still waits to be touched for what was asked before", sign...)
	d.refuses("still waits to be touched for what was asked before", "trust", "key", "/tmp/other.key", "--fido2")
	left.answer <- fidotoken.TooLate

	t.Log("two tokens")
	d.plug(two)
	d.refuses(fmt.Sprintf("there are 2 FIDO2 tokens: name the one to make the key on by --fido2-device, of %s, %s", one.in.Node, two.in.Node),
		"trust", "key", "/tmp/other.key", "--fido2")
	r = d.start(sign...)
	one.waits(r) // it was found, and the other was not asked
	d.pull(one)
	d.failed(r, "was it pulled out?")
	d.refuses("not the token that the key was made with", sign...)
	d.refuses("there is no such token", append(sign, "--fido2-device", one.in.Node)...)
	three := d.token("three")
	d.plug(three)
	d.refuses("the key was made with none of the FIDO2 tokens", sign...)
	d.pull(three)
	d.pull(two)
	d.refuses("plug it in", sign...)

	t.Log("it is signed")
	d.plug(one)
	d.does(map[*token]int{one: 1}, sign...)
	fleettest.Eventually(t, 5*time.Minute, func() error { return boat.runs(image) })
	d.pull(one)
	d.withPIN(s, boat, one)
}

// withPIN puts a key of a token that has a PIN in the place of the fleet's: it is asked for when the key is made, and each time that it signs.
func (d *desk) withPIN(s *several, boat *boat, one *token) {
	t := d.t
	t.Helper()
	t.Log("a token with a PIN")
	pinned := d.token("pinned")
	pinned.PIN = "sea horse"
	d.plug(pinned)
	key := []string{"trust", "key", "/tmp/pinned.key", "--fido2"}
	d.refuses("--pin-file", key...)
	d.refuses("wrong PIN of the token", append(key, "--pin-file", "/etc/wrong")...)
	d.refuses("a PIN has 4 to 63 characters", append(key, "--pin-file", "/etc/short")...)

	t.Log("it takes the place of the other one")
	d.plug(one)
	out := d.does(map[*token]int{one: 1, pinned: 3}, "trust", "rotate", s.fleet.Slug, "--fido2", "--fido2-device", pinned.in.Node, "--pin-file", "/etc/pin", "--yes")
	if !strings.Contains(out, "(NEW)") || !strings.Contains(out, "(REMOVED)") {
		t.Errorf("the rotation says:\n%s", out)
	}
	d.pull(one)

	commit, image := s.store()
	boat.engine.Publish(image)
	sign := []string{"release", "sign", commit, "--yes"}
	d.refuses("--pin-file", sign...)
	for range 2 {
		d.refuses("wrong PIN of the token", append(sign, "--pin-file", "/etc/wrong")...)
	}
	d.refuses("unplug the token", append(sign, "--pin-file", "/etc/wrong")...)
	d.refuses("unplug the token", append(sign, "--pin-file", "/etc/pin")...)
	d.pull(pinned)
	d.plug(pinned)
	if err := boat.runs(image); err == nil {
		t.Error("the device runs what was not signed")
	}
	r := d.hand.Start(guest.Run{Args: append([]string{"/bin/roadstead"}, sign...), Env: d.env, Terminal: true})
	r.Says("PIN of the FIDO2 token " + pinned.in.Node)
	r.Type(pinned.PIN + "\n")
	pinned.waits(r).answer <- fidotoken.Touched
	if said, how := r.Ended(); how != "ok" {
		t.Errorf("with the PIN that is typed: %s\n%s", how, said)
	}
	fleettest.Eventually(t, 5*time.Minute, func() error { return boat.runs(image) })
	d.pull(pinned)

	old := d.token("old")
	old.Old = true
	d.plug(old)
	d.refuses("does not know the extension hmac-secret", "trust", "key", "/tmp/old.key", "--fido2")
	d.pull(old)
}
