package signin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
)

// stateLife is how long somebody may take at the provider.
const stateLife = 10 * time.Minute

// attempt is a sign-in under way. It travels sealed, as the state: a flood of beginnings costs no row.
type attempt struct {
	Provider string `json:"p"`
	Purpose  string `json:"u"`
	User     int64  `json:"i,omitempty"` // who links
	Session  int64  `json:"s,omitempty"` // and with which session
	Nonce    string `json:"n"`
	Verifier string `json:"v"` // PKCE's
	Binding  string `json:"b"` // hash of what the browser holds
	Fresh    bool   `json:"f,omitempty"`
	Expires  int64  `json:"e"`

	state, redirect string // what it looks like outside, and where it comes back to
}

const stateUse = "sign-in state" // what a sealed state is bound to

// sealed writes an attempt as a state.
func (s *SignIn) sealed(a attempt) (string, error) {
	plain, err := json.Marshal(a)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.seal.Seal(plain, stateUse)), nil
}

// opened reads a state back. One that is not ours, is over, or is for another provider or browser is refused in the same words.
func (s *SignIn) opened(provider, state, binding string) (attempt, error) {
	var a attempt
	refused := api.Errorf(api.Unauthorized, "this sign-in was not begun here, or too long ago; begin again")
	raw, err := base64.RawURLEncoding.DecodeString(state)
	if err != nil || len(state) > 4096 {
		return a, refused
	}
	plain, err := s.seal.Open(raw, stateUse)
	if err != nil || json.Unmarshal(plain, &a) != nil {
		return a, refused
	}
	if a.Provider != provider || s.cfg.Now().Unix() >= a.Expires || binding == "" || s.hash("sign-in binding", binding) != a.Binding {
		return a, refused
	}
	a.state, a.redirect = state, Callback(s.cfg.Site, provider)
	return a, nil
}

// burn uses a state up: it comes back once.
func (s *SignIn) burn(ctx context.Context, a attempt) error {
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO sign_in_state (hash, expires_at) VALUES (?, ?)`,
			s.hash("sign-in state", a.state), db.FormatTime(time.Unix(a.Expires, 0)))
		return err
	})
	if db.IsUnique(err) {
		return api.Errorf(api.Unauthorized, "this sign-in has been finished already; begin again")
	}
	if err != nil {
		return fmt.Errorf("sign-in state: %w", err)
	}
	return nil
}
