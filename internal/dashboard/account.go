package dashboard

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"rsc.io/qr"

	"github.com/roadstead-io/roadstead/api"
)

// factors is what the second factors are, as the api role lists them.
type factors struct {
	TOTP     bool
	Passkeys []factorRow
}

type factorRow struct {
	ID   int64  `json:"id"`
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// accountData is what the account's page is made from.
type accountData struct {
	Sessions   []api.Session
	Identities []api.Identity
	Providers  []api.SignInProvider
	Factors    factors
}

func accountPage(v *visit) error {
	notice := map[string]string{
		"linked": "The provider is linked.", "unlinked": "The provider is unlinked.", "password": "The password is changed; all other sessions have ended.",
		"ended": "Ended.", "factor": "Your second factors are changed.",
	}[v.r.URL.Query().Get("done")]
	return v.account(http.StatusOK, view{Notice: notice})
}

func (v *visit) account(status int, data view) error {
	var d accountData
	if err := v.call(http.MethodGet, "/user/v1/sessions", nil, &d.Sessions); err != nil {
		return err
	}
	if err := v.call(http.MethodGet, "/user/v1/identities", nil, &d.Identities); err != nil {
		return err
	}
	var list []factorRow
	if err := v.call(http.MethodGet, "/user/v1/factors", nil, &list); err != nil && !errors.Is(err, api.ErrNotFound) {
		return err
	}
	for _, f := range list {
		switch f.Kind {
		case "totp":
			d.Factors.TOTP = true
		case "passkey", "webauthn":
			d.Factors.Passkeys = append(d.Factors.Passkeys, f)
		}
	}
	d.Providers = v.providers()
	data.Title, data.Data = "Your account", d
	return v.show(status, "account", data)
}

// accountError shows the account's page with what was wrong about a form of it.
func (v *visit) accountError(err error) error {
	e := api.AsError(err)
	if e.Code == api.Unauthorized || e.Code == api.Internal || e.Text == "" {
		return err
	}
	return v.account(e.Code.Status(), view{Error: e.Text})
}

func changePassword(v *visit) error {
	if v.form("new") != v.form("again") {
		return v.account(http.StatusBadRequest, view{Error: "The two new passwords are not the same."})
	}
	var token string
	err := v.call(http.MethodPost, "/user/v1/password", map[string]string{"current": v.form("current"), "new": v.form("new")}, &token)
	if errors.Is(err, api.ErrUnauthorized) && api.AsError(err).Text == "" {
		err = api.Errorf(api.Invalid, "The current password is wrong.")
	}
	if err != nil {
		return v.accountError(err)
	}
	return v.signedIn(token, "/account?done=password")
}

// id reads {id} of the path, so that nothing else is put into a path of the api role's.
func (v *visit) id() (string, error) {
	id := v.r.PathValue("id")
	if id == "" || len(id) > 18 || strings.ContainsFunc(id, func(c rune) bool { return c < '0' || c > '9' }) {
		return "", api.Errorf(api.NotFound, "There is no such thing.")
	}
	return id, nil
}

func endSession(v *visit) error {
	id, err := v.id()
	if err == nil {
		err = v.call(http.MethodDelete, "/user/v1/sessions/"+id, nil, nil)
	}
	if err != nil {
		return v.accountError(err)
	}
	return v.to("/account?done=ended")
}

func endOthers(v *visit) error {
	if err := v.call(http.MethodDelete, "/user/v1/sessions", nil, nil); err != nil {
		return v.accountError(err)
	}
	return v.to("/account?done=ended")
}

func unlink(v *visit) error {
	id, err := v.id()
	if err == nil {
		err = v.call(http.MethodDelete, "/user/v1/identities/"+id, nil, nil)
	}
	if err != nil {
		return v.accountError(err)
	}
	return v.to("/account?done=unlinked")
}

// totpPage shows the secret that an authenticator app is to know.
func totpPage(v *visit) error {
	data, err := v.totp()
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "totp", view{Title: "Authenticator app", Data: data})
}

type totpData struct {
	Secret, URI string
	Image       template.URL
}

func (v *visit) totp() (totpData, error) {
	var secret string
	if err := v.call(http.MethodGet, "/auth/totp/setup", nil, &secret); err != nil {
		return totpData{}, err
	}
	if json.Unmarshal([]byte(secret), &secret) != nil { // a JSON string, or the text itself
		secret = strings.TrimSpace(secret)
	}
	name := "account"
	if v.user != nil {
		name = v.user.Username
	}
	return totpView(secret, name, v.s.cfg.Site.Domain)
}

// totpView draws a secret as apps scan it.
func totpView(secret, user, domain string) (totpData, error) {
	uri := secret
	if u, err := url.Parse(secret); err == nil && u.Scheme == "otpauth" {
		secret = u.Query().Get("secret")
	} else {
		uri = "otpauth://totp/" + url.PathEscape(domain+":"+user) + "?" +
			url.Values{"secret": {secret}, "issuer": {domain}, "algorithm": {"SHA1"}, "digits": {"6"}, "period": {"30"}}.Encode()
	}
	code, err := qr.Encode(uri, qr.M)
	if err != nil {
		return totpData{}, fmt.Errorf("QR code: %w", err)
	}
	code.Scale = 6
	return totpData{
		Secret: secret, URI: uri,
		Image: template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(code.PNG())), //nolint:gosec // drawn here
	}, nil
}

func totpEnable(v *visit) error {
	var enabled struct {
		RecoveryCodes []string `json:"recoveryCodes"`
		Token         string   `json:"token"`
	}
	err := v.call(http.MethodPost, "/auth/totp/enable", map[string]string{"code": strings.TrimSpace(v.form("code"))}, &enabled)
	if errors.Is(err, api.ErrUnauthorized) && api.AsError(err).Text == "" {
		err = api.Errorf(api.Invalid, "The code is wrong. Is the clock of your phone right?")
	}
	if err != nil && v.half {
		return err
	}
	if err != nil {
		return v.accountError(err)
	}
	if enabled.Token != "" {
		v.set(sessionCookie, enabled.Token, sessionLife)
		v.token, v.half = enabled.Token, isHalf(enabled.Token)
	}
	return v.show(http.StatusOK, "codes", view{Title: "Recovery codes", Data: enabled.RecoveryCodes})
}

func totpDisable(v *visit) error {
	var token string
	err := v.call(http.MethodPost, "/auth/totp/disable", map[string]string{"code": strings.TrimSpace(v.form("code"))}, &token)
	if errors.Is(err, api.ErrUnauthorized) && api.AsError(err).Text == "" {
		err = api.Errorf(api.Invalid, "The code is wrong.")
	}
	if err != nil {
		return v.accountError(err)
	}
	return v.signedIn(token, "/account?done=factor")
}

func newRecoveryCodes(v *visit) error {
	var raw json.RawMessage
	err := v.call(http.MethodPost, "/auth/totp/recovery-codes", map[string]string{"code": strings.TrimSpace(v.form("code"))}, &raw)
	if errors.Is(err, api.ErrUnauthorized) && api.AsError(err).Text == "" {
		err = api.Errorf(api.Invalid, "The code is wrong.")
	}
	if err != nil {
		return v.accountError(err)
	}
	var codes []string
	if json.Unmarshal(raw, &codes) != nil {
		var named struct {
			RecoveryCodes []string `json:"recoveryCodes"`
		}
		if err := json.Unmarshal(raw, &named); err != nil {
			return fmt.Errorf("recovery codes: %w", err)
		}
		codes = named.RecoveryCodes
	}
	return v.show(http.StatusOK, "codes", view{Title: "Recovery codes", Data: codes})
}

// newPasskey has the browser make a passkey.
func newPasskey(v *visit) error {
	var options json.RawMessage
	if err := v.call(http.MethodPost, "/auth/webauthn/register/start", struct{}{}, &options); err != nil {
		return v.accountError(err)
	}
	return v.show(http.StatusOK, "passkey", view{Title: "New passkey", Next: v.form("name"), Data: map[string]any{
		"Options": string(options), "Do": "create", "Action": "/account/passkeys/register",
	}})
}

func registerPasskey(v *visit) error {
	credential, err := credentialOf(v)
	if err != nil {
		return err
	}
	name := strings.TrimSpace(v.form("next"))
	if name == "" {
		name = "passkey"
	}
	var enrolled struct {
		RecoveryCodes []string `json:"recoveryCodes"`
		Token         string   `json:"token"`
	}
	if err := v.call(http.MethodPost, "/auth/webauthn/register", map[string]any{"name": name, "credential": credential}, &enrolled); err != nil {
		return v.accountError(err)
	}
	if enrolled.Token != "" { // of the session that took the place of the one that asked
		v.set(sessionCookie, enrolled.Token, sessionLife)
	}
	if len(enrolled.RecoveryCodes) > 0 {
		return v.show(http.StatusOK, "codes", view{Title: "Recovery codes", Data: enrolled.RecoveryCodes})
	}
	return v.to("/account?done=factor")
}

func removePasskey(v *visit) error {
	id, err := v.id()
	var token string // of the session that takes the place of the one that asked
	if err == nil {
		err = v.call(http.MethodDelete, "/auth/webauthn/"+id, nil, &token)
	}
	if err != nil {
		return v.accountError(err)
	}
	if token != "" {
		v.set(sessionCookie, token, sessionLife)
	}
	return v.to("/account?done=factor")
}
