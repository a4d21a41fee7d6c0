package bench_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
)

// BenchmarkAudit is what the audit log costs: an entry in a transaction of its own, in one with 100 others, and its sealing.
func BenchmarkAudit(b *testing.B) {
	d := dbtest.Open(b, nil, apiserver.Migrations()...)
	l := audit.New(audit.Config{DB: d})
	by := access.Caller{Kind: access.User, User: 1, Session: 2, Name: "ann", Address: "192.0.2.1", Request: "0123456789abcdef"}
	record := func(n int) {
		if err := d.Write(b.Context(), func(tx *db.Tx) error {
			for range n {
				e := audit.Entry{Act: "device.update", Kind: "device", ID: 3, Name: strings.Repeat("a", 32), Organization: 4, Fleet: 5,
					Detail: map[string]any{"before": map[string]any{"device_name": "one"}, "after": map[string]any{"device_name": "another"}}}
				if err := audit.Record(b.Context(), tx, by, e); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("Record", func(b *testing.B) {
		for b.Loop() {
			record(1)
		}
	})
	b.Run("Record100", func(b *testing.B) {
		for b.Loop() {
			record(100)
		}
		b.ReportMetric(100*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	})
	b.Run("Seal1000", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			if err := l.SealOnce(b.Context()); err != nil {
				b.Fatal(err)
			}
			record(1000)
			b.StartTimer()
			if err := l.SealOnce(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(1000*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	})
}

// BenchmarkPatch is a change of one device by its owner: rules, hooks, commit, and the entry in the audit log.
func BenchmarkPatch(b *testing.B) {
	w := newAPIRole(b, 50)
	n := 0
	for b.Loop() {
		n++
		w.do(api.RoleEdge, "PATCH", fmt.Sprintf("/v7/device(%d)", w.devices[0].ID), w.admin.APIKey, map[string]any{"device_name": fmt.Sprint("name-", n)}, 200)
	}
}
