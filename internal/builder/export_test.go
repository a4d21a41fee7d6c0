package builder

import (
	"net/http"

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

// BasesOf reads the build service's record.
var BasesOf = basesOf

// SecretsAskedFor gives those of some names that a Dockerfile asks for.
func SecretsAskedFor(dockerfile string, names ...string) (list []string) {
	var a asked
	a.read(dockerfile)
	for _, n := range names {
		if a.has(n) {
			list = append(list, n)
		}
	}
	return list
}
