package signer

import (
	"crypto/ed25519"
	"encoding/json"
	"net/http"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/web"
)

// StatementKeyFile is the key, in the role's directory, that signs statements of where releases come from, and nothing else.
const StatementKeyFile = "statement.key"

const maxStatementBody = 1 << 20

// NewStatementKey writes a fresh key for statements. The parent calls it once, before the role first starts.
func NewStatementKey(file string) error { return newEd25519Key(file, "statement key") }

// StatementKey is the public half of a key for statements, as it is told to everybody.
func StatementKey(file string) (api.StatementKey, error) {
	key, err := loadEd25519Key(file, "statement key")
	if err != nil {
		return api.StatementKey{}, err
	}
	return provenance.Key(key.Public().(ed25519.PublicKey)), nil
}

// statement is POST /v1/statement: the signer makes the statement of a build that runs right now, as the api role confirms, and
// signs it. Fleet, commit and repositories are what the api role says; whoever has stolen the builder can have lies signed about a
// build that runs in it, and about no other.
func (s *Server) statement(w http.ResponseWriter, r *http.Request) error {
	body, err := web.ReadBody(r, maxStatementBody)
	if err != nil {
		return err
	}
	var ask api.StatementRequest
	if err := json.Unmarshal(body, &ask); err != nil {
		return api.Errorf(api.Invalid, "the body asks for no statement: %v", err)
	}
	build, err := s.running(r.Context(), ask.Build)
	if err != nil {
		return err
	}
	made, err := provenance.New(s.cfg.Site, build, ask)
	if err != nil {
		return err
	}
	envelope, err := provenance.Sign(made, s.statements)
	if err != nil {
		return err
	}
	s.log.InfoContext(r.Context(), "signed", "for", pki.PeerRole(r), "statement", ask.Build, "fleet", build.Fleet.Slug,
		"images", len(ask.Images), "request", web.RequestID(r.Context()))
	return web.WriteJSON(w, http.StatusOK, envelope)
}
