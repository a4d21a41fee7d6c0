package signin

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/oauth2"
)

// github speaks OAuth 2 with GitHub and asks its API who the user is. Somebody's name there can change and be taken by another; the
// number cannot.
type github struct {
	Provider
	http *http.Client
}

// api is where GitHub's API is.
func (g *github) api() string {
	if g.issuer() == githubIssuer {
		return "https://api.github.com"
	}
	return strings.TrimSuffix(g.issuer(), "/") + "/api/v3"
}

func (g *github) site() string { return strings.TrimSuffix(g.issuer(), "/") + "/login/oauth" }

func (g *github) address(_ context.Context, a attempt) (string, error) {
	scopes := append([]string{}, g.Scopes...)
	if len(g.SignUp.Domains) > 0 || g.SignUp.Anybody {
		scopes = append(scopes, "user:email")
	}
	if len(g.Organizations) > 0 {
		scopes = append(scopes, "read:org")
	}
	q := url.Values{
		"client_id": {g.ClientID}, "redirect_uri": {a.redirect}, "state": {a.state}, "response_type": {"code"},
		"code_challenge": {oauth2.S256ChallengeFromVerifier(a.Verifier)}, "code_challenge_method": {"S256"}, "allow_signup": {"false"},
	}
	if len(scopes) > 0 {
		q.Set("scope", strings.Join(scopes, " "))
	}
	return g.site() + "/authorize?" + q.Encode(), nil
}

func (g *github) redeem(ctx context.Context, a attempt, code, issuer string) (proven, error) {
	var who proven
	if issuer != "" && issuer != g.issuer()+"/login/oauth" && issuer != g.issuer() {
		return who, distrusted("the answer is not from %s", g.label())
	}
	token, err := g.token(ctx, a, code)
	if err != nil {
		return who, err
	}
	var user struct {
		ID    int64  `json:"id"`
		Login string `json:"login"`
	}
	if err := g.ask(ctx, token, "/user", &user); err != nil {
		return who, err
	}
	if user.ID <= 0 {
		return who, distrusted("GitHub did not say who it is")
	}
	who = proven{
		issuer: g.issuer(), subject: strconv.FormatInt(user.ID, 10), label: user.Login, username: user.Login, claims: map[string]any{},
	}
	if len(g.SignUp.Domains) > 0 || g.SignUp.Anybody {
		var emails []struct {
			Email    string `json:"email"`
			Primary  bool   `json:"primary"`
			Verified bool   `json:"verified"`
		}
		if err := g.ask(ctx, token, "/user/emails", &emails); err != nil {
			return who, err
		}
		for _, e := range emails {
			if e.Primary {
				who.email, who.verified, who.doubted = e.Email, e.Verified, !e.Verified
			}
		}
	}
	if len(g.Organizations) > 0 {
		var orgs []struct {
			Login string `json:"login"`
		}
		if err := g.ask(ctx, token, "/user/orgs?per_page=100", &orgs); err != nil {
			return who, err
		}
		names := []any{}
		for _, o := range orgs {
			names = append(names, o.Login)
		}
		who.claims["organizations"] = names
	}
	return who, nil
}

// token redeems a code. GitHub says what is wrong with status 200.
func (g *github) token(ctx context.Context, a attempt, code string) (string, error) {
	form := url.Values{
		"client_id": {g.ClientID}, "client_secret": {g.Secret}, "code": {code}, "redirect_uri": {a.redirect}, "code_verifier": {a.Verifier},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.site()+"/access_token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var answer struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		Error       string `json:"error"`
	}
	if err := askJSON(g.http, req, &answer); err != nil {
		return "", &unreachableError{g.label(), err}
	}
	switch {
	case answer.Error != "":
		return "", distrusted("the provider refused: %s", word(answer.Error))
	case answer.AccessToken == "" || !strings.EqualFold(answer.TokenType, "bearer"):
		return "", &unreachableError{g.label(), errors.New("the answer holds no token")}
	}
	return answer.AccessToken, nil
}

func (g *github) ask(ctx context.Context, token, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.api()+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	if err := askJSON(g.http, req, into); err != nil {
		return &unreachableError{g.label(), err}
	}
	return nil
}
