// Package version reads the versions of operating systems and supervisors, and orders them.
package version

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/internal/pattern"
)

// Version is a version of an operating system or a supervisor, as far as it decides which of two is newer.
type Version struct {
	Major, Minor, Patch, revision int
	prerelease, Variant           string
}

var versionForm = pattern.New(`(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:-([0-9A-Za-z.-]+))?(?:\+([0-9A-Za-z.-]+))?`)
var revisionForm = pattern.New(`(?:^|\.)rev(\d{1,6})(?:\.|$)`)

// Parse finds a version in a text like "balenaOS 2.98.33+rev1.prod".
func Parse(text string) (v Version, ok bool) {
	m := versionForm.FindStringSubmatch(text)
	if m == nil {
		return v, false
	}
	v.Major, _ = strconv.Atoi(m[1]) // few digits, all of them
	v.Minor, _ = strconv.Atoi(m[2])
	v.Patch, _ = strconv.Atoi(m[3])
	v.prerelease = m[4]
	if r := revisionForm.FindStringSubmatch(m[5]); r != nil {
		v.revision, _ = strconv.Atoi(r[1])
	}
	v.Variant = Variant(text)
	return v, true
}

// Compare orders versions; what was released comes after what led to it.
func (v Version) Compare(o Version) int {
	if c := cmp.Or(cmp.Compare(v.Major, o.Major), cmp.Compare(v.Minor, o.Minor), cmp.Compare(v.Patch, o.Patch)); c != 0 {
		return c
	}
	switch {
	case v.prerelease == "" && o.prerelease != "":
		return 1
	case v.prerelease != "" && o.prerelease == "":
		return -1
	}
	return cmp.Or(cmp.Compare(v.prerelease, o.prerelease), cmp.Compare(v.revision, o.revision))
}

// Variant reads "dev" or "prod" from an OS version like "balenaOS 2.98.33+rev1.prod".
func Variant(version string) string {
	for _, v := range []string{"dev", "prod"} {
		if strings.HasSuffix(version, "."+v) || strings.HasSuffix(version, "-"+v) || strings.HasSuffix(version, "+"+v) {
			return v
		}
	}
	return ""
}
