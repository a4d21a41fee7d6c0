package device

import (
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

func FuzzReportV2(f *testing.F) {
	f.Add(`{"local":{"status":"Idle","is_on__commit":"abc","apps":{"1":{"services":{"7":{"status":"Running","releaseId":3,"download_progress":null}}}}},"dependent":{}}`)
	f.Add(`{"local":{"apps":[{"services":[{"imageId":7,"status":"x","download_progress":1e999}]}]}}`)
	f.Add(`{"local":{"apps":{"1":null},"cpu_usage":"7","ip_address":null}}`)
	f.Add(`{"local":null}`)
	f.Fuzz(func(t *testing.T, body string) {
		r, err := readReportV2([]byte(body))
		if err != nil {
			if api.AsError(err).Code == api.Internal {
				t.Errorf("readReportV2(%q): %v", body, err)
			}
			return
		}
		for name, v := range r.columns {
			switch v.(type) {
			case nil, bool, int64, string:
			default:
				t.Errorf("column %s is a %T", name, v)
			}
		}
		if r.older != nil && len(r.older.services) > maxInstalls {
			t.Errorf("%d services", len(r.older.services))
		}
	})
}

func FuzzVersion(f *testing.F) {
	for _, s := range []string{"balenaOS 2.98.33+rev1.prod", "6.0.0", "1.2.3-rc.1+rev2", "Debian 12", "99999999.1.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, ok := parseVersion(text)
		if ok && v.compare(v) != 0 {
			t.Errorf("%q is not itself: %+v", text, v)
		}
	})
}

func TestVersionsInOrder(t *testing.T) {
	list := []string{"2.9.0", "2.98.33-rc.1", "balenaOS 2.98.33", "2.98.33+rev1", "2.98.33+rev2.prod", "balenaOS 2.98.33+rev10", "6.0.0"}
	for i := range list {
		for j := range list {
			a, ok1 := parseVersion(list[i])
			b, ok2 := parseVersion(list[j])
			if want := min(1, max(-1, i-j)); !ok1 || !ok2 || a.compare(b) != want {
				t.Errorf("%s to %s: got %d, want %d", list[i], list[j], a.compare(b), want)
			}
		}
	}
	if _, ok := parseVersion("Debian 12"); ok {
		t.Error("Debian 12 is no such version")
	}
}
