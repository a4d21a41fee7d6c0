package apiserver

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/audit/watch"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/fleet"
)

// namedDevices is how many of the devices of one action have an entry of their own; of more there is one for all.
const namedDevices = 20

// recordAction writes down that somebody has something done on devices, before they are called: what cannot be recorded is not done.
func recordAction(ctx context.Context, tx *db.Tx, by access.Caller, devices []device.Reachable, a action) error {
	if by.Kind == access.Device {
		return nil // acts on itself
	}
	ids := make([]int64, len(devices))
	for i, d := range devices {
		ids[i] = d.Fleet
	}
	owners, err := fleet.Organizations(ctx, tx, ids)
	if err != nil {
		return err
	}
	detail := map[string]any{"method": a.method, "path": a.path}
	var entries []audit.By
	if len(devices) <= namedDevices {
		for _, d := range devices {
			e := audit.Entry{Act: "device.act", Kind: "device", ID: d.ID, Name: string(d.UUID), Fleet: d.Fleet, Organization: owners[d.Fleet], Detail: detail}
			entries = append(entries, audit.By{Caller: by, Entry: e})
		}
	} else {
		many := map[int64]int{}
		for _, d := range devices {
			many[d.Fleet]++
		}
		for f, n := range many {
			e := audit.Entry{Act: "device.act", Kind: "application", ID: f, Fleet: f, Organization: owners[f],
				Detail: map[string]any{"method": a.method, "path": a.path, "devices": n}}
			entries = append(entries, audit.By{Caller: by, Entry: e})
		}
	}
	for i := range entries {
		if err := watch.Support(ctx, tx, by, &entries[i].Entry); err != nil {
			return err
		}
	}
	return audit.RecordAll(ctx, tx, entries)
}

// recordConfig writes down that somebody took a config.json, which holds a key that lets devices in.
func recordConfig(ctx context.Context, tx *db.Tx, by access.Caller, ask fleet.Answers) error {
	id, err := ask.Fleet()
	if err != nil {
		return err
	}
	owners, err := fleet.Organizations(ctx, tx, []int64{id})
	if err != nil {
		return err
	}
	return audit.Record(ctx, tx, by, audit.Entry{Act: "config.download", Kind: "application", ID: id, Name: fmt.Sprint(id), Fleet: id,
		Organization: owners[id]})
}

// recordOperator writes down what the operator of the server did.
func (s *Server) recordOperator(ctx context.Context, act, name string) error {
	return s.db.WriteOne(ctx, func(tx *db.Tx) error {
		return audit.Record(ctx, tx, access.From(ctx), audit.Entry{Act: act, Kind: "server", Name: name})
	})
}
