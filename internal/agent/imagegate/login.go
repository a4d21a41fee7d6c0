package imagegate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// login exchanges the device's key for a token of the registry. The key is shown to the API and to a registry beside it only: whoever has the
// registry, or chooses from where an image is said to come, cannot have it sent elsewhere.
func (g *Gate) login(ctx context.Context, p *pull, challenge string) error {
	kind, rest, _ := strings.Cut(challenge, " ")
	if !strings.EqualFold(kind, "Bearer") {
		return fmt.Errorf("the registry asks for %q, not for a token", kind)
	}
	params := parameters(rest)
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Scheme != "https" || realm.User != nil || !g.isAPI(realm.Host) && (realm.Host != p.host || !g.besideAPI(realm.Hostname())) {
		return fmt.Errorf("the registry asks for a token of %q, which is neither the server's API nor the registry", params["realm"])
	}
	query := realm.Query()
	if params["service"] != "" {
		query.Set("service", params["service"])
	}
	query.Set("scope", "repository:"+p.repo+":pull")
	realm.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return fmt.Errorf("ask for a token: %w", err)
	}
	req.SetBasicAuth(p.Auth.Username, p.Auth.Password)
	resp, err := g.own.Do(req)
	if err != nil {
		return fmt.Errorf("ask for a token: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s for a token: %w", realm.Host, statusError(resp.StatusCode))
	}
	var out struct {
		Token  string `json:"token"`
		Access string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&out); err != nil {
		return fmt.Errorf("ask for a token: %w", err)
	}
	if out.Token == "" {
		out.Token = out.Access
	}
	p.mu.Lock()
	p.token = out.Token
	p.mu.Unlock()
	return nil
}

// isAPI compares with the API's host, with or without the port that https has anyway.
func (g *Gate) isAPI(host string) bool {
	endpoint, err := url.Parse(g.cfg.Endpoint)
	return err == nil && endpoint.Host != "" && strings.TrimSuffix(endpoint.Host, ":443") == strings.TrimSuffix(host, ":443")
}

// besideAPI tells whether a host is of the server's own domain: only its first label is another than that of the API's name. An address has no domain.
func (g *Gate) besideAPI(host string) bool {
	endpoint, err := url.Parse(g.cfg.Endpoint)
	if err != nil || endpoint.Host == "" {
		return false
	}
	api := endpoint.Hostname()
	if net.ParseIP(host) != nil || net.ParseIP(api) != nil {
		return host == api
	}
	_, own, _ := strings.Cut(api, ".")
	_, domain, _ := strings.Cut(host, ".")
	return strings.EqualFold(host, api) || strings.Contains(own, ".") && strings.EqualFold(own, domain)
}

// parameters reads name="value", name="value". What it cannot read it leaves out.
func parameters(text string) map[string]string {
	params := map[string]string{}
	for text != "" {
		name, rest, ok := strings.Cut(text, "=")
		if !ok {
			break
		}
		name = strings.ToLower(strings.Trim(name, " ,"))
		var value string
		if quoted, isQuoted := strings.CutPrefix(rest, `"`); isQuoted {
			value, text, _ = strings.Cut(quoted, `"`)
		} else {
			value, text, _ = strings.Cut(rest, ",")
		}
		params[name] = value
	}
	return params
}
