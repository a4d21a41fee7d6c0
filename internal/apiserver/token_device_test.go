package apiserver_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/roletest"
	"github.com/roadstead-io/roadstead/internal/web"
)

// signer stands where the signer role does and notes what it is asked; that the real one signs is its own package's test.
type signer struct {
	slow    time.Duration // that the first question takes
	refuses string        // a subject whose pulls are not signed

	mu        sync.Mutex // covers what follows
	asked     []api.PullTokenRequest
	questions int
}

func (s *server) signer() *signer {
	s.Helper()
	ln, sg := roletest.Listen(s), &signer{}
	roletest.Play(s, filepath.Join(s.dir, api.RoleSigner), ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var list []api.PullTokenRequest
		if pki.PeerRole(r) != api.RoleAPI || r.URL.Path != "/v1/pull-tokens" || web.Decode(r, &list) != nil {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		sg.mu.Lock()
		defer sg.mu.Unlock()
		if sg.questions++; sg.questions == 1 {
			<-time.After(sg.slow)
		}
		var answers []api.SignedToken
		for _, ask := range list {
			sg.asked = append(sg.asked, ask)
			answers = append(answers, api.SignedToken{Token: fmt.Sprintf("token-%d-%s", len(sg.asked), ask.Subject)})
			if ask.Subject == sg.refuses {
				answers[len(answers)-1] = api.SignedToken{Refused: "not this one"}
			}
		}
		_ = web.WriteJSON(w, http.StatusOK, answers)
	}))
	s.stop()
	s.peers = map[string]string{api.RoleSigner: ln.Addr().String()}
	s.start()
	return sg
}

// build makes a successful release of one service and gives its repository.
func (s *server) build(token, slug string) string {
	s.Helper()
	var b api.Build
	s.role(api.RoleBuilder, "POST", "/internal/v1/builds", api.BuildRequest{Slug: slug}, "Authorization: Bearer "+token).
		want(http.StatusCreated).into(&b)
	var images []api.BuildImage
	s.role(api.RoleBuilder, "POST", fmt.Sprintf("/internal/v1/builds/%d/images", b.ID), api.BuildImagesRequest{
		Composition: json.RawMessage(`{"services":{"web":{}}}`), Services: []string{"web"},
	}).into(&images)
	s.role(api.RoleBuilder, "POST", fmt.Sprintf("/internal/v1/builds/%d/finish", b.ID), api.BuildResult{
		Status: api.StatusSuccess, Images: []api.BuildImageResult{{ID: images[0].ID, Status: api.StatusSuccess, Digest: fmt.Sprintf("sha256:%064x", 1)}},
	}).want(http.StatusOK)
	return images[0].Repository
}

func TestRegistryToken(t *testing.T) {
	s := newServer(t)
	fleet := s.fleet(s.admin.APIKey, "harbour")
	dev := s.device(s.admin.APIKey, fleet, hexUUID(1))
	bob := s.user("bob")
	s.fleet(bob, "elsewhere")
	s.do(dev.APIKey, "GET", "/auth/v1/token", nil).want(http.StatusServiceUnavailable) // there is no signer yet
	sg := s.signer()
	own, foreign := s.build(s.admin.APIKey, s.admin.Username+"/harbour"), s.build(bob, "bob/elsewhere")
	ask := "/auth/v1/token?service=registry2.roadstead.test&account=x&scope=repository:" + own + ":pull,push&scope[1]=repository:" + foreign + ":pull"
	basic := func(user, password string) string {
		return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	var got api.RegistryToken
	s.do("", "GET", ask, nil, basic("d_"+string(dev.UUID), dev.APIKey)).want(http.StatusOK).into(&got)
	if got.Token != "token-1-d_"+string(dev.UUID) {
		t.Errorf("token: %q", got.Token)
	}
	s.do("", "GET", ask, nil, basic("admin", dev.APIKey)).want(http.StatusOK) // the user name is not believed
	s.do(dev.APIKey, "GET", ask, nil).want(http.StatusOK)
	s.do(bob, "GET", ask, nil).want(http.StatusOK)
	s.do(bob, "GET", "/auth/v1/token", nil).want(http.StatusOK)
	s.do("", "GET", ask, nil).want(http.StatusUnauthorized)
	s.do("", "GET", ask, nil, basic("d_"+string(dev.UUID), "wrong")).want(http.StatusUnauthorized)
	s.do("", "GET", ask, nil, basic("d_"+string(dev.UUID), "")).want(http.StatusUnauthorized)
	pull := func(name string) []api.Grant {
		return []api.Grant{{Type: "repository", Name: name, Actions: []string{"pull"}}}
	}
	subject := api.DeviceRegistryUser(dev.UUID)
	sg.mu.Lock()
	defer sg.mu.Unlock()
	if diff := cmp.Diff([]api.PullTokenRequest{
		{Subject: subject, Access: pull(own)}, {Subject: subject, Access: pull(own)}, {Subject: subject, Access: pull(own)},
		{Subject: "bob", Access: pull(foreign)}, {Subject: "bob", Access: []api.Grant{}},
	}, sg.asked); diff != "" {
		t.Errorf("what the signer was asked (-want +got):\n%s", diff)
	}
}

// Tokens that are wanted while the signer works are asked for together; each goes to who wanted it.
func TestRegistryTokensAreSignedTogether(t *testing.T) {
	const devices = 20
	s := newServer(t)
	fleet := s.fleet(s.admin.APIKey, "harbour")
	var list []api.Registered
	for n := range devices {
		list = append(list, s.device(s.admin.APIKey, fleet, hexUUID(n+1)))
	}
	sg := s.signer()
	sg.slow, sg.refuses = time.Second, api.DeviceRegistryUser(list[7].UUID)
	var all sync.WaitGroup
	for n, d := range list {
		all.Go(func() {
			a := s.do(d.APIKey, "GET", "/auth/v1/token?service=registry2.roadstead.test", nil)
			if n == 7 {
				if a.status != http.StatusServiceUnavailable {
					t.Errorf("device %d: %d, want 503: its token was refused", n, a.status)
				}
				return
			}
			var got api.RegistryToken
			a.want(http.StatusOK).into(&got)
			if !strings.HasSuffix(got.Token, "-"+api.DeviceRegistryUser(d.UUID)) {
				t.Errorf("device %d was given %s", n, got.Token)
			}
		})
	}
	all.Wait()
	sg.mu.Lock()
	defer sg.mu.Unlock()
	if len(sg.asked) != devices || sg.questions > devices/2 {
		t.Errorf("%d tokens in %d questions; want fewer questions than tokens", len(sg.asked), sg.questions)
	}
}
