package engine

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/moby/moby/client"
)

// Line is one line that a container wrote.
type Line struct {
	Text   string
	Time   time.Time
	Stderr bool
}

// maxLine bounds a line; what is longer is cut into several.
const maxLine = 16 << 10

// startSlack makes up for the engine noting a container's start only after the container has begun to write.
const startSlack = 3 * time.Second

// Logs calls f for every line that a container wrote after the given time, and for new ones until the container ends or the
// context does. The zero time means from the container's last start. The end of the container is no error.
func (c *Client) Logs(ctx context.Context, id string, since time.Time, f func(Line)) error {
	got, err := c.docker.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return fmt.Errorf("logs of %s: %w", id, err)
	}
	if since.IsZero() && got.Container.State != nil {
		started, _ := time.Parse(time.RFC3339Nano, got.Container.State.StartedAt)
		since = started.Add(-startSlack)
	}
	opts := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: true, Timestamps: true}
	if since.Year() > 1 { // a container that never ran has started in the year 1
		after := since.Add(1)
		opts.Since = fmt.Sprintf("%d.%09d", after.Unix(), after.Nanosecond())
	}
	stream, err := c.docker.ContainerLogs(ctx, id, opts)
	if err != nil {
		return fmt.Errorf("logs of %s: %w", id, err)
	}
	defer stream.Close()
	tty := got.Container.Config != nil && got.Container.Config.Tty
	if err := ReadLines(stream, tty, f); err != nil && ctx.Err() == nil {
		return fmt.Errorf("logs of %s: %w", id, err)
	}
	return ctx.Err()
}

// ReadLines splits the engine's log stream into lines. With a terminal the stream is the text itself; without one it comes in
// frames of an 8-byte head (1 standard output, 2 standard error; length) and a payload.
func ReadLines(r io.Reader, tty bool, f func(Line)) error {
	if tty {
		return eachLine(bufio.NewReaderSize(r, maxLine), false, f)
	}
	var head [8]byte
	payload := make([]byte, 0, 512)
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return endOfLog(err)
		}
		size := binary.BigEndian.Uint32(head[4:])
		if head[0] > 3 || size > 1<<20 {
			return fmt.Errorf("not a log stream: head %x", head)
		}
		payload = append(payload[:0], make([]byte, size)...)
		if _, err := io.ReadFull(r, payload); err != nil {
			return endOfLog(err)
		}
		for text := range strings.Lines(string(payload)) {
			emit(text, head[0] == 2, f)
		}
	}
}

func eachLine(r *bufio.Reader, stderr bool, f func(Line)) error {
	for {
		text, err := r.ReadSlice('\n')
		if len(text) > 0 {
			emit(string(text), stderr, f)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return endOfLog(err)
		}
	}
}

// emit takes the time off the front of a line. A piece without one, the rest of a very long line, has the time zero.
func emit(text string, stderr bool, f func(Line)) {
	text = strings.TrimRight(text, "\r\n")
	stamp, rest, ok := strings.Cut(text, " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if !ok || err != nil {
		rest, at = text, time.Time{}
		if err == nil {
			return // a time and an empty line
		}
	}
	if rest = strings.TrimRight(rest, "\r"); rest != "" {
		f(Line{Text: rest, Time: at, Stderr: stderr})
	}
}

// endOfLog says that the stream just ended; a container that is killed may cut it anywhere.
func endOfLog(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
