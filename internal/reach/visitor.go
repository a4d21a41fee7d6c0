package reach

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
)

// Visitors of public addresses whom nobody asked who they are stand in the audit log by where they come from: an entry when the first of an
// hour comes to a device, and one with the numbers when the hour is over and they are gone. A row counts them until then; the entries
// are written later, by a chore, and not while a visitor waits.
const (
	visitorsPerHour = 100 // addresses of one device; the others share a row without one
	visitorsAtOnce  = 200 // of one transaction
	visitorsLongest = 24 * time.Hour
)

func hourOf(tx *db.Tx) string { return db.FormatTime(tx.Now.UTC().Truncate(time.Hour)) }

// network is what an address counts as: of IPv6 a network, for whoever has one address there has them all.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	if a = a.Unmap().WithZone(""); a.Is4() {
		return a.String()
	}
	p, err := a.Prefix(64)
	if err != nil {
		return ""
	}
	return p.String()
}

// came counts a visit, and gives the row that does.
func came(ctx context.Context, tx *db.Tx, o opened) (id int64, err error) {
	hour, from := hourOf(tx), network(o.by.Address)
	var known bool
	var others int
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM reach_visitor WHERE device = ? AND hour = ? AND address = ?),
		(SELECT count(*) FROM reach_visitor WHERE device = ? AND hour = ?)`, o.target.id, hour, from, o.target.id, hour).Scan(&known, &others)
	if err != nil {
		return 0, fmt.Errorf("reach: visitors: %w", err)
	}
	if !known && others >= visitorsPerHour {
		from = ""
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO reach_visitor (hour, device, address, created_at, uuid, application, organization, port)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (device, hour, address) DO UPDATE SET visits = reach_visitor.visits + 1 RETURNING id`,
		hour, o.target.id, from, tx.NowText(), o.uuid, o.target.fleet, o.target.organization, o.port).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("reach: visitor: %w", err)
	}
	return id, nil
}

// left adds what visitors sent and got.
func left(ctx context.Context, tx *db.Tx, carried map[int64]api.ReachEnded) error {
	for _, id := range slices.Sorted(maps.Keys(carried)) {
		_, err := tx.ExecContext(ctx, `UPDATE reach_visitor SET bytes_in = bytes_in + ?, bytes_out = bytes_out + ? WHERE id = ?`, carried[id].BytesIn, carried[id].BytesOut, id)
		if err != nil {
			return fmt.Errorf("reach: visitor: %w", err)
		}
	}
	return nil
}

// tellVisitors tells the audit log of those who came, and of those who are gone and whose hour is over.
func tellVisitors(ctx context.Context, tx *db.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT v.id, v.told = 1, v.hour < ? AND (v.hour < ? OR NOT EXISTS (SELECT 1 FROM reach_permit p WHERE p.visitor = v.id)),
			v.device, v.uuid, v.application, v.organization, v.port, v.address, v.created_at, v.visits, v.bytes_in, v.bytes_out
		FROM reach_visitor v WHERE v.told = 0 OR v.hour < ? ORDER BY v.id LIMIT ?`,
		hourOf(tx), db.FormatTime(tx.Now.Add(-visitorsLongest)), hourOf(tx), visitorsAtOnce)
	if err != nil {
		return fmt.Errorf("reach: visitors: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what there is to tell
	var entries []audit.By
	var fresh, over []int64
	for rows.Next() {
		o := opened{kind: api.ReachURL, by: access.Nobody()}
		var id, visits, in, out int64
		var told, gone bool
		var since string
		if err := rows.Scan(&id, &told, &gone, &o.target.id, &o.uuid, &o.target.fleet, &o.target.organization, &o.port, &o.by.Address, &since, &visits, &in, &out); err != nil {
			return fmt.Errorf("reach: visitors: %w", err)
		}
		if !told {
			entries = append(entries, audit.By{Caller: o.by, Entry: o.visited("open", since, nil)})
			fresh = append(fresh, id)
		}
		if gone {
			entries = append(entries, audit.By{Caller: o.by, Entry: o.visited("close", since, map[string]any{"visits": visits, "bytes_in": in, "bytes_out": out})})
			over = append(over, id)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reach: visitors: %w", err)
	}
	_ = rows.Close() // before the same connection writes
	if err := audit.RecordAll(ctx, tx, entries); err != nil {
		return err
	}
	for query, ids := range map[string][]int64{`UPDATE reach_visitor SET told = 1 WHERE id IN `: fresh, `DELETE FROM reach_visitor WHERE id IN `: over} {
		if len(ids) == 0 {
			continue
		}
		these, args := db.In(ids)
		if _, err := tx.ExecContext(ctx, query+these, args...); err != nil {
			return fmt.Errorf("reach: visitors: %w", err)
		}
	}
	return nil
}

// visited is an entry about visitors from one place: since when, and what else there is to tell.
func (o opened) visited(verb, since string, more map[string]any) audit.Entry {
	if more == nil {
		more = map[string]any{}
	}
	e := o.entry(verb, more)
	delete(more, "permit") // it is about several
	more["visitor"], more["since"] = true, since
	if o.by.Address == "" {
		more["addresses"] = "others"
	}
	return e
}
