package main

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/roadstead-io/roadstead/internal/account/factor"
	"github.com/roadstead-io/roadstead/internal/fleettest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"roadstead": func() { os.Exit(run()) }})
}

// TestOffline runs the scripts that need no server.
func TestOffline(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/offline",
		Setup: func(env *testscript.Env) error {
			home(env)
			return nil
		},
	})
}

// TestScript runs the user stories against a real server. They share it, and are told apart by the names they use: $FLEET and
// $UNIQUE are different in each.
func TestScript(t *testing.T) {
	srv := fleettest.NewServerWith(t, fleettest.Options{Builds: fleettest.CanBuild()})
	var n sync.Mutex
	story := 0
	testscript.Run(t, testscript.Params{
		Dir:      "testdata/script",
		Deadline: time.Now().Add(8 * time.Minute),
		Setup: func(env *testscript.Env) error {
			n.Lock()
			story++
			unique := "s" + strconv.Itoa(story)
			n.Unlock()
			home(env)
			for k, v := range srv.Env() {
				env.Setenv(k, v)
			}
			env.Setenv("UNIQUE", unique)
			env.Setenv("FLEET", "fleet-"+unique)
			env.Setenv("UUID", hexName(unique+"a"))
			env.Setenv("UUID2", hexName(unique+"b"))
			env.Setenv("DOMAIN", srv.Domain)
			_, port, err := net.SplitHostPort(srv.Addr)
			if err != nil {
				return err
			}
			env.Setenv("PORT", port)
			env.Setenv("ADMIN_EMAIL", srv.Admin.Email)
			env.Setenv("ADMIN_USER", srv.Admin.Username)
			env.Setenv("ADMIN_PASSWORD", srv.Admin.Password)
			env.Setenv("ADMIN_KEY", srv.Admin.APIKey)
			env.Setenv("ROADSTEADD", fleettest.Program(t, "roadsteadd"))
			env.Setenv("DATA", srv.Dir)
			env.Setenv("GITADDR", srv.Git)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "builder" {
				return fleettest.CanBuild(), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"field": fleettest.Field, "retry": retry, "perm": perm, "image": image, "registry": serveRegistry, "totp": totp,
			"replace": replace, "secrets": secrets,
		},
	})
}

// hexName is 32 hexadecimal digits that are a story's own: a uuid, or a device's key.
func hexName(seed string) string {
	sum := sha256.Sum256([]byte(seed + time.Now().String()))
	return hex.EncodeToString(sum[:16])
}

func home(env *testscript.Env) {
	dir := filepath.Join(env.WorkDir, "home")
	env.Setenv("HOME", dir)
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, ".config"))
	env.Setenv("NO_COLOR", "1")
	env.Setenv("TZ", "UTC")
}

// totp makes a one-time code: totp ENV [next]. The first time in a story, the seed is what was just printed, as JSON.
func totp(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 || neg {
		ts.Fatalf("usage: totp ENV [next]")
	}
	text := ts.Getenv("TOTP_SEED")
	if text == "" {
		text = strings.Trim(strings.TrimSpace(ts.ReadFile("stdout")), `"`)
		ts.Setenv("TOTP_SEED", text)
	}
	seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(text)
	ts.Check(err)
	step := factor.Step(time.Now())
	if len(args) > 1 {
		step++
	}
	ts.Setenv(args[0], factor.Code(seed, step))
}

// retry runs a command again until it succeeds: retry SECONDS COMMAND ARGS...
func retry(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: [!] retry SECONDS COMMAND ARGS...")
	}
	seconds, err := strconv.Atoi(args[0])
	ts.Check(err)
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	for {
		err := ts.Exec(args[1], args[2:]...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("still not so after %d s: %v", seconds, err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// perm checks a file's mode: perm 0600 FILE.
func perm(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: perm MODE FILE")
	}
	st, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", st.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s: mode %s, want %s", args[1], got, args[0])
	}
}

// image writes an archive of a small image, as docker save does: image FILE.
func image(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: image FILE")
	}
	img, err := randomImage()
	ts.Check(err)
	tag, err := name.NewTag("example.com/image:latest")
	ts.Check(err)
	ts.Check(tarball.WriteToFile(ts.MkAbs(args[0]), tag, img))
}

func randomImage() (v1.Image, error) {
	img, err := random.Image(1000, 1)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	return mutate.ConfigFile(img, config)
}

// serveRegistry starts a registry of somebody else's with an image in it: registry NAME sets NAME to the image's reference.
func serveRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || len(args) > 2 || neg {
		ts.Fatalf("usage: registry NAME [USER:PASSWORD]")
	}
	var wanted atomic.Value // what it asks for, once the image is there
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if account, ok := wanted.Load().(string); ok && user+":"+password != account {
			w.Header().Set("WWW-Authenticate", `Basic realm="story"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		store.ServeHTTP(w, r)
	}))
	ts.Defer(srv.Close)
	img, err := randomImage()
	ts.Check(err)
	digest, err := img.Digest()
	ts.Check(err)
	ref, err := name.NewDigest(strings.TrimPrefix(srv.URL, "http://") + "/some/image@" + digest.String())
	ts.Check(err)
	ts.Check(remote.Write(ref, img))
	ts.Setenv(args[0], ref.String())
	if len(args) > 1 {
		wanted.Store(args[1])
		ts.Check(os.WriteFile(ts.MkAbs("registries.yml"), fmt.Appendf(nil, "%s: {username: %s, password: %s}\n", ref.Context().RegistryStr(),
			strings.Split(args[1], ":")[0], strings.Split(args[1], ":")[1]), 0o600))
	}
}

// replace copies a file of `release verify --save` with one bit of the release's document changed: replace FROM TO.
func replace(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: replace FROM TO")
	}
	var b struct {
		Rest     map[string]json.RawMessage
		Releases map[string]map[string]json.RawMessage
	}
	data := []byte(ts.ReadFile(args[0]))
	ts.Check(json.Unmarshal(data, &b.Rest))
	ts.Check(json.Unmarshal(b.Rest["releases"], &b.Releases))
	for _, r := range b.Releases {
		var document []byte
		ts.Check(json.Unmarshal(r["document"], &document))
		document[len(document)/2] ^= 1
		var err error
		r["document"], err = json.Marshal(document)
		ts.Check(err)
	}
	var err error
	b.Rest["releases"], err = json.Marshal(b.Releases)
	ts.Check(err)
	data, err = json.Marshal(b.Rest)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), data, 0o600))
}
