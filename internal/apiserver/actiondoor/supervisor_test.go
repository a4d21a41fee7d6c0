package actiondoor

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/device"
)

func FuzzOrder(f *testing.F) {
	f.Add(`{"deviceId":1,"appId":"2","data":{"a":1},"method":"get"}`)
	f.Add(`{"uuid":"00000000000000000000000000000001"}`)
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest("POST", "/supervisor/v1/blink", strings.NewReader(body))
		a, err := readOrder(r)
		if err != nil {
			if api.AsError(err).Code == api.Internal {
				t.Errorf("readOrder(%q): %v", body, err)
			}
			return
		}
		if a.Selector == (device.Selector{}) || a.Device < 0 || a.Fleet < 0 || (a.UUID != "" && !a.UUID.Valid()) {
			t.Errorf("readOrder(%q): %+v", body, a)
		}
	})
}
