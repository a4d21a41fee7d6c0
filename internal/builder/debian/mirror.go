package debian

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// LocalMirror is the mirror that this machine's own apt uses: an address below which there are the archives "debian" and
// "debian-security". dir is /etc/apt. Only https is used, also where apt uses http.
func LocalMirror(dir string) (string, error) {
	files := []string{filepath.Join(dir, "sources.list.d", "debian.sources"), filepath.Join(dir, "sources.list")}
	for _, kind := range []string{"*.sources", "*.list"} {
		more, err := filepath.Glob(filepath.Join(dir, "sources.list.d", kind))
		if err != nil {
			return "", err
		}
		slices.Sort(more)
		files = append(files, more...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it is not there, or not for us
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			for word := range strings.FieldsSeq(line) {
				u, err := url.Parse(word)
				if err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") && strings.TrimSuffix(u.Path, "/") == "/debian" {
					return "https://" + u.Host, nil
				}
			}
		}
	}
	return "", api.Errorf(api.Invalid, "mirror: this machine's apt (%s) uses none of Debian's; name one", dir)
}

// At gives the suite at a mirror, unless it has one of its own. Beside a mirror that is called deb.… there is its past, snapshot.….
func (s Suite) At(mirror string) Suite {
	if s.Mirror != "" || mirror == "" {
		return s
	}
	s.Mirror = strings.TrimSuffix(mirror, "/") + "/" + s.Archive
	if domain, ok := strings.CutPrefix(mirror, "https://deb."); ok && s.Fallback == "" {
		s.Fallback = "https://snapshot." + strings.TrimSuffix(domain, "/") + "/archive/" + s.Archive + "/{time}"
	}
	return s
}
