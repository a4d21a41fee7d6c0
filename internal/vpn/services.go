package vpn

import (
	"context"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/roadstead-io/roadstead/internal/vpn/deviceurl"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
	"github.com/roadstead-io/roadstead/internal/vpn/sshgate"
	"github.com/roadstead-io/roadstead/internal/vpn/tunnel"
)

// service is what people come to by a name of its own.
type service interface {
	Serve(ctx context.Context, ln net.Listener) error
}

// serve runs the services that people reach devices by, and asks the api role about what they have open. It gives the one that other roles
// may use as well.
func (s *Server) serve(ctx context.Context, group *errgroup.Group, public map[string]net.Listener) (*tunnel.Service, error) {
	permits := permit.New(permit.Config{API: s.api, Log: s.log})
	group.Go(func() error { return permits.Run(ctx) })
	tunnels := tunnel.New(tunnel.Config{Permits: permits, Dial: s, TLS: s.tls.PublicTLS(), Log: s.log, Limits: s.cfg.Limits})
	services := map[string]service{LabelTunnel: tunnels}
	services[LabelDevices] = deviceurl.New(deviceurl.Config{
		Permits: permits, API: s.api, Dial: s, TLS: s.tls.PublicTLS(), Site: s.cfg.Site, Log: s.log, Limits: s.cfg.Limits,
	})
	if public[LabelSSH] != nil {
		gate, err := sshgate.New(sshgate.Config{Dir: s.cfg.Dir, Permits: permits, API: s.api, Dial: s, Log: s.log, Limits: s.cfg.Limits})
		if err != nil {
			return nil, err
		}
		services[LabelSSH] = gate
	}
	for label, one := range services {
		if ln := public[label]; ln != nil {
			group.Go(func() error { return one.Serve(ctx, ln) })
		}
	}
	return tunnels, nil
}
