package builder

import (
	"context"
	"net/http"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/builder/journal"
)

// What the tests of this package's inner parts need.

// NewTestStream gives the parts of a stream of build events.
func NewTestStream(w http.ResponseWriter) (event func(api.BuildEvent) bool, beat func() bool, end func()) {
	s := newStream(w)
	return s.event, s.beat, s.close
}

// NewTestLog gives a log's way in and out.
func NewTestLog() (line func(string), text func() string) {
	l := &logbook{}
	return l.line, l.String
}

// FillTemplate and WithSecrets are what is done to the text of a Dockerfile.
var (
	FillTemplate = fillTemplate
	WithSecrets  = withSecrets
)

// Ordinal is how a place in the queue is worded.
var Ordinal = ordinal

// NewTestJournal gives a journal, and what hands it on to one who follows.
func NewTestJournal(limit int64) (*journal.Journal, http.HandlerFunc) {
	j := journal.New(limit, 0)
	return j, func(w http.ResponseWriter, r *http.Request) {
		journal.Stream(r.Context(), w, j, 0, true)
	}
}

// Artifacts hangs documents on an image.
type Artifacts = artifacts

// NewArtifacts does so over a way to the registry.
func NewArtifacts(way http.RoundTripper, host, repository string) *Artifacts {
	return &artifacts{way: way, host: host, repository: repository}
}

// HangAndList hangs a document on an image and writes the index.
func (a *artifacts) HangAndList(ctx context.Context, subject ocispec.Descriptor, document string) error {
	d, err := a.hang(ctx, subject, "application/x-test", []byte(document), nil)
	if err != nil {
		return err
	}
	return a.list(ctx, subject, []ocispec.Descriptor{d})
}

// BasesOf reads the build service's record.
var BasesOf = basesOf
