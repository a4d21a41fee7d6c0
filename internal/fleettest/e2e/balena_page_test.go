package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Commands of the balena CLI that no script sees succeed, or fail, each with the reason. TestBalenaCLIScripts checks that the lists
// are exact; the reasons stand in docs/compatibility.md.
var (
	refusedCommands = map[string]string{
		"device identify":      "works while the device is on the control channel",
		"device init":          "not yet: the server keeps no OS images; the device that it registers is removed again",
		"device purge":         "works while the device is on the control channel",
		"device reboot":        "works while the device is on the control channel",
		"device restart":       "works while the device is on the control channel",
		"device shutdown":      "works while the device is on the control channel",
		"device ssh":           "works while the device is on the control channel",
		"device start-service": "works while the device is on the control channel",
		"device stop-service":  "works while the device is on the control channel",
		"device tunnel":        "works while the device is on the control channel",
		"fleet restart":        "works for devices that are on the control channel",
		"os download":          "not yet: the server keeps no OS images, and says so",
	}
	otherCommands = map[string]string{
		"push":   "works, see [api.md](api.md#builds)",      // TestBalenaCLI
		"deploy": "works, see [deploying.md](deploying.md)", // TestBalenaDeploy
	}
	absentCommands = map[string]string{
		"build":                 "asks nothing of the server but the fleet's type: it builds on its own machine",
		"preload":               "not tested: it wants an OS image",
		"join":                  "not tested: it wants a device in the same network",
		"leave":                 "asks nothing of the server",
		"config inject":         "asks nothing of the server",
		"config read":           "asks nothing of the server",
		"config reconfigure":    "not tested: it wants an OS image",
		"config write":          "asks nothing of the server",
		"device detect":         "asks nothing of the server",
		"internal osinit":       "asks nothing of the server",
		"local configure":       "asks nothing of the server",
		"local flash":           "asks nothing of the server",
		"os configure":          "not tested: it wants an OS image; `config generate` asks the same",
		"os initialize":         "asks nothing of the server",
		"util available-drives": "asks nothing of the server",
	}
	// neverFail are commands that fail for no reason of the server's.
	neverFail = []string{"logout", "settings", "device-type list"}
)

// TestBalenaCLIScripts holds the scripts against the list of commands that the CLI has: each is run with its success and with its
// failure, or there is a reason why not.
func TestBalenaCLIScripts(t *testing.T) {
	cli := os.Getenv("ROADSTEAD_BALENA_CLI")
	if cli == "" {
		t.Skip("ROADSTEAD_BALENA_CLI names no balena CLI; make test installs it")
	}
	var manifest struct {
		Commands map[string]json.RawMessage `json:"commands"`
	}
	readJSON(t, filepath.Join(filepath.Dir(cli), "node_modules/balena-cli/oclif.manifest.json"), &manifest)
	commands := map[string]*cliRuns{}
	for id := range manifest.Commands {
		commands[strings.ReplaceAll(id, ":", " ")] = &cliRuns{}
	}
	readScripts(t, commands)
	for name, runs := range commands {
		_, refused := refusedCommands[name]
		_, absent := absentCommands[name]
		_, other := otherCommands[name]
		switch {
		case absent || other:
			if *runs != (cliRuns{}) {
				t.Errorf("%s is listed as not run by the scripts, but is: %+v", name, *runs)
			}
		case refused:
			if runs.works != 0 || runs.fails == 0 {
				t.Errorf("%s is listed as refused: %+v", name, *runs)
			}
		case runs.works == 0:
			t.Errorf("no script runs %s with success", name)
		case runs.fails == 0 && !slices.Contains(neverFail, name):
			t.Errorf("no script runs %s with a failure", name)
		}
	}
	for _, list := range []map[string]string{refusedCommands, absentCommands, otherCommands} {
		for name := range list {
			if commands[name] == nil {
				t.Errorf("the CLI has no command %q", name)
			}
		}
	}
	comparePage(t, "cli", cliPage(commands))
}

// cliRuns counts how often the scripts run a command.
type cliRuns struct{ works, fails int }

// readScripts counts the commands that the scripts run.
func readScripts(t *testing.T, commands map[string]*cliRuns) {
	t.Helper()
	files, err := filepath.Glob("testdata/balena/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no scripts: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			words := strings.Fields(line)
			failing := len(words) > 0 && words[0] == "!"
			if failing {
				words = words[1:]
			}
			switch {
			case len(words) > 1 && words[0] == "tail":
				words = []string{"device", "logs"}
			case len(words) > 1 && words[0] == "balena":
				words = words[1:]
			default:
				continue
			}
			runs := commands[strings.Join(words[:min(2, len(words))], " ")]
			if runs == nil {
				runs = commands[words[0]]
			}
			if runs == nil {
				t.Errorf("%s: the CLI has no command for %q", file, line)
				continue
			}
			if failing {
				runs.fails++
			} else {
				runs.works++
			}
		}
	}
}

// cliPage is the CLI's part of docs/compatibility.md.
func cliPage(commands map[string]*cliRuns) string {
	var works []string
	var rest strings.Builder
	for _, name := range slices.Sorted(maps.Keys(commands)) {
		why := refusedCommands[name] + absentCommands[name] + otherCommands[name]
		if why == "" {
			works = append(works, "`"+name+"`")
			continue
		}
		fmt.Fprintf(&rest, "| `%s` | %s |\n", name, why)
	}
	return fmt.Sprintf("\nOf %d commands, these %d work: %s.\n\n| command | here |\n|---|---|\n%s\n", len(commands), len(works),
		strings.Join(works, ", "), rest.String())
}

// comparePage holds a generated part of docs/compatibility.md against what it should be, or writes it.
func comparePage(t *testing.T, part, want string) {
	t.Helper()
	file := filepath.Join(p.top, "docs/compatibility.md")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	from := fmt.Sprintf("<!-- %s: go test ./internal/fleettest/e2e -run TestBalena -update -->\n", part)
	to := fmt.Sprintf("<!-- /%s -->\n", part)
	head, rest, ok := strings.Cut(string(data), from)
	have, foot, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the lines %s and %s", file, from, to)
	}
	switch {
	case have == want:
	case *update:
		if err := os.WriteFile(file, []byte(head+from+want+to+foot), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is stale; run the test with -update. The part %q should be\n%s", file, part, want)
	}
}
