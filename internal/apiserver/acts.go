package apiserver

import (
	"context"
	"fmt"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/fleet"
)

// recordConfig writes down that somebody took a config.json, which holds a key that lets devices in.
func recordConfig(ctx context.Context, tx *db.Tx, by access.Caller, ask fleet.Answers) error {
	id, err := ask.Fleet()
	if err != nil {
		return err
	}
	owners, err := fleet.Organizations(ctx, tx, []int64{id})
	if err != nil {
		return err
	}
	return audit.Record(ctx, tx, by, audit.Entry{Act: "config.download", Kind: "application", ID: id, Name: fmt.Sprint(id), Fleet: id,
		Organization: owners[id]})
}

// recordOperator writes down what the operator of the server did.
func (s *Server) recordOperator(ctx context.Context, act, name string) error {
	return s.db.WriteOne(ctx, func(tx *db.Tx) error {
		return audit.Record(ctx, tx, access.From(ctx), audit.Entry{Act: act, Kind: "server", Name: name})
	})
}
