package bench_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

const odataSchema = `-- +goose Up
CREATE TABLE organization (id INTEGER PRIMARY KEY, handle TEXT NOT NULL);
CREATE TABLE membership (id INTEGER PRIMARY KEY, user INTEGER NOT NULL, organization INTEGER NOT NULL, UNIQUE (user, organization));
CREATE TABLE device_type (id INTEGER PRIMARY KEY, slug TEXT NOT NULL);
CREATE TABLE application (id INTEGER PRIMARY KEY, slug TEXT NOT NULL, organization INTEGER NOT NULL, is_for__device_type INTEGER NOT NULL);
CREATE TABLE device (id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, device_name TEXT NOT NULL, status TEXT, is_online INTEGER NOT NULL,
  os_version TEXT, memory_usage INTEGER, created_at TEXT NOT NULL, belongs_to__application INTEGER NOT NULL, is_of__device_type INTEGER NOT NULL);
CREATE INDEX device_application ON device (belongs_to__application);
CREATE TABLE device_tag (id INTEGER PRIMARY KEY, device INTEGER NOT NULL, tag_key TEXT NOT NULL, value TEXT NOT NULL, UNIQUE (device, tag_key));
INSERT INTO organization VALUES (1, 'o');
INSERT INTO membership VALUES (1, 7, 1);
INSERT INTO device_type VALUES (1, 'pi');
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) INSERT INTO application SELECT i, 'o/f' || i, 1, 1 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
  INSERT INTO device SELECT i, printf('%032x', i), 'device ' || i, 'Idle', i % 2, 'balenaOS 6.0.0', i, '2026-01-01T00:00:00.000Z', 1 + i % 20, 1 FROM n;
INSERT INTO device_tag SELECT id, id, 'site', 'x' FROM device;
`

// odataHandler serves 1,000 devices in 20 fleets with an access rule three tables long.
func odataHandler(b *testing.B) http.HandlerFunc {
	b.Helper()
	d, err := db.Open(db.Config{Path: filepath.Join(b.TempDir(), "bench.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.Close() })
	if err := d.Migrate(context.Background(), fstest.MapFS{"sqlite/0001_bench.sql": {Data: []byte(odataSchema)}}); err != nil {
		b.Fatal(err)
	}
	id := odata.Column{Name: "id"}
	text := func(name string) odata.Column { return odata.Column{Name: name, Type: odata.String} }
	key := func(name, to string, reverse ...string) odata.Column {
		return odata.Column{Name: name, Type: odata.ForeignKey, To: to, Reverse: reverse}
	}
	user := func(filter string) map[access.Kind]odata.Rule {
		return map[access.Kind]odata.Rule{access.User: {Read: filter}}
	}
	org := "organization/any(o:o/membership/any(m:m/user eq @user))"
	app := "belongs_to__application/any(a:a/" + org + ")"
	e, err := odata.New(odata.Config{DB: d, Prefixes: []string{"/v7/"}, Model: odata.Model{Resources: []*odata.Resource{
		{Name: "organization", Columns: []odata.Column{id, text("handle")}, Rules: user("membership/any(m:m/user eq @user)")},
		{Name: "membership", Columns: []odata.Column{id, {Name: "user"}, key("organization", "organization")}, Rules: user("user eq @user")},
		{Name: "device_type", Columns: []odata.Column{id, text("slug")}, Rules: user("true")},
		{Name: "application", Columns: []odata.Column{id, text("slug"), key("organization", "organization"), key("is_for__device_type", "device_type")},
			Rules: user(org)},
		{Name: "device", Keys: [][]string{{"uuid"}}, Rules: user(app), Columns: []odata.Column{id, text("uuid"), text("device_name"), text("status"),
			{Name: "is_online", Type: odata.Boolean}, text("os_version"), {Name: "memory_usage"}, {Name: "created_at", Type: odata.Date},
			key("belongs_to__application", "application", "owns__device"), key("is_of__device_type", "device_type")}},
		{Name: "device_tag", Columns: []odata.Column{id, key("device", "device"), text("tag_key"), text("value")}, Rules: user("device/any(d:d/" + app + ")")},
	}}})
	if err != nil {
		b.Fatal(err)
	}
	h := e.Handler()
	return func(w http.ResponseWriter, r *http.Request) {
		caller := access.Caller{Kind: access.User, User: 7, Actor: 70}
		if err := h(w, r.WithContext(access.With(r.Context(), caller))); err != nil {
			b.Error(err)
		}
	}
}

// BenchmarkOData: one request to the engine and back, without TLS and authentication.
func BenchmarkOData(b *testing.B) {
	h := odataHandler(b)
	for _, c := range []struct {
		name, url string
		rows      int
	}{
		{"PointRead", fmt.Sprintf("device(uuid='%032x')?$select=id,uuid,device_name,status", 500), 1},
		{"List50x8", "device?$select=id,uuid,device_name,status,is_online,os_version,memory_usage,created_at&$top=50&$orderby=id%20asc", 50},
		{"DeviceListOfTheCLI50", "device?$select=id,uuid,device_name,status,is_online,os_version&$expand=belongs_to__application($select=slug)," +
			"is_of__device_type($select=slug)&$orderby=device_name%20asc&$top=50", 50},
		{"NestedExpandOneFleet", "application(1)?$select=slug&$expand=owns__device($select=uuid,is_online;$expand=is_of__device_type($select=slug)," +
			"device_tag($select=tag_key,value))", 1},
		{"NestedExpand1000Devices", "application?$select=slug&$expand=owns__device($select=uuid,is_online;$expand=is_of__device_type($select=slug)," +
			"device_tag($select=tag_key,value))", 20},
		{"Count", "device/$count?$filter=is_online", -1},
	} {
		b.Run(c.name, func(b *testing.B) {
			size := 0
			for b.Loop() {
				w := httptest.NewRecorder()
				h(w, httptest.NewRequest(http.MethodGet, "/v7/"+c.url, nil))
				size = w.Body.Len()
				if w.Code != http.StatusOK || c.rows == 1 && !strings.HasPrefix(w.Body.String(), `{"d":[{`) {
					b.Fatalf("%d %s", w.Code, w.Body)
				}
			}
			b.ReportMetric(float64(size), "bytes/answer")
		})
	}
}
