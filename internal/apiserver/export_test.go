package apiserver

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/odata"
)

// RouteInfo is what the tests know of a route.
type RouteInfo struct {
	Method, Path string
	Internal     bool
	Who          []access.Kind
	Roles        []string
}

// Routes lists every route of the role.
func Routes() []RouteInfo {
	s := &Server{engine: &odata.Engine{}}
	var all []RouteInfo
	for _, rt := range s.list() {
		all = append(all, RouteInfo{Method: rt.Method, Path: rt.Path, Internal: len(rt.Roles) > 0, Who: rt.Who, Roles: rt.Roles})
	}
	return all
}

// TidyReach does the chore of connections to devices once.
func (s *Server) TidyReach(ctx context.Context) error { return s.reach.TidyOnce(ctx) }

// HoldDevices takes all places for requests of devices but some, as so many slow requests would.
func (s *Server) HoldDevices(ctx context.Context, but int) (leave func(), err error) {
	return hold(but, or(s.cfg.Admission.DeviceRequests, 64), func() (func(), error) { return s.gates.devices.Enter(ctx) })
}

// WaitAmongDevices has so many wait for a place among the devices, until the context ends.
func (s *Server) WaitAmongDevices(ctx context.Context, n int) error {
	var all errgroup.Group
	for range n {
		all.Go(func() error {
			leave, err := s.gates.devices.Enter(ctx)
			if err == nil {
				leave()
			}
			return err
		})
	}
	return all.Wait()
}

// HoldUser takes all places of one user.
func (s *Server) HoldUser(ctx context.Context, user int64) (leave func(), err error) {
	return hold(0, or(s.cfg.Admission.CallerRequests, 8), func() (func(), error) {
		return s.gates.callers.Enter(ctx, callerKey{kind: access.User, id: user})
	})
}

func hold(but, all int, enter func() (func(), error)) (leave func(), err error) {
	var leaves []func()
	for range all - but {
		one, err := enter()
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, one)
	}
	return func() {
		for _, one := range leaves {
			one()
		}
	}, nil
}

// SweepOnce removes the uploaded files that nobody wants.
func (s *Server) SweepOnce(ctx context.Context) error { return s.sweepOnce(ctx) }

// WriteNotes writes what requests left for the audit log, as happens twice a second.
func (s *Server) WriteNotes(ctx context.Context) error { return s.notes.WriteOnce(ctx) }

// WriteElsewhere changes the database as another process would that tells nobody.
func (s *Server) WriteElsewhere(ctx context.Context, f func(tx *db.Tx) error) error {
	return s.db.Write(ctx, f)
}

// TellRevoked tells the bus as another process would.
func (s *Server) TellRevoked(what string) error { return s.bus.Publish("revoked."+what, nil) }

// ReadElsewhere reads the database past the API.
func (s *Server) ReadElsewhere(ctx context.Context, f func(tx *db.Tx) error) error {
	return s.db.Read(ctx, f)
}

// Sweep writes down what keys were used for, and deletes memberships that have ended.
func (s *Server) Sweep(ctx context.Context) error { return s.accounts.RunOnce(ctx) }
