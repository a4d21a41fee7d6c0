package client

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
)

// Git says how git is reached.
func (c *Client) Git(ctx context.Context) (site api.GitSite, err error) {
	var config struct {
		Git api.GitSite `json:"git"`
	}
	if err := c.As("").Do(ctx, http.MethodGet, "/config", nil, &config); err != nil {
		return site, fmt.Errorf("where git is: %w", err)
	}
	return config.Git, nil
}

// Remote is what git is told to push a fleet to: over SSH, "" when there is none, and over HTTPS.
func (c *Client) Remote(site api.GitSite, slug string) (ssh, https string) {
	https = c.ServiceURL("git") + "/" + slug + ".git"
	host, port, err := net.SplitHostPort(site.SSH)
	switch {
	case err != nil:
		return "", https
	case port == "22":
		return "git@" + host + ":" + slug + ".git", https
	}
	return "ssh://git@" + site.SSH + "/" + slug + ".git", https
}
