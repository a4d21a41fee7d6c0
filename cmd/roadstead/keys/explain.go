package keys

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

func (a keys) keyExplainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "explain [ID]", Short: "Say what a key can do",
		Long: `Say what a key is, what it can do, until when, and when it was used last. The answer comes from the rules that the server enforces.
Without an ID it is about the key that this command uses itself.`,
		Example: "  roadstead key explain\n  roadstead key explain 12 -o json",
		Args:    cmdline.Args(0, 1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Connect(cmd.Context())
			if err != nil {
				return err
			}
			id := "self"
			if len(args) == 1 {
				if id = args[0]; strings.Trim(id, "0123456789") != "" {
					return cmdline.Usagef("%q is no key's ID; `roadstead key list` shows them", id)
				}
			}
			var k api.KeyExplanation
			if err := c.Do(cmd.Context(), "GET", "/api-key/v1/"+id+"/explain", nil, &k); err != nil {
				return err
			}
			if a.Output == "json" {
				return a.JSON(k)
			}
			_, err = fmt.Fprint(a.Out, explained(k))
			return err
		},
	}
}

// principals say what kinds of keys are.
var principals = map[string]string{
	"user": "everything that %s may do without a session", "scoped key": "a part of what %s may do",
	"device": "what the device %s may do", "frozen": "nothing: the device %s is frozen",
	"fleet key": "read the fleet %s", "provisioning": "register devices into the fleet %s, and nothing else",
}

func explained(k api.KeyExplanation) string {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%-12s %s\n", name+":", value) }
	list := func(name string, names []string) { line(name, cmp.Or(strings.Join(names, ", "), "nothing")) }
	line("key", strings.TrimSpace(fmt.Sprintf("%d %s", k.ID, k.Name)))
	line("may", fmt.Sprintf(cmp.Or(principals[k.Principal], k.Principal+" %s"), k.Of))
	if len(k.Verbs) > 0 {
		list("verbs", k.Verbs)
	}
	if k.Level != "" {
		line("level", "at least "+k.Level)
		if k.AllFleets {
			line("fleets", "all of "+k.Of+"'s")
		} else {
			list("fleets", append(k.Fleets, tagged(k.Tags)...))
		}
	}
	if len(k.DeviceTags) > 0 {
		list("devices", tagged(k.DeviceTags))
	}
	list("channels", k.Channels)
	line("networks", cmp.Or(strings.Join(k.Networks, ", "), "all"))
	if k.MaxUses != nil {
		line("uses", fmt.Sprintf("%d of %d", k.Uses, *k.MaxUses))
	}
	line("made", strings.TrimSpace(k.CreatedAt+" "+by(k.CreatedBy)))
	line("expires", cmp.Or(k.ExpiryDate, "never"))
	line("last used", strings.TrimSpace(cmp.Or(k.LastUsedAt, "never")+" "+from(k.LastUsedFrom)))
	for _, verb := range k.Verbs {
		if on := k.LastUsedFor[verb]; on != "" {
			line("  "+verb, on)
		}
	}
	if len(k.Unused) > 0 {
		line("hint", "it has not used "+strings.Join(k.Unused, ", ")+" for 30 days; a key without "+
			"that does the same: make one with "+needed(k))
	}
	if k.Ended != "" {
		line("ended", k.Ended+": it opens nothing")
	}
	list("reads", k.Reads)
	list("makes", k.Makes)
	list("changes", k.Changes)
	list("deletes", k.Deletes)
	list("routes", k.Routes)
	return b.String()
}

func by(name string) string {
	if name == "" {
		return ""
	}
	return "by " + name
}

func from(address string) string {
	if address == "" {
		return ""
	}
	return "from " + address
}

func tagged(tags []string) (list []string) {
	for _, tag := range tags {
		list = append(list, "those tagged "+tag)
	}
	return list
}

// needed is how to make a key that has what this one used.
func needed(k api.KeyExplanation) string {
	var flags []string
	for _, verb := range k.Verbs {
		if !slices.Contains(k.Unused, verb) {
			flags = append(flags, "--verb "+verb)
		}
	}
	return strings.Join(flags, " ")
}
