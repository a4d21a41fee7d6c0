package dashboard

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// The pages that letters lead to. A letter's code stands behind the # of its address, which browsers keep to themselves: it is in no
// log. A small script puts it into the form; without one, it is pasted.

func forgotPage(v *visit) error {
	return v.show(http.StatusOK, "forgot", view{Title: "Forgotten password"})
}

// forgot asks for a letter. What it answers says nothing about who has an account.
func forgot(v *visit) error {
	err := v.callAs("", v.r.UserAgent(), http.MethodPost, "/user/v1/password/forgot", map[string]string{"email": strings.TrimSpace(v.form("email"))}, nil)
	if err != nil {
		return v.again(err, "forgot", view{Title: "Forgotten password"})
	}
	return v.show(http.StatusOK, "message", view{Title: "Forgotten password",
		Notice: "If the address is known here and the server sends mail, a letter is on its way. Its link holds for an hour."})
}

func resetPage(v *visit) error {
	return v.show(http.StatusOK, "reset", view{Title: "New password"})
}

func reset(v *visit) error {
	if v.form("password") != v.form("again") {
		return v.show(http.StatusBadRequest, "reset", view{Title: "New password", Error: "The two passwords are not the same.", Data: v.form("token")})
	}
	err := v.callAs("", v.r.UserAgent(), http.MethodPost, "/user/v1/password/reset",
		map[string]string{"token": strings.TrimSpace(v.form("token")), "password": v.form("password")}, nil)
	if errors.Is(err, api.ErrUnauthorized) && api.AsError(err).Text == "" {
		err = api.Errorf(api.Unauthorized, "The code has been used, or is too old. Ask for another letter.")
	}
	if err != nil {
		return v.again(err, "reset", view{Title: "New password", Data: v.form("token")})
	}
	v.drop(sessionCookie)
	return v.show(http.StatusOK, "login", view{Title: "Log in", Next: "/", Notice: "The password is set. Log in with it.", Data: loginData{Providers: v.providers()}})
}

// inviteLife is how long an invitation may wait in a browser for its owner to sign in.
const inviteLife = time.Hour

func inviteTo(v *visit) (string, error) {
	where := v.r.PathValue("where")
	if where != "org" && where != "user" {
		return "", api.Errorf(api.NotFound, "There is no such page.")
	}
	return where, nil
}

func invitePage(v *visit) error {
	where, err := inviteTo(v)
	if err != nil {
		return err
	}
	token, _ := strings.CutPrefix(v.open(inviteCookie), where+":")
	return v.show(http.StatusOK, "invite", view{Title: "Invitation", Data: map[string]string{"Where": where, "Token": token}})
}

// invite accepts an invitation for whoever is signed in; who is not signs in first, and finds it again afterwards.
func invite(v *visit) error {
	where, err := inviteTo(v)
	if err != nil {
		return err
	}
	token := strings.TrimSpace(v.form("token"))
	if token == "" || len(token) > 200 {
		return api.Errorf(api.Invalid, "The invitation's code is missing.")
	}
	if v.token == "" || v.half {
		v.set(inviteCookie, where+":"+token, inviteLife)
		return v.to("/login?next=" + url.QueryEscape("/invite/"+where))
	}
	v.drop(inviteCookie)
	err = v.call(http.MethodPost, "/"+where+"/v1/invitation/"+url.PathEscape(token), nil, nil)
	if errors.Is(err, api.ErrUnauthorized) && api.AsError(err).Text == "" {
		v.set(inviteCookie, where+":"+token, inviteLife)
		v.drop(sessionCookie)
		return v.to("/login?next=" + url.QueryEscape("/invite/"+where))
	}
	if err != nil {
		return v.again(err, "invite", view{Title: "Invitation", Data: map[string]string{"Where": where, "Token": token}})
	}
	return v.to("/")
}
