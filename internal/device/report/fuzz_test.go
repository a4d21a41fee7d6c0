package report_test

import (
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/device/report"
)

func FuzzReportV2(f *testing.F) {
	f.Add(`{"local":{"status":"Idle","is_on__commit":"abc","apps":{"1":{"services":{"7":{"status":"Running","releaseId":3,"download_progress":null}}}}},"dependent":{}}`)
	f.Add(`{"local":{"apps":[{"services":[{"imageId":7,"status":"x","download_progress":1e999}]}]}}`)
	f.Add(`{"local":{"apps":{"1":null},"cpu_usage":"7","ip_address":null}}`)
	f.Add(`{"local":null}`)
	f.Fuzz(func(t *testing.T, body string) {
		r, err := report.ReadV2([]byte(body))
		if err != nil {
			if api.AsError(err).Code == api.Internal {
				t.Errorf("readReportV2(%q): %v", body, err)
			}
			return
		}
		for name, v := range r.Columns {
			switch v.(type) {
			case nil, bool, int64, string:
			default:
				t.Errorf("column %s is a %T", name, v)
			}
		}
		if r.Older != nil && len(r.Older.Services) > report.MaxInstalls {
			t.Errorf("%d services", len(r.Older.Services))
		}
	})
}
