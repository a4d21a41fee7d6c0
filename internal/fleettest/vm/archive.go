package vm

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"testing"
)

// archive is a cpio of the kind that the kernel unpacks ("newc").
type archive struct {
	buf   bytes.Buffer
	nodes int
	made  map[string]bool // directories
}

func (a *archive) dirs(names ...string) {
	if a.made == nil {
		a.made = map[string]bool{".": true}
	}
	for _, name := range names {
		if !a.made[name] {
			a.dirs(path.Dir(name))
			a.made[name] = true
			a.node(name, 0o040755, nil)
		}
	}
}

func (a *archive) file(t *testing.T, name, from string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	a.bytes(name, 0o755, data)
}

func (a *archive) bytes(name string, mode int, data []byte) {
	a.dirs(path.Dir(name))
	a.node(name, 0o100000|mode, data)
}

func (a *archive) node(name string, mode int, data []byte) {
	a.nodes++
	fmt.Fprintf(&a.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", a.nodes, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.buf.WriteString(name + "\x00")
	a.pad()
	a.buf.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

func (a *archive) end() []byte {
	a.node("TRAILER!!!", 0, nil)
	return a.buf.Bytes()
}
