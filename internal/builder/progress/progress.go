// Package progress turns what BuildKit reports of a build into lines that people can read.
package progress

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/roadstead-io/roadstead/api"
)

// Printer turns BuildKit's reports of one build into lines: a numbered line when a step begins, its output as it comes, and a
// line when it ends.
type Printer struct {
	clean func(string) string
	line  func(string)
	steps map[digest.Digest]*step
	next  int
	left  int                 // of maxOutput
	told  func(api.BuildStep) // may be nil
}

type step struct {
	number  int
	partial []byte // output after the last line end
	skip    bool   // the rest of the line is not shown
	left    int    // of maxStep
	unseen  int64  // bytes of output that were not shown, for the step or the build printed too much
	ended   bool
}

const (
	// maxLine cuts lines that would be no lines to anybody.
	maxLine = 4 << 10
	// maxPartial is how much of a line is looked at as one, for secrets in it, before it is cut.
	maxPartial = 256 << 10
	// maxStep bounds what is shown of what a step prints, and maxOutput of all steps together.
	maxStep   = 8 << 20
	maxOutput = 32 << 20
	// lineCost is what a line costs beside its text: its number, its event.
	lineCost = 256
)

// New makes a printer that gives each line to a function. Output is cleaned before it is cut, so that a cut hides no part of what
// cleaning looks for.
func New(clean func(string) string, line func(string)) *Printer {
	return &Printer{clean: clean, line: line, steps: map[digest.Digest]*step{}, left: maxOutput}
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
	p.steps[v.Digest] = &step{number: p.next, left: maxStep}
	name := p.clean(v.Name)
	p.line(fmt.Sprintf("#%d %s", p.next, oneLine(name)))
	if s, ok := StepOf(name); ok && p.told != nil {
		p.told(s)
	}
}

func (p *Printer) output(l *client.VertexLog) {
	st := p.steps[l.Vertex]
	if st == nil {
		return // of a hidden step
	}
	data := l.Data
	for len(data) > 0 {
		if min(p.left, st.left) <= 0 {
			st.partial, st.unseen = nil, st.unseen+int64(len(data))
			return
		}
		part := data
		i := bytes.IndexByte(data, '\n')
		if i >= 0 {
			part, data = data[:i], data[i+1:]
		} else {
			data = nil
		}
		p.add(st, part)
		if i >= 0 {
			p.rest(st, true)
			st.skip = false
		}
	}
}

// add takes a part of a line.
func (p *Printer) add(st *step, part []byte) {
	if st.skip {
		return
	}
	st.partial = append(st.partial, part...)
	if len(st.partial) <= maxPartial {
		return
	}
	// A bar that is drawn over and over is one line without an end.
	if i := bytes.LastIndexByte(st.partial[:len(st.partial)-1], '\r'); i >= 0 && len(st.partial)-i <= maxPartial/2 {
		st.partial = append([]byte(nil), st.partial[i+1:]...)
		return
	}
	p.rest(st, false)
	st.skip = true
}

// print shows a line of output the way a terminal would have left it: what came before a carriage return was overwritten.
func (p *Printer) print(st *step, line []byte) {
	line = bytes.TrimRight(line, "\r")
	if i := bytes.LastIndexByte(line, '\r'); i >= 0 {
		line = line[i+1:]
	}
	text := cut(p.clean(string(line)))
	cost := len(text) + lineCost
	p.left, st.left = p.left-cost, st.left-cost
	if min(p.left, st.left) <= 0 {
		text = "[too much output: what follows is neither shown nor kept]"
	}
	p.line(fmt.Sprintf("#%d   %s", st.number, text))
}

func (p *Printer) finish(v *client.Vertex) {
	st := p.steps[v.Digest]
	if st == nil || st.ended {
		return
	}
	st.ended = true
	p.rest(st, false)
	if st.unseen > 0 {
		p.line(fmt.Sprintf("#%d   [%d bytes of output were not shown]", st.number, st.unseen))
	}
	switch {
	case v.Error != "":
		p.line(fmt.Sprintf("#%d ERROR: %s", st.number, oneLine(p.clean(v.Error))))
	case v.Cached:
		p.line(fmt.Sprintf("#%d CACHED", st.number))
	case v.Started != nil:
		p.line(fmt.Sprintf("#%d DONE %.1fs", st.number, v.Completed.Sub(*v.Started).Round(100*time.Millisecond).Seconds()))
	}
}

// rest shows what there is of a line. An empty one is shown only when it has ended.
func (p *Printer) rest(st *step, ended bool) {
	if len(st.partial) > 0 || ended && !st.skip {
		p.print(st, st.partial)
	}
	st.partial = nil
}

// Flush shows output that no line end followed, of steps that never ended.
func (p *Printer) Flush() {
	for _, st := range p.steps {
		p.rest(st, false)
	}
}

func oneLine(s string) string { return cut(strings.Join(strings.Fields(s), " ")) }

// cut shortens a line, between two characters.
func cut(s string) string {
	if len(s) <= maxLine {
		return s
	}
	return strings.ToValidUTF8(s[:maxLine], "") + "…"
}
