package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

// signTime bounds one question to the signer.
const signTime = 10 * time.Second

// enoughGrants bounds the size of one question.
const enoughGrants = 1000

// tokens gets pull tokens from the signer, the only role that can make them. While it waits for an answer, whoever else wants
// one gathers, and all of them are asked for together: a fleet that updates wants hundreds at once.
type tokens struct {
	signer *pki.Peer // nil: there is none
	log    *slog.Logger
	orders chan *order
}

// order is one token that somebody waits for.
type order struct {
	ask  api.PullTokenRequest
	done chan signed // takes one answer, also when nobody waits any more
}

type signed struct {
	token api.SignedToken
	err   error
}

func newTokens(signer *pki.Peer, log *slog.Logger) *tokens {
	return &tokens{signer: signer, log: log, orders: make(chan *order)}
}

// sign gives a token. Run must be running.
func (t *tokens) sign(ctx context.Context, ask api.PullTokenRequest) (api.SignedToken, error) {
	if t.signer == nil {
		return api.SignedToken{}, api.Errorf(api.Unavailable, "there is no signer")
	}
	ctx, cancel := context.WithTimeout(ctx, signTime)
	defer cancel()
	o := &order{ask: ask, done: make(chan signed, 1)}
	select {
	case t.orders <- o:
	case <-ctx.Done():
		return api.SignedToken{}, api.Errorf(api.Unavailable, "the signer does not answer")
	}
	select {
	case s := <-o.done:
		return s.token, s.err
	case <-ctx.Done():
		return api.SignedToken{}, api.Errorf(api.Unavailable, "the signer does not answer")
	}
}

// Run asks the signer until the context ends.
func (t *tokens) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case first := <-t.orders:
			t.fill(ctx, t.gather(first))
		}
	}
}

// gather takes everybody who waits at this moment, or will when all that can run has run: who asks right after the last answer
// would be too late otherwise, and be asked for alone.
func (t *tokens) gather(first *order) []*order {
	list, grants := []*order{first}, len(first.ask.Access)
	for yielded := false; len(list) < api.MaxPullTokens && grants < enoughGrants; {
		select {
		case o := <-t.orders:
			list = append(list, o)
			grants += len(o.ask.Access)
			yielded = false
		default:
			if yielded {
				return list
			}
			yielded = true
			runtime.Gosched()
		}
	}
	return list
}

// fill answers all orders of a list.
func (t *tokens) fill(ctx context.Context, list []*order) {
	ctx, cancel := context.WithTimeout(ctx, signTime)
	defer cancel()
	asks := make([]api.PullTokenRequest, len(list))
	for i, o := range list {
		asks[i] = o.ask
	}
	answers, err := t.ask(ctx, asks)
	if err != nil {
		t.log.ErrorContext(ctx, "the signer gave no pull tokens", "wanted", len(list), "error", err)
		err = api.Errorf(api.Unavailable, "the signer gave no token")
	}
	for i, o := range list {
		s := signed{err: err}
		switch {
		case err != nil:
		case answers[i].Refused != "":
			t.log.ErrorContext(ctx, "the signer refused a pull token", "subject", o.ask.Subject, "why", answers[i].Refused)
			s.err = api.Errorf(api.Unavailable, "the signer gave no token")
		default:
			s.token = answers[i]
		}
		o.done <- s
	}
}

func (t *tokens) ask(ctx context.Context, asks []api.PullTokenRequest) ([]api.SignedToken, error) {
	body, err := json.Marshal(asks)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.signer.URL+"/v1/pull-tokens", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header["Idempotency-Key"] = nil // to sign again is harmless: on a connection that turns out to be dead it is sent again
	res, err := t.signer.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %.200s", res.Status, data)
	}
	var answers []api.SignedToken
	if err := json.Unmarshal(data, &answers); err != nil {
		return nil, err
	}
	if len(answers) != len(asks) {
		return nil, errors.New("the answer has another length than the question")
	}
	return answers, nil
}
