package main

import (
	"fmt"
	"net"
	"os"

	"github.com/spf13/pflag"

	"github.com/roadstead-io/roadstead/internal/gitserver"
)

// gitPort is where git over SSH listens unless somebody says otherwise: the usual port of SSH is the machine's own.
const gitPort = "2222"

// addGit adds the flags of the git role.
func (f *upFlags) addGit(fs *pflag.FlagSet) {
	fs.StringVar(&f.gitListen, "git-listen", "", "`ADDR:PORT` of git over SSH, or off; empty means port "+gitPort+" of the address of --listen")
	fs.StringVar(&f.git, "git", "", "`PATH` of the program git; empty means /usr/bin/git")
	fs.StringSliceVar(&f.sourceAllow, "source-allow", nil, "private `NETWORKS` and hosts that repositories and archives may be fetched from for fleets: 192.168.7.0/24,git.example.com")
	fs.StringVar(&f.sourceCA, "source-ca", "", "a `FILE` with the certificate authorities (PEM) of such hosts, besides those that the system trusts")
	fs.Func("git-bounds", "bounds of pushes and repositories, `NAME=N,…`; see the chapter on git", f.gitLimits.Parse)
	fs.BoolVar(&f.gitLimits.Submodules, "git-submodules", false, "take pushes of projects with submodules; their directories are empty in a build")
}

// readSources reads how far out the git role reaches for repositories, and the builder for archives, that fleets are built from.
func (f *upFlags) readSources() error {
	f.sources = gitserver.Sources{Allow: f.sourceAllow}
	if f.sourceCA != "" {
		pem, err := os.ReadFile(f.sourceCA)
		if err != nil {
			return fmt.Errorf("--source-ca: %w", err)
		}
		f.sources.CA = string(pem)
	}
	if err := f.sources.Validate(); err != nil {
		return fmt.Errorf("--source-allow, --source-ca: %w", err)
	}
	return nil
}

// gitAddress is where git over SSH listens; "" is nowhere. Nobody asked for the default, so another port does when it is taken.
func (f *upFlags) gitAddress() (addr string, elsewhere bool) {
	switch f.gitListen {
	case "off":
		return "", false
	case "":
		host, _, err := net.SplitHostPort(f.listen)
		if err != nil {
			return "", false // refused for what it is elsewhere
		}
		return net.JoinHostPort(host, gitPort), true
	}
	return f.gitListen, false
}
