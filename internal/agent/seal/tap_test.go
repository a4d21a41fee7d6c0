package seal_test

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// tap stands before a TPM's socket and keeps what passes, as somebody with probes on a board's wires would.
func tap(t *testing.T, tpm string) (path string, passed func() []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // covers seen
	var seen bytes.Buffer
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(func() { _ = ln.Close() })
	pass := func(to, from net.Conn) {
		defer to.Close()
		buf := make([]byte, 4096)
		for {
			n, err := from.Read(buf)
			mu.Lock()
			seen.Write(buf[:n])
			mu.Unlock()
			if _, writeErr := to.Write(buf[:n]); err != nil || writeErr != nil {
				return
			}
		}
	}
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("unix", tpm)
			if err != nil {
				_ = conn.Close()
				continue
			}
			all.Go(func() { pass(up, conn) })
			all.Go(func() { pass(conn, up) })
		}
	})
	return path, func() []byte {
		mu.Lock()
		defer mu.Unlock()
		b, _ := io.ReadAll(bytes.NewReader(seen.Bytes())) // memory does not fail
		return b
	}
}
