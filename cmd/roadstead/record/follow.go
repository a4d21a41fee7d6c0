package record

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// How new entries are asked for.
const (
	askEvery = time.Second
	askLater = 30 * time.Second // at most, of a server that does not answer
)

// follow prints the newest entries and then every new one, until the context ends or the server refuses. New ones are told by their place in
// the chain, which they get in the order in which they are seen, a moment after they are made: none is skipped and none comes twice.
func (a record) follow(ctx context.Context, c *client.Client, f *filter) error {
	if f.until != "" {
		return cmdline.Usagef("--until: with --follow there is no end")
	}
	if f.limit < 0 || f.limit > maxListed {
		return cmdline.Usagef("--limit %d: with --follow, 0 to %d", f.limit, maxListed)
	}
	where, err := f.conditions(ctx, c, time.Now())
	if err != nil {
		return err
	}
	and := func(more string) string { return strings.TrimPrefix(where+" and "+more, " and ") }
	newest, err := client.Get[row](ctx, c, "audit_entry", client.Query{Select: "seq", Filter: "seq gt 0", OrderBy: "seq desc", Top: 1})
	if err != nil {
		return err
	}
	var last int64
	for _, r := range newest {
		last = *r.Seq
	}
	if f.limit > 0 {
		rows, err := client.Get[row](ctx, c, "audit_entry",
			client.Query{Filter: and(client.Where("seq le ?", last)), OrderBy: "seq desc", Top: f.limit})
		if err != nil {
			return err
		}
		for i := len(rows) - 1; i >= 0; i-- {
			if err := a.printOne(rows[i]); err != nil {
				return err
			}
		}
	}
	for wait := askEvery; ; {
		rows, err := client.Get[row](ctx, c, "audit_entry",
			client.Query{Filter: and(client.Where("seq gt ?", last)), OrderBy: "seq asc", Top: maxListed})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case refused(err):
			return err
		case err != nil:
			wait = min(2*wait, askLater)
			a.Say("The server does not answer (%v); asking again in %s.", err, wait)
		default:
			wait = askEvery
		}
		for _, r := range rows {
			last = *r.Seq
			if err := a.printOne(r); err != nil {
				return err
			}
		}
		if len(rows) == maxListed {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// refused reports whether asking again cannot help: the session has ended, say.
func refused(err error) bool {
	var re *client.ResponseError
	return errors.As(err, &re) && re.Status < http.StatusInternalServerError && re.Status != http.StatusTooManyRequests
}

// printOne prints an entry on a line of its own.
func (a record) printOne(r row) error {
	v := viewOf(r)
	if a.Output == "json" {
		return a.Line(v)
	}
	cells := line(v)
	for i := range cells {
		cells[i] = terminal.Printable(cells[i])
	}
	_, err := fmt.Fprintln(a.Out, strings.Join(cells, "  "))
	return err
}
