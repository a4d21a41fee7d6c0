package main_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/mail/mailtest"
)

// A server with a mail server: a letter really goes out of the api role's process, the status tells of letters, and no secret of it is
// in the log or where others read.
func TestMailOfARunningServer(t *testing.T) {
	m := mailtest.Start(t, mailtest.Options{STARTTLS: true})
	files := t.TempDir()
	password, ca := filepath.Join(files, "password"), filepath.Join(files, "ca.pem")
	for file, text := range map[string]string{password: mailtest.Password + "\n", ca: m.RootCA} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := up(t, openDir(t), "127.0.0.1:0", "--smtp", m.URL, "--smtp-password-file", password, "--smtp-ca-file", ca,
		"--mail-from", "Roadstead <no-reply@"+domain+">", "--security-contact", "https://example.com/report")
	if out, text, code := run(t, nil, "admin", "mail", "--data", s.dir, "--test", "ops@example.com"); code != 0 || !strings.Contains(out, "on its way") {
		t.Fatalf("admin mail --test: exit %d: %q %q", code, out, text)
	}
	if l := m.Wait(t, "ops@example.com", 1); l.Header.Get("Subject") != "A test letter from "+domain {
		t.Errorf("the letter: %v", l.Header)
	}
	m.Refuse(func(string) error { return os.ErrPermission })
	if _, text, code := run(t, nil, "admin", "mail", "--data", s.dir, "--test", "gone@example.com"); code != 0 {
		t.Fatalf("admin mail --test: exit %d: %q", code, text)
	}
	eventually(t, "the status tells of a letter that was refused", 30*time.Second, func() bool {
		out, _, _ := run(t, nil, "admin", "mail", "--data", s.dir, "-o", "json")
		var st api.MailStatus
		return json.Unmarshal([]byte(out), &st) == nil && st.On && st.Waiting+st.Failed == 1 && st.Why != ""
	})
	if out, _, code := run(t, nil, "status", "--data", s.dir); code > 1 || !strings.Contains(out, "mail: 1 waiting, 0 failed") {
		t.Errorf("status: exit %d: %s", code, out)
	}
	for _, name := range []string{"api", "dashboard", "registry2"} {
		resp, body := s.send(http.MethodGet, name, "/.well-known/security.txt", "", nil)
		if resp != http.StatusOK || !strings.HasPrefix(body, "Contact: https://example.com/report\nExpires: 20") || !strings.Contains(body, "https://"+name+"."+domain) {
			t.Errorf("security.txt of %s: %d %q", name, resp, body)
		}
	}
	s.stop()
	if strings.Contains(s.log.String(), mailtest.Password) {
		t.Error("the log holds the password")
	}
}
