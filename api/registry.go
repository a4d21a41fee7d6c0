package api

import (
	"fmt"
	"strconv"
	"strings"
)

// RegistryPush is what the registry asks the api role before it takes bytes (POST /internal/v1/registry/room, without a digest) and
// before it keeps them (POST /internal/v1/registry/link). A refusal is for the pusher to read.
type RegistryPush struct {
	Repository string `json:"repository"`
	Digest     string `json:"digest,omitempty"`
	Size       int64  `json:"size,omitempty"`
}

// RegistryRoom is how large one more blob may be. It may be one that the organization has already, and then costs nothing: so it is
// what is left of the quota, or the largest blob that the organization has.
type RegistryRoom struct {
	Organization string `json:"organization"` // its handle
	Largest      int64  `json:"largest"`      // -1: as large as the registry takes
}

// RegistryCollect (POST /internal/v1/registry/collect) says what the registry has deleted since it last asked, and asks for more.
type RegistryCollect struct {
	Grace        int64    `json:"grace"` // how many seconds what nobody needs is kept
	Limit        int      `json:"limit"` // of each list of the answer
	Repositories []string `json:"repositories,omitempty"`
	Blobs        []string `json:"blobs,omitempty"`
}

// RegistryGarbage is what nobody needs any more. Each name comes again until it is said to be deleted.
type RegistryGarbage struct {
	Repositories []string `json:"repositories"`
	Blobs        []string `json:"blobs"`
	Scan         bool     `json:"scan,omitempty"` // the storage is to be compared with the rows: it was not for long, or never
}

// RegistryFound is what the registry found in its storage (POST /internal/v1/registry/found): the links of one repository, or, without
// a repository, some of the blobs.
type RegistryFound struct {
	Repository string         `json:"repository,omitempty"`
	Blobs      []RegistryBlob `json:"blobs"`
	Done       bool           `json:"done,omitempty"` // that was all there is
}

// RegistryBlob is one stored blob.
type RegistryBlob struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// RegistryUse is what an organization keeps in the registry. Every blob counts once, however many of its releases have it.
type RegistryUse struct {
	Organization string     `json:"organization"`
	Bytes        int64      `json:"bytes"`
	Quota        *int64     `json:"quota"`            // nil: as much as it likes
	Own          bool       `json:"own_quota"`        // it is not the server's default
	Unused       int64      `json:"unused"`           // of the bytes: of releases that are gone; they count until they are collected
	Fleets       []FleetUse `json:"fleets,omitempty"` // for the people of the organization
}

// FleetUse is what a fleet's releases keep. Fleets that share a layer count it each, so the sum may be more than the whole.
type FleetUse struct {
	Fleet string `json:"fleet"`
	Bytes int64  `json:"bytes"`
	Alone int64  `json:"alone"` // of these, what no other fleet of the organization has
}

// RegistryUsage is what the whole registry keeps, by the rows.
type RegistryUsage struct {
	Blobs         int64         `json:"blobs"`
	Bytes         int64         `json:"bytes"`
	Repositories  int64         `json:"repositories"`
	Unused        int64         `json:"unused_repositories"`
	Sweeping      int64         `json:"sweeping_blobs"`
	ScannedAt     string        `json:"scanned_at,omitempty"` // when the storage was last compared with the rows
	Default       *int64        `json:"default_quota"`
	Organizations []RegistryUse `json:"organizations"`
}

// SetQuota gives an organization a quota of its own (POST /internal/v1/registry/quota).
type SetQuota struct {
	Organization string `json:"organization"`      // its handle
	Default      bool   `json:"default,omitempty"` // it gets the server's default again
	Bytes        *int64 `json:"bytes"`             // nil: as much as it likes
}

// RegistryCollected is what one collection did.
type RegistryCollected struct {
	Repositories int64 `json:"repositories"`
	Blobs        int64 `json:"blobs"`
	Bytes        int64 `json:"bytes"` // of the blobs
	Uploads      int64 `json:"uploads"`
	Scanned      bool  `json:"scanned"` // the storage was compared with the rows
}

// RegistryAsk (POST /internal/v1/collect of the registry) has it collect now.
type RegistryAsk struct {
	Grace *int64 `json:"grace,omitempty"` // seconds; nil: as configured
	Scan  bool   `json:"scan,omitempty"`
}

// RegistryChecked is what a look at every stored byte found.
type RegistryChecked struct {
	Blobs   int64    `json:"blobs"`
	Bytes   int64    `json:"bytes"`
	Damaged []string `json:"damaged"`
}

// RegistryStatus is how the registry is.
type RegistryStatus struct {
	Storage   string             `json:"storage"` // where the bytes are, without any secret
	Free      *int64             `json:"free"`    // nil: nobody knows
	Collected *RegistryCollected `json:"collected,omitempty"`
	At        string             `json:"at,omitempty"`
	Error     string             `json:"error,omitempty"` // why the last collection did not come to its end
	Damaged   []string           `json:"damaged,omitempty"`
	Counters  map[string]int64   `json:"counters"` // since the role started
}

// The units that sizes are written in.
var byteUnits = []struct {
	name string
	size int64
}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// FormatBytes writes a number of bytes for people: 1.5 GB.
func FormatBytes(n int64) string {
	for _, u := range byteUnits[:4] {
		if n >= u.size || -n >= u.size {
			return strconv.FormatFloat(float64(n)/float64(u.size), 'f', 1, 64) + " " + u.name
		}
	}
	return strconv.FormatInt(n, 10) + " B"
}

// ParseBytes reads what people write: 500MB, 20 GiB, 1.5TB, 1048576.
func ParseBytes(s string) (int64, error) {
	text, unit := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if number, ok := strings.CutSuffix(text, u.name); ok {
			text, unit = strings.TrimSpace(number), u.size
			break
		}
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= 0) || n*float64(unit) > 1<<62 {
		return 0, fmt.Errorf("%q is no size: write a number and B, kB, MB, GB, TB, KiB, MiB, GiB or TiB", s)
	}
	return int64(n * float64(unit)), nil
}
