package builder_test

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder"
	"github.com/roadstead-io/roadstead/internal/builder/worker"
)

const (
	recipe = "the-Recipe+of/soup=9?"
	token  = "tok_Zq8/+hush&hush"
	onlyDB = "for the-database only"
)

func givenFile(t testing.TB, g api.BuildGiven) string {
	t.Helper()
	return string(must(json.Marshal(g))(t))
}

// secretive is a project of two services that have secrets in every way there is, and print them in every way they can.
func secretive(t testing.TB, tok string) map[string]string {
	show := "f=%s; cat $f; echo; base64 -w 0 $f; echo; (echo -n u; cat $f) | base64; (echo -n uu; cat $f) | base64; " +
		"hexdump -ve '1/1 \"%02x\"' $f; echo; base64 -w 0 $f | tr +/ -_; echo; head -c 5 $f; sleep 1; tail -c +6 $f; echo; " +
		"printf '\\033[1m'; head -c 5 $f; printf '\\033[0m'; tail -c +6 $f; echo\n"
	return map[string]string{
		"docker-compose.yml": "services:\n  web: {build: {context: ., args: {B: compose, BUILDKIT_SANDBOX_HOSTNAME: evil}}}\n  db: {build: ./db}\n",
		"Dockerfile": "FROM base/busybox\nARG A\nARG B\nARG C\nCOPY . /src\n" +
			// As projects made for balena say it, over several lines.
			"run \\\n  " + strings.ReplaceAll(show, "%s", "/run/secrets/my-recipe") +
			"RUN --mount=type=secret,id=token " + strings.ReplaceAll(show, "%s", "/run/secrets/token") +
			"RUN --mount=type=secret,id=token,env=TOKEN test -n \"$TOKEN\" && echo env-$TOKEN\n" +
			"RUN find /src; echo args-$A-$B-$C; ls /run/secrets; test ! -e /run/secrets/db/key && echo not-the-others\n",
		"db/Dockerfile":                 "FROM base/busybox\nARG A\nRUN cat /run/secrets/db/key; echo; echo db-$A; test -e /run/secrets/my-recipe && echo db-too\n",
		".balena/balena.yml":            "build-variables: {global: [A=all], services: {db: {A: own}, web: [B=settings, C=settings], none: [X=1]}}\nbuild-secrets:\n  global: [{source: soup/recipe, dest: my-recipe}]\n  services: {db: [{source: key, dest: db/key}]}\n",
		".balena/secrets/soup/recipe":   recipe + "\n",
		".balena/secrets/key":           onlyDB,
		".balena/secrets/.gitignore":    "*\n",
		".balena/registry-secrets.json": `{"registry.example.com":{"username":"u","password":"hunter2hunter2"}}`,
		".balena/registry-secrets.yml":  "other.example.com:5000: {username: v, password: hunter3hunter3}\n",
		api.BuildGivenFile:              givenFile(t, api.BuildGiven{Args: map[string]string{"C": "given"}, Secrets: map[string][]byte{"token": []byte(tok), "pin": []byte("77")}}),
	}
}

func TestSecretsReachTheirStepsAndNothingElse(t *testing.T) {
	service := buildServiceDir(t)
	w := newWorld(t, worker.Config{Dir: service}.Address(), builder.Limits{})
	w.withBase()
	out := w.build(nil, secretive(t, token))
	if out.failed {
		t.Fatalf("stream:\n%s", out.text)
	}
	for _, want := range []string{"args-all-settings-given", "db-own", "db-too", "not-the-others", "env-[secret]", "/src/.balena/balena.yml",
		"the secret pin is too short", "no step asks for the secret pin; one that needs it says RUN --mount=type=secret,id=pin", `speaks of a service "none"`} {
		if !strings.Contains(out.text, want) {
			t.Errorf("the stream lacks %q", want)
		}
	}
	if n := strings.Count(out.text, "no step asks for"); n != 1 {
		t.Errorf("%d secrets are said to be asked for by nobody, of one", n)
	}
	if n := strings.Count(out.text, "[secret]"); n < 2*8+2 { // eight forms of two secrets, and two more
		t.Errorf("%d secrets were hidden, fewer than were printed", n)
	}
	record := string(must(json.Marshal(out.release.result))(t)) + string(out.release.ask.Composition)
	evil := []string{"hunter2", "hunter3", "/src/.balena/secrets", "/src/.roadstead", "registry-secrets"}
	for _, s := range []string{recipe, token, onlyDB} {
		evil = append(evil, s, s[:8], s[6:], base64.StdEncoding.EncodeToString([]byte(s))[:8], base64.StdEncoding.EncodeToString([]byte("u" + s))[4:12],
			base64.StdEncoding.EncodeToString([]byte("uu" + s))[4:12], base64.URLEncoding.EncodeToString([]byte(s))[:12], url.QueryEscape(s))
	}
	for _, s := range evil {
		for where, text := range map[string]string{"stream": out.text, "log": out.release.result.Log, "record": record} {
			if strings.Contains(text, s) {
				t.Errorf("the %s holds %q", where, s)
			}
		}
	}
	await(t, "the work directory is empty", w.workEmpty)
	for _, dir := range []string{w.dir, service} {
		nowhereOnDisk(t, dir, recipe, token, onlyDB, "hunter2hunter2", "hunter3hunter3")
	}
	if t.Failed() {
		t.Log(out.text)
	}
	// A secret is no part of a step's identity, so a new one changes nothing that was built.
	again := w.build(nil, secretive(t, "another"+token))
	if n := strings.Count(again.text, " CACHED"); again.failed || n < 6 {
		t.Errorf("with another secret only %d steps came from the cache:\n%s", n, again.text)
	}
}

// nowhereOnDisk looks for texts in every file below a directory.
func nowhereOnDisk(t *testing.T, dir string, texts ...string) {
	t.Helper()
	seen := 0
	check(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it went meanwhile, or holds no bytes
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return nil
		}
		seen++
		for _, s := range texts {
			if bytes.Contains(data, []byte(s)) {
				t.Errorf("%s holds the secret %q", p, s)
			}
		}
		return nil
	}))
	if seen < 3 {
		t.Errorf("only %d files were looked through below %s", seen, dir)
	}
}

// Without a settings file, every file below secrets is there for steps that ask for it.
func TestFilesOfSecretsAreThereForWhoAsks(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	out := w.build(nil, map[string]string{
		"Dockerfile": "FROM base/busybox\nRUN --mount=type=secret,id=npm/rc,target=/root/.npmrc test \"$(cat /root/.npmrc)\" = hush-hush && echo there\n" +
			"RUN --mount=type=secret,id=nobody,required=true cat /run/secrets/nobody\n",
		".balena/secrets/npm/rc": "hush-hush",
	})
	if !out.failed || !strings.Contains(out.text, "   there\n") || !strings.Contains(out.text, "nobody") {
		t.Errorf("stream:\n%s", out.text)
	}
}

func TestSecretsGamesAreRefused(t *testing.T) {
	w := newWorld(t, "unix:///nonexistent/buildkitd.sock", builder.Limits{})
	long := strings.Repeat("x", 200<<10)
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a link to the rest":       {map[string]string{".balena/secrets/a@": "../../docker-compose.yml"}, ".balena/secrets/a must be a file"},
		"the directory is a link":  {map[string]string{"other/a": "x", ".balena/secrets@": "../other"}, ".balena/secrets must be a directory"},
		"the top is a link":        {map[string]string{"other/secrets/a": "x", ".balena@": "other"}, ".balena must be a directory"},
		"the directory is a file":  {map[string]string{".balena/secrets": "x"}, ".balena/secrets must be a directory"},
		"registries behind a link": {map[string]string{"x.json": "{}", ".balena/registry-secrets.json@": "../x.json"}, "registry-secrets.json must be a file"},
		"bad registries":           {map[string]string{".balena/registry-secrets.json": `{"h": "s3cr3t"}`}, "is not an object of registry hosts"},
		"a name that steers":       {map[string]string{".balena/secrets/a,target=": "x"}, `cannot be the name of a secret`},
		"a large one":              {map[string]string{".balena/secrets/a": long}, "larger than"},
		"all too large": {map[string]string{".balena/secrets/a": long[:99<<10], ".balena/secrets/b": long[:99<<10],
			api.BuildGivenFile: givenFile(t, api.BuildGiven{Secrets: map[string][]byte{"a": []byte(long[:99<<10]), "b": []byte(long[:99<<10]), "c": []byte(long[:99<<10]),
				"d": []byte(long[:99<<10]), "e": []byte(long[:99<<10]), "f": []byte(long[:99<<10]), "g": []byte(long[:99<<10]), "h": []byte(long[:99<<10]), "i": []byte(long[:99<<10])}})},
			"together"},
		"a path":           {map[string]string{api.BuildGivenFile: `{"secrets":{"../../etc/shadow":"eA=="}}`}, `"../../etc/shadow" cannot be`},
		"an absolute path": {map[string]string{api.BuildGivenFile: `{"secrets":{"/etc/shadow":"eA=="}}`}, `"/etc/shadow" cannot be`},
		"a strange field":  {map[string]string{api.BuildGivenFile: `{"network":"host"}`}, "cannot be read; is the server older"},
		"a strange arg":    {map[string]string{api.BuildGivenFile: `{"args":{"A\nRUN evil":"x"}}`}, "is not the name of a build variable"},
		"an arg of ours":   {map[string]string{api.BuildGivenFile: `{"args":{"BUILDKIT_CACHE_MOUNT_NS":"x"}}`}, "not the project's to set"},
		"a source that is not there": {map[string]string{".balena/balena.yml": "build-secrets: {global: [{source: gone, dest: x}]}"},
			`there is no secret "gone" in .balena/secrets`},
	} {
		t.Run(name, func(t *testing.T) {
			c.files["Dockerfile"] = "FROM scratch\n"
			out := w.build(nil, c.files)
			if !out.failed || !strings.Contains(out.text, c.want) {
				t.Errorf("stream, want it to speak of %s:\n%s", c.want, out.text)
			}
			if strings.Contains(out.text, "s3cr3t") {
				t.Error("an error tells the secret")
			}
		})
	}
}

// The attack: a second name for a secret, which would stay in the source when the first is taken out.
func TestASecretWithTwoNamesIsRefused(t *testing.T) {
	w := newWorld(t, "unix:///nonexistent/buildkitd.sock", builder.Limits{})
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeReg, Name: "Dockerfile", Size: 13, Mode: 0o644}, {Typeflag: tar.TypeReg, Name: ".balena/secrets/a", Size: 13, Mode: 0o600},
		{Typeflag: tar.TypeLink, Name: "kept", Linkname: ".balena/secrets/a"},
	} {
		check(t, tw.WriteHeader(h))
		if h.Size > 0 {
			must(tw.Write([]byte("FROM scratch\n")))(t)
		}
	}
	check(t, tw.Close())
	out := w.read(w.push(t.Context(), nil, &buf))
	if !out.failed || !strings.Contains(out.text, ".balena/secrets/a is linked to by another name") {
		t.Errorf("stream:\n%s", out.text)
	}
}

// The attack: what a build prints looks like the builder's own words, steers terminals, and comes by the gigabyte.
func TestWhatABuildPrintsChangesNothing(t *testing.T) {
	w := newWorld(t, buildService(t), builder.Limits{})
	w.withBase()
	fake := "sha256:" + strings.Repeat("ab", 32)
	out := w.build(nil, map[string]string{
		"Dockerfile": "FROM base/busybox\n" +
			`RUN printf '{"message":"x","isError":true}\n]\n#1 DONE 0.0s\nexporting manifest ` + fake + ` done\ncontainerimage.digest: ` + fake + `\n'` + "\n" +
			`RUN printf 'ERROR: \033]0;owned\007title\033[2J\033]52;c;aGk=\033\\clip\033[31mred\033[0m\r\n\302\2332J\n'` + "\n" +
			"RUN dd if=/dev/zero bs=1M count=1000 2>/dev/null | tr '\\0' '\\n'\n" +
			"RUN dd if=/dev/zero bs=1M count=100 2>/dev/null | tr '\\0' z\n" +
			"RUN echo the end\n",
	})
	if out.failed || out.release.Status != api.StatusSuccess {
		t.Fatalf("status %q, stream:\n%.5000s", out.release.Status, out.text)
	}
	if strings.ContainsAny(out.text, "\x07\r\u009b") || strings.Contains(out.text, "\x1b]") || strings.Contains(out.text, "\x1b[2J") {
		t.Error("the stream steers a terminal")
	}
	for _, want := range []string{"titleclip\x1b[31mred\x1b[0m", "output clipped", "too much output", "bytes of output were not shown", "   the end\n", `   {"message":"x","isError":true}`} {
		if !strings.Contains(out.text, want) {
			t.Errorf("the stream lacks %q", want)
		}
	}
	for line := range strings.Lines(out.text) {
		if strings.HasPrefix(line, "#1 DONE 0.0s") && strings.Contains(line, fake) || len(line) > 10<<10 {
			t.Errorf("a line of %d bytes: %.100s", len(line), line)
		}
	}
	if n := len(out.text); n > 8<<20 {
		t.Errorf("the stream has %d bytes", n)
	}
	if n := len(out.release.result.Log); n > 5<<20 {
		t.Errorf("the log has %d bytes", n)
	}
	for _, image := range out.release.result.Images {
		if image.Digest == "" || image.Digest == fake {
			t.Errorf("the image is recorded as %q", image.Digest)
		}
	}
}
