package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/roadstead-io/roadstead/api"
)

// releaseNumber is the number of the release being built, known as soon as the builder says so; read from another goroutine when
// the build is cancelled.
type releaseNumber struct{ id atomic.Int64 }

func (r *releaseNumber) get() int64 { return r.id.Load() }

func (r *releaseNumber) set(v any) {
	switch v := v.(type) {
	case float64:
		r.id.Store(int64(v))
	case string:
		if id, err := strconv.ParseInt(v, 10, 64); err == nil {
			r.id.Store(id)
		}
	}
}

// console prints what a builder says: lines, lines that replace the one before, and movements of the cursor. Where there is no
// terminal, a line that will be replaced is held back until it is the last of its kind.
type console struct {
	a    *app
	w    io.Writer
	tty  bool
	held string // without a terminal: the latest line that may yet be replaced; on one: "" or what stands in the open line
}

// buildConsole writes to the standard output, or to the standard error when that is kept for JSON.
func (a *app) buildConsole() *console {
	c := &console{a: a, w: a.out, tty: a.width() > 0}
	if a.output == "json" {
		c.w, c.tty = a.err, false
	}
	return c
}

func (c *console) show(e api.BuildEvent) error {
	if e.Type == "metadata" {
		if e.Resource == "cursor" && c.tty {
			return c.cursor(fmt.Sprint(e.Value))
		}
		return nil
	}
	message := strings.TrimRight(e.Message, "\n")
	if e.IsError {
		message = c.a.colour("31", message)
	}
	if e.Replace {
		c.held = message
		if c.tty {
			_, err := fmt.Fprintf(c.w, "\r\x1b[K%s", message)
			return err
		}
		return nil
	}
	if err := c.end(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.w, message)
	return err
}

// end closes a line that might have been replaced.
func (c *console) end() error {
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

func (c *console) cursor(move string) error {
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
