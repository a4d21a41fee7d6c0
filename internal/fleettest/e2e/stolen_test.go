package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// owner is somebody who vouches for a fleet, on a machine of their own: the keys are there, and nowhere on the server.
type owner struct {
	t    *testing.T
	home string
}

func newOwner(t *testing.T) *owner {
	t.Helper()
	o := &owner{t: t, home: t.TempDir()}
	writeFile(t, filepath.Join(o.home, "passphrase"), "correct horse battery\n")
	o.run(p.admin.Password, "login", "--email", p.admin.Email, "--password-stdin")
	return o
}

// run runs our command line as the owner, who has logged in and uses no API key.
func (o *owner) run(stdin string, args ...string) string {
	o.t.Helper()
	cmd := p.command("roadstead", args...)
	cmd.Env = slices.DeleteFunc(cmd.Env, func(s string) bool {
		return strings.HasPrefix(s, "ROADSTEAD_TOKEN=") || strings.HasPrefix(s, "HOME=") || strings.HasPrefix(s, "XDG_CONFIG_HOME=")
	})
	cmd.Env = append(cmd.Env, "HOME="+o.home, "XDG_CONFIG_HOME="+filepath.Join(o.home, ".config"), "ROADSTEAD_TRUST_PASSPHRASE_FILE="+filepath.Join(o.home, "passphrase"))
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		o.t.Fatalf("roadstead %s: %v\n%s%s", strings.Join(args, " "), err, &out, &errs)
	}
	return out.String()
}

// pushed builds a word into an image, and answers the release's commit.
func pushed(t *testing.T, fleet, word string) string {
	t.Helper()
	project := t.TempDir()
	if err := os.Mkdir(filepath.Join(project, "web"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(project, "docker-compose.yml"), "services: {web: {build: ./web}}\n")
	writeFile(t, filepath.Join(project, "web", "Dockerfile"), "FROM base/busybox\nRUN echo "+word+" > /word\nCMD [\"sh\", \"-c\", \"cat /word; sleep 100000\"]\nSTOPSIGNAL KILL\n")
	var made struct {
		Commit string `json:"commit"`
	}
	if err := json.Unmarshal([]byte(p.roadstead(t, "push", fleet, project, "-o", "json")), &made); err != nil || made.Commit == "" {
		t.Fatalf("push says no commit: %v", err)
	}
	return made.Commit
}

// says waits until the only container of the device is one that has the word in it.
func (d *device) says(t *testing.T, word string) {
	t.Helper()
	eventually(t, 2*time.Minute, "the device runs what says "+word, func() bool {
		c := d.containers(t)
		if len(c) != 1 {
			return false
		}
		out, err := d.exec(t, "docker", "exec", c[0], "cat", "/word")
		return err == nil && strings.TrimSpace(out) == word
	})
}

// refused waits until the device's own log names what it refuses, and looks that it runs what it ran.
func (d *device) refused(t *testing.T, from int, still string, words ...string) {
	t.Helper()
	eventually(t, 2*time.Minute, "the device refuses, and says "+strings.Join(words, ", "), func() bool {
		for line := range strings.Lines(d.log(t)[from:]) {
			if strings.Contains(line, "the target state is rejected") && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return true
			}
		}
		return false
	})
	d.says(t, still)
}

func (d *device) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, "log/agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// thief has a copy of all of the server's files, runs it in the server's place, and writes into its database what they like.
type thief struct {
	t    *testing.T
	copy string
}

// steal replaces every process of the server by one on a copy of its files, until the test ends.
func steal(t *testing.T) *thief {
	t.Helper()
	original := p.data
	th := &thief{t: t, copy: filepath.Join(p.dir, "stolen")}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	must(t, "cp", "-a", original, th.copy)
	must(t, "mv", original, original+".owner")
	must(t, "mv", th.copy, original) // at the same place, for the names in its files
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
		must(t, "rm", "-rf", original)
		must(t, "mv", original+".owner", original)
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
	})
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	return th
}

// down does something while the stolen server is down for a moment.
func (th *thief) down(do func(database string)) {
	th.t.Helper()
	if err := p.stop(); err != nil {
		th.t.Fatal(err)
	}
	var file string
	_ = filepath.WalkDir(p.data, func(path string, _ os.DirEntry, err error) error {
		if err == nil && filepath.Base(path) == "roadstead.db" {
			file = path
		}
		return err
	})
	do(file)
	if err := p.start(); err != nil {
		th.t.Fatal(err)
	}
}

// sql changes the database.
func (th *thief) sql(text string) {
	th.t.Helper()
	th.down(func(file string) {
		data := dbtest.Beside(th.t, file)
		_, err := data.Exec(text)
		if err := errors.Join(err, data.Close()); err != nil {
			th.t.Fatalf("%s: %v", file, err)
		}
	})
}

// Every process of the server is replaced by one that has all of its files, and the database says what the thief likes. What the thief does not have is the
// owner's keys: the device runs nothing that the owner did not sign, nothing older than it ran, and says by name what it refuses.
func TestAStolenServer(t *testing.T) {
	if p.sqlFile != "" {
		t.Skip("the thief of this test writes into SQLite")
	}
	p.roadstead(t, "fleet", "create", "guarded", "--type", "generic-amd64")
	p.roadstead(t, "fleet", "create", "thiefs", "--type", "generic-amd64")
	first := pushed(t, "guarded", "first")
	alien := pushed(t, "thiefs", "alien")
	d := newDevice(t, "guarded", "e2e-guarded")
	d.registered(t)
	d.says(t, "first") // the server's own root is enough as yet

	o := newOwner(t)
	o.run("", "trust", "init", "guarded", "--approval", "builder+owner", "--shell", "forbidden", "--yes")
	second := pushed(t, "guarded", "second")
	eventually(t, 2*time.Minute, "the device waits for the owner", func() bool { return strings.Contains(d.log(t), "release "+second) })
	d.says(t, "first")
	o.run("", "release", "sign", first, "--yes")
	o.run("", "release", "sign", second, "--yes")
	d.says(t, "second")

	th := steal(t)
	at := len(d.log(t))
	eventually(t, 2*time.Minute, "the device refuses the thief's SSH, and says why", func() bool { // once its channel stands again
		if out, _, code := p.try(t, "roadstead", "device", "ssh", d.uuid, "--", "echo", "in"); code == 0 {
			t.Fatalf("the thief entered the device by SSH: %s", out)
		}
		return strings.Contains(d.log(t)[at:], "the metadata of this device's fleet forbid it")
	})

	at = len(d.log(t))
	th.sql(`UPDATE device SET is_pinned_on__release = (SELECT id FROM "release" WHERE "commit" = '` + first + `') WHERE uuid = '` + d.uuid + `'`)
	d.refused(t, at, "second", first)

	at = len(d.log(t))
	th.sql(`UPDATE device SET is_pinned_on__release = NULL WHERE uuid = '` + d.uuid + `';
		UPDATE "release" SET composition = json_set(composition, '$.services.web.privileged', json('true')) WHERE "commit" = '` + second + `'`)
	d.refused(t, at, "second", "composition", "privileged")

	at = len(d.log(t))
	th.sql(`UPDATE "release" SET composition = json_remove(composition, '$.services.web.privileged') WHERE "commit" = '` + second + `';
		UPDATE image SET content_hash = (SELECT i.content_hash FROM image i JOIN release_image ri ON ri.image = i.id JOIN "release" r ON r.id = ri.is_part_of__release WHERE r."commit" = '` + alien + `')
		WHERE id = (SELECT ri.image FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release WHERE r."commit" = '` + second + `')`)
	d.refused(t, at, "second", "image of service web", "digest")

	at = len(d.log(t))
	th.sql(`UPDATE device SET belongs_to__application = (SELECT id FROM application WHERE app_name = 'thiefs') WHERE uuid = '` + d.uuid + `'`)
	d.refused(t, at, "second", "fleet", "does not let this device go")
}

// A device goes to another fleet with the word of the one it leaves, which a fleet whose root the server holds gives with the move; and back.
func TestADeviceChangesItsFleet(t *testing.T) {
	p.roadstead(t, "fleet", "create", "leaving", "--type", "generic-amd64")
	p.roadstead(t, "fleet", "create", "arriving", "--type", "generic-amd64")
	pushed(t, "leaving", "here")
	pushed(t, "arriving", "there")
	d := newDevice(t, "leaving", "e2e-leaving")
	d.registered(t)
	d.says(t, "here")
	p.roadstead(t, "device", "move", d.uuid, "--fleet", "arriving")
	d.says(t, "there")
	if text := d.log(t); !strings.Contains(text, "this device belongs to another fleet now") {
		t.Errorf("the device did not verify that it may go:\n%s", text)
	}
	p.roadstead(t, "device", "move", d.uuid, "--fleet", "leaving")
	d.says(t, "here")
	if out := shell(t, filepath.Join(p.bin, "roadstead-agent"), "trust", "status", "--state", filepath.Join(d.dir, "state")); !strings.Contains(out, "held by the server") {
		t.Errorf("trust status of the device:\n%s", out)
	}
}

// A device is moved while it is off, and the fleet that it believes is removed: it comes, is let go by what the server keeps of that fleet, and runs.
func TestADeviceLeavesARemovedFleet(t *testing.T) {
	p.roadstead(t, "fleet", "create", "removed", "--type", "generic-amd64")
	p.roadstead(t, "fleet", "create", "remaining", "--type", "generic-amd64")
	pushed(t, "removed", "here")
	pushed(t, "remaining", "there")
	d := newDevice(t, "removed", "e2e-removed")
	d.registered(t)
	d.says(t, "here")
	eventually(t, time.Minute, "the device has said that it checks what it runs", func() bool {
		return strings.Contains(p.roadstead(t, "trust", "status", "removed"), "1 verified")
	})
	d.power(t)
	p.roadstead(t, "device", "move", d.uuid, "--fleet", "remaining")
	var status api.TrustStatus
	if err := json.Unmarshal([]byte(p.roadstead(t, "trust", "status", "removed", "-o", "json")), &status); err != nil || len(status.Leaving) != 1 || string(status.Leaving[0].UUID) != d.uuid {
		t.Errorf("trust status does not tell of the device that has to leave: %+v, %v", status.Leaving, err)
	}
	p.roadstead(t, "fleet", "rm", "removed", "--yes")
	d.up(t)
	d.says(t, "there")
	if text := d.log(t); !strings.Contains(text, "this device belongs to another fleet now") {
		t.Errorf("the device did not verify that it may go:\n%s", text)
	}
}
