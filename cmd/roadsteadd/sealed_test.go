package main_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Who takes the edge over finds no API token in it, neither in its memory nor in its files, however many came by.
func TestTheEdgeHoldsNoToken(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can look into another process' memory")
	}
	s := up(t, openDir(t), "127.0.0.1:0")
	key := s.admin().APIKey
	client := s.client()
	for n := range 20 {
		req, err := http.NewRequest(http.MethodGet, "https://api."+domain+"/actor/v1/whoami", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %s", n, res.Status)
		}
	}
	// The connection is still open. The api role, which reads the token, has it in a buffer: the search finds what is there.
	if !memoryHolds(t, s.role("api").PID, key) {
		t.Error("the api role's memory does not hold the token; the search below shows nothing")
	}
	if memoryHolds(t, s.role("edge").PID, key) {
		t.Error("the edge's memory holds an API token")
	}
	err := filepath.WalkDir(filepath.Join(s.dir, "roles", "edge"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(key)) {
			t.Errorf("%s holds an API token", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(s.log.String(), key) {
		t.Error("the log holds an API token")
	}
}

// Nor a password that somebody types into the dashboard's pages, nor the cookie that the browser is given for it.
func TestTheEdgeHoldsNoPassword(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can look into another process' memory")
	}
	s := up(t, openDir(t), "127.0.0.1:0")
	browser, admin := s.client(), s.admin()
	browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser.Jar = jar
	const pages = "https://dashboard." + domain
	page := func(method, path string, form url.Values) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, pages+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Origin", pages)
		}
		res, err := browser.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	csrf := regexp.MustCompile(`name="csrf" value="([^"]+)"`)
	for range 10 {
		_, text := page(http.MethodGet, "/login", nil)
		if m := csrf.FindStringSubmatch(text); m != nil {
			form := url.Values{"csrf": {m[1]}, "username": {admin.Email}, "password": {admin.Password}, "next": {"/account"}}
			if status, answer := page(http.MethodPost, "/login", form); status != http.StatusSeeOther {
				t.Fatalf("log in: %d %s", status, answer)
			}
		}
		if status, _ := page(http.MethodGet, "/account", nil); status != http.StatusOK {
			t.Fatalf("the account's page: %d", status)
		}
	}
	at, err := url.Parse(pages + "/")
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{"the password": admin.Password}
	for _, c := range jar.Cookies(at) {
		secrets["the cookie "+c.Name] = c.Value
	}
	if len(secrets) < 3 {
		t.Fatalf("the browser has %d cookies", len(secrets)-1)
	}
	seen := false
	for what, secret := range secrets {
		seen = memoryHolds(t, s.role("dashboard").PID, secret) || seen
		if memoryHolds(t, s.role("edge").PID, secret) {
			t.Errorf("the edge's memory holds %s", what)
		}
	}
	if !seen {
		t.Error("the dashboard's memory holds none of it; the search above shows nothing")
	}
}

// memoryHolds searches all memory that a process can write for a text.
func memoryHolds(t *testing.T, pid int, text string) bool {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mem.Close() }()
	searched := 0
	lines := bufio.NewScanner(bytes.NewReader(maps))
	for lines.Scan() {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		data := make([]byte, to-from)
		n, err := mem.ReadAt(data, from)
		if err != nil && n == 0 {
			continue // a page that is reserved, not there
		}
		searched += n
		if bytes.Contains(data[:n], []byte(text)) {
			return true
		}
	}
	if searched < 1<<20 {
		t.Fatalf("only %d bytes of process %d could be read", searched, pid)
	}
	return false
}
