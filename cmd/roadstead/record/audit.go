// Package record holds the commands about what was done: the audit log, and the access that support staff were given.
package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
	"github.com/roadstead-io/roadstead/internal/ledger"
)

// record adds its commands to what they stand on.
type record struct{ *cmdline.App }

// Commands are the commands of this package.
func Commands(app *cmdline.App) []*cobra.Command {
	a := record{app}
	audit := cmdline.Group("audit", "What was done, by whom and from where", a.list(), a.export(), a.verify(), a.keys())
	audit.Long = `Every act that matters for security is in the server's audit log. You read what was done in the organizations that you administer, and what
was done by you or to you. The log is a chain: each entry is hashed with the one before, and the server's signer signs the newest from
time to time, so that a change shows. What others did is in the chain without its content.`
	return []*cobra.Command{audit, a.support()}
}

// row is an entry as the API gives it.
type row struct {
	ID           int64           `json:"id"`
	CreatedAt    string          `json:"created_at"`
	Act          string          `json:"act"`
	Result       string          `json:"result"`
	Thing        string          `json:"thing"`
	ThingID      int64           `json:"thing_id"`
	ThingName    string          `json:"thing_name"`
	Organization int64           `json:"organization"`
	Fleet        int64           `json:"application"`
	User         int64           `json:"about_user"`
	Support      bool            `json:"is_support"`
	Detail       json.RawMessage `json:"detail"`
	ByKind       string          `json:"by_kind"`
	ByUser       int64           `json:"by_user"`
	ByKey        int64           `json:"by_key"`
	BySession    int64           `json:"by_session"`
	ByName       string          `json:"by_name"`
	Address      string          `json:"address"`
	Request      string          `json:"request"`
	Seq          *int64          `json:"seq"`
	Hash         *string         `json:"hash"`
}

// view is an entry as it is printed.
type view struct {
	Seq       *int64          `json:"seq"` // null: not sealed yet
	At        string          `json:"at"`
	Act       string          `json:"act"`
	Result    string          `json:"result"`
	Thing     string          `json:"thing"`
	ThingID   int64           `json:"thing_id"`
	Name      string          `json:"name"`
	Org       int64           `json:"organization"`
	Fleet     int64           `json:"fleet"`
	User      int64           `json:"user"`
	Support   bool            `json:"support"`
	By        string          `json:"by"`
	ByKind    string          `json:"by_kind"`
	ByKey     int64           `json:"by_key"`
	BySession int64           `json:"by_session"`
	Address   string          `json:"address"`
	Request   string          `json:"request"`
	Detail    json.RawMessage `json:"detail"`
	Hash      *string         `json:"hash"`
}

func viewOf(r row) view {
	if r.Detail == nil {
		r.Detail = json.RawMessage("null")
	}
	return view{r.Seq, r.CreatedAt, r.Act, r.Result, r.Thing, r.ThingID, r.ThingName, r.Organization, r.Fleet, r.User, r.Support, r.ByName, r.ByKind,
		r.ByKey, r.BySession, r.Address, r.Request, r.Detail, r.Hash}
}

// line is an entry in a table.
func line(v view) []string {
	thing := strings.TrimSpace(v.Thing + " " + short(v.Name))
	if v.Name == "" && v.ThingID != 0 {
		thing = v.Thing + " " + strconv.FormatInt(v.ThingID, 10)
	}
	act := v.Act
	if v.Result != "done" {
		act += " (" + v.Result + ")"
	}
	if v.Support {
		act += " (support)"
	}
	return []string{local(v.At), v.By, act, thing, v.Address}
}

var head = []string{"When", "Who", "Act", "Thing", "From"}

// short cuts a uuid to what names it.
func short(name string) string {
	if api.DeviceUUID(name).Valid() {
		return terminal.Short(name)
	}
	return name
}

// local is a time for people: on their clock, to the second.
func local(at string) string {
	if t, ok := client.ParseTime(at); ok {
		return t.Local().Format("2006-01-02 15:04:05")
	}
	return at
}

const maxListed = 1000

// filter is what narrows a list of entries.
type filter struct {
	since, until, act, by, fleet, organization, user string
	refused                                          bool
	limit                                            int
}

func (f *filter) register(a record, cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.since, "since", "", "only since then: 12h, 7d, 2027-01-31, …")
	cmd.Flags().StringVar(&f.until, "until", "", "only until then")
	cmd.Flags().StringVar(&f.by, "by", "", "only what this user (or `NAME` of a device or role) did")
	cmd.Flags().IntVar(&f.limit, "limit", 50, "the newest so many")
	a.FleetFlag(cmd, &f.fleet, "only of this fleet")
}

// conditions are the parts of the OData filter.
func (f *filter) conditions(ctx context.Context, c *client.Client, now time.Time) (string, error) {
	var all []string
	add := func(text string, values ...any) { all = append(all, client.Where(text, values...)) }
	for _, t := range []struct{ text, op string }{{f.since, "ge"}, {f.until, "lt"}} {
		if t.text == "" {
			continue
		}
		at, err := cmdline.Instant(t.text, now, -1)
		if err != nil {
			return "", err
		}
		add("created_at "+t.op+" ?", at)
	}
	if family, ok := strings.CutSuffix(f.act, ".*"); ok {
		add("startswith(act,?)", family+".")
	} else if f.act != "" {
		add("act eq ?", f.act)
	}
	if f.by != "" {
		add("by_name eq ?", f.by)
	}
	if f.refused {
		add("result eq ?", "refused")
	}
	for _, of := range []struct {
		column, name string
		find         func(context.Context, *client.Client, string) (int64, error)
	}{{"application", f.fleet, fleetID}, {"organization", f.organization, organizationID}, {"about_user", f.user, userID}} {
		if of.name == "" {
			continue
		}
		id, err := strconv.ParseInt(of.name, 10, 64) // what was deleted has no name any more
		if err != nil {
			if id, err = of.find(ctx, c, of.name); err != nil {
				return "", err
			}
		}
		add(of.column+" eq ?", id)
	}
	return strings.Join(all, " and "), nil
}

func fleetID(ctx context.Context, c *client.Client, name string) (int64, error) {
	f, err := c.FindFleet(ctx, name, client.Query{Select: "id"})
	if err != nil {
		return 0, err
	}
	return f.ID, nil
}

type named struct {
	ID int64 `json:"id"`
}

func organizationID(ctx context.Context, c *client.Client, handle string) (int64, error) {
	found, err := client.Get[named](ctx, c, "organization", client.Query{Select: "id", Filter: client.Where("handle eq ?", strings.ToLower(handle))})
	if err == nil && len(found) == 0 {
		err = api.Errorf(api.NotFound, "no organization %q, or you may not see it", handle)
	}
	if err != nil {
		return 0, err
	}
	return found[0].ID, nil
}

func userID(ctx context.Context, c *client.Client, name string) (int64, error) {
	found, err := client.Get[named](ctx, c, "user", client.Query{Select: "id", Filter: client.Where("username eq ?", strings.ToLower(name))})
	if err == nil && len(found) == 0 {
		err = api.Errorf(api.NotFound, "no user %q, or you share nothing with them; a number finds what was done to a user who is gone", name)
	}
	if err != nil {
		return 0, err
	}
	return found[0].ID, nil
}

// print prints the newest entries that a filter means, oldest first.
func (a record) print(ctx context.Context, c *client.Client, f *filter, more string) error {
	if f.limit < 1 || f.limit > maxListed {
		return cmdline.Usagef("--limit %d: 1 to %d; `roadstead audit export` gives all", f.limit, maxListed)
	}
	where, err := f.conditions(ctx, c, time.Now())
	if err != nil {
		return err
	}
	if more != "" {
		where = strings.TrimPrefix(where+" and "+more, " and ")
	}
	rows, err := client.Get[row](ctx, c, "audit_entry", client.Query{Filter: where, OrderBy: "id desc", Top: f.limit})
	if err != nil {
		return err
	}
	views := make([]view, 0, len(rows))
	for i := len(rows) - 1; i >= 0; i-- {
		views = append(views, viewOf(rows[i]))
	}
	return a.Show(views, func() *terminal.Grid {
		g := &terminal.Grid{Head: head}
		for _, v := range views {
			g.Add(line(v)...)
		}
		return g
	})
}

func (a record) list() *cobra.Command {
	var f filter
	var follow bool
	cmd := a.Command(cmdline.Action{
		Use: "list", Aliases: []string{"ls"}, Short: "List what was done, newest last",
		Long: `List what was done, newest last. With --follow the command stays and shows new entries as they come, a second or two after they were made,
until Ctrl-C or until its session or key ends. With --follow -o json every entry is an object on a line of its own.`,
		Example: "  roadstead audit list --since 7d\n  roadstead audit list --act device.delete --fleet hello\n" +
			"  roadstead audit list --act 'api_key.*' --by ann\n  roadstead audit list --organization acme --refused -o json\n" +
			"  roadstead audit list --follow --fleet hello",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			if follow {
				return a.follow(ctx, c, &f)
			}
			return a.print(ctx, c, &f, "")
		},
	})
	f.register(a, cmd)
	cmd.Flags().StringVar(&f.act, "act", "", "only this act: device.delete, or device.* for all about devices")
	cmd.Flags().StringVar(&f.organization, "organization", "", "only of this organization")
	cmd.Flags().StringVar(&f.user, "user", "", "only what is about this user")
	cmd.Flags().BoolVar(&f.refused, "refused", false, "only what was refused")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "stay and show new entries")
	return cmd
}

func (a record) export() *cobra.Command {
	var after int64
	cmd := a.Command(cmdline.Action{
		Use: "export FILE", Short: "Write the log to a file that anybody can verify", Least: 1, Most: 1,
		Long: `Write the log to a file: one JSON object a line, with the signed checkpoints and the public key. Of what you may not read the file has only
digests, so that the chain can be verified all the same. The file appears when all of it is there.`,
		Example: "  roadstead audit export audit.ndjson\n  roadstead audit export new.ndjson --after 1200",
		Do: func(ctx context.Context, c *client.Client, args []string) error {
			count, err := a.exportTo(ctx, c, args[0], after)
			if err != nil {
				return err
			}
			a.Say("Wrote %d entries and %d links to %s, up to entry %d.", count.Entries, count.Links, args[0], count.Seq)
			return nil
		},
	})
	cmd.Flags().Int64Var(&after, "after", 0, "only the entries after this `NUMBER`")
	return cmd
}

// exportTo writes an export to a file, which is there whole or not at all.
func (a record) exportTo(ctx context.Context, c *client.Client, file string, after int64) (end api.AuditEnd, err error) {
	out, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*.part")
	if err != nil {
		return end, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(out.Name())
		}
	}()
	w := &lines{to: out, say: func(last int64) *terminal.Bar { return a.Counter("Exporting the audit log", max(0, last-after)) }}
	err = c.AuditExport(ctx, after, w)
	w.close()
	if err == nil && w.end == nil {
		err = errors.New("the export ended early; try again")
	}
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return end, err
	}
	return *w.end, os.Rename(out.Name(), file)
}

// maxLine bounds one line of an export.
const maxLine = 1 << 20

// lines hands an export on, and shows how far it is.
type lines struct {
	to   io.Writer
	say  func(last int64) *terminal.Bar
	bar  *terminal.Bar
	rest []byte // of a line that has not come to its end
	end  *api.AuditEnd
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			break
		}
		l.look(l.rest[:i])
		l.rest = l.rest[i+1:]
	}
	if len(l.rest) > maxLine {
		return 0, errors.New("a line of the export is longer than any entry")
	}
	return l.to.Write(p)
}

// look reads the lines that say how many there are, and counts the others.
func (l *lines) look(text []byte) {
	if l.bar == nil || strings.HasPrefix(string(text), `{"end"`) {
		var line api.AuditLine
		_ = json.Unmarshal(text, &line) // whoever verifies the export judges it
		if line.Header != nil && l.bar == nil {
			l.bar = l.say(line.Header.Last)
		}
		l.end = line.End
	} else {
		l.bar.Add(1)
	}
}

func (l *lines) close() {
	if l.bar != nil {
		l.bar.End()
	}
}

func (a record) keys() *cobra.Command {
	return a.Command(cmdline.Action{
		Use: "keys", Short: "Print the public keys that the log is signed with (JSON)",
		Long: `Print the public keys that the log is signed with. Keep them somewhere else than on the server: with the keys that you kept
` + "`roadstead audit verify --key FILE`" + ` also finds a log that was signed anew as a whole.`,
		Example: "  roadstead audit keys >roadstead-audit-keys.json",
		Do: func(ctx context.Context, c *client.Client, _ []string) error {
			keys, err := c.AuditKeys(ctx)
			if err != nil {
				return err
			}
			return a.JSON(keys)
		},
	})
}

func (a record) verify() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use: "verify [FILE]", Short: "Verify the chain of an export, or of the server's log as it is now",
		Long: `Verify the chain of an export, without the server, or of the server's log as it is now. Each entry must be the one that was sealed, none may be
missing, added or in another place, and each checkpoint must be signed and fit. What is wrong is named by its entry.`,
		Example: "  roadstead audit verify\n  roadstead audit verify audit.ndjson --key roadstead-audit-keys.json",
		Args:    cmdline.Args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var keys []api.AuditKey
			if keyFile != "" {
				data, err := os.ReadFile(keyFile)
				if err != nil {
					return err
				}
				if err := json.Unmarshal(data, &keys); err != nil || len(keys) == 0 {
					return cmdline.Usagef("--key %s: it is no list of keys as `roadstead audit keys` prints it", keyFile)
				}
			}
			report, err := a.verified(cmd.Context(), args, keys)
			if err != nil {
				return err
			}
			return a.tell(report)
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "`FILE` with the public keys to believe, as `roadstead audit keys` printed them once")
	return cmd
}

func (a record) verified(ctx context.Context, args []string, keys []api.AuditKey) (*ledger.Report, error) {
	if len(args) == 1 {
		f, err := os.Open(args[0])
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		return ledger.Verify(f, keys)
	}
	c, err := a.Connect(ctx)
	if err != nil {
		return nil, err
	}
	from, to := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w := &lines{to: to, say: func(last int64) *terminal.Bar { return a.Counter("Verifying the audit log", last) }}
		err := c.AuditExport(ctx, 0, w)
		w.close()
		_ = to.CloseWithError(err)
	}()
	report, err := ledger.Verify(from, keys)
	_ = from.Close() // ends an export that nobody reads any more
	<-done
	return report, err
}

// tell prints what a verification found.
func (a record) tell(r *ledger.Report) error {
	if a.Output == "json" {
		if r.Problems == nil {
			r.Problems = []ledger.Problem{}
		}
		if err := a.JSON(r); err != nil {
			return err
		}
	} else {
		for _, p := range r.Problems {
			_, _ = fmt.Fprintln(a.Out, terminal.Printable(p.Text))
		}
	}
	if !r.Whole() {
		return fmt.Errorf("the audit log of %s is not what was sealed: see entry %d", terminal.Printable(r.Site), r.Problems[0].Seq)
	}
	if a.Output == "json" {
		return nil
	}
	_, _ = fmt.Fprintf(a.Out, "The audit log of %s is whole: entries %d to %d, %d read and %d known by their digest.\n", terminal.Printable(r.Site), r.First,
		r.Last, r.Entries, r.Links)
	if r.Signed > 0 {
		_, _ = fmt.Fprintf(a.Out, "Signed up to entry %d, on %s, by key %s.\n", r.Signed, local(r.SignedAt), terminal.Printable(strings.Join(r.Keys, ", ")))
	}
	if r.After > 0 {
		a.Say("It begins after entry %d: what was before was not asked for, or was removed when its time was over.", r.After)
	}
	if r.Last > r.Signed {
		a.Say("Entries %d to %d are not signed yet: if the newest of them were taken away, nothing would show it.", max(r.First, r.Signed+1), r.Last)
	}
	if !r.Pinned && r.Signed > 0 {
		a.Say("The key came with the log. Compare it with one that you kept elsewhere, or give that with --key.")
	}
	return nil
}
