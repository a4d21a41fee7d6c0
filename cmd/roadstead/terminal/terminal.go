// Package terminal is how a command line program speaks to a person, or to a script that reads it: tables, JSON, questions,
// progress, and texts of others that must not steer the terminal.
package terminal

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/term"

	"github.com/roadstead-io/roadstead/client"
)

// Terminal is the program's three streams. They need not be a terminal; then there are no colours, widths and questions.
type Terminal struct {
	In       io.Reader
	Out, Err io.Writer
}

// Grid is what a person sees of a list, or of one thing: then it has no head.
type Grid struct {
	Head []string
	Rows [][]string
	// Whole keeps rows from being cut to the terminal's width: nothing is hidden, and long ones go on in the next line.
	Whole bool
}

// Add adds a row.
func (g *Grid) Add(cells ...string) { g.Rows = append(g.Rows, cells) }

// JSON prints an object, or a list of them, over several lines.
func (t *Terminal) JSON(objects any) error {
	enc := json.NewEncoder(t.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(objects)
}

// Line prints an object on a line of its own, for streams of them.
func (t *Terminal) Line(object any) error {
	enc := json.NewEncoder(t.Out)
	enc.SetEscapeHTML(false)
	return enc.Encode(object)
}

// Table prints a grid, cut to the terminal's width.
func (t *Terminal) Table(g *Grid) {
	w := table.NewWriter()
	w.SetOutputMirror(t.Out)
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Box.UnfinishedRow = "…"
	if width := t.Width(); width > 0 && !g.Whole {
		style.Size.WidthMax = width
	}
	w.SetStyle(style)
	w.SuppressTrailingSpaces()
	if g.Head != nil {
		w.AppendHeader(row(g.Head))
	}
	for _, r := range g.Rows {
		w.AppendRow(row(r))
	}
	w.Render()
}

func row(cells []string) table.Row {
	r := make(table.Row, len(cells))
	for i, c := range cells {
		r[i] = Printable(c)
	}
	return r
}

// Printable keeps what a device or another user wrote from steering the terminal.
func Printable(s string) string { return printable(s, ' ') }

// printable drops what steers a terminal, or turns the direction of writing so that a text reads as another. A tab becomes
// what is given for it.
func printable(s string, tab rune) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\t':
			return tab
		case c == '\n':
			return ' '
		case unicode.IsControl(c), c == unicode.ReplacementChar, unicode.Is(unicode.Bidi_Control, c):
			return -1
		}
		return c
	}, s)
}

// Say tells a person something. It goes to the standard error, so that the standard output holds only what was asked for.
// What others wrote may be in it: a server's error names their things.
func (t *Terminal) Say(format string, args ...any) {
	fmt.Fprintln(t.Err, Lines(fmt.Sprintf(format, args...)))
}

// Width is that of the terminal; 0 when the output goes elsewhere and must not be cut.
func (t *Terminal) Width() int {
	f, ok := t.Out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// IsTerminal reports whether a stream is one.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Colour paints a text when the output is a terminal that wants it.
func (t *Terminal) Colour(code, text string) string {
	if t.Width() == 0 || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Short is the beginning of an identifier, long enough to name it.
func Short(id string) string { return id[:min(len(id), 7)] }

// Ago says how long a time is past, for people.
func Ago(stamp string) string {
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

// Yes is yes or no.
func Yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Size is a number of bytes, for people.
func Size(n int64) string {
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

// Coloured lets colours through and nothing else that steers a terminal.
func Coloured(s string) string { return coloured(s, ' ') }

// Lines is Coloured for a text of many lines, such as a build's log: its lines and tabs stay.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = coloured(line, '\t')
	}
	return strings.Join(lines, "\n")
}

func coloured(s string, tab rune) string {
	var b strings.Builder
	for rest := s; rest != ""; {
		i := strings.IndexByte(rest, '\x1b')
		if i < 0 {
			b.WriteString(printable(rest, tab))
			break
		}
		b.WriteString(printable(rest[:i], tab))
		rest = rest[i:]
		if end := strings.IndexByte(rest, 'm'); end > 1 && rest[1] == '[' && strings.Trim(rest[2:end], "0123456789;") == "" {
			b.WriteString(rest[:end+1])
			rest = rest[end+1:]
			continue
		}
		rest = rest[1:]
	}
	if b.Len() > 0 && strings.Contains(s, "\x1b[") && !strings.HasSuffix(s, "\x1b[0m") {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}
