package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

const (
	askEvery   = 5 * time.Second
	askTimeout = 5 * time.Second
)

// ask finds out over mutually authenticated TLS, as the role "parent", how a child is. The first question waits in the
// listener's queue until the child takes it, so nothing polls while it starts.
func (p *Parent) ask(ctx context.Context, c *child) {
	peer := p.id.Client(c.role.kind(), c.addr)
	defer peer.HTTP.CloseIdleConnections()
	for ctx.Err() == nil {
		why, err := p.healthz(ctx, peer.HTTP, peer.URL)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.mu.Lock()
			starting := c.state == Starting
			c.mu.Unlock()
			if !starting {
				c.set(Unhealthy, err.Error())
			}
			wait(ctx, 100*time.Millisecond)
			continue
		case why != "":
			c.set(Unhealthy, why)
			wait(ctx, time.Second)
			continue
		default:
			c.set(Healthy, "")
		}
		wait(ctx, askEvery)
	}
}

// healthz asks one role; why is its reason for not being well.
func (p *Parent) healthz(ctx context.Context, client *http.Client, url string) (why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("it does not answer: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return "", fmt.Errorf("it does not answer: %w", err)
	}
	if res.StatusCode == http.StatusOK {
		return "", nil
	}
	if json.Unmarshal(body, &why) != nil || why == "" {
		why = "it answered " + res.Status
	}
	return why, nil
}

// listen takes what a quiet child tells: one line a change, "ok" or why not.
func (p *Parent) listen(c *child, report *os.File) {
	defer func() { _ = report.Close() }()
	sc := bufio.NewScanner(report)
	for sc.Scan() {
		if line := strings.TrimSpace(sc.Text()); line == "ok" || strings.HasPrefix(line, "ok ") {
			c.set(Healthy, strings.TrimPrefix(line[2:], " ")) // and what is worth knowing of it
		} else if line != "" {
			c.set(Unhealthy, line)
		}
	}
}

// settle bounds how long a role that answers, but not with "well", holds the server's readiness up.
const settle = 10 * time.Second

// ready waits until every role that is not optional is well; one that has answered why it is not well is waited for no
// longer than settle.
func (p *Parent) ready(ctx context.Context) error {
	enough := time.NewTimer(settle)
	defer enough.Stop()
	patient := true
	for _, c := range p.children {
		for {
			c.mu.Lock()
			state, why, answered, changed := c.state, c.why, c.answered, c.changed
			c.mu.Unlock()
			if c.role.Optional || state == Healthy {
				break
			}
			if answered && (!patient || c.role.Name == api.RoleBuilder) {
				p.log.Warn("ready without a role that is not well", "role", c.role.Name, "why", why)
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
			case <-enough.C:
				patient = false
			}
		}
	}
	return nil
}
