package limits_test

import (
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/builder/limits"
)

func TestLimitsAsTheOperatorWritesThem(t *testing.T) {
	var l limits.Limits
	if err := l.Parse("minutes=60, source_bytes=2GiB,organization_queue=7"); err != nil {
		t.Fatal(err)
	}
	if want := (limits.Limits{Minutes: 60, SourceBytes: 2 << 30, OrganizationQueue: 7}); l != want {
		t.Errorf("got %+v, want %+v", l, want)
	}
	for text, want := range map[string]string{
		"": "there is no limit", "minute=3": "only source_bytes, ", "minutes": "whole number", "minutes=-1": "whole number",
		"minutes=1h": "whole number", "source_bytes=2GB": "such as 500MiB", "source_bytes=99999999999TiB": "such as 500MiB",
		"builds=999999999": "limits: builds=999999999",
	} {
		if err := new(limits.Limits).Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
