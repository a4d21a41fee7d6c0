package main

import (
	"net"

	"github.com/spf13/pflag"
)

// gitPort is where git over SSH listens unless somebody says otherwise: the usual port of SSH is the machine's own.
const gitPort = "2222"

// addGit adds the flags of the git role.
func (f *upFlags) addGit(fs *pflag.FlagSet) {
	fs.StringVar(&f.gitListen, "git-listen", "", "`ADDR:PORT` of git over SSH, or off; empty means port "+gitPort+" of the address of --listen")
	fs.StringVar(&f.git, "git", "", "`PATH` of the program git; empty means /usr/bin/git")
	fs.Func("git-bounds", "bounds of pushes and repositories, `NAME=N,…`; see the chapter on git", f.gitLimits.Parse)
	fs.BoolVar(&f.gitLimits.Submodules, "git-submodules", false, "take pushes of projects with submodules; their directories are empty in a build")
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
