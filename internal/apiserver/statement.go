package apiserver

import (
	"encoding/json"
	"net/http"
	"path/filepath"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/durable"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/web"
)

// AddStatementKey tells the role whose directory this is a public key of the signer's. Keys of before stay.
func AddStatementKey(dir string, key api.StatementKey) error {
	keys, err := provenance.LoadKeys(dir)
	if err != nil {
		return err
	}
	data, err := json.Marshal(provenance.With(keys, key))
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, provenance.KeysFile), append(data, '\n'), 0o600)
}

// statementKeysOf is GET /provenance/v1/keys: what statements of where releases come from are verified with.
func statementKeysOf(keys []api.StatementKey) web.HandlerFunc {
	if keys == nil {
		keys = []api.StatementKey{}
	}
	return func(w http.ResponseWriter, _ *http.Request) error { return web.WriteJSON(w, http.StatusOK, keys) }
}
