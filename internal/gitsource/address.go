package gitsource

import (
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
)

const (
	maxURL    = 1000
	maxName   = 200 // of a branch, a pattern, a user name
	maxSecret = 4096
)

var (
	hostName = pattern.New(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)
	userName = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	// pathForm is what the path of a repository is made of: nothing that means something to a shell, to git or in a statement.
	pathForm = pattern.New(`^(/[A-Za-z0-9_.~+-]+)+/?$`)
	scpForm  = pattern.New(`^([A-Za-z0-9_.-]+@)?[A-Za-z0-9.-]+:[^/]`)
	refForm  = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9_./+#=@-]*$`)
	tagsForm = pattern.New(`^[A-Za-z0-9_*?][A-Za-z0-9_./+*?-]*$`)
)

// parseURL takes the address of a repository, in the one spelling that is kept.
func parseURL(text string) (*url.URL, error) {
	if scpForm.MatchString(text) && !strings.Contains(text, "://") {
		host, rest, _ := strings.Cut(text, ":")
		return nil, api.Errorf(api.Invalid, "url: write it as ssh://%s/%s", host, rest)
	}
	u, err := url.Parse(text)
	if err != nil || len(text) > maxURL {
		return nil, api.Errorf(api.Invalid, "url: %.100q is no address", text)
	}
	if u.Scheme != "https" && u.Scheme != "ssh" {
		return nil, api.Errorf(api.Invalid, "url: a repository is fetched from https://… or ssh://…, and from nothing else")
	}
	if _, given := u.User.Password(); given || u.Scheme == "https" && u.User != nil {
		return nil, api.Errorf(api.Invalid, "url: an address holds no credentials; give username and password by themselves")
	}
	host := u.Hostname()
	if _, err := netip.ParseAddr(host); err != nil && (!hostName.MatchString(host) || strings.Contains(host, "..")) {
		return nil, api.Errorf(api.Invalid, "url: %.100q is no name of a host", host)
	}
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, api.Errorf(api.Invalid, "url: %.20q is no port", p)
		}
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.RawPath != "" || !pathForm.MatchString(u.Path) || path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") {
		return nil, api.Errorf(api.Invalid, "url: the path of a repository is made of letters, digits and _ . ~ + - between slashes")
	}
	if u.Scheme == "ssh" {
		switch name := u.User.Username(); {
		case u.User == nil:
			u.User = url.User("git")
		case !userName.MatchString(name):
			return nil, api.Errorf(api.Invalid, "url: %.50q is no user name", name)
		}
	}
	u.Host = strings.ToLower(u.Host)
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// checkRef looks at the name of a branch or a tag.
func checkRef(field, name string) error {
	if len(name) > maxName || !refForm.MatchString(name) || strings.Contains(name, "..") || strings.Contains(name, "//") || strings.Contains(name, "@{") ||
		strings.Contains(name, "/.") || strings.HasSuffix(name, "/") || strings.HasSuffix(name, ".") || strings.HasSuffix(name, ".lock") {
		return api.Errorf(api.Invalid, "%s: %.100q is no name of a branch or a tag", field, name)
	}
	return nil
}

// checkTags looks at a pattern of tags.
func checkTags(pattern string) error {
	if len(pattern) > maxName || !tagsForm.MatchString(pattern) {
		return api.Errorf(api.Invalid, "tags: %.100q is no pattern like v* or release-?.*", pattern)
	}
	_, err := path.Match(pattern, "v1")
	if err != nil {
		return api.Errorf(api.Invalid, "tags: %.100q is no pattern: %v", pattern, err)
	}
	return nil
}

// parseHostKey takes the public key of a host, as known_hosts or authorized_keys have it, in the one spelling that is kept.
func parseHostKey(text string) (string, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return "", api.Errorf(api.Invalid, "host_key: not given; a source over ssh names the key that its host must prove to have, as ssh-keyscan prints it")
	}
	if len(text) > maxSecret || strings.ContainsAny(text, "\r\n") {
		return "", api.Errorf(api.Invalid, "host_key: give one key, in one line")
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil || len(options) > 0 {
		_, rest, _ := strings.Cut(text, " ") // a line of known_hosts begins with the host
		if key, _, options, _, err = ssh.ParseAuthorizedKey([]byte(rest)); err != nil || len(options) > 0 {
			return "", api.Errorf(api.Invalid, "host_key: that is no public key; it looks like ssh-ed25519 AAAA…")
		}
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return "", api.Errorf(api.Invalid, "host_key: that is a certificate; give the key itself")
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), nil
}
