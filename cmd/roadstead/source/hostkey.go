package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/cmd/roadstead/cmdline"
)

// kinds are the host keys that are asked for, the best first.
var kinds = [][]string{
	{ssh.KeyAlgoED25519}, {ssh.KeyAlgoECDSA256}, {ssh.KeyAlgoECDSA384}, {ssh.KeyAlgoECDSA521}, {ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
}

const scanTime = 10 * time.Second

// hostKey is the key of the host of an ssh:// address: what was given, or the one of the host that has the fingerprint that was given. When
// nothing was given, it says what the host shows, to be compared; nobody trusts it by not looking.
func hostKey(ctx context.Context, address, given string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "ssh" || given != "" && !strings.HasPrefix(given, "SHA256:") {
		return given, nil //nolint:nilerr // the server says what is wrong with it
	}
	host := net.JoinHostPort(u.Hostname(), "22")
	if u.Port() != "" {
		host = u.Host
	}
	var shown []string
	var last error
	for _, kind := range kinds {
		key, err := scan(ctx, host, kind)
		if err != nil {
			last = err
			continue
		}
		if given == ssh.FingerprintSHA256(key) {
			return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), nil
		}
		shown = append(shown, fmt.Sprintf("%s (%s)", ssh.FingerprintSHA256(key), key.Type()))
	}
	switch {
	case len(shown) == 0:
		return "", fmt.Errorf("ask %s for its host key: %w; give the key itself with --host-key, as ssh-keyscan prints it", host, last)
	case given != "":
		return "", api.Errorf(api.Invalid, "%s does not show the host key %s, but %s", host, given, strings.Join(shown, ", "))
	}
	return "", cmdline.Usagef("%s shows the host keys\n  %s\nCompare one with what its operator publishes, and give it: --host-key %s", host,
		strings.Join(shown, "\n  "), strings.Fields(shown[0])[0])
}

var errSeen = errors.New("seen")

// scan asks a host for its key of one kind, and goes away.
func scan(ctx context.Context, host string, kind []string) (key ssh.PublicKey, err error) {
	ctx, cancel := context.WithTimeout(ctx, scanTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_, _, _, err = ssh.NewClientConn(conn, host, &ssh.ClientConfig{HostKeyAlgorithms: kind, HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error {
		key = k
		return errSeen
	}})
	if key == nil {
		return nil, err
	}
	return key, nil
}
