package dashboard

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// loginData is what the login page is made from.
type loginData struct {
	Providers []api.SignInProvider
	Username  string
}

func (v *visit) providers() []api.SignInProvider {
	var list []api.SignInProvider
	if v.callAs("", v.r.UserAgent(), http.MethodGet, "/auth/v1/providers", nil, &list) != nil {
		return nil // the password's form is there without them
	}
	return list
}

func loginPage(v *visit) error {
	next := local(v.r.URL.Query().Get("next"))
	if v.token != "" && !v.half {
		if v.call(http.MethodGet, "/user/v1/whoami", nil, &api.User{}) == nil {
			return v.to(next)
		}
	}
	return v.show(http.StatusOK, "login", view{Title: "Log in", Next: next, Data: loginData{Providers: v.providers()}})
}

func login(v *visit) error {
	var token string
	name := strings.TrimSpace(v.form("username"))
	err := v.callAs("", v.r.UserAgent(), http.MethodPost, "/login_", api.Login{Username: name, Password: v.form("password")}, &token)
	if errors.Is(err, api.ErrUnauthorized) && api.AsError(err).Text == "" {
		err = api.Errorf(api.Unauthorized, "Wrong e-mail address, user name or password.")
	}
	if err != nil {
		return v.again(err, "login", view{Title: "Log in", Next: local(v.form("next")), Data: loginData{v.providers(), name}})
	}
	v.endFormer()
	return v.signedIn(token, v.form("next"))
}

func logout(v *visit) error {
	if v.token != "" {
		if err := v.call(http.MethodPost, "/user/v1/logout", nil, nil); err != nil && !errors.Is(err, api.ErrUnauthorized) {
			return err // the session lives: do not say that it ended
		}
	}
	v.drop(sessionCookie)
	return v.to("/login")
}

func factorPage(v *visit) error {
	if v.token == "" {
		return v.to("/login")
	}
	return v.show(http.StatusOK, "factor", view{Title: "Second factor", Next: local(v.r.URL.Query().Get("next"))})
}

func factor(v *visit) error {
	if v.token == "" {
		return v.to("/login")
	}
	var token string
	code := strings.TrimSpace(v.form("code"))
	if err := v.call(http.MethodPost, "/auth/totp/verify", map[string]string{"code": code}, &token); err != nil {
		if errors.Is(err, api.ErrUnauthorized) && api.AsError(err).Text == "" {
			err = api.Errorf(api.Unauthorized, "The code is wrong, used already, or too old. Log in again if this stays.")
		}
		return v.again(err, "factor", view{Title: "Second factor", Next: local(v.form("next"))})
	}
	return v.signedIn(token, v.form("next"))
}

// passkeyPage asks the browser for a passkey, as the second factor.
func passkeyPage(v *visit) error {
	var options json.RawMessage
	if err := v.call(http.MethodPost, "/auth/webauthn/verify/start", struct{}{}, &options); err != nil {
		return v.again(err, "factor", view{Title: "Second factor", Next: local(v.form("next"))})
	}
	return v.show(http.StatusOK, "passkey", view{
		Title: "Passkey", Next: local(v.form("next")),
		Data: map[string]any{"Options": string(options), "Do": "get", "Action": "/login/factor/passkey/verify"},
	})
}

func passkeyVerify(v *visit) error {
	credential, err := credentialOf(v)
	if err != nil {
		return err
	}
	var token string
	if err := v.call(http.MethodPost, "/auth/webauthn/verify", credential, &token); err != nil {
		return v.again(err, "factor", view{Title: "Second factor", Next: local(v.form("next"))})
	}
	return v.signedIn(token, v.form("next"))
}

// credentialOf is what the browser's authenticator answered.
func credentialOf(v *visit) (json.RawMessage, error) {
	text := v.form("credential")
	if !json.Valid([]byte(text)) {
		return nil, api.Errorf(api.Invalid, "The browser gave no passkey.")
	}
	return json.RawMessage(text), nil
}

// underway is a sign-in through a provider, as the cookie keeps it.
type underway struct {
	Binding string `json:"b"`
	State   string `json:"s"`
	Purpose string `json:"p"`
	Next    string `json:"n"`
}

func startLogin(v *visit) error { return v.start(api.SignInLogin, v.form("next")) }
func startLink(v *visit) error  { return v.start(api.SignInLink, "/account") }

// proveAgain is the name of the field with which a page asks that the provider asks again.
const proveAgain = "fresh"

// start sends the browser to a provider. It goes by a page of ours: a form that is answered by a way to elsewhere would be held back by
// our own policy.
func (v *visit) start(purpose, next string) error {
	name := v.r.PathValue("provider")
	token := ""
	if purpose == api.SignInLink {
		token = v.token
	}
	var started api.StartedSignIn
	err := v.callAs(token, v.r.UserAgent(), http.MethodPost, "/auth/v1/providers/"+url.PathEscape(name)+"/start", api.StartSignIn{
		Purpose: purpose, Fresh: v.form(proveAgain) != "",
	}, &started)
	if err != nil {
		return err
	}
	u, err := url.Parse(started.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return api.Errorf(api.Unavailable, "The provider has no address that a browser can go to.")
	}
	kept, err := json.Marshal(underway{started.Binding, started.State, purpose, local(next)})
	if err != nil {
		return err
	}
	v.set(signInCookie, string(kept), signInLife)
	return v.away(u.String(), u.Host)
}

// callback is where a provider sends the browser back to. Only the browser that began the sign-in has what ends it.
func callback(v *visit) error {
	var begun underway
	kept := v.open(signInCookie)
	v.drop(signInCookie)
	q := v.r.URL.Query()
	if kept == "" || json.Unmarshal([]byte(kept), &begun) != nil || q.Get("state") == "" || q.Get("state") != begun.State {
		return api.Errorf(api.Forbidden, "This sign-in was not begun in this browser, or too long ago. Begin again.")
	}
	token := ""
	if begun.Purpose == api.SignInLink {
		token = v.token
	}
	var answer string
	err := v.callAs(token, v.r.UserAgent(), http.MethodPost, "/auth/v1/providers/"+url.PathEscape(v.r.PathValue("provider"))+"/finish", api.FinishSignIn{
		State: begun.State, Binding: begun.Binding, Code: q.Get("code"), Issuer: q.Get("iss"), Error: q.Get("error"),
	}, &answer)
	if err != nil {
		if begun.Purpose == api.SignInLink {
			return err
		}
		return v.again(err, "login", view{Title: "Log in", Next: begun.Next, Data: loginData{Providers: v.providers()}})
	}
	if begun.Purpose == api.SignInLink {
		return v.to("/account?done=linked")
	}
	v.endFormer()
	return v.signedIn(answer, begun.Next)
}

// confirmPage asks who is signed in to prove it once more.
func confirmPage(v *visit) error {
	return v.show(http.StatusOK, "confirm", view{
		Title: "Is it you?", Next: local(v.r.URL.Query().Get("next")), Data: loginData{Providers: v.linked()},
	})
}

// linked is the providers that the visitor can come in through.
func (v *visit) linked() []api.SignInProvider {
	var mine []api.Identity
	if v.call(http.MethodGet, "/user/v1/identities", nil, &mine) != nil {
		return nil
	}
	var list []api.SignInProvider
	for _, p := range v.providers() {
		for _, i := range mine {
			if i.Provider == p.Name {
				list = append(list, p)
				break
			}
		}
	}
	return list
}

func confirm(v *visit) error {
	var token string
	err := v.call(http.MethodPost, "/user/v1/refresh-token", api.Login{Password: v.form("password")}, &token)
	if errors.Is(err, api.ErrUnauthorized) && api.AsError(err).Text == "" {
		err = api.Errorf(api.Unauthorized, "The password is wrong.")
	}
	if err != nil {
		return v.again(err, "confirm", view{Title: "Is it you?", Next: local(v.form("next")), Data: loginData{Providers: v.linked()}})
	}
	return v.signedIn(token, v.form("next"))
}
