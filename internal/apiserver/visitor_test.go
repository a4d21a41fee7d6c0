package apiserver_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// Anonymous visitors of a public address are in the audit log of whoever looks after the device: the first of an hour from one place, and what
// there was in all when the hour is over; never one entry for each visit, and not for more places than there is room for.
func TestVisitorsAreInTheAuditLog(t *testing.T) {
	c := newCrew(t)
	c.stop()
	c.now = withinTheHour()
	c.start()
	on := true
	c.do(c.owner, "PUT", "/device-url/v1/"+string(c.dev.UUID), api.PublicURLChange{Enabled: &on}).want(http.StatusOK)
	visit := func(from string) string {
		t.Helper()
		return c.opens(c.permit(api.ReachRequest{Kind: api.ReachURL, UUID: c.dev.UUID, From: from}))
	}
	tidy := func() { t.Helper(); c.must(c.running.TidyReach(t.Context())) }
	told := func(act string) []map[string]any { return c.entries(c.owner, "act eq '"+act+"'") }
	detail := func(e map[string]any) map[string]any { return e["detail"].(map[string]any) }

	first := visit("192.0.2.7")
	open := visit("192.0.2.7")
	one, two := visit("2001:db8::1"), visit("2001:db8::ffff:2") // of one network
	tidy()
	visit("192.0.2.7")
	tidy()
	opened := told("url.open")
	if len(opened) != 2 {
		t.Fatalf("four visits from two places: %v", opened)
	}
	for _, e := range opened {
		if e["by_kind"] != "anonymous" || e["thing_name"] != string(c.dev.UUID) || detail(e)["visitor"] != true || detail(e)["port"] != 80.0 ||
			e["address"] != "192.0.2.7" && e["address"] != "2001:db8::/64" {
			t.Errorf("it says %v", e)
		}
	}
	if n := len(c.entries(c.user("mallory"), "act eq 'url.open'")); n != 0 {
		t.Errorf("a stranger reads %d entries", n)
	}

	// When the hour is over it is told what there was, of those who are gone.
	ended := func(permit string, in, out int64) api.ReachEnded {
		return api.ReachEnded{Permit: permit, BytesIn: in, BytesOut: out, Why: "closed"}
	}
	c.ends(open, ended(first, 10, 100), ended(one, 1, 2), ended(two, 3, 4))
	tidy()
	if n := len(told("url.close")); n != 0 {
		t.Errorf("%d ends within the hour", n)
	}
	c.exec(`UPDATE reach_visitor SET hour = '2026-01-01T00:00:00.000Z' WHERE address <> '192.0.2.7'`)
	tidy()
	closed := told("url.close")
	if len(closed) != 1 || detail(closed[0])["visits"] != 2.0 || detail(closed[0])["bytes_in"] != 4.0 || detail(closed[0])["bytes_out"] != 6.0 {
		t.Fatalf("the end: %v", closed)
	}
	tidy()
	if n := len(told("url.close")); n != 1 {
		t.Errorf("%d ends when it was told", n)
	}

	// Whoever comes from everywhere fills the audit log with no more than a page.
	for i := range 120 {
		visit(fmt.Sprintf("198.51.100.%d", i))
	}
	visit("192.0.2.7") // who is known is counted as before
	tidy()
	if n := len(told("url.open")); n != 102 { // the two, and of this hour 192.0.2.7, 99 more and the others
		t.Errorf("%d entries", n)
	}
	if n := c.number(`SELECT visits FROM reach_visitor WHERE address = ''`); n != 21 {
		t.Errorf("%d visits from elsewhere", n)
	}
	if n := c.number(`SELECT visits FROM reach_visitor WHERE address = '192.0.2.7'`); n != 4 {
		t.Errorf("%d visits from a place that is known", n)
	}
}

// withinTheHour is a clock for whoever counts by the hour: it goes with the real one and stops where the hour ends that it began in.
func withinTheHour() func() time.Time {
	last := time.Now().Truncate(time.Hour).Add(time.Hour - time.Millisecond)
	return func() time.Time {
		if now := time.Now(); now.Before(last) {
			return now
		}
		return last
	}
}
