package fleettest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/fleettest"
	"github.com/roadstead-io/roadstead/internal/fleettest/vm"
	"github.com/roadstead-io/roadstead/internal/fleettest/vm/guest"
)

// voyage is a fleet whose owner holds the root and signs each release, and a device of it with a real engine, in a virtual machine whose clock says what the test wants.
type voyage struct {
	*vessel
	t       *testing.T
	home    string // the owner's, beside the server's data
	uuid    string
	now     string            // the container that runs
	replays map[string]answer // what was said of the first release, when that was new
}

// A device runs what its fleet's owner has released, whatever its clock says: in 1970 what ran before and what is new, in 2040 what ran before, and nothing that is
// older in either; after 18 months in a drawer, in which the root was rotated three times and everything it knew has expired, what is new then, with a right
// clock and without a battery for one.
func TestADeviceThroughTheYears(t *testing.T) {
	vm.Kernel(t)
	srv := fleettest.NewServerWith(t, fleettest.Options{Builds: true, SQL: "sqlite", Listen: behind})
	v := &voyage{t: t, vessel: &vessel{t: t, srv: srv, owner: srv.Client(), way: newRelay(t, srv)}}
	var id int64
	v.fleet, id = newFleet(t, v.vessel.owner, "years")
	v.home = filepath.Join(filepath.Dir(srv.Dir), "owner")
	if err := os.MkdirAll(v.home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.home, "passphrase"), []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v.signs(srv.Admin.Password, "login", "--email", srv.Admin.Email, "--password-stdin")
	v.signs("", "trust", "init", v.fleet, "--approval", "builder+owner", "--yes")
	v.launch(id, 1024, nil)
	v.has.Engine = vm.Engine(t)

	v.releases("first")
	v.way.between.Store(true)
	m := v.on(time.Time{})
	v.uuid = v.online()
	v.runs(m, "first")
	v.replays = v.way.heardSoFar()
	m.Off()

	v.inWrongYears()
	v.inADrawer()
}

// inWrongYears switches the device on in 1970 and in 2040.
func (v *voyage) inWrongYears() {
	v.t.Log("in 1970")
	m := v.on(in1970)
	v.still(m, "first")
	v.releases("second")
	v.runs(m, "second") // what is new needs no better clock
	v.isToldOf(m, "rollback")
	v.still(m, "second")
	m.Off()
	if said := m.Console(); !strings.Contains(said, "time=1970-01-02") {
		v.t.Error("its clock does not say 1970")
	}

	v.t.Log("in 2040")
	m = v.on(in2040)
	v.still(m, "second")
	v.releases("third")
	m.Says("time=2040-01-02", "the target state is rejected", "reason=expired")
	v.isToldOf(m, "expired")
	v.still(m, "second")
	m.Off()

	v.t.Log("with a clock that is right again")
	v.way.between.Store(false)
	m = v.on(time.Time{})
	v.runs(m, "third")
	m.Off()
}

// inADrawer leaves the device off for 18 months, and the server is another one then: the same files on a machine of that time.
func (v *voyage) inADrawer() {
	later := time.Now().AddDate(0, 18, 0)
	v.signs("", "trust", "rotate", v.fleet, "--yes")
	v.signs("", "trust", "rotate", v.fleet, "--yes") // both have expired when the device hears of them
	fourth := v.builds("fourth")
	v.srv.Stop()
	server := v.serverAt(later)
	v.ashore(server, v.srv.Admin.Password, "login", "--email", v.srv.Admin.Email, "--password-stdin")
	v.ashore(server, "", "trust", "rotate", v.fleet, "--yes")
	v.ashore(server, "", "release", "sign", fourth, "--yes")
	before := filepath.Join(v.t.TempDir(), "disk") // the device, as it was put into the drawer
	if out, err := exec.CommandContext(v.t.Context(), "cp", "--sparse=always", v.has.Disk, before).CombinedOutput(); err != nil {
		v.t.Fatalf("%v: %s", err, out)
	}

	v.t.Log("18 months later")
	v.way.clock.Store(&later)
	v.way.between.Store(true)
	v.way.say(v.replays)
	ran := v.now
	m := v.on(later)
	m.Says("the target state is rejected", "reason=expired")
	v.hears(m, "expired", 0)
	v.still(m, "third")
	v.way.say(nil)
	v.runs(m, "fourth")
	m.Says("the root of trust is a newer one")
	m.Off()

	v.t.Log("18 months later, without a battery")
	v.way.between.Store(false)
	v.has.Disk, v.now = before, ran
	m = v.on(in1970)
	v.runs(m, "fourth")
	m.Says("time=1970-01-02", "is not yet valid: current time", "the root of trust is a newer one") // the server has another certificate by then
	m.Off()
}

// releases has the server build a release that says a word, which the owner signs.
func (v *voyage) releases(word string) {
	v.t.Helper()
	v.signs("", "release", "sign", v.builds(word), "--yes")
}

// builds has the server build a release that says a word, and answers its commit.
func (v *voyage) builds(word string) (commit string) {
	v.t.Helper()
	project := v.t.TempDir()
	if err := os.WriteFile(filepath.Join(project, "Dockerfile"), fmt.Appendf(nil, "FROM base/busybox\nCMD [\"sh\", \"-c\", \"echo the %s; exec sleep 1000000\"]\nSTOPSIGNAL KILL\n", word), 0o600); err != nil {
		v.t.Fatal(err)
	}
	var made struct {
		Commit string `json:"commit"`
	}
	if err := json.Unmarshal([]byte(command(v.t, v.srv, "", "push", v.fleet, project, "-o", "json")), &made); err != nil || made.Commit == "" {
		v.t.Fatalf("push says no commit: %v", err)
	}
	return made.Commit
}

// ours is the environment of the owner, who has logged in and uses no API key.
func ours(home, url, ca string) []string {
	return []string{"HOME=" + home, "XDG_CONFIG_HOME=" + filepath.Join(home, ".config"), "ROADSTEAD_TRUST_PASSPHRASE_FILE=" + filepath.Join(home, "passphrase"),
		"ROADSTEAD_URL=" + url, "SSL_CERT_FILE=" + ca, "NO_COLOR=1"}
}

// signs runs our command line as the owner.
func (v *voyage) signs(stdin string, args ...string) {
	v.t.Helper()
	cmd := exec.CommandContext(v.t.Context(), fleettest.Program(v.t, "roadstead"), args...)
	cmd.Env = append(ours(v.home, v.srv.URL, v.srv.CA), "PATH="+os.Getenv("PATH"))
	cmd.Stdin = strings.NewReader(stdin)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		v.t.Fatalf("roadstead %s: %v: %s", strings.Join(args, " "), err, said.String())
	}
}

// serverAt is a machine with the server's files, and the owner's, at a time, and the test's hand in it.
func (v *voyage) serverAt(clock time.Time) *vm.Hand {
	v.t.Helper()
	_, port, err := net.SplitHostPort(v.srv.Addr)
	if err != nil {
		v.t.Fatal(err)
	}
	names := "127.0.0.1"
	for _, name := range []string{"", "api.", "dashboard.", "registry2.", "builder.", "git."} {
		names += " " + name + v.srv.Domain
	}
	hand := vm.NewHand(v.t)
	vm.Start(v.t, hand.Into(vm.Config{
		Disk: vm.Disk(v.t, filepath.Dir(v.srv.Dir), 1024), Clock: clock, Ports: []string{v.srv.Addr}, Memory: 1024, Hosts: []string{names},
		Files: map[string]string{
			"/bin/roadsteadd": fleettest.Program(v.t, "roadsteadd"), "/bin/roadstead": fleettest.Program(v.t, "roadstead"),
			"/etc/passwd": "/etc/passwd", "/etc/group": "/etc/group", // the roles' users
			"/usr/bin/git": "/usr/bin/git", // nobody pushes
		},
	}))
	server := hand.Start(guest.Run{Args: []string{"/bin/roadsteadd", "up", "--data", "/disk/data", "--domain", v.srv.Domain, "--listen", "0.0.0.0:" + port, "--git-listen", "off",
		"--poll-interval", "2s", "--vpn", "off"}})
	v.t.Cleanup(func() {
		if v.t.Failed() {
			v.t.Logf("the server of that time says:\n%s", server.Said())
		}
	})
	server.Says("ready https://dashboard." + v.srv.Domain)
	return hand
}

// ashore runs our command line as the owner, on the server's machine.
func (v *voyage) ashore(hand *vm.Hand, stdin string, args ...string) {
	v.t.Helper()
	said, how := hand.Start(guest.Run{Args: append([]string{"/bin/roadstead"}, args...), Env: ours("/disk/owner", v.srv.URL, "/disk/data/ca.pem"), Input: stdin}).Ended()
	if how != "ok" {
		v.t.Fatalf("roadstead %s, 18 months later: %s: %s", strings.Join(args, " "), how, said)
	}
}

// runs waits until the engine runs one container, which says a word, and is another one than before; and has its image and no other.
func (v *voyage) runs(m *vm.Machine, word string) {
	v.t.Helper()
	v.await(func() error {
		list, err := m.Containers()
		if err != nil {
			return err
		}
		images, err := m.Images()
		if err != nil {
			return err
		}
		if len(list) != 1 || !strings.Contains(list[0].Command, "the "+word+";") || list[0].ID == v.now || len(images) != 1 {
			return fmt.Errorf("the engine runs %+v, not the %s, and has the images %q", list, word, images)
		}
		v.now = list[0].ID
		return nil
	})
}

// still waits until the engine runs what it ran before, that very container, and nothing else; and looks that it has no image of anything else.
func (v *voyage) still(m *vm.Machine, word string) {
	v.t.Helper()
	v.await(func() error {
		list, err := m.Containers()
		if err == nil && (len(list) != 1 || list[0].ID != v.now || !strings.Contains(list[0].Command, "the "+word+";")) {
			err = fmt.Errorf("the engine runs %+v, not the %s that ran", list, word)
		}
		return err
	})
	images, err := m.Images()
	if err != nil {
		v.t.Fatal(err)
	}
	if len(images) != 1 {
		v.t.Errorf("the engine has the images %q", images)
	}
}

// isToldOf says to the device what was said of the first release when that was new, until it has said why it does not take that.
func (v *voyage) isToldOf(m *vm.Machine, reason string) {
	v.t.Helper()
	before := strings.Count(m.Console(), rejected)
	v.way.say(v.replays)
	v.hears(m, reason, before)
	v.way.say(nil)
}

const rejected = "the target state is rejected"

// hears waits until the device has heard of the first release several times, and has said why it does not take that, having said so a number of times before.
func (v *voyage) hears(m *vm.Machine, reason string, before int) {
	v.t.Helper()
	v.await(func() error {
		if v.way.said() < 4 {
			return fmt.Errorf("it has heard %d old answers", v.way.said())
		}
		all := strings.Split(m.Console(), rejected)
		why, _, whole := strings.Cut(all[len(all)-1], "\n")
		if len(all) <= before+1 || !whole || !strings.Contains(why, "reason="+reason) {
			return fmt.Errorf("it has refused %d times: %s", len(all)-1, why)
		}
		return nil
	})
}
