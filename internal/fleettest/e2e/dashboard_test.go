package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/fleettest"
)

// inTheDashboard does with a real browser what a person does with a device there: it looks at it, has it act, switches its channel, and works
// in terminals. Somebody else gets nothing of it.
func inTheDashboard(t *testing.T, d *device, connected func(bool) func() bool) {
	b := fleettest.NewBrowser(t)
	t.Cleanup(func() {
		if t.Failed() {
			out, errs, _ := p.try(t, "roadstead", "device", "sessions", d.uuid)
			t.Logf("who was in the device:\n%s%s", out, errs)
		}
	})
	pages := "https://dashboard." + p.domain
	page := "/devices/" + d.uuid
	login := func(name, password string) {
		t.Helper()
		b.Fill("input[name=username]", name)
		b.Fill("input[name=password]", password)
		b.Click("form.card button")
	}
	b.Open(pages + "/devices")
	login(p.admin.Username, p.admin.Password)
	b.Shows("/devices", "Last seen")
	b.Click(fmt.Sprintf("a[href='%s/summary']", page))
	for _, text := range []string{d.uuid, "generic-amd64", "Running", "up since", "web", "writer"} {
		b.Shows(page+"/summary", text)
	}

	b.Shows(page+"/summary", "verified")
	b.Open(pages + "/")
	b.Click("a:has-text('/acts')")
	for _, text := range []string{"held by the server (weaker)", "1 verified", "Signed by"} {
		b.Shows("/fleets/", text)
	}
	b.Click("table.releases a")
	b.Shows("/releases/", "builder")
	b.Open(pages + page + "/summary")

	before := d.started(t, "web")
	b.Click("tr:has-text('web') button[value=restart-service]")
	b.Shows("/actions", "Restart the service web")
	b.Click("#sure button.danger")
	b.Shows("/actions/", "restart-service web: done")
	if now := d.started(t, "web"); now == "" || now == before {
		t.Errorf("web was not started anew: %q", now)
	}
	before = d.started(t, "writer")
	b.Click("text=Back to the device")
	b.Click("button[value=reboot]")
	b.Shows("/actions", "Restart e2e-acts?")
	b.Click("#sure button.danger")
	b.Shows("/actions/", "reboot: done")
	eventually(t, time.Minute, "the services run after the reboot", func() bool { now := d.started(t, "writer"); return now != "" && now != before })

	b.Click("text=Back to the device")
	b.Click("button[name=mode][value=off]")
	b.Shows("/summary", "remote access off")
	eventually(t, time.Minute, "the channel is down", connected(false))
	b.Open(pages + page + "/terminal")
	b.Shows("/terminal", "remote access off")
	b.Open(pages + page + "/summary")
	b.Click("button[name=mode][value=on]")
	eventually(t, time.Minute, "the channel is up again", connected(true))
	eventually(t, time.Minute, "the services run", func() bool { return d.started(t, "web") != "" && d.started(t, "writer") != "" })

	b.Open(pages + page + "/summary")
	b.Click("#terminal")
	b.Shows("/terminal", "the device itself")
	b.Click("#open")
	b.Shows("/terminal", "Open.")
	b.Do("type", "text", "id; echo $((6*7))-$TERM\n")
	b.Shows("/terminal", "uid=0(root)")
	b.Shows("/terminal", "42-xterm-256color")
	b.Do("type", "text", "printf '\\033[38;2;1;2;3mcol''oured\\033[0m\\n'\n") // which xterm writes into attributes
	b.Shows("/terminal", "coloured")
	b.Do("type", "text", "exec sleep 4242\n")
	sleeping := func() bool {
		out, _ := d.exec(t, "sh", "-c", "pgrep -f '^sleep 4242' || true")
		return strings.TrimSpace(out) != ""
	}
	eventually(t, time.Minute, "the program of the terminal runs on the device", sleeping)
	b.Do("another")
	eventually(t, time.Minute, "the program ends with the tab", func() bool { return !sleeping() })

	b.Open(pages + page + "/terminal?service=writer")
	b.Do("select", "at", "select[name=service]", "value", "writer")
	b.Click("#open")
	b.Shows("/terminal", "Open.")
	b.Do("type", "text", "echo i''n-$((6*7)); test -e /.dockerenv && echo con''tainer\n")
	b.Shows("/terminal", "in-42")
	b.Shows("/terminal", "container")
	b.Do("type", "text", "exit 5\n")
	b.Shows("/terminal", "The program has ended with code 5.")
	// A service that has no container any more is said so.
	p.roadstead(t, "device", "stop", d.uuid, "web")
	b.Do("select", "at", "select[name=service]", "value", "web")
	b.Click("#open")
	b.Shows("/terminal", "The program has ended with code 1.")
	b.Shows("/terminal", `the service "web" does not run`)
	p.roadstead(t, "device", "start", d.uuid, "web")
	for _, wrong := range b.Do("state").Wrong {
		t.Errorf("the browser complains: %s", wrong)
	}
	b.Open(pages + page + "/summary")
	b.Shows("/summary", "shell writer")

	const password = "quay-lantern-7-herring"
	add := p.command("roadsteadd", "admin", "user", "add", "peeper@example.com", "--username", "peeper", "--password-stdin", "--data", p.data)
	add.Stdin = strings.NewReader(password)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("add a user: %v: %s", err, out)
	}
	b.Do("fresh")
	b.Open(pages + page + "/summary")
	login("peeper", password)
	b.Shows(page, "no such device")
	b.Open(pages + page + "/terminal")
	b.Shows(page, "no such device")
	b.Open(pages + "/devices")
	b.Shows("/devices", "You have no devices yet")
}
