package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The user's day: push a project, a new device runs it, a second push changes it, the log shows it.
func TestMainJob(t *testing.T) {
	project := copyProject(t, "hello")
	p.roadstead(t, "fleet", "create", "hello", "--type", "generic-amd64")
	if out := p.roadstead(t, "push", "hello", project); !strings.Contains(out, "web") {
		t.Errorf("push shows no build output: %s", out)
	}
	d := newDevice(t, "hello", "e2e-hello")
	d.registered(t)
	d.running(t, "web", "writer")

	var page string
	eventually(t, 20*time.Second, "the page answers", func() bool { page = d.page(t); return page != "" })
	if strings.Contains(page, "a second push") {
		t.Fatal("the page already says what only the second push brings")
	}

	index := filepath.Join(project, "web", "index.html")
	text, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(index, append(text, []byte("<p>a second push</p>\n")...), 0o644); err != nil {
		t.Fatal(err)
	}
	p.roadstead(t, "push", "hello", project)
	pushed := time.Now()
	eventually(t, time.Minute, "the device shows the second push", func() bool { return strings.Contains(d.page(t), "a second push") })
	t.Logf("from the end of the push to the new page: %v", time.Since(pushed).Round(10*time.Millisecond))

	t.Run("the device says what it runs", func(t *testing.T) {
		var shown struct {
			UUID   string `json:"uuid"`
			Name   string `json:"name"`
			Online bool   `json:"online"`
		}
		if err := json.Unmarshal([]byte(p.roadstead(t, "device", "show", d.uuid, "-o", "json")), &shown); err != nil {
			t.Fatal(err)
		}
		if shown.UUID != d.uuid || shown.Name != d.name || !shown.Online {
			t.Errorf("device show: got %+v, want %s (%s) online", shown, d.uuid, d.name)
		}
		newest := p.call(t, "GET", "api", "/v7/application?$select=id&$filter=app_name%20eq%20%27hello%27&$expand=should_be_running__release($select=commit)", p.admin.APIKey, nil)
		eventually(t, 20*time.Second, "the device reports the release that the fleet wants: "+newest.body, func() bool {
			current := releaseOf(t, d)
			return current != "" && strings.Contains(newest.body, current)
		})
	})
	t.Run("its log can be read", func(t *testing.T) {
		eventually(t, 20*time.Second, "a line of the writer", func() bool {
			return strings.Contains(p.roadstead(t, "device", "logs", d.uuid, "--service", "writer"), "writer")
		})
	})
	t.Run("a variable reaches the container", func(t *testing.T) {
		p.roadstead(t, "env", "set", "GREETING", "good morning", "--device", d.uuid)
		eventually(t, time.Minute, "GREETING in the environment of web", func() bool {
			for _, c := range d.containers(t) {
				if strings.HasPrefix(c, "web_") {
					out, _ := d.exec(t, "docker", "inspect", "--format", "{{.Config.Env}}", c)
					return strings.Contains(out, "GREETING=good morning")
				}
			}
			return false
		})
		p.roadstead(t, "env", "set", "GREETING", "good evening", "--device", d.uuid) // an upsert
	})
	t.Run("the provisioning key is nowhere on the disk", func(t *testing.T) { keyIsGone(t, d) })
	t.Run("nothing listens on the device for others", func(t *testing.T) {
		address := strings.TrimSpace(shell(t, filepath.Join(p.top, "scripts/device.sh"), "ip", d.name))
		for _, port := range []string{"22", "2375", "48484", "22222"} {
			if dialable(address + ":" + port) {
				t.Errorf("port %s of the device answers", port)
			}
		}
	})
	t.Run("the control channel needs no way in, and no way out but 443", func(t *testing.T) { throughTheChannel(t, d) })
	t.Run("its owner enters it and its services", func(t *testing.T) { entered(t, d) })
	t.Run("a killed agent and a killed container come back", func(t *testing.T) {
		before := d.containers(t)
		if out, err := d.exec(t, "sh", "-c", "kill -9 $(cat /run/agent.pid)"); err != nil {
			t.Fatalf("kill the agent: %v: %s", err, out)
		}
		for _, c := range before {
			if out, err := d.exec(t, "docker", "kill", c); err != nil {
				t.Fatalf("docker kill %s: %v: %s", c, err, out)
			}
		}
		eventually(t, time.Minute, "all containers run again", func() bool { return len(d.containers(t)) == len(before) })
	})
	t.Run("device rm ends its access", func(t *testing.T) {
		p.roadstead(t, "device", "rm", d.uuid, "--yes")
		refusedEverywhere(t, d.uuid, d.key)
		if n := len(d.containers(t)); n != 2 {
			t.Errorf("a device that is no longer managed runs %d containers, want the 2 that ran", n)
		}
	})
}

// keyIsGone searches every file of the device, and then every byte of its disk.
func keyIsGone(t *testing.T, d *device) {
	t.Helper()
	if out, err := exec.Command("grep", "-rlaF", "--", d.provisioningKey, d.dir).CombinedOutput(); err == nil {
		t.Errorf("files with the provisioning key: %s", out)
	}
	must(t, "sync", "-f", d.dir)
	if out, err := exec.Command("grep", "-caF", "--", d.provisioningKey, d.image).CombinedOutput(); err == nil {
		t.Errorf("the raw disk still holds the provisioning key: %s matches", strings.TrimSpace(string(out)))
	}
	if err := exec.Command("grep", "-qaF", "--", d.uuid, d.image).Run(); err != nil {
		t.Error("the search finds not even the uuid on the raw disk: it proves nothing")
	}
}

// refusedEverywhere tries the key of a deleted device on every channel.
func refusedEverywhere(t *testing.T, uuid, key string) {
	t.Helper()
	for name, a := range map[string]answer{
		"poll":           p.call(t, "GET", "api", "/device/v3/"+uuid+"/state", key, nil),
		"report":         p.call(t, "PATCH", "api", "/device/v3/state", key, map[string]any{uuid: map[string]any{"status": "Idle"}}),
		"log write":      p.call(t, "POST", "api", "/device/v2/"+uuid+"/logs", key, []map[string]any{{"message": "x", "timestamp": 1, "isSystem": true}}),
		"registry token": p.call(t, "GET", "api", "/auth/v1/token?service=registry2."+p.domain, key, nil),
		"odata":          p.call(t, "GET", "api", "/v7/device", key, nil),
		"whoami":         p.call(t, "GET", "api", "/actor/v1/whoami", key, nil),
	} {
		if a.status != 401 && a.status != 404 {
			t.Errorf("%s with the key of a deleted device: got %d %s, want 401", name, a.status, a.body)
		}
	}
}

// releaseOf gives the commit that the server knows the device to run.
func releaseOf(t *testing.T, d *device) string {
	t.Helper()
	a := p.call(t, "GET", "api", "/v7/device(uuid='"+d.uuid+"')?$select=id&$expand=is_running__release($select=commit)", p.admin.APIKey, nil)
	var list struct {
		D []struct {
			Running []struct {
				Commit string `json:"commit"`
			} `json:"is_running__release"`
		} `json:"d"`
	}
	if err := json.Unmarshal([]byte(a.body), &list); err != nil || len(list.D) == 0 || len(list.D[0].Running) == 0 {
		return ""
	}
	return list.D[0].Running[0].Commit
}

// copyProject copies an example, so that a test may edit it.
func copyProject(t *testing.T, example string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), example)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(p.top, "examples", example))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func shell(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return string(out)
}

// Whatever dies while a device updates, everything comes back by itself and nothing that was acknowledged is missing.
func TestKilledRolesComeBack(t *testing.T) {
	project := copyProject(t, "hello")
	p.roadstead(t, "fleet", "create", "kill-test", "--type", "generic-amd64")
	p.roadstead(t, "push", "kill-test", project)
	d := newDevice(t, "kill-test", "e2e-kill")
	d.registered(t)
	d.running(t, "web", "writer")
	index := filepath.Join(project, "web", "index.html")
	acknowledged := 0
	write := func() {
		p.roadstead(t, "env", "set", fmt.Sprintf("WRITE_%d", acknowledged), "x", "--fleet", "kill-test")
		acknowledged++
	}
	for i, role := range []string{"edge", "api", "signer", "registry", "builder", "dashboard", "buildkit"} {
		mark := fmt.Sprintf("version %d", i)
		appendTo(t, index, "<p>"+mark+"</p>\n")
		write()
		p.roadstead(t, "push", "kill-test", project)
		kill(t, role)
		eventually(t, 30*time.Second, "every role is healthy after "+role+" was killed", healthy)
		write()
		eventually(t, 90*time.Second, "the device shows "+mark, func() bool { return strings.Contains(d.page(t), mark) })
	}

	t.Run("all at once", func(t *testing.T) {
		appendTo(t, index, "<p>last but one</p>\n")
		p.roadstead(t, "push", "kill-test", project)
		kill(t, "edge", "api", "signer", "registry", "builder", "dashboard", "buildkit")
		eventually(t, 30*time.Second, "every role is healthy after all were killed", healthy)
		write()
		eventually(t, 90*time.Second, "the device shows the last version but one", func() bool { return strings.Contains(d.page(t), "last but one") })
	})
	t.Run("the parent", func(t *testing.T) {
		appendTo(t, index, "<p>last version</p>\n")
		p.roadstead(t, "push", "kill-test", project)
		write()
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait()
		eventually(t, 10*time.Second, "no process of the server is left", func() bool {
			return exec.Command("pgrep", "-f", p.data).Run() != nil && !dialable(p.address+":443")
		})
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 90*time.Second, "the device shows the last version", func() bool { return strings.Contains(d.page(t), "last version") })
	})
	a := p.call(t, "GET", "api", "/v7/application_environment_variable/$count?$filter=application/any(a:a/app_name%20eq%20%27kill-test%27)", p.admin.APIKey, nil)
	if want := fmt.Sprintf(`"d":%d`, acknowledged); !strings.Contains(strings.ReplaceAll(a.body, " ", ""), want) {
		t.Errorf("variables after all kills: got %s, want %s", a.body, want)
	}
}

// A device that is switched on before its server is keeps trying, and loses nothing: neither its identity nor its one key.
func TestFirstBootWhileTheServerIsDown(t *testing.T) {
	p.roadstead(t, "fleet", "create", "early-bird", "--type", "generic-amd64")
	// A project of one Dockerfile is the privileged service main, as at balena; some virtual machines cannot run such a one.
	project, service := "examples/single", "main"
	if !mayBePrivileged(t) {
		t.Log("this machine lacks capabilities, so no container can be privileged: a compose project takes the place of the single Dockerfile")
		project, service = "examples/hello", "web"
	}
	p.roadstead(t, "push", "early-bird", filepath.Join(p.top, project))
	d := newDisk(t, "early-bird", "e2e-early")
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	d.up(t)
	eventually(t, 30*time.Second, "the agent says that it could not register", func() bool {
		return strings.Contains(tail(filepath.Join(d.dir, "log/agent.log"), 50), "again_in")
	})
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	d.registered(t)
	d.running(t, service)
	keyIsGone(t, d)
}

// mayBePrivileged says whether an engine on this machine can give a container every capability that the kernel knows.
func mayBePrivileged(t *testing.T) bool {
	t.Helper()
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "CapBnd:")
	have, err := strconv.ParseUint(strings.Fields(rest)[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(last)))
	if err != nil {
		t.Fatal(err)
	}
	return have == 1<<(n+1)-1
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// kill sends SIGKILL to roles, all in one moment.
func kill(t *testing.T, roles ...string) {
	t.Helper()
	var status struct {
		Roles []struct {
			Role string `json:"role"`
			PID  int    `json:"pid"`
		} `json:"roles"`
	}
	out, stderr, _ := p.try(t, "roadsteadd", "status", "--data", p.data, "-o", "json")
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatalf("status: %v: %s%s", err, out, stderr)
	}
	args := []string{"-9"}
	for _, r := range status.Roles {
		if slices.Contains(roles, r.Role) && r.PID > 1 {
			args = append(args, fmt.Sprint(r.PID))
		}
	}
	if len(args) != 1+len(roles) {
		t.Fatalf("status does not name a process for each of %v: %s", roles, out)
	}
	must(t, "kill", args...)
}

func healthy() bool {
	return p.command("roadsteadd", "status", "--data", p.data).Run() == nil
}
