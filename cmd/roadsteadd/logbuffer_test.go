package main

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipe counts what is written.
type pipe struct {
	mu     sync.Mutex // covers what follows
	all    bytes.Buffer
	writes int
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes++
	return p.all.Write(b)
}

func (p *pipe) read() (string, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.String(), p.writes
}

func TestALogIsWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &pipe{}
		buffer := newBuffered(to)
		log := slog.New(urgent{slog.NewTextHandler(buffer, nil), buffer}).With("role", "x")
		for range 20 {
			log.Info("a request")
		}
		if text, _ := to.read(); text != "" {
			t.Errorf("written at once: %q", text)
		}
		<-time.After(logDelay + time.Millisecond) // by the clock of the bubble
		synctest.Wait()
		if text, writes := to.read(); strings.Count(text, "\n") != 20 || writes != 1 {
			t.Errorf("after %s: %d writes of %q", logDelay, writes, text)
		}
		log.Info("before it")
		log.Warn("it") // what is wrong is seen at once, after what came before it
		text, _ := to.read()
		if !strings.HasSuffix(strings.TrimSpace(text), "msg=it role=x") || !strings.Contains(text, "before it") {
			t.Errorf("a warning waits: %q", text)
		}
		for range 1000 {
			log.Info("many")
		}
		if text, _ := to.read(); strings.Count(text, "many") < 500 {
			t.Error("the buffer has no bound")
		}
		buffer.flush()
		if text, _ := to.read(); strings.Count(text, "many") != 1000 {
			t.Error("lines are lost")
		}
	})
}
