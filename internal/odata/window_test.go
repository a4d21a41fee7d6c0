package odata_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// A big installation: 50,000 devices in 1,000 fleets. User 1 sees all of them, user 2 the ten that came last, user 3 nothing.
const bigSchema = `-- +goose Up
CREATE TABLE application (id INTEGER PRIMARY KEY, slug TEXT NOT NULL);
CREATE TABLE membership (id INTEGER PRIMARY KEY, "user" INTEGER NOT NULL, application INTEGER NOT NULL, UNIQUE ("user", application));
CREATE TABLE device (id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, device_name TEXT NOT NULL, status TEXT NOT NULL,
  belongs_to__application INTEGER NOT NULL);
CREATE INDEX device_application ON device (belongs_to__application);
CREATE INDEX device_device_name ON device (device_name, id);
INSERT INTO application WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1001) SELECT i, 'o/f' FROM n;
INSERT INTO membership SELECT id, 1, id FROM application;
INSERT INTO membership VALUES (2000, 2, 1001);
INSERT INTO device WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
  SELECT i, substr('' || (100000000 + i * 7919 % 50021), 2) || 'f', 'device ' || (100000 + i), 'Idle',
    CASE WHEN i > 49990 THEN 1001 ELSE 1 + i % 1000 END FROM n;
`

// newBig serves it with a rule of the kind that the real one is: a list of fleets that is made once for each statement.
func newBig(t testing.TB) *server {
	t.Helper()
	d := dbtest.Open(t, nil, dbtest.Schema("0001_big.sql", bigSchema))
	if d.Dialect() == db.Postgres {
		err := d.Write(t.Context(), func(tx *db.Tx) error {
			_, err := tx.ExecContext(t.Context(), `ANALYZE`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	seen := `({t}.belongs_to__application {in}SELECT m.application FROM membership m WHERE m."user" = @user{end})`
	device := &odata.Resource{
		Name: "device", Keys: [][]string{{"uuid"}}, Rules: map[access.Kind]odata.Rule{access.User: {Read: "is_seen"}},
		Columns: []odata.Column{
			{Name: "id"},
			{Name: "uuid", Type: odata.String},
			{Name: "device_name", Type: odata.String, Ordered: true},
			{Name: "status", Type: odata.String},
			{Name: "belongs_to__application"},
			{Name: "is_seen", Type: odata.Boolean, Hidden: true, SQL: seen},
		},
	}
	e, err := odata.New(odata.Config{DB: d, Prefixes: []string{"/v7/"}, Model: odata.Model{Resources: []*odata.Resource{device}}})
	if err != nil {
		t.Fatal(err)
	}
	return &server{e, d, t}
}

// person is a caller with this id.
func person(id int64) access.Caller { return access.Caller{Kind: access.User, User: id, Actor: id} }

// bigUUID is the uuid of a device.
func bigUUID(id int) string { return fmt.Sprintf("%08df", id*7919%50021) }

// ids is a list of rows with these ids and nothing else, from the first to the last one.
func ids(from, to int) string {
	var rows []string
	for step := max(min(to-from, 1), -1); ; from += step {
		rows = append(rows, fmt.Sprintf(`{"id":%d}`, from))
		if from == to {
			return "[" + strings.Join(rows, ",") + "]"
		}
	}
}

// TestFirstRows: whoever asks for a page gets the same rows in the same order, and it costs little, whether the first rows of the
// table are theirs or the last ones, or none.
func TestFirstRows(t *testing.T) {
	s := newBig(t)
	for _, c := range []struct {
		query          string
		all, few, none string
	}{
		{"$top=10", ids(1, 10), ids(49991, 50000), "[]"},
		{"$top=1", ids(1, 1), ids(49991, 49991), "[]"},
		{"$top=0", "[]", "[]", "[]"},
		{"$top=100&$skip=0", ids(1, 100), ids(49991, 50000), "[]"},
		{"$top=5&$skip=7", ids(8, 12), ids(49998, 50000), "[]"},
		{"$top=5&$orderby=id asc", ids(1, 5), ids(49991, 49995), "[]"},
		{"$top=5&$orderby=id desc", ids(50000, 49996), ids(50000, 49996), "[]"},
		{"$top=15&$orderby=id desc", ids(50000, 49986), ids(50000, 49991), "[]"},
		{"$top=5&$orderby=device_name asc", ids(1, 5), ids(49991, 49995), "[]"},
		{"$top=5&$skip=8&$orderby=device_name asc", ids(9, 13), ids(49999, 50000), "[]"},
		{"$top=2&$orderby=device_name desc", ids(50000, 49999), ids(50000, 49999), "[]"},
		{"$top=5&$skip=600", ids(601, 605), "[]", "[]"},
		{"$filter=uuid eq '" + bigUUID(49995) + "'", ids(49995, 49995), ids(49995, 49995), "[]"},
		{"$filter=uuid eq '" + bigUUID(7) + "'", ids(7, 7), "[]", "[]"},
		{"$filter=startswith(uuid,'" + bigUUID(7) + "')&$top=10", ids(7, 7), "[]", "[]"},
	} {
		for user, want := range map[int64]string{1: c.all, 2: c.few, 3: c.none} {
			if got := s.rows(person(user), "device?$select=id&"+c.query); got != want {
				t.Errorf("user %d, %s: got %.200s, want %.200s", user, c.query, got, want)
			}
		}
	}
	for user, want := range map[int64]string{1: "50000", 2: "10", 3: "0"} {
		if got := s.rows(person(user), "device/$count"); got != want {
			t.Errorf("user %d, $count: got %s, want %s", user, got, want)
		}
	}
}

// bigRequests are those whose cost must not grow with what others have, nor with what the caller has.
func bigRequests() map[string]string {
	return map[string]string{
		"FirstTen": "device?$top=10", "LastTen": "device?$top=10&$orderby=id desc", "TenByName": "device?$top=10&$orderby=device_name asc",
		"ByUUID": "device?$filter=uuid eq '" + bigUUID(49995) + "'", "ByStart": "device?$filter=startswith(uuid,'" + bigUUID(49995)[:7] + "')",
	}
}

// TestCostOfFirstRows: no answer comes of looking at all 50,000 rows. What that costs is measured beside it, so that neither a slow
// machine nor the race detector makes a difference: an answer takes a small part of it.
func TestCostOfFirstRows(t *testing.T) {
	s := newBig(t)
	best := func(user int64, url string, times int) time.Duration {
		quickest := time.Hour
		for range times {
			start := time.Now()
			s.rows(person(user), url)
			quickest = min(quickest, time.Since(start))
		}
		return quickest
	}
	scan := best(1, "device?$filter=contains(device_name,'no such name')", 3)
	for user, requests := range map[int64]map[string]string{1: bigRequests(), 2: bigRequests(), 3: bigRequests()} {
		if user != 1 && s.db.Dialect() == db.SQLite { // PostgreSQL may count with a scan
			requests["Count"] = "device/$count"
		}
		for name, url := range requests {
			if took := best(user, url, 15); took > scan/3 {
				t.Errorf("user %d, %s: %v, where looking at all rows takes %v", user, name, took, scan)
			}
		}
	}
}

// BenchmarkFirstRows measures them one by one.
func BenchmarkFirstRows(b *testing.B) {
	s := newBig(b)
	requests := bigRequests()
	requests["Count"] = "device/$count"
	for name, url := range requests {
		for user, who := range map[int64]string{1: "SeesAll", 2: "SeesTen"} {
			b.Run(name+"/"+who, func(b *testing.B) {
				h := s.Handler()
				for b.Loop() {
					r := httptest.NewRequest(http.MethodGet, "/v7/"+strings.ReplaceAll(url, " ", "%20"), nil)
					if err := h(httptest.NewRecorder(), r.WithContext(access.With(r.Context(), person(user)))); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
