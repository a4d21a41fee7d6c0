package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

// TestManual keeps docs/cli.md true: it is the help of every command.
func TestManual(t *testing.T) {
	const file = "../../docs/cli.md"
	root := (&app{&cmdline.App{}}).command()
	root.InitDefaultCompletionCmd()
	var b strings.Builder
	b.WriteString("# The command line\n\nMade from the help of `roadstead`; `go test ./cmd/roadstead -run TestManual -update` writes it anew.\n\n")
	fmt.Fprintf(&b, "%s\n\n```\n%s\n```\n\nEvery command takes:\n\n```\n%s```\n", sentence(root), outdent(root.Example), flags(root.PersistentFlags()))
	manual(&b, root)
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), b.String()); diff != "" {
		t.Errorf("docs/cli.md is out of date; add -update (-have +want):\n%s", diff)
	}
}

func manual(b *strings.Builder, cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if !c.IsAvailableCommand() || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		if c.HasAvailableSubCommands() {
			fmt.Fprintf(b, "\n## %s\n\n%s\n", c.Name(), sentence(c))
			manual(b, c)
			continue
		}
		level := "##"
		if cmd.HasParent() {
			level = "###"
		}
		fmt.Fprintf(b, "\n%s %s\n\n%s\n\n```\n%s\n", level, strings.TrimPrefix(c.CommandPath(), "roadstead "), sentence(c), c.UseLine())
		if c.HasAvailableLocalFlags() {
			fmt.Fprintf(b, "\n%s", flags(c.LocalFlags()))
		}
		b.WriteString("```\n")
		fmt.Fprintf(b, "\n```\n%s\n```\n", outdent(c.Example))
	}
}

func sentence(c *cobra.Command) string {
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	// What is indented in the help is preformatted here.
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "  ") {
			lines[i] = "  " + l
			if !strings.HasPrefix(lines[i-1], "    ") {
				lines[i] = "\n" + lines[i]
			}
		}
	}
	return strings.Join(lines, "\n")
}

func flags(set *pflag.FlagSet) string { return set.FlagUsages() }

func outdent(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "\n")
}

// TestEveryCommandHasHelp: a sentence and an example each.
func TestEveryCommandHasHelp(t *testing.T) {
	var check func(*cobra.Command)
	check = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", c.CommandPath(), c.Short)
		}
		if !c.HasSubCommands() && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			check(sub)
		}
	}
	check((&app{&cmdline.App{}}).command())
}
