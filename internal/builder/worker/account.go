package worker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the Unix user that the service runs as.
type account struct {
	uid, gid int
	name     string
	drop     bool // we are root and become it
}

func identity(name string) (account, error) {
	if os.Geteuid() != 0 {
		u, err := user.Current()
		if err != nil {
			return account{}, fmt.Errorf("build service: who am I: %w", err)
		}
		return account{uid: os.Geteuid(), gid: os.Getegid(), name: u.Username}, nil
	}
	if name == "" {
		return account{}, errors.New("the build service does not run as root: name a user for it")
	}
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("build service: %w", err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return account{}, fmt.Errorf("build service: user %s: %w", name, err)
	}
	if uid == 0 {
		return account{}, fmt.Errorf("the build service does not run as root: %q is root", name)
	}
	return account{uid: uid, gid: gid, name: name, drop: true}, nil
}

// attributes gives a child process the account. The child is killed when the thread that started it ends.
func (a account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if a.drop {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid), Groups: []uint32{}}
	}
	return attr
}

// programs are the paths of what the service consists of.
type programs struct{ buildkitd, rootlesskit, slirp, ip string }

func find(buildkitd string) (programs, error) {
	if buildkitd == "" {
		self, err := os.Executable()
		if err != nil {
			return programs{}, fmt.Errorf("build service: %w", err)
		}
		buildkitd = filepath.Join(filepath.Dir(self), "buildkitd")
		if _, err := os.Stat(buildkitd); err != nil {
			buildkitd = "buildkitd"
		}
	}
	var p programs
	for _, want := range []struct {
		path *string
		name string
		hint string
	}{
		{&p.buildkitd, buildkitd, "`make build` makes it"},
		{&p.rootlesskit, "rootlesskit", "Debian's package rootlesskit has it"},
		{&p.slirp, "slirp4netns", "Debian's package slirp4netns has it"},
		{&p.ip, "ip", "Debian's package iproute2 has it"},
		{new(string), "newuidmap", "Debian's package uidmap has it"},
		{new(string), "runc", "Debian's package runc has it"},
	} {
		path, err := lookPath(want.name)
		if err != nil {
			return programs{}, fmt.Errorf("build service: %s is missing: %s", want.name, want.hint)
		}
		*want.path = path
	}
	return p, nil
}

// searchPath is where the service's programs are looked for, whatever the caller's PATH is.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func lookPath(name string) (string, error) {
	if filepath.IsAbs(name) {
		return exec.LookPath(name)
	}
	for _, dir := range filepath.SplitList(searchPath) {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return exec.LookPath(name)
}
