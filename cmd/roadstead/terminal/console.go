package terminal

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// Console prints what a builder says: lines, lines that replace the one before, and movements of the cursor. Where there is no
// terminal, a line that will be replaced is held back until it is the last of its kind.
type Console struct {
	t    *Terminal
	w    io.Writer
	tty  bool
	held string // without a terminal: the latest line that may yet be replaced; on one: "" or what stands in the open line

	status string // what stands below the lines
}

// Console makes one that writes to the standard output, or plainly to the standard error when the output is kept for JSON.
func (t *Terminal) Console(keepOutput bool) *Console {
	if keepOutput {
		return &Console{t: t, w: t.Err}
	}
	return &Console{t: t, w: t.Out, tty: t.Width() > 0}
}

// Status shows a line below all others, in place of the one before; "" takes it away. Without a terminal it does nothing.
func (c *Console) Status(text string) error {
	if !c.tty || text == c.status {
		return nil
	}
	if err := c.End(); err != nil {
		return err
	}
	if width := c.t.Width(); width > 1 { // a line that wraps could not be taken away again
		runes := []rune(Printable(text))
		text = string(runes[:min(len(runes), width-1)])
	}
	c.status = text
	_, err := fmt.Fprintf(c.w, "\r\x1b[K%s", text)
	return err
}

// Show prints one event.
func (c *Console) Show(e api.BuildEvent) error {
	below := c.status
	if below == "" {
		return c.show(e)
	}
	return errors.Join(c.Status(""), c.show(e), c.Status(below))
}

func (c *Console) show(e api.BuildEvent) error {
	if e.Type == "metadata" {
		if e.Resource == "cursor" && c.tty {
			return c.cursor(fmt.Sprint(e.Value))
		}
		return nil
	}
	message := Lines(strings.TrimRight(e.Message, "\r\n")) // what a build prints is not ours: it may run anybody's install script
	if e.IsError {
		message = c.t.Colour("31", message)
	}
	if e.Replace {
		c.held = message
		if c.tty {
			_, err := fmt.Fprintf(c.w, "\r\x1b[K%s", message)
			return err
		}
		return nil
	}
	if err := c.End(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.w, message)
	return err
}

// End closes a line that might have been replaced.
func (c *Console) End() error {
	if c.held == "" {
		return nil
	}
	line := c.held
	c.held = ""
	if c.tty {
		line = ""
	}
	_, err := fmt.Fprintln(c.w, line)
	return err
}

func (c *Console) cursor(move string) error {
	var err error
	switch {
	case move == "erase":
		_, err = io.WriteString(c.w, "\r\x1b[K")
	case strings.HasPrefix(move, "up"), strings.HasPrefix(move, "down"):
		letter := "A"
		n, ok := strings.CutPrefix(move, "up")
		if !ok {
			n, letter = strings.TrimPrefix(move, "down"), "B"
		}
		if lines, bad := strconv.Atoi(n); bad == nil && lines > 0 && lines < 1000 {
			_, err = fmt.Fprintf(c.w, "\x1b[%d%s", lines, letter)
		}
	}
	return err
}
