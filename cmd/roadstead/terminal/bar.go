package terminal

import (
	"io"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Bar shows how far something is. Without a terminal it is one line that says what is being done.
type Bar struct {
	p   *mpb.Progress
	bar *mpb.Bar
}

// Progress begins a bar for so many bytes; see [Bar.End].
func (t *Terminal) Progress(what string, bytes int64) *Bar {
	if !IsTerminal(t.Err) || bytes == 0 {
		t.Say("%s, %s.", what, Size(bytes))
		return &Bar{}
	}
	p := mpb.New(mpb.WithOutput(t.Err), mpb.WithWidth(80), mpb.WithRefreshRate(120*time.Millisecond))
	return &Bar{p: p, bar: p.AddBar(bytes, mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Name(Printable(what)+" ")),
		mpb.AppendDecorators(decor.CountersKiloByte("% .1f / % .1f")))}
}

// Counter begins a bar for so many things that are counted; see [Bar.End].
func (t *Terminal) Counter(what string, things int64) *Bar {
	if !IsTerminal(t.Err) || things == 0 {
		return &Bar{}
	}
	p := mpb.New(mpb.WithOutput(t.Err), mpb.WithWidth(80), mpb.WithRefreshRate(120*time.Millisecond))
	return &Bar{p: p, bar: p.AddBar(things, mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Name(Printable(what)+" ")),
		mpb.AppendDecorators(decor.CountersNoUnit("%d / %d")))}
}

// Add says that so many bytes more are done.
func (b *Bar) Add(bytes int64) {
	if b.bar != nil {
		b.bar.IncrInt64(bytes)
	}
}

// At says that so many bytes are done in all.
func (b *Bar) At(bytes int64) {
	if b.bar != nil {
		b.bar.SetCurrent(bytes)
	}
}

// Counting adds what is written through it.
func (b *Bar) Counting(w io.Writer) io.Writer { return counting{w, b} }

type counting struct {
	io.Writer
	bar *Bar
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.bar.Add(int64(n))
	return n, err
}

// End takes the bar away, also when what it shows broke off.
func (b *Bar) End() {
	if b.bar != nil {
		b.bar.Abort(true)
		b.p.Wait()
	}
}
