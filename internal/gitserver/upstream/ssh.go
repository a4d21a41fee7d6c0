package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
)

// errHostKey refuses a host that does not prove to have the key that the source names.
var errHostKey = errors.New("another host key")

// ssh starts git-upload-pack there, and is nothing but a pipe then.
func (w *Ways) ssh(ctx context.Context, u *url.URL, r Remote, git net.Conn) error {
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "22")
	}
	config, err := sshConfig(u, r)
	if err != nil {
		return err
	}
	outer := ctx
	ctx, alive, done := watched(outer, u.Host, 5*w.cfg.Patience)
	defer done()
	conn, err := w.egress.Dial(ctx, host)
	if err != nil {
		return reached(u.Host, err)
	}
	_ = conn.SetDeadline(time.Now().Add(w.cfg.Patience)) // for the handshake; a TCP connection has deadlines
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	var shown string
	config.HostKeyCallback = func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if shown = ssh.FingerprintSHA256(key); strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) != r.HostKey {
			return errHostKey
		}
		return nil
	}
	c, channels, requests, err := ssh.NewClientConn(conn, host, config)
	if err != nil {
		return handshake(u.Host, shown, err)
	}
	_ = conn.SetDeadline(time.Time{})
	client := ssh.NewClient(c, channels, requests)
	defer func() { _ = client.Close() }()
	err = w.pipe(client, u, git, alive)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func sshConfig(u *url.URL, r Remote) (*ssh.ClientConfig, error) {
	signer, err := ssh.ParsePrivateKey([]byte(r.Key))
	if err != nil {
		return nil, errors.New("fetch: the deploy key cannot be read")
	}
	pinned, _, _, _, err := ssh.ParseAuthorizedKey([]byte(r.HostKey))
	if err != nil {
		return nil, errors.New("fetch: the host key cannot be read")
	}
	algorithms := []string{pinned.Type()} // the host has others perhaps; it is to show this one
	if pinned.Type() == ssh.KeyAlgoRSA {
		algorithms = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return &ssh.ClientConfig{
		User: u.User.Username(), Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyAlgorithms: algorithms, ClientVersion: "SSH-2.0-roadstead",
	}, nil
}

// handshake words why a host did not let us in.
func handshake(host, shown string, err error) error {
	switch {
	case errors.Is(err, errHostKey):
		return api.Errorf(api.Invalid, "%s shows the host key %s, which is not the one of the source: nothing was fetched. If the host has a new key, make the source anew.", host, shown)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return api.Errorf(api.Invalid, "%s does not take the deploy key of the source: add it to the repository there.", host)
	case strings.Contains(err.Error(), "no common algorithm for host key"):
		return api.Errorf(api.Invalid, "%s has no host key of the kind that the source names: nothing was fetched. If the host has a new key, make the source anew.", host)
	}
	return api.Errorf(api.Unavailable, "%s could not be spoken to: %v", host, err)
}

// pipe runs git there, between both.
func (w *Ways) pipe(client *ssh.Client, u *url.URL, git net.Conn, alive func()) error {
	session, err := client.NewSession()
	if err != nil {
		return api.Errorf(api.Unavailable, "%s opens no session: %v", u.Host, err)
	}
	defer func() { _ = session.Close() }()
	_ = session.Setenv("GIT_PROTOCOL", protocol) // not every host takes it; then an older protocol is spoken
	in, err := session.StdinPipe()
	if err != nil {
		return err
	}
	out := &counted{w: git, left: w.cfg.MaxBytes, stop: client.Close, alive: alive}
	session.Stdout = out
	said := &beginning{left: 4 << 10}
	session.Stderr = said
	// The path has no quotes, see gitsource: nothing in it means anything to a shell.
	if err := session.Start("git-upload-pack '" + u.Path + "'"); err != nil {
		return api.Errorf(api.Unavailable, "%s starts no git: %v", u.Host, err)
	}
	done := make(chan struct{})
	go func() { // ends with git, whose socket is closed when this function has returned
		defer close(done)
		_, _ = io.Copy(in, git)
		_ = in.Close()
	}()
	err = session.Wait()
	_ = git.Close()
	<-done
	var exit *ssh.ExitError
	switch {
	case out.over:
		return errLarge
	case errors.As(err, &exit) && exit.ExitStatus() != 0 && out.left == w.cfg.MaxBytes: // it sent nothing: there is no such repository, say
		return api.Errorf(api.Invalid, "%s says: %s", u.Host, words(said.text))
	}
	return nil // whatever else was wrong, git has seen it
}

// beginning keeps the beginning of what is written.
type beginning struct {
	text []byte
	left int
}

func (b *beginning) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.text = append(b.text, p[:n]...)
	b.left -= n
	return len(p), nil
}
