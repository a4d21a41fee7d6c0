package apiserver

import (
	"context"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// Model is every resource that the role serves.
func (s *Server) Model() odata.Model { return s.model() }

// InsertAsItself makes a row as the role itself does: with every hook, without a rule.
func (s *Server) InsertAsItself(ctx context.Context, resource string, values map[string]any) (id int64, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) (err error) {
		id, err = s.engine.Insert(ctx, tx, access.Itself(), resource, values)
		return err
	})
	return id, err
}

// ChangeAsItself changes a row in the same way.
func (s *Server) ChangeAsItself(ctx context.Context, resource string, id int64, values map[string]any) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		return s.engine.Update(ctx, tx, access.Itself(), resource, id, values)
	})
}
