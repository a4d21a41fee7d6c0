package gitsource

import (
	"strings"
	"testing"
)

func TestAddressesAreKeptInOneSpelling(t *testing.T) {
	for text, want := range map[string]string{
		"https://GitHub.com/acme/hello":                 "https://github.com/acme/hello",
		"https://git.example.com:8443/acme/hello.git/":  "https://git.example.com:8443/acme/hello.git",
		"ssh://git.example.com/acme/hello.git":          "ssh://git@git.example.com/acme/hello.git",
		"ssh://deploy_1@git.example.com:2222/~ann/a-b+": "ssh://deploy_1@git.example.com:2222/~ann/a-b+",
		"https://[2001:db8::1]:8443/a.git":              "https://[2001:db8::1]:8443/a.git",
	} {
		if u, err := parseURL(text); err != nil || u.String() != want {
			t.Errorf("%s: got %v, %v, want %s", text, u, err, want)
		}
	}
}

// What is taken is harmless wherever it goes: in single quotes to a shell, as a word to git, into a statement and a log.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"https://github.com/acme/hello", "ssh://git@h/a'b", "ssh://-oProxyCommand=x/y", "https://a@b/c", "https://h/%2e%2e/x", "git@h:x", "ssh://git@h:22/-x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := parseURL(text)
		if err != nil {
			return
		}
		kept := u.String()
		again, err := parseURL(kept)
		if err != nil || again.String() != kept {
			t.Errorf("%q becomes %q, which becomes %v, %v", text, kept, again, err)
		}
		if _, has := u.User.Password(); has || u.Scheme != "https" && u.Scheme != "ssh" || strings.ContainsAny(kept, "'\"\\ $`;&|<>\n\x00") ||
			strings.HasPrefix(u.Hostname(), "-") || strings.HasPrefix(u.User.Username(), "-") || strings.Contains(u.Path, "/..") || !strings.HasPrefix(u.Path, "/") {
			t.Errorf("%q is taken as %q", text, kept)
		}
	})
}

// A sealed secret opens for the use and the source that it was sealed for, and for no other.
func TestSecretsOpenForTheirSourceAlone(t *testing.T) {
	s, err := New(Config{Secret: []byte(strings.Repeat("p", 32))})
	if err != nil {
		t.Fatal(err)
	}
	sealed := s.seal("hook-a", useCredentials, "hunter2")
	if text, err := s.open("hook-a", useCredentials, sealed); err != nil || text != "hunter2" {
		t.Errorf("got %q, %v", text, err)
	}
	other, err := New(Config{Secret: []byte(strings.Repeat("q", 32))})
	if err != nil {
		t.Fatal(err)
	}
	for what, open := range map[string]func() (string, error){
		"another source": func() (string, error) { return s.open("hook-b", useCredentials, sealed) },
		"another use":    func() (string, error) { return s.open("hook-a", useSecret, sealed) },
		"another key":    func() (string, error) { return other.open("hook-a", useCredentials, sealed) },
		"half of it":     func() (string, error) { return s.open("hook-a", useCredentials, sealed[:8]) },
		"nothing":        func() (string, error) { return s.open("hook-a", useCredentials, "") },
	} {
		if text, err := open(); err == nil {
			t.Errorf("%s: opened as %q", what, text)
		}
	}
	if _, err := New(Config{Secret: []byte("short")}); err == nil {
		t.Error("a short secret is taken")
	}
}
