// Package transit is how images travel between the builder and the registry role, and what the builder has to do about those that
// wait in quarantine.
package transit

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// tokenRest is how long a token must still live to be used.
const tokenRest = time.Minute

// Way is the way to the registry role: whatever host a request names, it goes there, over our mutually authenticated
// connection, with a push token that is fresh. The public name stays in the Host header, for the registry makes links of it.
type Way struct {
	Next  http.RoundTripper
	Addr  string // of the registry role
	Host  string // the public name
	Fetch func(context.Context) (api.SignedToken, error)

	mu    sync.Mutex // covers token; held while a new one is fetched, so that only one is
	token api.SignedToken
}

// RoundTrip implements http.RoundTripper.
func (w *Way) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := w.fresh(r.Context())
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.Host = "https", w.Addr, w.Host
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := w.Next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusUnauthorized {
		_ = res.Body.Close()
		// Passed on, the challenge would send the library to the token endpoint, which knows no builder.
		return nil, api.Errorf(api.Forbidden, "the registry does not accept the push token")
	}
	return res, nil
}

func (w *Way) fresh(ctx context.Context) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.token.Token != "" && time.Until(w.token.ExpiresAt) > tokenRest {
		return w.token.Token, nil
	}
	token, err := w.Fetch(ctx)
	if err != nil {
		return "", err
	}
	w.token = token
	return token.Token, nil
}

// What [Way.Delete] does to a repository in quarantine.
const (
	Close = "blobs/uploads/" // nothing more is taken
	Empty = "blobs/"         // and nothing is left
)

const deleteTime = 15 * time.Second

// Delete closes a repository in quarantine, or empties it.
func (w *Way) Delete(ctx context.Context, repository, what string) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, "https://"+w.Host+"/v2/"+repository+"/"+what, nil)
	if err != nil {
		return err
	}
	res, err := w.RoundTrip(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusAccepted {
		return api.Errorf(api.Unavailable, "the registry answered %s", res.Status)
	}
	return nil
}

const (
	promotionsAtOnce = 2
	pause            = 2 * time.Second // after an error, and after an answer that should have waited
)

// Chores are what there is to do about quarantine.
type Chores struct {
	Next    func(ctx context.Context) (api.QuarantineChore, error) // waits until there is something, or for a while
	Promote func(p *api.Promotion)
	Empty   func(ctx context.Context, b api.Build) error
	Log     *slog.Logger
}

// Run does them until the context ends, and waits for the promotions that are under way.
func (c Chores) Run(ctx context.Context) {
	places := make(chan struct{}, promotionsAtOnce)
	var promotions sync.WaitGroup
	defer promotions.Wait()
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		asked := time.Now()
		chore, err := c.Next(ctx)
		if err == nil && chore.Promote != nil {
			promotions.Go(func() {
				defer func() { <-places }()
				c.Promote(chore.Promote)
			})
			continue
		}
		if err == nil && chore.Empty != nil {
			if err = c.Empty(ctx, *chore.Empty); err == nil {
				asked = time.Time{}
			}
		}
		<-places
		if err == nil && time.Since(asked) >= pause {
			continue
		}
		if err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "quarantine: will be tried again", "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}
