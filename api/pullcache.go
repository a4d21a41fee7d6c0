package api

// PullCacheStatus is how the builder's cache of other registries' images is. Counts are since the role was started.
type PullCacheStatus struct {
	Off         bool             `json:"off,omitempty"`
	Bytes       int64            `json:"bytes"` // on the disk
	Limit       int64            `json:"limit"`
	Blobs       int              `json:"blobs"`
	Hits        int64            `json:"hits"`         // blobs that builds had from the disk
	Misses      int64            `json:"misses"`       // that had to be fetched
	ServedBytes int64            `json:"served_bytes"` // given to builds
	FetchBytes  int64            `json:"fetch_bytes"`  // that came from other registries
	Stale       int64            `json:"stale"`        // names that were taken as they were known, for their registry did not answer
	Evicted     int64            `json:"evicted"`      // blobs that had to make room
	Damaged     int64            `json:"damaged"`      // blobs that were not what they should be, on the wire or on the disk
	Images      []PullCacheImage `json:"images,omitempty"`
}

// PullCacheImage is a name that builds asked for, and what it stood for.
type PullCacheImage struct {
	Name      string `json:"name"`
	Digest    string `json:"digest"`
	Domain    string `json:"domain"`     // whose builds may have it: "public", or one organization's that has an account for it
	CheckedAt string `json:"checked_at"` // when its registry was asked last
	UsedAt    string `json:"used_at"`
}

// PullCachePurge says what the cache shall forget: some names, or everything.
type PullCachePurge struct {
	Images []string `json:"images,omitempty"`
	All    bool     `json:"all,omitempty"`
}

// PullCachePurged is what went.
type PullCachePurged struct {
	Images int   `json:"images"`
	Blobs  int   `json:"blobs"`
	Bytes  int64 `json:"bytes"`
}
