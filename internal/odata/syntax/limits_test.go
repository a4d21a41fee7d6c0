package syntax_test

import (
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

func TestLimits(t *testing.T) {
	var l syntax.Limits
	if err := l.Parse("depth=5, rows=10,time=3"); err != nil || l.Depth != 5 || l.Rows != 10 || l.Time != 3*time.Second {
		t.Errorf("got %+v, %v", l, err)
	}
	if full := l.WithDefaults(); full.Depth != 5 || full.URL != 16<<10 || full.Time != 3*time.Second || full.Answer != 64<<20 {
		t.Errorf("with defaults: %+v", full)
	}
	for text, want := range map[string]string{
		"deep=5": "there is no such limit", "depth": "is not name=number", "depth=x": "is not name=number", "rows=-1": "is negative",
		"url=99999999": "is more than", "body=99999999": "is more than", "nodes=1000000": "is more than", "time=9999": "is not 0 to 10m",
	} {
		var l syntax.Limits
		if err := l.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"P1D": 24 * time.Hour, "-PT1H": -time.Hour, "P1DT2H3M4.5S": 26*time.Hour + 3*time.Minute + 4500*time.Millisecond, "PT0S": 0, "+PT5M": 5 * time.Minute,
	} {
		if got, err := syntax.ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "P", "PT", "P1DT", "1D", "P1H", "PT1D", "P1M", "P1Y", "PT1S1M", "P100001D", "PT9e9S", "P1.5D", "PT.S", "PT1.2.3S", "P-1D"} {
		if got, err := syntax.ParseDuration(text); err == nil {
			t.Errorf("%s: got %v, want an error", text, got)
		}
	}
}
