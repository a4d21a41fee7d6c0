// Package progress turns what BuildKit reports of a build into lines that people can read.
package progress

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// Printer turns BuildKit's reports of one build into lines: a numbered line when a step begins, its output as it comes, and a
// line when it ends.
type Printer struct {
	line  func(string)
	steps map[digest.Digest]*step
	next  int
}

type step struct {
	number  int
	partial []byte // output after the last line end
	ended   bool
}

// maxLine cuts lines that would be no lines to anybody.
const maxLine = 4 << 10

// New makes a printer that gives each line to a function.
func New(line func(string)) *Printer {
	return &Printer{line: line, steps: map[digest.Digest]*step{}}
}

// hidden steps are BuildKit's housekeeping, of no interest to people.
func hidden(name string) bool {
	return name == "" || strings.HasPrefix(name, "[internal]") || strings.HasPrefix(name, "[context base/") ||
		strings.HasPrefix(name, "exporting ")
}

// Update takes a report.
func (p *Printer) Update(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		if v.Started != nil && !hidden(v.Name) {
			p.begin(v)
		}
	}
	for _, l := range s.Logs {
		p.output(l)
	}
	for _, v := range s.Vertexes {
		if v.Completed != nil {
			p.finish(v)
		}
	}
}

func (p *Printer) begin(v *client.Vertex) {
	if p.steps[v.Digest] != nil {
		return
	}
	p.next++
	p.steps[v.Digest] = &step{number: p.next}
	p.line(fmt.Sprintf("#%d %s", p.next, oneLine(v.Name)))
}

func (p *Printer) output(l *client.VertexLog) {
	st := p.steps[l.Vertex]
	if st == nil {
		return // of a hidden step
	}
	st.partial = append(st.partial, l.Data...)
	for {
		i := bytes.IndexByte(st.partial, '\n')
		if i < 0 {
			break
		}
		p.print(st, st.partial[:i])
		st.partial = st.partial[i+1:]
	}
	if len(st.partial) > maxLine {
		p.print(st, st.partial)
		st.partial = nil
	}
}

// print shows a line of output the way a terminal would have left it: what came before a carriage return was overwritten.
func (p *Printer) print(st *step, line []byte) {
	line = bytes.TrimRight(line, "\r")
	if i := bytes.LastIndexByte(line, '\r'); i >= 0 {
		line = line[i+1:]
	}
	if len(line) > maxLine {
		line = append(line[:maxLine:maxLine], "…"...)
	}
	p.line(fmt.Sprintf("#%d   %s", st.number, line))
}

func (p *Printer) finish(v *client.Vertex) {
	st := p.steps[v.Digest]
	if st == nil || st.ended {
		return
	}
	st.ended = true
	p.rest(st)
	switch {
	case v.Error != "":
		p.line(fmt.Sprintf("#%d ERROR: %s", st.number, oneLine(v.Error)))
	case v.Cached:
		p.line(fmt.Sprintf("#%d CACHED", st.number))
	case v.Started != nil:
		p.line(fmt.Sprintf("#%d DONE %.1fs", st.number, v.Completed.Sub(*v.Started).Round(100*time.Millisecond).Seconds()))
	}
}

func (p *Printer) rest(st *step) {
	if len(st.partial) > 0 {
		p.print(st, st.partial)
		st.partial = nil
	}
}

// Flush shows output that no line end followed, of steps that never ended.
func (p *Printer) Flush() {
	for _, st := range p.steps {
		p.rest(st)
	}
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxLine {
		s = s[:maxLine] + "…"
	}
	return s
}
