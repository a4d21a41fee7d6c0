package gitserver

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/web"
)

// The protocol of git over HTTPS is that over SSH, cut into requests: first what there is, then what is wanted, which git calls
// "stateless". A token comes as the password of Basic authentication; the user name means nothing.

// entry opens the repository that a request names, for whoever sent it. When it says false it has answered.
func (s *Server) entry(w http.ResponseWriter, r *http.Request, what verb) (x *session, ok bool, err error) {
	refuse := func(err error) (*session, bool, error) {
		text, ours := words(err)
		if ours {
			return nil, false, err
		}
		status := api.AsError(err).Code.Status()
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="Roadstead: any user name, and a token as the password", charset="UTF-8"`)
		}
		return nil, false, web.WriteText(w, status, text+"\n")
	}
	fleet, err := parsePath(r.PathValue("organization") + "/" + r.PathValue("repository"))
	if err != nil {
		return refuse(err)
	}
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		return refuse(api.Errorf(api.Unauthorized, "Log in with a token as the password."))
	}
	address := forwardedFor(r)
	x, err = s.open(r.Context(), what, credentials{authorization, address}, api.GitOpenRequest{Path: fleet, Address: address})
	if err != nil {
		return refuse(err)
	}
	return x, true, nil
}

// forwardedFor is where the edge says that a request comes from.
func forwardedFor(r *http.Request) string {
	parts := strings.Split(r.Header.Get("X-Forwarded-For"), ",")
	if address := strings.TrimSpace(parts[len(parts)-1]); address != "" {
		return address
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return host
}

// advertise answers what branches there are.
func (s *Server) advertise(w http.ResponseWriter, r *http.Request) error {
	what := verb(r.URL.Query().Get("service"))
	if what != push && what != fetch {
		return web.WriteText(w, http.StatusForbidden, "This server speaks git's smart protocol only.\n")
	}
	x, ok, err := s.entry(w, r, what)
	if !ok {
		return err
	}
	defer s.leave(x)
	ctx, cancel := context.WithTimeout(x.ctx, time.Minute)
	defer cancel()
	args := []string{strings.TrimPrefix(string(what), "git-"), "--stateless-rpc", "--advertise-refs", x.repo.path}
	out, err := s.output(ctx, walls{read: x.repo.path}, nil, args...)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-"+string(what)+"-advertisement")
	w.Header().Set("Cache-Control", "no-store")
	head := "# service=" + string(what) + "\n"
	_, err = fmt.Fprintf(w, "%04x%s0000%s", len(head)+4, head, out)
	return err
}

// rpc does what a client wants.
func (s *Server) rpc(what verb) web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if got, want := r.Header.Get("Content-Type"), "application/x-"+string(what)+"-request"; got != want {
			return web.WriteText(w, http.StatusUnsupportedMediaType, fmt.Sprintf("The body is not %s.\n", want))
		}
		x, ok, err := s.entry(w, r, what)
		if !ok {
			return err
		}
		defer s.leave(x)
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			if body, err = gzip.NewReader(r.Body); err != nil {
				return web.WriteText(w, http.StatusBadRequest, "The body is not gzip.\n")
			}
		}
		w.Header().Set("Content-Type", "application/x-"+string(what)+"-result")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Connection", "close") // the deadline below ends the connection's context, and with it what came next on it
		rc := http.NewResponseController(w)
		out := &flushing{w: w, rc: rc}
		do := s.upload
		if what == push {
			do = s.receive
		}
		_, wait, err := do(x, streams{in: body, out: out, messages: io.Discard}, "--stateless-rpc")
		if err != nil {
			s.log.InfoContext(r.Context(), "git over HTTPS ended", "user", x.User, "fleet", x.Fleet.Slug, "session", x.id, "error", err)
			text, _ := words(err)
			if errors.Is(err, errRevoked) || errors.Is(err, errStopped) || errors.Is(err, errSlow) {
				text = err.Error()
			}
			if !out.begun {
				status := api.AsError(err).Code.Status()
				if errors.Is(err, errRevoked) {
					status = http.StatusForbidden
				}
				_ = web.WriteText(w, status, clean(text)+"\n")
			} else {
				_, _ = out.Write(sideband(3, "ERROR: "+clean(text)+"\n"))
			}
		}
		_ = rc.SetReadDeadline(time.Now()) // what still comes is of no use
		wait()
		return nil
	}
}

// sideband is a packet of git's protocol for a person to read.
func sideband(band byte, text string) []byte {
	return fmt.Appendf(nil, "%04x%c%s", len(text)+5, band, text)
}

// flushing sends every piece at once: the lines of a build are read as it runs.
type flushing struct {
	w     io.Writer
	rc    *http.ResponseController
	begun bool
}

const writeTime = time.Minute

func (f *flushing) Write(p []byte) (int, error) {
	f.begun = true
	_ = f.rc.SetWriteDeadline(time.Now().Add(writeTime)) // not every connection can; then there is none
	n, err := f.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, f.rc.Flush()
}
