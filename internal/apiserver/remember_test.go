package apiserver_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/db"
)

// A device that polls all the time is answered from memory, where there is one. Its end counts within two seconds all the same, even
// if nobody says a word about it: neither to this process nor on the bus.
func TestADeviceThatEndsIsNotRemembered(t *testing.T) {
	s := newServer(t)
	fleet := s.fleet(s.admin.APIKey, "harbour")
	for n, end := range []string{`UPDATE device SET is_frozen = 1 WHERE uuid = ?`, `DELETE FROM device WHERE uuid = ?`} {
		dev := s.device(s.admin.APIKey, fleet, hexUUID(n+1))
		path, tag := "/device/v3/"+string(dev.UUID)+"/state", ""
		for began := time.Now(); time.Since(began) < 500*time.Millisecond; {
			a := s.do(dev.APIKey, "GET", path, nil, "If-None-Match: "+tag)
			if a.status != http.StatusOK && a.status != http.StatusNotModified {
				t.Fatalf("poll: %d %s", a.status, a.body)
			}
			tag = a.header.Get("ETag")
		}
		s.must(s.running.WriteElsewhere(t.Context(), func(tx *db.Tx) error {
			_, err := tx.ExecContext(t.Context(), end, dev.UUID)
			return err
		}))
		began := time.Now()
		for status := 0; status != http.StatusUnauthorized; {
			if status = s.do(dev.APIKey, "GET", path, nil, "If-None-Match: "+tag).status; time.Since(began) > 2*time.Second {
				t.Fatalf("%s: the device still polls after %s, status %d", end, time.Since(began), status)
			}
		}
	}
}
