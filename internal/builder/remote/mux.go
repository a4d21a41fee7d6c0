package remote

import (
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// window is how many bytes of one stream may be on their way: twice what a line of 1 Gbit/s holds at 30 ms, for half of it is given back
	// at a time (BenchmarkStream). It is also what one stream of a hostile other side can make us keep.
	window = 8 << 20
	// maxStreams bounds the streams of one worker.
	maxStreams = 128
	// keepAlive is how often a quiet connection is tried; it is given up when the other side is silent for twice as long.
	keepAlive = 10 * time.Second
)

// muxed is how many streams share a connection.
func muxed(log *slog.Logger, backlog int) *yamux.Config {
	cfg := yamux.DefaultConfig()
	cfg.AcceptBacklog = backlog
	cfg.KeepAliveInterval, cfg.ConnectionWriteTimeout = keepAlive, keepAlive
	cfg.StreamOpenTimeout, cfg.StreamCloseTimeout = 30*time.Second, 30*time.Second
	cfg.MaxStreamWindowSize = window
	cfg.LogOutput, cfg.Logger = nil, slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	return cfg
}

// splice copies both ways until one of the two connections ends, and then ends the other.
func splice(a, b net.Conn) {
	end := sync.OnceFunc(func() { _, _ = a.Close(), b.Close() })
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		_, _ = io.CopyBuffer(onlyWriter{to}, onlyReader{from}, make([]byte, 64<<10)) // which of the two broke makes no difference
		end()
	}
	both.Go(func() { pass(a, b) })
	both.Go(func() { pass(b, a) })
	both.Wait()
}

// onlyReader and onlyWriter keep io.CopyBuffer from going around the buffer.
type onlyReader struct{ io.Reader }

type onlyWriter struct{ io.Writer }
