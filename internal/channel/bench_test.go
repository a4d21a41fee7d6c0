package channel_test

import (
	"fmt"
	"testing"

	"github.com/roadstead-io/roadstead/api"
)

// BenchmarkReport is what an instance costs that has a thousand devices, once a second.
func BenchmarkReport(b *testing.B) {
	w := newWorld(b)
	const devices = 1000
	r := api.ChannelReport{Instance: "0", Boot: "b", Full: true}
	for n := range devices {
		d := w.device(w.hers)
		made, err := w.Login(b.Context(), d.knock(), "")
		w.Must(err)
		r.Up = append(r.Up, up(made, fmt.Sprintf("s%d", n)))
	}
	_, err := w.Report(b.Context(), r)
	w.Must(err)
	b.Run("full", func(b *testing.B) {
		for b.Loop() {
			_, err := w.Report(b.Context(), r)
			w.Must(err)
		}
	})
	b.Run("idle", func(b *testing.B) {
		for b.Loop() {
			answer, err := w.Report(b.Context(), api.ChannelReport{Instance: "0", Boot: "b"})
			if w.Must(err); len(answer.Cut) != 0 || answer.Again {
				b.Fatalf("%+v", answer)
			}
		}
	})
	b.Run("login", func(b *testing.B) {
		d := w.device(w.hers)
		for b.Loop() {
			_, err := w.Login(b.Context(), d.knock(), "")
			w.Must(err)
		}
	})
}
