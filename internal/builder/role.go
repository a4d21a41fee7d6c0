package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// role is another role of the server that the builder asks things.
type role struct {
	name string
	peer *pki.Peer
}

const (
	callTimeout = 15 * time.Second
	maxAnswer   = 1 << 20
)

// behalf is who a role asks for, when it is not itself: the credentials that somebody sent, and from where. A key may be for some
// networks only.
type behalf struct{ authorization, address string }

// call sends a JSON request and reads a JSON answer. The other role's own words come back as a coded error; a role that does
// not answer is Unavailable.
func (r role) call(ctx context.Context, path string, by behalf, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("ask the %s role: %w", r.name, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.peer.URL+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the %s role: %w", r.name, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if by.authorization != "" {
		req.Header.Set("Authorization", by.authorization)
		req.Header.Set("X-Forwarded-For", by.address)
	}
	res, err := r.peer.HTTP.Do(req)
	if err != nil {
		return errors.Join(api.Errorf(api.Unavailable, "the %s role does not answer; try again", r.name), err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode == http.StatusNotModified { // out says already how it is
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return errors.Join(api.Errorf(api.Unavailable, "the %s role's answer was cut off; try again", r.name), err)
	}
	if res.StatusCode >= 300 {
		return answerError(res.StatusCode, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read the %s role's answer: %w", r.name, err)
	}
	return nil
}

// answerError is the error that a role answered with: a JSON string, or nothing.
func answerError(status int, body []byte) error {
	var text string
	if json.Unmarshal(body, &text) != nil {
		text = strings.TrimSpace(string(body))
	}
	return &api.Error{Code: api.CodeOf(status), Text: text}
}

// retried reports whether asking again can help.
func retried(err error) bool {
	code := api.AsError(err).Code
	return code == api.Unavailable || code == api.Internal || code == api.RateLimited
}

// persist repeats a call that is safe to repeat, with growing pauses, until it works, cannot work, or the context ends.
func persist(ctx context.Context, call func() error) error {
	wait := 200 * time.Millisecond
	for {
		err := call()
		if err == nil || !retried(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		wait = min(wait*2, 5*time.Second)
	}
}

func (s *Server) openBuild(ctx context.Context, by behalf, ask api.BuildRequest) (api.Build, error) {
	var b api.Build
	if err := s.api.call(ctx, "/internal/v1/builds", by, ask, &b); err != nil {
		return b, err
	}
	if b.ID == 0 || b.Fleet == nil {
		return b, fmt.Errorf("open a build: the api role's answer names no build")
	}
	return b, nil
}

func (s *Server) addImages(ctx context.Context, build int64, ask api.BuildImagesRequest) ([]api.BuildImage, error) {
	var images []api.BuildImage
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := persist(ctx, func() error {
		return s.api.call(ctx, fmt.Sprintf("/internal/v1/builds/%d/images", build), behalf{}, ask, &images)
	})
	return images, err
}

func (s *Server) heartbeat(ctx context.Context, build int64, beat api.BuildBeat) (api.Build, error) {
	var b api.Build
	err := s.api.call(ctx, fmt.Sprintf("/internal/v1/builds/%d/heartbeat", build), behalf{}, beat, &b)
	return b, err
}

func (s *Server) finish(ctx context.Context, build int64, result api.BuildResult) (api.Build, error) {
	var b api.Build
	err := persist(ctx, func() error {
		return s.api.call(ctx, fmt.Sprintf("/internal/v1/builds/%d/finish", build), behalf{}, result, &b)
	})
	return b, err
}

func (s *Server) pushToken(ctx context.Context, build int64, repository string) (api.SignedToken, error) {
	var t api.SignedToken
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := persist(ctx, func() error {
		return s.signer.call(ctx, "/v1/push-token", behalf{}, api.PushTokenRequest{Build: build, Repository: repository}, &t)
	})
	return t, err
}
