package kept

import (
	"encoding/json"
	"fmt"

	"github.com/roadstead-io/roadstead/api"
)

// Vouch checks the root of trust that a server puts into the config.json of a new device of a fleet: where this machine believes a root of the fleet, it
// is that one, or one that follows from it. Where it knows none, the server's word is all that there is.
func Vouch(fleet string, config map[string]json.RawMessage) error {
	s, err := Open("", fleet)
	if err != nil {
		return err
	}
	pinned, err := s.Metadata(api.TrustRoot)
	if err != nil || pinned == nil {
		return err
	}
	const refused = "the configuration was not written"
	var given *api.ConfigTrust
	if text := config["roadsteadTrust"]; len(text) > 0 {
		if err := json.Unmarshal(text, &given); err != nil {
			return fmt.Errorf("%s: roadsteadTrust cannot be read: %w", refused, err)
		}
	}
	if given == nil {
		return fmt.Errorf("%s: the server gives the device no root of trust (does it run with --trust off?), so that it would check nothing, and this machine keeps one of the fleet in %s", refused, s.Dir)
	}
	if given.Fleet != fleet {
		return fmt.Errorf("%s: its root of trust is of the fleet %.40q, not of %s", refused, given.Fleet, fleet)
	}
	newest, _, err := NewestRoot(fleet, pinned, [][]byte{given.Root})
	if err != nil {
		return fmt.Errorf("%s: %w", refused, err)
	}
	if !Same(newest, given.Root) { // an older one: a server that was restored, or lies
		return fmt.Errorf("%s: the server gives the device an older root of trust than this machine knows: `roadstead trust restore` gives the server the newer one", refused)
	}
	return nil
}
