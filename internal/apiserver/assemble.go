package apiserver

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/account"
	"github.com/roadstead-io/roadstead/internal/account/factor"
	"github.com/roadstead-io/roadstead/internal/account/invite"
	"github.com/roadstead-io/roadstead/internal/account/member"
	"github.com/roadstead-io/roadstead/internal/account/notices"
	"github.com/roadstead-io/roadstead/internal/account/operator"
	"github.com/roadstead-io/roadstead/internal/account/password"
	"github.com/roadstead-io/roadstead/internal/account/reset"
	"github.com/roadstead-io/roadstead/internal/account/service"
	"github.com/roadstead-io/roadstead/internal/account/sshkey"
	"github.com/roadstead-io/roadstead/internal/action"
	"github.com/roadstead-io/roadstead/internal/apiserver/devicecall"
	"github.com/roadstead-io/roadstead/internal/apiserver/gitdoor"
	"github.com/roadstead-io/roadstead/internal/apiserver/mailroom"
	"github.com/roadstead-io/roadstead/internal/apiserver/sshdoor"
	"github.com/roadstead-io/roadstead/internal/apiserver/trustdoor"
	"github.com/roadstead-io/roadstead/internal/apiserver/vpndoor"
	"github.com/roadstead-io/roadstead/internal/audit/watch"
	"github.com/roadstead-io/roadstead/internal/bus"
	"github.com/roadstead-io/roadstead/internal/channel"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/device/devicelog"
	"github.com/roadstead-io/roadstead/internal/device/nudge"
	"github.com/roadstead-io/roadstead/internal/devicessh"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/gitsource"
	"github.com/roadstead-io/roadstead/internal/odata"
	"github.com/roadstead-io/roadstead/internal/provenance"
	"github.com/roadstead-io/roadstead/internal/reach"
	"github.com/roadstead-io/roadstead/internal/release"
	"github.com/roadstead-io/roadstead/internal/release/stored"
	"github.com/roadstead-io/roadstead/internal/release/workers"
	"github.com/roadstead-io/roadstead/internal/signin"
	"github.com/roadstead-io/roadstead/internal/trust"
)

// assemble makes the domain packages, from the lowest to the highest, brings the schema up to date, and puts the resources and
// the routes over them. Where a lower package must tell a higher one something, it does so through a function given here.
func (s *Server) assemble(pepper []byte) error {
	if err := s.domain(pepper); err != nil {
		return err
	}
	ctx := context.Background()
	if err := s.migrate(ctx, pepper); err != nil {
		return err
	}
	if err := s.db.Write(ctx, func(tx *db.Tx) error {
		return errors.Join(s.fleets.Prepare(ctx, tx), s.sshKeys.Prepare(ctx, tx))
	}); err != nil {
		return err
	}
	var err error
	m := s.model()
	s.writes = writesOf(m)
	if s.engine, err = odata.New(odata.Config{
		Model: m, DB: s.db, Prefixes: []string{"/v7/"}, Versions: olderVersions(m), Limits: s.cfg.OData, Files: s.files(),
	}); err != nil {
		return err
	}
	if !s.cfg.Checked {
		if err := s.engine.Check(ctx); err != nil {
			return err
		}
	}
	s.channel.Through(s.engine)
	s.git = gitdoor.New(gitdoor.Config{DB: s.db, Accounts: s.accounts, Sources: s.sources, Authenticate: func(r *http.Request) (access.Caller, error) {
		return s.authenticate(r, true, access.Git)
	}})
	s.ssh = sshdoor.New(sshdoor.Config{DB: s.db, Accounts: s.accounts, SSH: s.deviceSSH, Signer: s.tokens.signer, Site: s.cfg.SSH})
	s.handler, err = s.routes()
	return err
}

// model is every resource of the API.
func (s *Server) model() (m odata.Model) {
	for _, part := range [][]*odata.Resource{
		s.accounts.Resources(), member.New(s.accounts, fleet.ValidateTag).Resources(), {s.sshKeys.Resource()}, s.invites.Resources(), s.fleets.Resources(), s.releases.Resources(), s.devices.Resources(),
	} {
		m.Resources = append(m.Resources, part...)
	}
	m.Resources = append(m.Resources, watch.Resource(), s.actions.Resource(), s.trust.Resource())
	watch.Resources(m)
	notices.Resources(m, s.accounts)
	return m
}

// domain makes the domain packages.
func (s *Server) domain(pepper []byte) error {
	ca, err := publicCA(s.cfg.PublicCA)
	if err != nil {
		return err
	}
	s.rootCA = ca
	if s.bus, err = s.openBus(); err != nil {
		return err
	}
	if err := s.openBlobs(pepper); err != nil {
		return err
	}
	contracts, err := s.ownContracts()
	if err != nil {
		return err
	}
	if s.mail, err = mailroom.Open(s.db, s.log, s.cfg.Mail, s.cfg.Site, pepper); err != nil {
		return err
	}
	cost := s.cfg.PasswordCost
	if cost == (password.Cost{}) {
		cost = password.Calibrate(password.Most, nil)
	}
	s.log.Info("passwords are hashed", "memory_kib", cost.Memory, "passes", cost.Passes)
	if s.accounts, err = account.New(account.Config{
		DB: s.db, Pepper: pepper, Log: s.log,
		Revoked:       func(what string, id int64) { s.devices.Revoked(what, id) },
		Notify:        s.mail.Notify(),
		HandleChanged: fleet.HandleChanged,
		SessionIdle:   s.cfg.SessionIdle, SessionLife: s.cfg.SessionLife, PasswordCost: cost,
		SecondFactor: factor.Enrolled, WaysIn: []func(ctx context.Context, tx *db.Tx, user int64) (bool, error){
			factor.WayIn, func(ctx context.Context, tx *db.Tx, user int64) (bool, error) { return s.signin.WayIn(ctx, tx, user) },
		},
	}); err != nil {
		return err
	}
	s.callers.Touch = s.accounts.Touch
	s.invites, s.services, s.operator = invite.New(s.accounts), service.New(s.accounts), operator.New(s.accounts)
	s.sshKeys = sshkey.New(s.accounts, s.log)
	s.resets = reset.New(reset.Config{DB: s.db, Accounts: s.accounts, Log: s.log})
	if s.factors, err = factor.New(factor.Config{
		DB: s.db, Accounts: s.accounts, Pepper: pepper, Host: "dashboard." + s.cfg.Site.Domain, Origin: s.cfg.Site.URL("dashboard"), Site: s.cfg.Site.Domain,
	}); err != nil {
		return err
	}
	ways, err := signin.Load(s.cfg.SignIn)
	if err != nil {
		return fmt.Errorf("sign_in: %w", err)
	}
	if s.signin, err = signin.New(signin.Config{
		DB: s.db, Accounts: s.accounts, Site: s.cfg.Site, Pepper: pepper, Providers: ways, Log: s.log,
	}); err != nil {
		return fmt.Errorf("sign_in: %w", err)
	}
	if s.channel, err = channel.New(channel.Config{
		DB: s.db, Accounts: s.accounts, Site: s.cfg.Channel, Sign: vpndoor.Signer(s.signer), Log: s.log,
	}); err != nil {
		return err
	}
	s.fleets = fleet.New(fleet.Config{
		Accounts: s.accounts, Site: s.cfg.Site, Channel: s.cfg.Channel, PollInterval: s.cfg.pollInterval(), RootCA: ca, Contracts: contracts,
		TargetChanged: device.FleetTargetChanged, HandedOver: func(ctx context.Context, tx *db.Tx, id int64) error {
			return errors.Join(device.FleetHandedOver(ctx, tx, id), gitsource.FleetHandedOver(ctx, tx, id))
		},
		Deleting: []func(ctx context.Context, tx *db.Tx, fleets []int64) error{
			func(ctx context.Context, tx *db.Tx, fleets []int64) error {
				return s.devices.FleetsDeleting(ctx, tx, fleets)
			},
			func(ctx context.Context, tx *db.Tx, fleets []int64) error {
				return s.releases.DeletingFleets(ctx, tx, fleets)
			},
			func(ctx context.Context, tx *db.Tx, fleets []int64) error {
				return s.trust.FleetsDeleting(ctx, tx, fleets)
			},
		},
	})
	if s.sources, err = gitsource.New(gitsource.Config{DB: s.db, Accounts: s.accounts, Site: s.cfg.Site, Secret: pepper}); err != nil {
		return err
	}
	if s.statementKeys, err = provenance.LoadKeys(s.cfg.Dir); err != nil {
		return err
	}
	registry := s.cfg.Registry
	registry.Site = s.cfg.Site
	s.stored = stored.New(registry)
	s.workers = workers.New(s.accounts.Hasher())
	if s.releases, err = release.New(release.Config{
		Room: s.stored.MayBuild,
		DB:   s.db, Accounts: s.accounts, Fleets: s.fleets, Site: s.cfg.Site, Log: s.log, Pinned: device.Pinned, Only: s.leases.Only,
		KeepBuilds: time.Duration(s.cfg.BuildDays) * 24 * time.Hour,
		DropFile:   s.forget, MaxFiles: s.cfg.MaxFiles, StatementKeys: s.statementKeys,
	}); err != nil {
		return err
	}
	if s.devices, err = device.New(context.Background(), device.Config{
		DB: s.db, Accounts: s.accounts, Bus: s.bus, Log: s.log, PollInterval: s.cfg.pollInterval(),
		ControlChannel: s.cfg.Channel.On(),
		Moving: func(ctx context.Context, tx *db.Tx, device, from, to int64) error {
			return s.trust.Moving(ctx, tx, device, from, to)
		},
		Only: s.leases.Only, Revoked: s.callers.Forget, Logs: devicelog.Config{Quiet: s.cfg.Logs.KeepAlive, OfUser: s.cfg.Logs.OfUser, OfDevice: s.cfg.Logs.OfDevice},
	}); err != nil {
		return err
	}
	if s.trust, err = trust.New(trust.Config{
		DB: s.db, Log: s.log, On: s.cfg.Trust, Ask: trustdoor.Signer(s.signer), Switches: s.channel.Switches, Only: s.leases.Only,
	}); err != nil {
		return err
	}
	s.openActions()
	s.deviceSSH = devicessh.New(devicessh.Config{DB: s.db, Accounts: s.accounts, Log: s.log, Only: s.leases.Only})
	s.tasks = append(s.tasks, s.deviceSSH.Run, s.accounts.Run, s.resets.Run, s.mail.Run, s.signin.Run, s.releases.Run, s.devices.Run, s.callers.Run, s.forgetRevoked, s.tokens.Run, s.audit.Run, s.notes.Run)
	s.reach = reach.New(reach.Config{DB: s.db, Accounts: s.accounts, Site: s.cfg.Site, Log: s.log, Only: s.leases.Only})
	s.tasks = append(s.tasks, s.channel.Run, s.reach.Run, s.trust.Run)
	return nil
}

// openActions makes what devices are told over the control channel, if there is one, and what waits for those without it.
func (s *Server) openActions() {
	cfg := action.Config{DB: s.db, Log: s.log, Only: s.leases.Only, Sign: s.trust.Orders.SignActions}
	if addr := s.cfg.Peers[api.RoleVPN]; addr != "" {
		caller := devicecall.New(s.db, s.identity.Client(api.RoleVPN, addr), s.trust.Orders.Header)
		s.caller, cfg.Caller = caller, caller
		s.tasks = append(s.tasks, nudge.New(nudge.Config{DB: s.db, Caller: caller, Log: s.log}).Run)
	}
	s.actions = action.New(cfg)
	s.tasks = append(s.tasks, s.actions.Run)
}

// openBus starts the message bus in this process, or connects to the one that several processes share.
func (s *Server) openBus() (*bus.Bus, error) {
	addr := s.cfg.Peers[api.RoleBus]
	if addr == "" {
		return bus.Open(bus.Config{Dir: filepath.Join(s.cfg.Dir, "bus"), Log: s.log})
	}
	return bus.Connect(bus.ConnectConfig{Node: s.cfg.Process, Log: s.log, Dial: func(ctx context.Context) (net.Conn, error) {
		return s.identity.Dial(ctx, api.RoleBus, addr, bus.Protocol)
	}})
}

// publicCA reads the root certificate that devices are told to trust; without a file there is none to tell.
func publicCA(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("public_ca: %w", err)
	}
	if block, _ := pem.Decode(data); block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("public_ca: %s holds no certificate", file)
	}
	return data, nil
}
