package apiserver_test

import (
	"fmt"
	"net/http"
	"testing"
)

// Keys that are remembered end with the switch that asks for a second factor: by the next request, in the process that set it.
func TestKeysEndWhenASecondFactorIsRequired(t *testing.T) {
	c := newCrew(t)
	owned := c.key
	c.exec(`INSERT INTO passkey ("user", created_at, name, credential, public_key, sign_count, is_way_in)
		SELECT id, '2026-01-01T00:00:00.000Z', 'key', username, 'none', 0, 0 FROM "user" WHERE username = 'owner'`)
	mine := c.server.key(c.owner, "mine", nil)
	c.do(owned, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	// The worker has no session that would end and be told of.
	c.do(c.worker, "POST", "/user/v1/logout", nil).want(http.StatusOK)
	c.do(owned, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	c.do(c.owner, "PATCH", fmt.Sprintf("/v7/organization(%d)", c.org), map[string]any{"is_requiring_two_factor": true}).want(http.StatusOK)
	c.do(owned, "GET", "/actor/v1/whoami", nil).want(http.StatusUnauthorized)
	c.do(mine, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	c.do(c.dev.APIKey, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
	c.do(c.owner, "PATCH", fmt.Sprintf("/v7/organization(%d)", c.org), map[string]any{"is_requiring_two_factor": false}).want(http.StatusOK)
	c.do(owned, "GET", "/actor/v1/whoami", nil).want(http.StatusOK)
}
