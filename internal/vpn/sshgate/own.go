package sshgate

import (
	"context"
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/sshentry"
	"github.com/roadstead-io/roadstead/internal/vpn/permit"
)

// own is how a device is entered whose SSH server is none of ours, as that of balenaOS: as the person, with a key that the api role gives
// the device as one of theirs while the permission lasts. The device's first host key is remembered, and no other passes for it.
func (v *visit) own(ctx context.Context, how *api.SSHOwnServer, session *sshentry.Key, device api.DeviceUUID) *ssh.ClientConfig {
	conf := &ssh.ClientConfig{User: how.User, Auth: []ssh.AuthMethod{session.Auth()}, ClientVersion: sshentry.Version, HostKeyAlgorithms: algorithms("")}
	if known, _, _, _, err := ssh.ParseAuthorizedKey([]byte(how.HostKey)); err == nil { //nolint:dogsled // only the key counts
		conf.HostKeyAlgorithms = algorithms(known.Type())
	}
	conf.HostKeyCallback = func(_ string, _ net.Addr, key ssh.PublicKey) error {
		shown := line(key)
		known := how.HostKey
		if known == "" {
			ctx, cancel := context.WithTimeout(ctx, askTime)
			defer cancel()
			var saw api.SSHSawHostKey
			if err := permit.Call(ctx, v.s.cfg.API, "/internal/ssh/host-key", api.SSHSawHostKey{Device: string(device), PublicKey: shown}, &saw); err != nil {
				return err
			}
			known = saw.PublicKey
		}
		if known != shown {
			return &otherHost{device, ssh.FingerprintSHA256(key)}
		}
		return nil
	}
	return conf
}

func line(key ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) }

// algorithms are those with which a host key of a type is shown, or any key that is good enough. A device must not show another of its keys
// than the one that is known.
func algorithms(kind string) []string {
	rsa := []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	switch kind {
	case "":
		return append([]string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521}, rsa...)
	case ssh.KeyAlgoRSA:
		return rsa
	}
	return []string{kind}
}

// otherHost says that what answered is not what was seen first.
type otherHost struct {
	device api.DeviceUUID
	shown  string
}

func (e *otherHost) Error() string {
	return fmt.Sprintf("the device shows another host key (%s) than the one that was seen first. If its system was written anew, forget that one: roadstead device ssh-host-key forget %s",
		e.shown, e.device)
}

// engine is how the container engine is called there, by whichever name it has.
const engine = `e=$(command -v balena-engine || command -v balena || command -v docker) || { echo "there is no container engine on the device" >&2; exit 127; }; `

// ownCommand is what is asked of such a device: its SSH server knows the system and no services, which are entered by its container engine.
func ownCommand(want wish, tty bool) (wish, error) {
	if want.own = true; want.inside == "" {
		return want, nil
	}
	if want.files {
		return want, &plain{"the device's SSH server knows no files of services; copy them to the device itself"}
	}
	find := "c=" + quote(want.inside) + "; "
	if !want.id {
		// As a supervisor names them: SERVICE_IMAGE_RELEASE.
		name := "^" + strings.ReplaceAll(want.inside, ".", "[.]") + "_[0-9]+_[0-9]+"
		find = `c=$("$e" ps --quiet --filter name=` + quote(name) + ` | head -n 1); [ -n "$c" ] || { echo ` +
			quote(fmt.Sprintf("there is no service %q that runs on the device", want.inside)) + ` >&2; exit 1; }; `
	}
	flags, inner := "-i", want.command
	if tty {
		flags = "-it"
	}
	if inner == "" {
		inner = "if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi"
	}
	want.command = engine + find + `exec "$e" exec ` + flags + ` "$c" /bin/sh -c ` + quote(inner)
	return want, nil
}

// quote makes one word of a text for a shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
