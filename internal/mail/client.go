package mail

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
)

// Server says through which server letters go out.
type Server struct {
	// URL is smtps://USER@HOST:465 (TLS from the first byte) or smtp://USER@HOST:587 (STARTTLS, which must succeed). Without a user
	// nobody logs in. Empty: no mail is sent.
	URL string `json:"url,omitempty"`
	// Password is the user's.
	Password string `json:"password,omitempty"`
	// From is whom letters are from: no-reply@example.com, or with a name, Roadstead <no-reply@example.com>.
	From string `json:"from,omitempty"`
	// RootCA is the certificate, PEM, of who vouches for the server. Empty: those that the system trusts.
	RootCA string `json:"root_ca,omitempty"`
	// Insecure allows smtp:// without TLS, to a server on this machine only.
	Insecure bool `json:"insecure,omitempty"`
}

// On reports whether mail is sent at all.
func (s Server) On() bool { return s.URL != "" }

// Validate names the field that is wrong.
func (s Server) Validate() error {
	if !s.On() {
		if s.From != "" || s.Password != "" || s.RootCA != "" || s.Insecure {
			return errors.New("smtp: not given, and without a server the other settings of mail say nothing")
		}
		return nil
	}
	_, err := s.parse("localhost")
	return err
}

// client is a server as it is spoken to.
type client struct {
	host string
	opts []gomail.Option
	from *mail.Address
}

const sendTimeout = 30 * time.Second // of connecting, and of every answer

// parse reads the settings. hello is what we call ourselves.
func (s Server) parse(hello string) (*client, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, errors.New("smtp: not a URL: smtps://USER@HOST:465 or smtp://USER@HOST:587") // the URL itself may hold a password
	}
	if _, has := u.User.Password(); has {
		return nil, errors.New("smtp: the URL holds a password; it belongs into a file of its own")
	}
	if u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("smtp: %q is not smtps://USER@HOST:465 or smtp://USER@HOST:587", s.URL)
	}
	from, err := mail.ParseAddress(s.From)
	if err != nil || !plain(s.From) || CheckAddress(from.Address) != nil {
		return nil, fmt.Errorf("mail from: %q is not an e-mail address like Roadstead <no-reply@example.com>", s.From)
	}
	c := &client{host: u.Hostname(), from: from}
	conf := &tls.Config{ServerName: c.host, MinVersion: tls.VersionTLS12}
	if s.RootCA != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(s.RootCA)) {
			return nil, errors.New("smtp root certificate: it holds no certificate")
		}
	}
	c.opts = []gomail.Option{gomail.WithTimeout(sendTimeout), gomail.WithHELO(hello), gomail.WithTLSConfig(conf)}
	port := 587
	switch {
	case u.Scheme == "smtps" && s.Insecure:
		return nil, errors.New("smtp: smtps:// is never insecure")
	case u.Scheme == "smtps":
		port = 465
		c.opts = append(c.opts, gomail.WithSSL())
	case u.Scheme == "smtp" && s.Insecure && !loopback(c.host):
		return nil, fmt.Errorf("smtp: without TLS only to a server on this machine, not to %s", c.host)
	case u.Scheme == "smtp" && s.Insecure:
		c.opts = append(c.opts, gomail.WithTLSPolicy(gomail.NoTLS))
	case u.Scheme == "smtp":
		c.opts = append(c.opts, gomail.WithTLSPolicy(gomail.TLSMandatory))
	default:
		return nil, fmt.Errorf("smtp: there are smtps:// and smtp://, not %s://", u.Scheme)
	}
	if text := u.Port(); text != "" {
		if port, err = strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
			return nil, fmt.Errorf("smtp: %q is not a port", text)
		}
	}
	c.opts = append(c.opts, gomail.WithPort(port))
	switch user := u.User.Username(); {
	case user != "" && s.Password == "":
		return nil, fmt.Errorf("smtp: the password of %s is missing", user)
	case user == "" && s.Password != "":
		return nil, errors.New("smtp: there is a password and no user: smtps://USER@HOST:465")
	case user != "" && s.Insecure:
		return nil, errors.New("smtp: no password is sent without TLS")
	case user != "":
		c.opts = append(c.opts, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover), gomail.WithUsername(user), gomail.WithPassword(s.Password))
	}
	if _, err := gomail.NewClient(c.host, c.opts...); err != nil {
		return nil, fmt.Errorf("smtp: %w", err)
	}
	return c, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// plain reports whether a text is one line without control characters: fit for a header.
func plain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 })
}

// CheckAddress refuses what is not one bare e-mail address.
func CheckAddress(address string) error {
	parsed, err := mail.ParseAddress(address)
	if err != nil || parsed.Address != address || len(address) > 254 || !plain(address) || strings.ContainsAny(address, `"<>,;:\ `) {
		return fmt.Errorf("%q is not an e-mail address", clip(address, 100))
	}
	return nil
}

// message is a letter ready to be sent.
type message struct {
	id            int64 // makes the Message-ID: who gets a letter twice sees that it is one
	to            string
	subject, body string
	at            time.Time
}

// compose makes the message. What would break out of its header is refused.
func (c *client) compose(m message) (*gomail.Msg, error) {
	if err := CheckAddress(m.to); err != nil {
		return nil, err
	}
	if !plain(m.subject) || m.subject == "" {
		return nil, errors.New("the subject is empty or not one line")
	}
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(c.from)
	if err := msg.EnvelopeFrom(c.from.Address); err != nil {
		return nil, err
	}
	if err := msg.To(m.to); err != nil {
		return nil, err
	}
	msg.Subject(m.subject)
	msg.SetDateWithValue(m.at)
	_, domain, _ := strings.Cut(c.from.Address, "@")
	msg.SetMessageIDWithValue(fmt.Sprintf("letter-%d-%d@%s", m.id, m.at.Unix(), domain))
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no answer from a machine, please
	msg.SetBodyString(gomail.TypeTextPlain, m.body)
	return msg, nil
}

// errNever marks what another attempt would not change.
var errNever = errors.New("refused for good")

// send delivers messages over one connection; the answer is an error for each.
func (c *client) send(ctx context.Context, messages []message) []error {
	out := make([]error, len(messages))
	all := func(err error) []error {
		for i := range out {
			if out[i] == nil {
				out[i] = err
			}
		}
		return out
	}
	conn, err := gomail.NewClient(c.host, c.opts...)
	if err != nil {
		return all(err)
	}
	if err := conn.DialWithContext(ctx); err != nil {
		return all(fmt.Errorf("connect: %w", err))
	}
	defer func() { _ = conn.Close() }()
	for i, m := range messages {
		msg, err := c.compose(m)
		if err != nil {
			out[i] = errors.Join(errNever, err)
			continue
		}
		out[i] = judged(conn.Send(msg))
		if ctx.Err() != nil {
			return all(ctx.Err())
		}
	}
	return out
}

// judged marks a server's refusal for good: a code of 500 and above for this letter.
func judged(err error) error {
	var refused *gomail.SendError
	if errors.As(err, &refused) && refused.ErrorCode() >= 500 && !refused.IsTemp() {
		return errors.Join(errNever, err)
	}
	return err
}

func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}
