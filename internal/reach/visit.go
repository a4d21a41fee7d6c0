package reach

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device/publicurl"
)

// A person who opens a public address that asks for a login is sent to the dashboard, which sends them back with a code. The code is
// exchanged for a visit: what the browser then shows the address. Neither is a session: they open this one address, for as long as the
// session holds that they were made with, and the device never sees them.
const (
	domainCode  = "device code\x00"
	domainVisit = "device visit\x00"
	codeLife    = time.Minute
	visitLife   = 12 * time.Hour
	maxState    = 100
)

// pass is what a code or a visit says.
type pass struct {
	UUID  api.DeviceUUID `json:"d"`
	User  int64          `json:"u"`
	Login string         `json:"l"` // of the session
	State string         `json:"s,omitempty"`
	Until int64          `json:"e"`
}

func (r *Reach) sign(domain string, p pass) (string, error) {
	data, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(data)
	return text + "~" + base64.RawURLEncoding.EncodeToString(r.cfg.Accounts.Hasher().MAC(domain, text)), nil
}

// visitor says who somebody is who has a pass for a device. A pass that is not ours, of another device or state, or over, or whose session is
// gone, is api.ErrUnauthorized.
func (r *Reach) visitor(ctx context.Context, tx *db.Tx, text string, uuid api.DeviceUUID, domain, state string) (by access.Caller, proof account.Proof, err error) {
	data, sum, _ := strings.Cut(text, "~")
	given, err := base64.RawURLEncoding.DecodeString(sum)
	if err != nil || len(text) > 4096 || !hmac.Equal(given, r.cfg.Accounts.Hasher().MAC(domain, data)) {
		return access.Nobody(), proof, api.ErrUnauthorized
	}
	plain, err := base64.RawURLEncoding.DecodeString(data)
	var p pass
	if err != nil || json.Unmarshal(plain, &p) != nil || p.Until < tx.Now.Unix() || p.UUID != uuid || p.State != state || p.Login == "" {
		return access.Nobody(), proof, api.ErrUnauthorized
	}
	proof.Login = sql.NullString{String: p.Login, Valid: true}
	by, holds, err := r.cfg.Accounts.Holds(ctx, tx, proof, p.User)
	if err == nil && !holds {
		err = api.ErrUnauthorized
	}
	return by, proof, err
}

// Code lets a person open the public address of a device in a browser that knows what state is the hash of. It is for sessions: a key
// is shown to no browser.
func (r *Reach) Code(ctx context.Context, tx *db.Tx, by access.Caller, uuid api.DeviceUUID, state string) (v api.ReachVisit, err error) {
	if state == "" || len(state) > maxState {
		return v, api.Errorf(api.Invalid, "state: what the address gave is missing")
	}
	address, err := publicurl.Find(ctx, tx, uuid)
	if err != nil {
		return v, err
	}
	if _, err := may(ctx, tx, by, api.ReachURL, target{address.Device, address.Fleet, address.Organization}, address.Port); err != nil {
		return v, err
	}
	proof, err := account.ProofOf(ctx, tx, by)
	if err != nil {
		return v, err
	}
	if !proof.Login.Valid {
		return v, api.Errorf(api.Forbidden, "an API key may not do this; log in, and do it in the session")
	}
	v = api.ReachVisit{State: state, URL: publicurl.URL(r.cfg.Site, uuid)}
	v.Code, err = r.sign(domainCode, pass{UUID: uuid, User: by.User, Login: proof.Login.String, State: state, Until: tx.Now.Add(codeLife).Unix()})
	return v, err
}

// Visit exchanges a code for a visit.
func (r *Reach) Visit(ctx context.Context, ask api.ReachVisit) (v api.ReachVisit, err error) {
	err = r.cfg.DB.Read(ctx, func(tx *db.Tx) error {
		by, proof, err := r.visitor(ctx, tx, ask.Code, ask.UUID, domainCode, ask.State)
		if err != nil {
			return err
		}
		v.Visit, err = r.sign(domainVisit, pass{UUID: ask.UUID, User: by.User, Login: proof.Login.String, Until: tx.Now.Add(visitLife).Unix()})
		return err
	})
	if err != nil {
		return v, fmt.Errorf("visit: %w", err)
	}
	return v, nil
}
