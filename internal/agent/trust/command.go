package trust

import (
	"fmt"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// Bounds of commands.
const (
	longestCommand = 31 * 24 * time.Hour // by this device's clock, which may be behind; the signer signs none for more than an hour
	mostNonces     = 10_000              // that are remembered; more commands than that are not obeyed
)

// Reasons of refusals of commands.
const (
	reasonCommand  = "command"
	reasonReplayed = "replayed"
)

// Command checks the signed command for something that the device was told to do, and remembers it before it answers: each counts once.
func (t *Trust) Command(what api.TrustCommand, command []byte) error {
	st, err := t.current()
	if err != nil {
		return err
	}
	o, err := open(st)
	if err != nil {
		return err
	}
	o.SetNow(t.now(st.Floor))
	c, err := o.Command(command, t.cfg.UUID)
	if err != nil {
		return err
	}
	name := "command " + string(c.Verb)
	switch {
	case c.Verb != what.Verb:
		return tuf.Refuse(name, reasonCommand, "", string(what.Verb), string(c.Verb))
	case c.Service != what.Service:
		return tuf.Refuse(name, reasonCommand, "", "for the service "+orNone(what.Service), orNone(c.Service))
	case what.Force && !c.Force:
		return tuf.Refuse(name, reasonCommand, "", "with force", "without")
	case c.Digest != what.Digest:
		return tuf.Refuse(name, reasonCommand, "", "for what has the digest "+orNone(what.Digest), orNone(c.Digest))
	case c.Expires.After(o.Now().Add(longestCommand)):
		return tuf.Refuse(name, tuf.ReasonExpired, "", fmt.Sprintf("at most %s", longestCommand), c.Expires.UTC().Format(time.RFC3339))
	}
	return t.change(func(s *state) error {
		if _, done := s.Nonces[c.Nonce]; done {
			return tuf.Refuse(name, reasonReplayed, "", "a command that was not done yet", c.Nonce)
		}
		if s.prune(); len(s.Nonces) >= mostNonces {
			return tuf.Refuse(name, tuf.ReasonSize, "", fmt.Sprintf("at most %d commands", mostNonces), "more")
		}
		s.Nonces[c.Nonce] = c.Expires.Unix() + 1
		return nil
	})
}
