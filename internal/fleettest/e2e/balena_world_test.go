package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// person is a user of the platform as the tests of balena's clients know one: by password, and with a session.
type person struct {
	Email    string `json:"email"`
	Username string `json:"username"`
	Password string `json:"password"`
	session  string
}

// people are the three that the tests of balena's clients play: the first user, somebody whom that one takes into the
// organization, and somebody who belongs to nobody else's.
var people = struct {
	sync.Once
	byName map[string]person
	err    error
}{}

// folk makes the people, once.
func folk(t *testing.T) map[string]person {
	t.Helper()
	people.Do(func() {
		people.byName = map[string]person{
			"admin":    {Email: p.admin.Email, Username: p.admin.Username, Password: p.admin.Password},
			"member":   {Email: "member@example.com", Username: "member", Password: "a member's long password"},
			"stranger": {Email: "stranger@example.com", Username: "stranger", Password: "a stranger's long password"},
		}
		for key, who := range people.byName {
			if key != "admin" {
				if people.err = addUser(who); people.err != nil {
					return
				}
			}
			got := p.call(t, http.MethodPost, "api", "/login_", "", map[string]string{"username": who.Email, "password": who.Password})
			if got.status != http.StatusOK {
				people.err = fmt.Errorf("log in as %s: %d %s", key, got.status, got.body)
				return
			}
			who.session = got.body
			people.byName[key] = who
			p.secrets = append(p.secrets, who.Password, who.session)
		}
	})
	if people.err != nil {
		t.Fatal(people.err)
	}
	t.Cleanup(func() { oneOrganization(t, people.byName["admin"]) })
	return people.byName
}

// addUser makes a user of the server, as its operator does.
func addUser(who person) error {
	cmd := p.command("roadsteadd", "admin", "user", "add", who.Email, "--username", who.Username, "--password-stdin", "--data", p.data)
	cmd.Stdin = strings.NewReader(who.Password)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("add the user %s: %w: %s", who.Username, err, out)
	}
	return nil
}

// oneOrganization removes what tests that failed may have left: the first user has one organization again, as other tests expect.
func oneOrganization(t *testing.T, admin person) {
	// The session that the tests began with may be too old for it by now.
	got, err := p.ask(context.WithoutCancel(t.Context()), http.MethodPost, "api", "/login_", "",
		map[string]string{"username": admin.Email, "password": admin.Password})
	if err == nil && got.status == http.StatusOK {
		admin.session = got.body
	}
	mine := "handle ne '" + admin.Username + "' and organization_membership/any(m:m/user/any(u:u/username eq '" + admin.Username + "'))"
	for _, path := range []string{
		"/v7/application?$filter=" + url.PathEscape("organization/any(o:"+strings.NewReplacer("handle", "o/handle",
			"organization_membership", "o/organization_membership").Replace(mine)+")"),
		"/v7/organization?$filter=" + url.PathEscape(mine),
	} {
		got, err := p.ask(context.WithoutCancel(t.Context()), http.MethodDelete, "api", path, admin.session, nil)
		if err != nil || got.status != http.StatusOK {
			t.Errorf("tidy up: DELETE %s: %d %s %v", path, got.status, got.body, err)
		}
	}
}

// row makes one request of the API as somebody, and decodes the one row of its answer, bare or in an OData list.
func (pl *platform) row(ctx context.Context, method, path, token string, body any) (map[string]any, error) {
	got, err := pl.ask(ctx, method, "api", path, token, body)
	if err != nil {
		return nil, err
	}
	if got.status >= 300 {
		return nil, fmt.Errorf("%s %s: %d %s", method, path, got.status, got.body)
	}
	var list struct {
		D []map[string]any `json:"d"`
	}
	if err := json.Unmarshal([]byte(got.body), &list); err == nil && list.D != nil {
		if len(list.D) != 1 {
			return nil, fmt.Errorf("%s %s: %d rows", method, path, len(list.D))
		}
		return list.D[0], nil
	}
	var row map[string]any
	if err := json.Unmarshal([]byte(got.body), &row); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", method, path, err, got.body)
	}
	return row, nil
}

// saveImage writes an archive of a small image, as docker save does.
func saveImage(file string) error {
	img, err := random.Image(1000, 1)
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	var made v1.Image
	if made, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	tag, err := name.NewTag("example.com/image:latest")
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, tag, made)
}

// said runs a command of ours and gives everything that it says.
func said(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out), nil
}

// hostReleases gives the server two releases of an operating system and one of a supervisor, as an operator brings them in. Doing
// it again changes nothing.
func hostReleases(t *testing.T) {
	t.Helper()
	cmd := p.command("roadsteadd", "admin", "os", "import", "-", "--data", p.data)
	cmd.Stdin = strings.NewReader(`[
		{"kind": "os", "device_type": "generic-amd64", "version": "6.0.0", "image": "registry.example.com/os@sha256:` + strings.Repeat("1", 64) + `"},
		{"kind": "os", "device_type": "generic-amd64", "version": "6.1.0", "image": "registry.example.com/os@sha256:` + strings.Repeat("2", 64) + `"},
		{"kind": "supervisor", "arch": "amd64", "version": "17.1.0", "image": "registry.example.com/sup@sha256:` + strings.Repeat("3", 64) + `"}]`)
	if _, err := said(cmd); err != nil {
		t.Fatal(err)
	}
}
