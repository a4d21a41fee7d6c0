package e2e_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write docs/compatibility.md anew")

// TestBalenaSDK runs the suite of tools/balena-sdk, which uses every function of the real balena SDK, unmodified, that a
// self-hosted server can serve, and compares what it saw with docs/compatibility.md.
func TestBalenaSDK(t *testing.T) {
	node := os.Getenv("ROADSTEAD_BALENA_SDK")
	if node == "" {
		t.Skip("ROADSTEAD_BALENA_SDK names no program that has the balena SDK; make test installs it")
	}
	who := maps.Clone(folk(t))
	for _, name := range []string{"careful", "wary"} { // they get second factors, so they are nobody that other tests play
		who[name] = person{Email: name + "@example.com", Username: name, Password: "the long password of somebody " + name}
		if err := addUser(who[name]); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(t.TempDir(), "image.tar")
	if err := saveImage(image); err != nil {
		t.Fatal(err)
	}
	hostReleases(t)
	people, err := json.Marshal(who)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.json")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "--test-reporter=spec", "suite/main.mjs")
	cmd.Env = append(p.environment(), "API=https://api."+p.domain, "BUILDER=https://builder."+p.domain+"/",
		"USERS="+string(people), "IMAGE="+image, "REPORT="+report, "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		text := string(out)
		if _, failures, ok := strings.Cut(text, "failing tests:"); ok {
			text = failures
		}
		t.Errorf("the suite: %v\n%s", err, text)
	}
	var functions []sdkFunction
	readJSON(t, report, &functions)
	if t.Failed() {
		return
	}
	comparePage(t, "sdk", sdkPage(functions))
}

// sdkFunction is what the suite saw of one function of the SDK.
type sdkFunction struct {
	Name  string `json:"name"`
	State string `json:"state"` // works, refused or absent
	Why   string `json:"why"`   // unless it works
}

// sdkPage is the SDK's part of docs/compatibility.md: what works by model, then what does not and why.
func sdkPage(functions []sdkFunction) string {
	count := map[string]int{}
	works := map[string][]string{}
	var order []string
	for _, f := range functions {
		count[f.State]++
		if f.State != "works" {
			continue
		}
		part, name := sdkModel(f.Name)
		if works[part] == nil {
			order = append(order, part)
		}
		works[part] = append(works[part], "`"+name+"`")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nOf %d functions, %d work, %d are refused as they should be, %d are absent.\n\n", len(functions), count["works"],
		count["refused"], count["absent"])
	b.WriteString("| model | functions that work |\n|---|---|\n")
	for _, part := range order {
		fmt.Fprintf(&b, "| `%s` | %s |\n", part, strings.Join(works[part], " "))
	}
	b.WriteString("\n| function | here |\n|---|---|\n")
	for _, f := range functions {
		if f.State != "works" {
			fmt.Fprintf(&b, "| `%s` | %s |\n", f.Name, f.Why)
		}
	}
	b.WriteString("\n")
	return b.String()
}

// sdkModel cuts a function's name after its model.
func sdkModel(name string) (model, function string) {
	steps := strings.Split(name, ".")
	depth := 1
	if steps[0] == "models" {
		depth = 2
	}
	return strings.Join(steps[:depth], "."), strings.Join(steps[depth:], ".")
}
