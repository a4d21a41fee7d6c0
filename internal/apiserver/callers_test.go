package apiserver_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// key makes a named key of a session's user.
func (s *server) key(session, name string, expires any) (key string) {
	s.Helper()
	s.do(session, "POST", "/api-key/user/full", map[string]any{"name": name, "expiryDate": expires}).want(http.StatusOK).into(&key)
	return key
}

// refusedAfter uses a key until it is refused and says how long that took from a moment on.
func (s *server) refusedAfter(key string, from time.Time) time.Duration {
	s.Helper()
	for time.Since(from) < 10*time.Second {
		switch a := s.do(key, "GET", "/actor/v1/whoami", nil); a.status {
		case http.StatusOK:
		case http.StatusUnauthorized:
			return time.Since(from)
		default:
			s.Fatalf("whoami: %d %s", a.status, a.body)
		}
	}
	s.Fatal("the key still holds after 10 s")
	return 0
}

// drop deletes a key in the database, past this process' own notice.
func (s *server) drop(name string) {
	s.Helper()
	s.must(s.running.WriteElsewhere(s.Context(), func(tx *db.Tx) error {
		_, err := tx.ExecContext(s.Context(), `DELETE FROM api_key WHERE name = ?`, name)
		return err
	}))
}

func TestARevokedKeyIsRefusedAtOnce(t *testing.T) {
	s := newServer(t)
	session := s.login(s.admin.Username, s.admin.Password)
	for range 5 {
		key := s.key(session, "ci", nil)
		s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
		s.do(session, "DELETE", "/v7/api_key?$filter=name%20eq%20'ci'", nil).want(http.StatusOK)
		s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	}
	other := s.login(s.admin.Username, s.admin.Password)
	s.do(other, "GET", "/user/v1/whoami", nil).want(http.StatusOK)
	s.do(other, "POST", "/user/v1/logout", nil)
	s.do(other, "GET", "/user/v1/whoami", nil).want(http.StatusUnauthorized)
}

// Another process of the api role says over the bus what it revoked; this one must not wait for its memory to fade.
func TestARevocationByAnotherProcessIsHeard(t *testing.T) {
	s := newServer(t)
	key := s.key(s.login(s.admin.Username, s.admin.Password), "elsewhere", nil)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.drop("elsewhere")
	from := time.Now()
	s.must(s.running.TellRevoked("key.1"))
	if took := s.refusedAfter(key, from); took > time.Second {
		t.Errorf("the key was refused after %s, want 1 s at most", took)
	}
}

// Should the bus be away, a revocation counts within two seconds all the same.
func TestARevocationThatNobodyHearsOf(t *testing.T) {
	s := newServer(t)
	key := s.key(s.login(s.admin.Username, s.admin.Password), "unheard", nil)
	s.do(key, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	s.drop("unheard")
	if took := s.refusedAfter(key, time.Now()); took > 2*time.Second {
		t.Errorf("the key was refused after %s, want 2 s at most", took)
	}
}

func TestAKeyEndsWhenItSays(t *testing.T) {
	s := newServer(t)
	session := s.login(s.admin.Username, s.admin.Password)
	ends := time.Now().Add(2 * time.Second).Truncate(time.Millisecond)
	key := s.key(session, "short", ends.UTC().Format(time.RFC3339Nano))
	for asked := 0; ; asked++ {
		before := time.Now()
		status := s.do(key, "GET", "/actor/v1/whoami", nil).status
		after := time.Now()
		if status == http.StatusOK && before.After(ends) {
			t.Fatalf("the key held %s after its end", before.Sub(ends))
		}
		if status != http.StatusOK {
			if after.Before(ends) || asked == 0 {
				t.Fatalf("the key was refused %s before its end, after %d requests", ends.Sub(after), asked)
			}
			return
		}
	}
}

// Who is support staff is remembered with the session: that it has begun, or ended, counts from the next request on.
func TestSupportStaffBeginsAndEndsAtOnce(t *testing.T) {
	s := newServer(t)
	owner := s.user("alice")
	s.device(owner, s.fleet(owner, "hello"), api.DeviceUUID(strings.Repeat("a", 32)))
	s.exec(`UPDATE device SET is_accessible_by_support_until__date = '2999-01-01T00:00:00.000Z'`)
	sue := s.user("sue")
	list := "/v7/device?$select=uuid&$top=5"
	sees := func(want int) {
		t.Helper()
		var got struct{ D []any }
		s.do(sue, "GET", list, nil).want(http.StatusOK).into(&got)
		if len(got.D) != want {
			t.Errorf("she sees %d devices, want %d", len(got.D), want)
		}
	}
	sees(0)
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "sue", Support: true}).want(http.StatusOK)
	sees(1)
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "sue"}).want(http.StatusOK)
	sees(0)
	s.role(api.RoleAdmin, "POST", "/internal/v1/users/support", api.SupportStaff{User: "nobody", Support: true}).want(http.StatusNotFound)
}
