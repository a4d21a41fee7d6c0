package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// ErrStreamCut says that a build's stream ended before its end: how the build went is to be read from the release.
var ErrStreamCut = errors.New("the connection to the builder was lost before the build ended")

// BuildOptions says what to build, and how.
type BuildOptions struct {
	Slug       string // <organization>/<fleet>
	Dockerfile string // path inside the project; "" means by the usual names
	NoCache    bool
	Draft      bool // the release is not final: devices do not follow it
	Detach     bool // the answer comes as soon as the build has started
	// Foreign builds although no worker runs programs of the fleet's devices: for projects without steps, and images that come built.
	Foreign bool
}

func (o BuildOptions) query() string {
	q := fmt.Sprintf("slug=%s&dockerfilePath=%s&emulated=false&nocache=%t&headless=%t&isdraft=%t",
		url.QueryEscape(o.Slug), url.QueryEscape(o.Dockerfile), o.NoCache, o.Detach, o.Draft)
	if o.Foreign {
		q += "&foreign=true"
	}
	return q
}

// BuildOutcome is what became of a build.
type BuildOutcome struct {
	Release int64 // 0: the builder did not come as far as making one
	Failed  bool  // the builder said that it failed
}

// Build sends a project (a tar, compressed with gzip) to the builder and hands on what it says, event by event. It is not
// repeated on failure. The outcome holds what is known even when an error is given back.
func (c *Client) Build(
	ctx context.Context, opt BuildOptions, source io.Reader, event func(api.BuildEvent) error,
) (BuildOutcome, error) {
	var out BuildOutcome
	req, err := c.request(ctx, http.MethodPost, c.builder+"/v3/build?"+opt.query(), io.NopCloser(source))
	if err != nil {
		return out, err
	}
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("Accept-Encoding", "identity")
	res, err := c.http.Do(req)
	if err != nil {
		return out, fmt.Errorf("send the project to %s: %w", c.builder, unwrapURL(err))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return out, fmt.Errorf("the builder refused: %w", responseError(req, res))
	}
	if opt.Detach {
		return startedBuild(res.Body)
	}
	err = decodeEvents(res.Body, func(e api.BuildEvent) error {
		if e.IsError {
			out.Failed = true
		}
		if e.Type == "metadata" && e.Resource == "buildLogId" {
			out.Release = releaseID(e.Value)
		}
		return event(e)
	})
	return out, err
}

// decodeEvents reads a JSON array while it is being written.
func decodeEvents(r io.Reader, event func(api.BuildEvent) error) error {
	dec := json.NewDecoder(r)
	t, err := dec.Token()
	if err != nil {
		return cut(err)
	}
	if t != json.Delim('[') {
		return errors.New("the builder's answer is not a stream of events; is this the right server?")
	}
	for dec.More() {
		var e api.BuildEvent
		if err := dec.Decode(&e); err != nil {
			return cut(err)
		}
		if err := event(e); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return cut(err)
	}
	return nil
}

func cut(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	if (errors.As(err, &syntax) && !strings.Contains(err.Error(), "unexpected end")) || errors.As(err, &kind) {
		return fmt.Errorf("the builder's answer cannot be read: %w", err)
	}
	return fmt.Errorf("%w: %w", ErrStreamCut, err)
}

func releaseID(v any) int64 {
	switch v := v.(type) {
	case float64:
		return int64(v)
	case string:
		id, _ := strconv.ParseInt(v, 10, 64)
		return id
	}
	return 0
}

func startedBuild(r io.Reader) (BuildOutcome, error) {
	var answer struct {
		Started   bool   `json:"started"`
		ReleaseID int64  `json:"releaseId"`
		Error     string `json:"error"`
		Message   string `json:"message"`
	}
	if err := json.NewDecoder(io.LimitReader(r, maxAnswer)).Decode(&answer); err != nil {
		return BuildOutcome{}, fmt.Errorf("the builder's answer cannot be read: %w", err)
	}
	if !answer.Started {
		return BuildOutcome{Release: answer.ReleaseID, Failed: true}, api.Errorf(api.Invalid, "the build did not start: %s",
			strings.TrimSpace(answer.Message+" "+answer.Error))
	}
	return BuildOutcome{Release: answer.ReleaseID}, nil
}

// CancelBuild asks for a running build's end, as balena's client does: it marks the release, and the builder watches.
func (c *Client) CancelBuild(ctx context.Context, release int64) error {
	return c.Patch(ctx, ID("release", release), Query{Filter: Where("status ne ?", api.StatusSuccess)},
		map[string]any{"status": api.StatusCancelled, "end_timestamp": time.Now().UnixMilli()})
}
