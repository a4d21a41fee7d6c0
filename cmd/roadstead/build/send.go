// Package build is the command line's side of builds: it sends a project to the builder, follows what is built until it ends, and
// has the commands that look at builds which somebody else, or an earlier run, has started.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
	"github.com/roadstead-io/roadstead/client/source"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
	"github.com/roadstead-io/roadstead/cmd/roadstead/terminal"
)

// Send has a project built and prints what the builder says, until the build has ended or, detached, until it has what it needs. The
// connection may break meanwhile: the build goes on, and is followed again. When the context ends, the build is cancelled.
//
// A server that is older takes the project as it always has: then a connection that breaks cancels the build.
func Send(ctx context.Context, a *cmdline.App, c *client.Client, p *source.Project, opt client.BuildOptions) (client.BuildOutcome, error) {
	contents, save, err := look(ctx, a, p)
	if err != nil {
		return client.BuildOutcome{}, err
	}
	opened, err := c.OpenBuild(ctx, opt, contents.Entries)
	if errors.Is(err, client.ErrOlder) {
		return sendTar(ctx, a, c, p, opt)
	}
	if err != nil {
		return client.BuildOutcome{}, err
	}
	save()
	out := client.BuildOutcome{Release: opened.ID}
	// Whatever is under way is ended only once the server knows that the build is not wanted.
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		cancelBuild(context.WithoutCancel(ctx), a, c, opened.ID)
		end()
	})
	defer func() {
		if !stop() {
			<-done
		}
	}()
	if err := sendContents(work, a, c, opened, contents); err != nil {
		if ctx.Err() == nil {
			cancelBuild(work, a, c, opened.ID) // nobody is going to send the rest
		}
		return out, err
	}
	if opt.Detach {
		return out, nil
	}
	status, err := Follow(work, a, c, opened.ID, true, false)
	out.Failed = status != "" && status != api.StatusSuccess
	return out, err
}

// look reads the project's files, as far as they have changed.
func look(ctx context.Context, a *cmdline.App, p *source.Project) (contents *source.Contents, save func(), err error) {
	var hashes *source.Hashes
	if cache, err := os.UserCacheDir(); err == nil {
		hashes = source.LoadHashes(filepath.Join(cache, "roadstead"), p.Dir)
	}
	bar := &terminal.Bar{}
	if p.Bytes > 64<<20 && terminal.IsTerminal(a.Err) {
		bar = a.Progress("Looking through the project", p.Bytes)
	}
	contents, err = p.Contents(ctx, hashes, bar.Add)
	bar.End()
	return contents, func() {
		if err := hashes.Save(); err != nil {
			a.Say("Note: the next push will read all files again: %v", err)
		}
	}, err
}

func sendContents(ctx context.Context, a *cmdline.App, c *client.Client, opened api.BuildOpened, contents *source.Contents) error {
	if len(opened.Missing) == 0 {
		a.Say("The builder has all files of the project.")
		return nil
	}
	var bytes, all int64
	sizes := contents.Sizes()
	for _, n := range sizes {
		all += n
	}
	for _, sum := range opened.Missing {
		bytes += sizes[sum]
	}
	what := "Sending the project"
	if len(opened.Missing) < len(sizes) {
		what = fmt.Sprintf("Sending %d of %d files", len(opened.Missing), len(sizes))
	}
	bar := a.Progress(what, bytes)
	defer bar.End()
	return c.SendContents(ctx, opened, contents, bar.Add)
}

// sendTar sends all of the project, and prints what the builder says. When the context ends, the build is cancelled on the server first.
func sendTar(ctx context.Context, a *cmdline.App, c *client.Client, p *source.Project, opt client.BuildOptions) (client.BuildOutcome, error) {
	stream, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var release releaseNumber
	stop := context.AfterFunc(ctx, func() {
		if !opt.Detach {
			cancelBuild(context.WithoutCancel(ctx), a, c, release.get())
		}
		cut()
	})
	defer stop()
	pr, pw := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		bar := a.Progress("Sending the project", p.Bytes)
		err := p.WriteTo(pw, bar.Add)
		bar.End()                  // before the builder, which has it all now, says its first line
		_ = pw.CloseWithError(err) // never fails
		packed <- err
	}()
	con := a.Console(a.Output == "json")
	out, err := c.Build(stream, opt, pr, func(e api.BuildEvent) error {
		if e.Type == "metadata" && e.Resource == "buildLogId" {
			release.set(e.Value)
		}
		return con.Show(e)
	})
	_ = pr.CloseWithError(errors.New("the builder did not want the rest")) // ends the packing, never fails
	refused := errors.As(err, new(*client.ResponseError))
	if packing := <-packed; packing != nil && err != nil && out.Release == 0 && !refused && ctx.Err() == nil {
		err = packing // the cause, where the other is only that the upload broke off
	}
	return out, errors.Join(err, con.End())
}

// cancelBuild tells the server, for at most a few seconds: a person waits at the keyboard.
func cancelBuild(ctx context.Context, a *cmdline.App, c *client.Client, release int64) {
	if release == 0 {
		return // the builder ends a build whose client is gone
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := c.CancelBuild(ctx, release); err != nil {
		a.Say("The build could not be cancelled: %v", err)
		return
	}
	a.Say("Cancelled the build of release %d.", release)
}
