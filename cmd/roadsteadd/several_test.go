package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/supervise"
)

// A server goes from one api process to three and back on the same directory and database: the devices' logs come along, tokens
// hold, and the bus is open to the api role alone.
func TestNumberOfAPIProcessesMayChange(t *testing.T) {
	pg := newPostgres(t, "fleets")
	sql := []string{"--sql-file", sqlFile(t, pg, "fleets")}
	dir := openDir(t)
	s := up(t, dir, "127.0.0.1:0", sql...)
	token := s.admin().APIKey
	dev := s.loggingDevice(token)
	s.say(dev, "from one process")
	s.stop()

	s = up(t, dir, "127.0.0.1:0", append(sql, "--api-processes", "3")...)
	for _, name := range []string{"api", "api-2", "api-3", "bus"} {
		if r := s.role(name); r.State != supervise.Healthy {
			t.Errorf("%s is %s %s", name, r.State, r.Why)
		}
	}
	s.busIsClosed()
	for range 6 { // whichever of them answers
		if code := s.whoami(token); code != http.StatusOK {
			t.Errorf("whoami: %d", code)
		}
	}
	s.said(dev, token, "from one process")
	s.say(dev, "from three")
	s.stop()

	s = up(t, dir, "127.0.0.1:0", sql...)
	if slices.ContainsFunc(s.status().Roles, func(r supervise.RoleStatus) bool { return r.Role == "bus" || r.Role == "api-2" }) {
		t.Errorf("one process is %+v", s.status().Roles)
	}
	s.said(dev, token, "from one process", "from three")
}

// loggingDevice registers a device.
func (s *server) loggingDevice(token string) (made api.Registered) {
	s.t.Helper()
	fleet := s.tagging(token)
	close(fleet.stop)
	fleet.all.Wait()
	code, _, text := s.call(s.client(), "POST", fmt.Sprintf("/api-key/application/%d/provisioning", fleet.fleet), token, api.NewKey{})
	var key string
	if err := json.Unmarshal([]byte(text), &key); code != http.StatusOK || err != nil {
		s.t.Fatalf("a provisioning key: %d %s", code, text)
	}
	code, _, text = s.call(s.client(), "POST", "/device/register", key, api.Register{
		Application: fleet.fleet, UUID: api.DeviceUUID(strings.Repeat("1", 32)), DeviceType: "generic-amd64"})
	if err := json.Unmarshal([]byte(text), &made); code != http.StatusCreated || err != nil {
		s.t.Fatalf("a device: %d %s", code, text)
	}
	return made
}

func (s *server) say(dev api.Registered, line string) {
	s.t.Helper()
	code, _, text := s.call(s.client(), "POST", "/device/v2/"+string(dev.UUID)+"/logs", dev.APIKey, []api.LogLine{{Message: line, Timestamp: 1}})
	if code != http.StatusCreated {
		s.t.Fatalf("a log line: %d %s", code, text)
	}
}

func (s *server) said(dev api.Registered, token string, want ...string) {
	s.t.Helper()
	code, _, text := s.call(s.client(), "GET", "/device/v2/"+string(dev.UUID)+"/logs", token, nil)
	var lines []api.LogLine
	if err := json.Unmarshal([]byte(text), &lines); code != http.StatusOK || err != nil {
		s.t.Fatalf("the log: %d %s", code, text)
	}
	var got []string
	for _, l := range lines {
		got = append(got, l.Message)
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("the log is %q, want %q", got, want)
	}
}

// busIsClosed tries every identity of the server at the door of the bus.
func (s *server) busIsClosed() {
	s.t.Helper()
	addr := s.role("bus").Address
	for _, as := range []string{"api", "api-2", "edge", "signer", "registry", "builder", "dashboard", "bus", "parent", "admin"} {
		id, err := pki.LoadIdentity(filepath.Join(s.dir, "roles", as))
		if err != nil {
			s.t.Fatal(err)
		}
		open := false
		if conn, err := id.Dial(s.t.Context(), "bus", addr, bus.Protocol); err == nil {
			n, _ := conn.Read(make([]byte, 1)) // the bus speaks first
			open = n == 1
			_ = conn.Close()
		}
		if want := strings.HasPrefix(as, "api"); open != want {
			s.t.Errorf("the bus is open to %s: %v", as, open)
		}
	}
}
