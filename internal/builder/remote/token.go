package remote

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// prefix tells people, and scanners of leaked secrets, what a token is for.
const prefix = "rsw_"

const (
	sumBytes     = 4
	maxToken     = 4096
	maxAddresses = 8
)

// Token is all that a machine needs to join.
type Token struct {
	Addresses []string `json:"a"` // of the server's listener, HOST:PORT; tried in this order
	Server    string   `json:"k"` // SHA-256 of the server's public key, see Fingerprint
	Secret    string   `json:"s"` // good for one machine, until it lapses
}

// String is the token as people paste it.
func (t Token) String() string {
	data, err := json.Marshal(t)
	if err != nil {
		panic(err) // strings always marshal
	}
	sum := sha256.Sum256(data)
	return prefix + base64.RawURLEncoding.EncodeToString(append(data, sum[:sumBytes]...))
}

// ParseToken reads a token and finds out whether all of it is there.
func ParseToken(text string) (t Token, err error) {
	text = strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok || len(text) > maxToken {
		return t, fmt.Errorf("this is no token of a worker: such a token begins with %s", prefix)
	}
	data, err := base64.RawURLEncoding.DecodeString(rest)
	broken := errors.New("a part of the token is missing or was changed; copy all of it")
	if err != nil || len(data) < sumBytes {
		return t, broken
	}
	data, given := data[:len(data)-sumBytes], data[len(data)-sumBytes:]
	if sum := sha256.Sum256(data); subtle.ConstantTimeCompare(sum[:sumBytes], given) != 1 {
		return t, broken
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return t, broken
	}
	if len(t.Server) != 2*sha256.Size || t.Secret == "" {
		return Token{}, broken
	}
	return t, CheckAddresses(t.Addresses)
}

// CheckAddresses refuses what nobody could connect to.
func CheckAddresses(list []string) error {
	if len(list) == 0 || len(list) > maxAddresses {
		return fmt.Errorf("1 to %d addresses of the server, not %d", maxAddresses, len(list))
	}
	for _, a := range list {
		host, port, err := net.SplitHostPort(a)
		n, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || host == "" || len(host) > 253 || portErr != nil || n == 0 || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == '/' }) {
			return fmt.Errorf("the server's address %q is not HOST:PORT", a)
		}
	}
	return nil
}
