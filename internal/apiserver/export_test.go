package apiserver

import (
	"context"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// RouteInfo is what the tests know of a route.
type RouteInfo struct {
	Method, Path string
	Internal     bool
	Who          []access.Kind
}

// Routes lists every route of the role.
func Routes() []RouteInfo {
	s := &Server{engine: &odata.Engine{}}
	var all []RouteInfo
	for _, rt := range s.list() {
		all = append(all, RouteInfo{Method: rt.method, Path: rt.path, Internal: len(rt.roles) > 0, Who: rt.who})
	}
	return all
}

// SweepOnce removes the uploaded files that nobody wants.
func (s *Server) SweepOnce(ctx context.Context) error { return s.sweepOnce(ctx) }

// WriteElsewhere changes the database as another process would that tells nobody.
func (s *Server) WriteElsewhere(ctx context.Context, f func(tx *db.Tx) error) error { return s.db.Write(ctx, f) }

// TellRevoked tells the bus as another process would.
func (s *Server) TellRevoked(what string) error { return s.bus.Publish("revoked."+what, nil) }
