package gitserver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/web"
)

// errOlder is what a client runs into that leaves objects out because we had them once, see [Server.cut].
var errOlder = api.Errorf(api.Conflict, "This commit is older than the history that is kept here. What is kept is thrown away now, so that all of it can come: push again.")

// errArchive says that git could not give the source.
var errArchive = errors.New("git archive")

// checkTree looks at what is to be built before it is unpacked: how much it is, and that it has no parts from elsewhere.
func (s *Server) checkTree(ctx context.Context, x *session, o order, apart []string, say func(string, ...any)) error {
	var exit *exec.ExitError
	_, err := s.output(ctx, walls{read: x.repo.path}, apart, "--git-dir="+x.repo.path, "cat-file", "-e", o.now)
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return errOlder
	}
	if err != nil {
		return err
	}
	kind, err := s.output(ctx, walls{read: x.repo.path}, apart, "--git-dir="+x.repo.path, "cat-file", "-t", o.now)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(kind)) != "commit" {
		return api.Errorf(api.Invalid, "A branch points to a commit, not to a %s.", strings.TrimSpace(string(kind)))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := s.command(ctx, walls{read: x.repo.path}, apart, "--git-dir="+x.repo.path, "ls-tree", "-r", "-l", "-z", "--full-tree", o.now)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	modules, err := s.weigh(out)
	if err != nil {
		cancel() // there may be no end to it
		_ = cmd.Wait()
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("git ls-tree: %w", err)
	}
	if len(modules) == 0 {
		return nil
	}
	if !s.cfg.Limits.Submodules {
		return api.Errorf(api.Invalid, "%s is a submodule, and submodules are not built here: add its files to the repository itself.", clean(modules[0]))
	}
	say("Note: %s is a submodule; its directory is empty in the build", clean(modules[0]))
	return nil
}

// weigh reads a list of files and gives the submodules among them.
func (s *Server) weigh(list io.Reader) (modules []string, err error) {
	var files int
	var bytes int64
	r := bufio.NewReaderSize(list, 64<<10)
	for {
		entry, err := r.ReadString(0)
		if errors.Is(err, io.EOF) {
			return modules, nil
		}
		if err != nil {
			return nil, fmt.Errorf("git ls-tree: %w", err)
		}
		facts, name, _ := strings.Cut(strings.TrimSuffix(entry, "\x00"), "\t")
		parts := strings.Fields(facts)
		if len(parts) != 4 {
			return nil, fmt.Errorf("git ls-tree: what it says is %.100q", entry)
		}
		if parts[1] == "commit" && len(modules) < 10 {
			modules = append(modules, name)
		}
		n, _ := strconv.ParseInt(parts[3], 10, 64) // "-" for what has no size
		bytes += n
		files++
		if files > s.cfg.Limits.TreeFiles {
			return nil, api.Errorf(api.TooLarge, "The commit has more than %d files (limit source_entries).", s.cfg.Limits.TreeFiles)
		}
		if bytes > s.cfg.Limits.TreeBytes {
			return nil, api.Errorf(api.TooLarge, "The files of the commit have more than %s (limit source_bytes).", amount(s.cfg.Limits.TreeBytes))
		}
	}
}

// build has the builder build a commit, and passes on what it says as it does. No error means that there is a release.
func (s *Server) build(ctx context.Context, x *session, o order, apart []string, say func(string, ...any)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	archive := s.command(ctx, walls{read: x.repo.path}, apart, "--git-dir="+x.repo.path, "archive", "--format=tar", o.now)
	source, err := archive.StdoutPipe()
	if err != nil {
		return err
	}
	var complaint limited
	complaint.left = 4 << 10
	archive.Stderr = &complaint
	query := url.Values{"slug": {x.Fleet.Slug}, "gitCommit": {o.now}, "gitRef": {o.ref}}
	if o.noCache {
		query.Set("nocache", "true")
	}
	if o.emulated {
		query.Set("emulated", "true")
	}
	if o.draft {
		query.Set("isdraft", "true")
	}
	if o.from != "" {
		query.Set("gitUrl", o.from)
	}
	body := &whole{r: source, end: func() error {
		if err := archive.Wait(); err != nil {
			return fmt.Errorf("%w: %w: %s", errArchive, err, complaint.String())
		}
		return nil
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.builder.URL+"/v3/build?"+query.Encode(), body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-tar")
	req.Header.Set("Authorization", "Ticket "+x.holds())
	req.Header.Set("X-Forwarded-For", x.address)
	req.Header.Set(web.RequestIDHeader, x.id)
	if err := archive.Start(); err != nil {
		return err
	}
	say("Building %.12s for %s", o.now, x.Fleet.Slug)
	res, err := s.builder.HTTP.Do(req)
	if err != nil {
		_ = body.Close()
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if errors.Is(err, errArchive) {
			return err // what the builder got was not all of the source
		}
		return errors.Join(api.Errorf(api.Unavailable, "the builder does not answer; push again"), err)
	}
	defer func() { _ = res.Body.Close(); _ = body.Close() }()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // what was read of it is worth telling
		return answerError(res.StatusCode, text)
	}
	return follow(res.Body, say)
}

// whole is the body of a request that ends well only if whoever makes it does.
type whole struct {
	r   io.ReadCloser
	end func() error

	once sync.Once
	err  error // of end, once it was called
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if errors.Is(err, io.EOF) {
		if bad := w.finish(); bad != nil {
			return n, bad
		}
	}
	return n, err
}

func (w *whole) finish() error {
	w.once.Do(func() { w.err = w.end() })
	return w.err
}

// Close ends it early, and waits for who makes it.
func (w *whole) Close() error {
	_ = w.r.Close()
	_ = w.finish()
	return nil
}

// follow reads the builder's events until their end.
func follow(r io.Reader, say func(string, ...any)) error {
	dec := json.NewDecoder(r)
	cut := func(err error) error {
		return errors.Join(api.Errorf(api.Unavailable, "the connection to the builder was lost; push again"), err)
	}
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return cut(err)
	}
	var failed string
	for dec.More() {
		var e api.BuildEvent
		if err := dec.Decode(&e); err != nil {
			return cut(err)
		}
		if e.IsError {
			failed = strings.TrimPrefix(e.Message, "ERROR: ")
			continue
		}
		if e.Type == "" && e.Message != "" {
			for line := range strings.Lines(e.Message) {
				say("%s", strings.TrimRight(line, "\r\n"))
			}
		}
	}
	if _, err := dec.Token(); err != nil {
		return cut(err)
	}
	if failed != "" {
		return api.Errorf(api.Invalid, "%s", failed)
	}
	return nil
}

var escapes = pattern.New(`\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?)`)

// clean is a line without what would move a terminal's cursor: what a build prints is not ours.
func clean(text string) string {
	text = escapes.ReplaceAllString(strings.ToValidUTF8(text, "\uFFFD"), "")
	return strings.Map(func(r rune) rune {
		if r == '\t' || !unicode.IsControl(r) {
			return r
		}
		return -1
	}, text)
}
