package client

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// ErrOlder says that the server does not know of this way; the one that it has always had is [Client.Build].
var ErrOlder = errors.New("the server is older than this program")

// ErrNotUnderWay says that the builder knows nothing of a build: it has ended, or was lost. Its release says how.
var ErrNotUnderWay = errors.New("the build is not under way")

// Contents are the contents of a project's files by their SHA-256.
type Contents interface {
	// Open gives one of them, and the name of the file that it is in.
	Open(sum string) (content io.ReadCloser, file string, err error)
	// Sizes are those of all.
	Sizes() map[string]int64
}

// OpenBuild sends a project's manifest. What the answer names as missing is sent with [Client.SendContents]; then the build begins, and
// goes on whatever becomes of the connection.
func (c *Client) OpenBuild(ctx context.Context, opt BuildOptions, entries []api.SourceEntry) (api.BuildOpened, error) {
	var opened api.BuildOpened
	var body bytes.Buffer
	zw := gzip.NewWriter(&body)
	enc := json.NewEncoder(zw)
	enc.SetEscapeHTML(false)
	for _, e := range entries {
		if err := enc.Encode(e); err != nil {
			return opened, err
		}
	}
	if err := zw.Close(); err != nil {
		return opened, err
	}
	err := c.build(ctx, http.MethodPost, "builds?"+opt.query(), &body, &opened)
	var re *ResponseError
	if errors.As(err, &re) && (re.Status == http.StatusNotFound || re.Status == http.StatusMethodNotAllowed) {
		return opened, errors.Join(ErrOlder, err)
	}
	return opened, err
}

// build asks the builder's own road, once.
func (c *Client) build(ctx context.Context, method, path string, body io.Reader, into any) error {
	req, err := c.request(ctx, method, c.builder+"/build/v1/"+path, body)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.builder, unwrapURL(err))
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return fmt.Errorf("the builder refused: %w", responseError(req, res))
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("the builder's answer cannot be read: %w", err)
	}
	return nil
}

// BuildState says where a build stands that is under way.
func (c *Client) BuildState(ctx context.Context, id int64) (api.BuildState, error) {
	var s api.BuildState
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	return s, notUnderWay(c.build(ctx, http.MethodGet, "builds/"+strconv.FormatInt(id, 10), nil, &s))
}

// BuildPlatforms says what the builder builds for, and by which workers.
func (c *Client) BuildPlatforms(ctx context.Context) (api.BuildPlatforms, error) {
	var out api.BuildPlatforms
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	err := c.build(ctx, http.MethodGet, "platforms", nil, &out)
	return out, err
}

func notUnderWay(err error) error {
	var re *ResponseError
	if errors.As(err, &re) && re.Status == http.StatusNotFound {
		return errors.Join(ErrNotUnderWay, err)
	}
	return err
}

// fruitless is how often in a row an upload may break without anything having come through.
const fruitless = 6

// SendContents sends what a builder lacks. An upload that breaks goes on with what did not come through. progress is told of bytes that
// went out; and of those that go out again, as less than nothing.
func (c *Client) SendContents(ctx context.Context, opened api.BuildOpened, contents Contents, progress func(n int64)) error {
	path := "builds/" + strconv.FormatInt(opened.ID, 10)
	for failures := 0; len(opened.Missing) > 0; {
		had := len(opened.Missing)
		var answer api.BuildOpened
		sent, err := c.sendOnce(ctx, path+"/blobs", opened.Missing, contents, progress, &answer)
		if err == nil {
			if len(answer.Missing) >= had {
				return api.Errorf(api.Internal, "the builder took nothing of what was sent")
			}
			opened = answer
			continue
		}
		for err != nil {
			if failures++; failures > fruitless || ctx.Err() != nil || refused(err) {
				return err
			}
			if waitErr := pauseFor(ctx, failures); waitErr != nil {
				return err
			}
			if missErr := c.build(ctx, http.MethodGet, path+"/missing", nil, &answer); missErr != nil {
				err = errors.Join(missErr, err)
				continue
			}
			err = nil
		}
		progress(-sent)
		if len(answer.Missing) < had {
			failures = 0
		}
		opened = answer
	}
	return nil
}

// refused reports whether the server, or this side, has said something that trying again does not change.
func refused(err error) bool {
	if errors.As(err, new(*changedError)) {
		return true
	}
	var re *ResponseError
	return errors.As(err, &re) && re.Status < 500 && re.Status != http.StatusTooManyRequests && re.Status != http.StatusBadRequest
}

// pauseFor waits longer with each failure in a row.
func pauseFor(ctx context.Context, failures int) error {
	pause := min(250*time.Millisecond<<min(failures, 7), 15*time.Second)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause + rand.N(pause/4+1)):
		return nil
	}
}

// changedError says that a file is not what it was when it was looked at.
type changedError struct{ file string }

func (e *changedError) Error() string { return e.file + " was changed while it was sent; push again" }

func (c *Client) sendOnce(
	ctx context.Context, path string, missing []string, contents Contents, progress func(int64), into *api.BuildOpened,
) (sent int64, err error) {
	pr, pw := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := pack(pw, missing, contents, func(n int64) { sent += n; progress(n) })
		_ = pw.CloseWithError(err) // never fails
		packed <- err
	}()
	err = c.build(ctx, http.MethodPost, path, io.NopCloser(pr), into)
	_ = pr.CloseWithError(errors.New("the builder did not want the rest")) // ends the packing, never fails
	if packing := <-packed; errors.As(packing, new(*changedError)) {
		err = packing
	}
	return sent, err
}

// pack writes contents as the builder takes them.
func pack(w io.Writer, sums []string, contents Contents, progress func(int64)) error {
	zw, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	sizes := contents.Sizes()
	for _, sum := range sums {
		if err := packOne(zw, sum, sizes[sum], contents, progress); err != nil {
			return err
		}
	}
	return zw.Close()
}

func packOne(w io.Writer, sum string, size int64, contents Contents, progress func(int64)) error {
	f, name, err := contents.Open(sum)
	if err != nil {
		return err
	}
	defer f.Close()
	head, err := hex.DecodeString(sum)
	if err != nil {
		return err
	}
	if _, err := w.Write(binary.BigEndian.AppendUint64(head, uint64(size))); err != nil {
		return err
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, hash, counter(progress)), io.LimitReader(f, size))
	if err != nil {
		return err
	}
	if n != size || hex.EncodeToString(hash.Sum(nil)) != sum {
		return &changedError{name}
	}
	return nil
}

type counter func(int64)

func (c counter) Write(p []byte) (int, error) {
	c(int64(len(p)))
	return len(p), nil
}

// FollowOptions says what of a build to hand on.
type FollowOptions struct {
	After int64 // the number of the last line that is known; 0: from the beginning
	Stay  bool  // to the end of the build; false: what there is now
	// Lost is told when the connection broke and will be made again; may be nil.
	Lost func(err error)
}

// quietBuild is how long a stream of a build may be silent: four of the empty lines that the builder sends.
const quietBuild = time.Minute

// FollowBuild hands on what a build says, each line once and in order, and gives how it ended. A connection that breaks, or a builder
// that is restarted, is asked again from the last line on. With ErrNotUnderWay the release says what became of it.
func (c *Client) FollowBuild(ctx context.Context, id int64, opt FollowOptions, line func(api.BuildLine) error) (status string, err error) {
	for failures := 0; ; {
		before := opt.After
		status, err := c.followOnce(ctx, id, &opt.After, opt.Stay, line)
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case status != "" || err == nil && !opt.Stay:
			return status, nil
		case errors.As(err, new(*stopError)):
			return "", unstop(err)
		case final(err):
			return "", notUnderWay(err)
		}
		if opt.After > before {
			failures = 0
		}
		if failures++; failures == 1 && opt.Lost != nil {
			opt.Lost(err)
		}
		if err := pauseFor(ctx, failures); err != nil {
			return "", err
		}
	}
}

func (c *Client) followOnce(ctx context.Context, id int64, after *int64, stay bool, line func(api.BuildLine) error) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(quietBuild, func() { cancel(errors.New("the stream went silent")) })
	defer watch.Stop()
	address := fmt.Sprintf("%s/build/v1/builds/%d/events?after=%d&follow=%t", c.builder, id, *after, stay)
	req, err := c.request(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept-Encoding", "identity")
	res, err := c.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("follow build %d: %w", id, unwrapURL(err))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("follow build %d: %w", id, responseError(req, res))
	}
	read := bufio.NewReader(io.TeeReader(res.Body, resetter{watch, quietBuild}))
	for {
		text, err := read.ReadBytes('\n')
		if err != nil { // what came of a line that was cut comes again
			if errors.Is(err, io.EOF) && !stay {
				return "", nil
			}
			return "", cause(ctx, err)
		}
		var l api.BuildLine
		if len(text) <= 1 || json.Unmarshal(text, &l) != nil || l.Seq <= *after {
			continue
		}
		*after = l.Seq
		if err := line(l); err != nil {
			return "", &stopError{err}
		}
		if l.Status != "" {
			return l.Status, nil
		}
	}
}
