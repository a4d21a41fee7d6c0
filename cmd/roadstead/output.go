package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/term"

	"github.com/roadstead-io/roadstead/client"
)

// grid is what a person sees of a list; the first row of a grid without a head is as good as any other.
type grid struct {
	head []string
	rows [][]string
}

func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

// show prints the objects as JSON, or the grid made from them.
func (a *app) show(objects any, g func() *grid) error {
	if a.output == "json" {
		return a.showJSON(objects)
	}
	a.showGrid(g())
	return nil
}

func (a *app) showJSON(objects any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(objects)
}

func (a *app) showGrid(g *grid) {
	t := table.NewWriter()
	t.SetOutputMirror(a.out)
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Box.UnfinishedRow = "…"
	if width := a.width(); width > 0 {
		style.Size.WidthMax = width
	}
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	if g.head != nil {
		t.AppendHeader(row(g.head))
	}
	for _, r := range g.rows {
		t.AppendRow(row(r))
	}
	t.Render()
}

func row(cells []string) table.Row {
	r := make(table.Row, len(cells))
	for i, c := range cells {
		r[i] = printable(c)
	}
	return r
}

// printable keeps what a device or another user wrote from steering the terminal.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\t':
			return ' '
		case unicode.IsControl(c), c == unicode.ReplacementChar:
			return -1
		}
		return c
	}, s)
}

// say tells a person something; it goes to the standard error, so that the standard output holds only what was asked for.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }

// width is that of the terminal; 0 when the output goes elsewhere and must not be cut.
func (a *app) width() int {
	f, ok := a.out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colour paints a text when the output is a terminal that wants it.
func (a *app) colour(code, text string) string {
	if a.width() == 0 || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// short is the beginning of an identifier, long enough to name it.
func short(id string) string { return id[:min(len(id), 7)] }

// ago says how long a time is past, for people.
func ago(stamp string) string {
	at, ok := client.ParseTime(stamp)
	if !ok {
		return ""
	}
	d := time.Since(at)
	switch {
	case d < 0:
		return at.Local().Format("2006-01-02 15:04")
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// orNil makes an empty text null in JSON.
func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func size(n int64) string {
	const units = "kMGT"
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, i := float64(n)/1000, 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	return fmt.Sprintf("%.1f %cB", f, units[i])
}
