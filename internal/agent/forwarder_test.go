package agent

import (
	"bytes"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// Lines that could not be sent, and for which there is no room any more, must not vanish without a word. It is tested from
// inside: that a connection breaks between two particular lines cannot be brought about from outside.
func TestLinesThatCannotBePutBackAreCounted(t *testing.T) {
	f := newForwarder(&Agent{})
	f.add(api.LogLine{Message: "one"})
	f.add(api.LogLine{Message: "two"})
	batch := f.take()
	f.putBack(batch)
	if got := f.take(); !bytes.Equal(got, batch) {
		t.Errorf("with room: got %s, want %s", got, batch)
	}
	for range maxBuffered / maxMessage {
		f.add(api.LogLine{Message: strings.Repeat("x", maxMessage)})
	}
	f.putBack(bytes.Repeat(batch, 500))
	want := "Suppressed 1000 message(s)"
	if got := string(f.take()); !strings.Contains(got, want) {
		t.Errorf("without room: the end is %q, want %q in it", got[len(got)-200:], want)
	}
}
