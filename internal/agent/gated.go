package agent

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/roadstead-io/roadstead/internal/agent/imagegate"
	"github.com/roadstead-io/roadstead/internal/agent/plan"
	"github.com/roadstead-io/roadstead/internal/engine"
	"github.com/roadstead-io/roadstead/internal/tuf"
)

// openGate makes the way by which the engine pulls on a device that verifies.
func (a *Agent) openGate() (err error) {
	if a.checks == nil {
		return nil
	}
	dir := a.cfg.Downloads
	switch dir {
	case "":
		dir = filepath.Join(a.cfg.StateDir, "downloads")
	case "none":
		dir = ""
	}
	a.gate, err = imagegate.New(imagegate.Config{Endpoint: a.conf.APIEndpoint, RootCA: a.root, Proxy: a.proxy.For, Dir: dir, Clock: a.clock, Log: a.log, Taken: func(address, instead string) {
		a.logs.system(fmt.Sprintf("Another program listens at %s, where images are pulled; they are pulled at %s instead", address, instead))
	}})
	return err
}

// download has the engine pull an image. On a device that verifies, a real engine pulls through the agent, which lets pass only what the release's document
// names. What is refused is reported, and is tried again as any download that failed.
func (a *Agent) download(ctx context.Context, s plan.Step, auth engine.Auth, progress func(percent int)) error {
	docker, ok := a.cfg.Engine.(*engine.Client)
	if a.gate == nil || !ok {
		return a.cfg.Engine.Pull(ctx, s.Image, auth, progress)
	}
	images, err := a.checks.Images(s.Service, s.Image)
	if err != nil {
		return err
	}
	err = a.gate.Pull(ctx, docker, imagegate.Pull{Ref: s.Image, Service: s.Service, Images: images, Auth: auth}, progress)
	if news := a.checks.Pulled(s.Image, err); news && err != nil {
		r, _ := tuf.Rejection(err)
		a.log.Error("an image is refused; what runs keeps running", "what", r.What, "reason", r.Reason, "expected", r.Expected, "got", r.Got)
		a.logs.system(fmt.Sprintf("Refused image '%s': %v", s.Image, err))
		poke(a.pollNow) // which reports it
	}
	return err
}
