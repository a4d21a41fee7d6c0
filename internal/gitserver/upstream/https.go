package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

const (
	maxHops     = 3
	maxAdvert   = 1 << 20 // what a server says of itself
	maxRequest  = 1 << 20 // what git asks at once
	refsPath    = "/info/refs"
	protocol    = "version=2"
	contentType = "application/x-git-upload-pack-"
)

// https speaks version 2 of git's protocol, in which a server remembers nothing between two commands: each is one request. So git may think
// that it has a connection.
func (w *Ways) https(ctx context.Context, u *url.URL, r Remote, git net.Conn) error {
	base, advert, err := w.advertised(ctx, u, r)
	if err != nil {
		return err
	}
	out := &counted{w: git, left: w.cfg.MaxBytes}
	if _, err := out.Write(advert); err != nil {
		return nil //nolint:nilerr // git has ended, and says why
	}
	in := bufio.NewReader(git)
	for {
		command, err := request(in)
		if err != nil || command == nil {
			return err
		}
		if err := w.command(ctx, base, r, command, out); err != nil {
			return err
		}
	}
}

// do makes a request.
func (w *Ways) do(req *http.Request, r Remote) (*http.Response, error) {
	req.Header.Set("Git-Protocol", protocol)
	req.Header.Set("User-Agent", "git/roadstead")
	req.Header.Set("Cache-Control", "no-cache")
	if r.Password != "" {
		name := r.Username
		if name == "" {
			name = "git"
		}
		req.SetBasicAuth(name, r.Password)
	}
	res, err := w.http.Do(req)
	if err != nil {
		return nil, reached(req.URL.Host, err)
	}
	return res, nil
}

// advertised asks what a server can do. It may send us to another path, as forges do whose repositories were renamed, and nowhere else.
func (w *Ways) advertised(ctx context.Context, u *url.URL, r Remote) (base string, advert []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Patience) // it is small: all of it is there soon
	defer cancel()
	at := *u
	for hop := 0; ; hop++ {
		base = at.String()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+refsPath+"?service=git-upload-pack", http.NoBody)
		if err != nil {
			return "", nil, fmt.Errorf("fetch: %w", err)
		}
		res, err := w.do(req, r)
		if err != nil {
			return "", nil, err
		}
		text, err := io.ReadAll(io.LimitReader(res.Body, maxAdvert+1))
		_ = res.Body.Close()
		if err != nil {
			return "", nil, reached(u.Host, err)
		}
		if res.StatusCode >= 300 && res.StatusCode < 400 {
			next, err := moved(u, res)
			if err == nil && hop == maxHops {
				err = api.Errorf(api.Invalid, "%s sends us from one place to the next.", u.Host)
			}
			if err != nil {
				return "", nil, err
			}
			at.Path = next
			continue
		}
		if err := good(u.Host, res, "advertisement"); err != nil {
			return "", nil, err
		}
		advert, err := version2(u.Host, text)
		return base, advert, err
	}
}

// moved is the path that a server sends us to.
func moved(u *url.URL, res *http.Response) (string, error) {
	to, err := res.Location()
	if err != nil {
		return "", api.Errorf(api.Invalid, "%s sends us elsewhere, but does not say where.", u.Host)
	}
	path, ok := strings.CutSuffix(to.Path, refsPath)
	if to.Scheme != u.Scheme || !strings.EqualFold(to.Host, u.Host) || !ok {
		return "", api.Errorf(api.Invalid, "%s sends us to %s://%s, which is not followed. Give the address that the repository has now.", u.Host, words([]byte(to.Scheme)), words([]byte(to.Host)))
	}
	return path, nil
}

// good holds an answer against what a git server answers.
func good(host string, res *http.Response, what string) error {
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return api.Errorf(api.Invalid, "%s does not let us in (%d): the username and the password, or token, of the source are missing, wrong or expired.", host, res.StatusCode)
	case http.StatusNotFound, http.StatusGone:
		return api.Errorf(api.Invalid, "%s has no such repository, or does not show it to us without a password or token that may read it.", host)
	default:
		if res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests {
			return api.Errorf(api.Unavailable, "%s answered %d.", host, res.StatusCode)
		}
		return api.Errorf(api.Invalid, "%s answered %d.", host, res.StatusCode)
	}
	if got := res.Header.Get("Content-Type"); got != contentType+what {
		return api.Errorf(api.Invalid, "What %s has at this address is no git repository.", host)
	}
	return nil
}

// version2 takes what a server says of itself, without the line that only HTTP has.
func version2(host string, text []byte) ([]byte, error) {
	if len(text) > maxAdvert {
		return nil, errLarge
	}
	if rest, ok := bytes.CutPrefix(text, []byte("001e# service=git-upload-pack\n0000")); ok {
		text = rest
	}
	if !bytes.HasPrefix(text, []byte("000eversion 2\n")) {
		return nil, api.Errorf(api.Invalid, "%s does not speak version 2 of git's protocol, which there is since 2018. Over ssh an older one does.", host)
	}
	return text, nil
}

// command passes a command on, and its answer back.
func (w *Ways) command(ctx context.Context, base string, r Remote, command []byte, out *counted) error {
	outer := ctx
	u, err := url.Parse(base)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	ctx, alive, stop := watched(outer, u.Host, w.cfg.Patience)
	defer stop()
	out.alive = alive
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/git-upload-pack", bytes.NewReader(command))
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	req.Header.Set("Content-Type", contentType+"request")
	req.Header.Set("Accept", contentType+"result")
	res, err := w.do(req, r)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if err := good(res.Request.URL.Host, res, "result"); err != nil {
		return err
	}
	_, err = io.Copy(out, res.Body)
	switch {
	case out.over:
		return errLarge
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil, isClosed(err):
		return nil
	}
	return reached(res.Request.URL.Host, err)
}

// isClosed reports whether git has gone: it has what it wanted, or says itself why not.
func isClosed(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "write"
}

// request reads one command of git's: packet lines up to a flush. None: git is done.
func request(in *bufio.Reader) ([]byte, error) {
	var all []byte
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return nil, nil //nolint:nilerr,nilnil // git is done, or has ended and says why
		}
		n, err := strconv.ParseUint(string(head[:]), 16, 16)
		if err != nil {
			return nil, errors.New("fetch: git sends no packet line")
		}
		all = append(all, head[:]...)
		if n == 0 {
			if len(all) == len(head) {
				return nil, nil //nolint:nilnil // nothing but the flush: git is done
			}
			return all, nil
		}
		if n < 4 {
			continue
		}
		if len(all)+int(n) > maxRequest {
			return nil, errors.New("fetch: git asks for too much at once")
		}
		line := make([]byte, n-4)
		if _, err := io.ReadFull(in, line); err != nil {
			return nil, nil //nolint:nilerr,nilnil // git has ended, and says why
		}
		all = append(all, line...)
	}
}
