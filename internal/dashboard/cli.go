package dashboard

import (
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// loopback reads the address on which a command line of this machine waits for a token. Nothing else is ever given one: an address
// elsewhere, https included, would be somebody else's. [::1] is not taken, because a policy cannot name it.
func loopback(text string) (*url.URL, error) {
	bad := api.Errorf(api.Invalid, "The address that the command line gave is not one of this computer.")
	if len(text) > 500 || strings.ContainsAny(text, "\\ \t\r\n;,'\"<>") {
		return nil, bad
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.User != nil || u.Opaque != "" || u.Fragment != "" || u.RawQuery != "" {
		return nil, bad
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil || host != "127.0.0.1" && host != "localhost" {
		return nil, bad
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, bad
	}
	return u, nil
}

// cliPage asks whether a command line may sign in as whoever is signed in here. Its address comes percent-encoded twice.
func cliPage(v *visit) error {
	text, err := url.PathUnescape(v.r.PathValue("callback"))
	if err != nil {
		return api.Errorf(api.Invalid, "The address that the command line gave cannot be read.")
	}
	u, err := loopback(text)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "cli", view{Title: "Authorize a command line", Data: map[string]string{"Callback": u.String(), "Host": u.Host}})
}

// cliAuthorize opens a session for the command line and has the browser bring its token there.
func cliAuthorize(v *visit) error {
	u, err := loopback(v.form("callback"))
	if err != nil {
		return err
	}
	var token string
	if err := v.callAs(v.token, clipped("command line, authorized in "+v.r.UserAgent()), http.MethodPost, "/user/v1/sessions", nil, &token); err != nil {
		return err
	}
	v.w.Header().Set("Content-Security-Policy", policy(u.Scheme+"://"+u.Host+u.EscapedPath()))
	return v.show(http.StatusOK, "cli_done", view{Title: "Authorized", Data: map[string]string{"Callback": u.String(), "Token": token}})
}

func clipped(s string) string { return s[:min(len(s), 200)] }

// devicePage takes the code of a program that waits, and says who it is.
func devicePage(v *visit) error {
	code := v.r.URL.Query().Get("code")
	if code == "" {
		return v.show(http.StatusOK, "device", view{Title: "Let a program in"})
	}
	var waiting api.DeviceWaiting
	if err := v.call(http.MethodPost, "/auth/v1/device/lookup", api.DeviceApproval{UserCode: code}, &waiting); err != nil {
		return v.again(err, "device", view{Title: "Let a program in"})
	}
	return v.show(http.StatusOK, "device", view{Title: "Let a program in", Data: map[string]any{"Code": code, "Waiting": waiting}})
}

// deviceAnswer lets it in, or not.
func deviceAnswer(v *visit) error {
	code := v.form("code")
	if v.form("answer") == "" { // the code was typed: show first what waits for it
		return v.to("/device?code=" + url.QueryEscape(code))
	}
	deny := v.form("answer") != "approve"
	if err := v.call(http.MethodPost, "/auth/v1/device/approve", api.DeviceApproval{UserCode: code, Deny: deny}, nil); err != nil {
		if api.AsError(err).Code == api.Unauthorized {
			return err // it is to be confirmed first
		}
		return v.again(err, "device", view{Title: "Let a program in"})
	}
	notice := "Done. The program is signed in as you; you find its session on your account's page."
	if deny {
		notice = "The program was not let in."
	}
	return v.show(http.StatusOK, "message", view{Title: "Let a program in", Notice: notice})
}
