package watch

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account/rights"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

// How notes are kept.
const (
	writeNotes  = 500 * time.Millisecond
	lookAgain   = time.Hour   // one entry for so long of the same session looking at the same thing
	refuseAgain = time.Minute // one entry, with a count, for so long of the same being refused to the same caller
	mostNotes   = 1000        // of each kind between two writes
	mostKnown   = 20_000
)

// Notes are what requests leave for the audit log without waiting for it: what support staff looked at, and what people were refused. They
// are written a moment later, and few of them however many requests there are. What was noted in the last moment before the process dies is
// lost; acts are not written this way. When they cannot be written they are kept for the next time.
type Notes struct {
	db  *db.DB
	log *slog.Logger

	mu      sync.Mutex // covers all below
	looks   map[thing]*look
	refused map[refusal]*refused
	known   map[known]time.Time // what was written, and when
}

// thing is what was looked at in one session. Neither device nor fleet: something that names none, such as a list.
type thing struct {
	session       int64
	device, fleet int64
	uuid          string
}

type look struct {
	by   access.Caller
	at   time.Time
	path string
}

type refusal struct {
	user, key    int64
	method, what string
}

type refused struct {
	by    access.Caller
	path  string
	times int
}

type known struct {
	session, device, fleet int64
	list                   bool
	refusal                refusal
}

// NewNotes makes them; it starts nothing.
func NewNotes(d *db.DB, log *slog.Logger) *Notes {
	return &Notes{db: d, log: log, looks: map[thing]*look{}, refused: map[refusal]*refused{}, known: map[known]time.Time{}}
}

var (
	uuids  = pattern.New(`\b[0-9a-f]{62}\b|\b[0-9a-f]{32}\b`)
	keys   = pattern.New(`\b(device|application)\((\d{1,18})\)`)
	ofOne  = pattern.New(`^/(?:v[0-9]/(?:device|application)\(|device/v[0-9]/|access/)`) // paths of a device or a fleet
	equals = pattern.New(`\b(device|application|belongs_to__application|appId|deviceId)(?:/id)?(?: eq |=)(\d{1,18})\b`)
)

// mostNamed is how many things are looked for in one address.
const mostNamed = 20

// named finds the devices and fleets that an address names, and whether that is all that it can show: it is so of the path of one of them
// and of a query that only chooses among their columns. A filter says what it likes, and an expansion leads elsewhere.
func named(session int64, u *url.URL) (things []thing, all bool) {
	add := func(text string) {
		for _, uuid := range uuids.FindAllString(text, mostNamed) {
			things = append(things, thing{session: session, uuid: uuid})
		}
		for _, found := range append(keys.FindAllStringSubmatch(text, mostNamed), equals.FindAllStringSubmatch(text, mostNamed)...) {
			id, _ := strconv.ParseInt(found[2], 10, 64) // 18 digits fit
			if strings.HasPrefix(found[1], "device") {
				things = append(things, thing{session: session, device: id})
			} else {
				things = append(things, thing{session: session, fleet: id})
			}
		}
	}
	add(u.Path)
	all = len(things) > 0 && ofOne.MatchString(u.Path)
	query, err := url.QueryUnescape(u.RawQuery)
	if err != nil {
		query = u.RawQuery
	}
	add(query)
	all = all && err == nil && !strings.Contains(query, "filter") && !strings.Contains(query, "expand") && len(things) < mostNamed
	return things, all
}

// Look notes that support staff read something. What they may not see is sorted out when it is written.
func (n *Notes) Look(by access.Caller, u *url.URL) {
	if !by.Staff || by.Session == 0 {
		return
	}
	things, all := named(by.Session, u)
	if !all {
		things = append(things, thing{session: by.Session})
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range things {
		if len(n.looks) >= mostNotes { // too many to tell apart: it was something of all that is open
			t = thing{session: by.Session}
		}
		if n.looks[t] == nil {
			n.looks[t] = &look{by: by, at: time.Now(), path: u.Path}
		}
	}
}

// Refused notes that a person was refused a write.
func (n *Notes) Refused(by access.Caller, method, pattern, path string) {
	if !isPerson(by) {
		return
	}
	what, _, _ := strings.Cut(strings.TrimPrefix(path, pattern), "(")
	key := refusal{by.User, by.Key, method, pattern + what[:min(len(what), 60)]}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.refused[key]; !ok && len(n.refused) >= mostNotes {
		key = refusal{} // too many to tell apart
	}
	if n.refused[key] == nil {
		n.refused[key] = &refused{by: by, path: method + " " + path}
	}
	n.refused[key].times++
}

// Run writes the notes until the context ends, and then what is left.
func (n *Notes) Run(ctx context.Context) error {
	tick := time.NewTicker(writeNotes)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-tick.C:
			err := n.WriteOnce(ctx)
			if err != nil && !failed && ctx.Err() == nil { // it comes again every moment
				n.log.ErrorContext(ctx, "notes for the audit log", "error", err)
			}
			failed = err != nil
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if err := n.WriteOnce(last); err != nil {
				n.log.WarnContext(last, "notes for the audit log are lost", "error", err)
			}
			return nil
		}
	}
}

// WriteOnce writes what was noted.
func (n *Notes) WriteOnce(ctx context.Context) error {
	n.mu.Lock()
	looks := n.looks
	n.looks = map[thing]*look{}
	due := map[refusal]refused{}
	for key, r := range n.refused {
		if time.Since(n.known[known{refusal: key}]) > refuseAgain {
			due[key] = *r
			delete(n.refused, key)
		}
	}
	n.mu.Unlock()
	if len(looks) == 0 && len(due) == 0 {
		return nil
	}
	var wrote []known
	err := n.db.Write(ctx, func(tx *db.Tx) error {
		wrote = wrote[:0]
		var entries []audit.By
		here := map[known]bool{} // a thing may be called by two names
		for t, l := range looks {
			found, err := n.seen(ctx, tx, t, l)
			if err != nil {
				return err
			}
			for _, f := range found {
				if !here[f.known] {
					here[f.known] = true
					wrote, entries = append(wrote, f.known), append(entries, f.By)
				}
			}
		}
		for key, r := range due {
			wrote = append(wrote, known{refusal: key})
			e := audit.Entry{Act: "request.refuse", Result: audit.Refused, Kind: "request", Name: r.path, User: r.by.User}
			if r.times > 1 {
				e.Detail = map[string]any{"times": r.times}
			}
			entries = append(entries, audit.By{Caller: r.by, Entry: e})
		}
		return audit.RecordAll(ctx, tx, entries)
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil { // for the next time
		for t, l := range n.looks {
			looks[t] = l
		}
		n.looks = looks
		for key, r := range due {
			if later := n.refused[key]; later != nil {
				r.times += later.times
			}
			n.refused[key] = &r
		}
		return fmt.Errorf("write notes: %w", err)
	}
	for k, at := range n.known {
		if time.Since(at) > lookAgain || len(n.known) > mostKnown {
			delete(n.known, k)
		}
	}
	for _, k := range wrote {
		n.known[k] = time.Now()
	}
	return nil
}

func (n *Notes) isKnown(k known) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, ok := n.known[k]
	return ok && time.Since(at) < lookAgain
}

// sight is an entry about something that support staff saw.
type sight struct {
	known
	audit.By
}

// seen gives the entries that a look makes and that are not known: one for what was named if it was open to support then, and one for each
// open grant when nothing was named.
func (n *Notes) seen(ctx context.Context, tx *db.Tx, t thing, l *look) ([]sight, error) {
	at := db.FormatTime(l.at)
	const device = `SELECT d.id, d.uuid, f.id, f.organization, coalesce(f.is_accessible_by_support_until__date > ?, FALSE) OR
			coalesce(d.is_accessible_by_support_until__date > ?, FALSE) FROM device d JOIN application f ON f.id = d.belongs_to__application WHERE `
	const fleet = `SELECT 0, f.slug, f.id, f.organization, coalesce(f.is_accessible_by_support_until__date > ?, FALSE) FROM application f WHERE `
	switch {
	case t.device != 0:
		return n.sights(ctx, tx, l, "support.look", device+`d.id = ?`, at, at, t.device)
	case t.fleet != 0:
		return n.sights(ctx, tx, l, "support.look", fleet+`f.id = ?`, at, t.fleet)
	case t.uuid != "":
		found, err := n.sights(ctx, tx, l, "support.look", device+`d.uuid = ?`, at, at, t.uuid)
		if err != nil || len(found) > 0 {
			return found, err
		}
		return n.sights(ctx, tx, l, "support.look", fleet+`f.uuid = ?`, at, t.uuid)
	}
	fleets, err := n.sights(ctx, tx, l, "support.list", fleet+`f.is_accessible_by_support_until__date > ?`, at, at)
	if err != nil {
		return nil, err
	}
	devices, err := n.sights(ctx, tx, l, "support.list", device+`d.is_accessible_by_support_until__date > ?`, at, at, at)
	return append(fleets, devices...), err
}

func (n *Notes) sights(ctx context.Context, tx *db.Tx, l *look, act, query string, args ...any) ([]sight, error) {
	type row struct {
		device, fleet, organization int64
		name                        string
		open                        bool
	}
	var list []row
	rows, err := tx.QueryContext(ctx, query, args...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.device, &r.name, &r.fleet, &r.organization, &r.open); err != nil {
			return nil, err
		}
		if r.open {
			list = append(list, r)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	var out []sight
	for _, r := range list {
		k := known{session: l.by.Session, device: r.device, fleet: r.fleet, list: act == "support.list"}
		if n.isKnown(k) {
			continue
		}
		granted, err := rights.ByGrant(ctx, tx, l.by, r.fleet, access.Read)
		if err != nil {
			return nil, err
		}
		if !granted {
			continue
		}
		e := audit.Entry{Act: act, Kind: "application", ID: r.fleet, Name: r.name, Organization: r.organization, Fleet: r.fleet, Support: true}
		if r.device != 0 {
			e.Kind, e.ID = "device", r.device
		}
		if act == "support.look" {
			e.Detail = map[string]any{"path": l.path}
		}
		out = append(out, sight{k, audit.By{Caller: l.by, Entry: e}})
	}
	return out, nil
}
