package mail_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/db/dbtest"
	"github.com/roadstead-io/roadstead/internal/mail"
	"github.com/roadstead-io/roadstead/internal/mail/mailtest"
)

// fixture is an outbox with a clock that only the test moves.
type fixture struct {
	testing.TB
	db     *db.DB
	server *mailtest.Server
	outbox *mail.Outbox
	log    bytes.Buffer

	mu  sync.Mutex // covers now
	now time.Time
}

const (
	secret = "0123456789abcdef0123456789abcdef"
	token  = "rst_a_token_that_lets_in"
)

func newFixture(t testing.TB, o mailtest.Options) *fixture {
	t.Helper()
	f := &fixture{TB: t, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), server: mailtest.Start(t, o)}
	f.db = dbtest.Open(t, f.clock, mail.Migrations())
	settings := mail.Server{URL: f.server.URL, Password: mailtest.Password, From: "Roadstead <no-reply@example.com>", RootCA: f.server.RootCA}
	if o.Clear {
		settings = mail.Server{URL: f.server.URL, From: settings.From, Insecure: true}
	}
	f.outbox = f.open(settings)
	return f
}

func (f *fixture) open(s mail.Server) *mail.Outbox {
	f.Helper()
	o, err := mail.New(mail.Config{
		DB: f.db, Server: s, Hello: "roadstead.test", Secret: []byte(secret), Now: f.clock, Log: slog.New(slog.NewTextHandler(&f.log, nil)),
		Render: func(kind string, data map[string]string) (string, string, error) {
			if kind == "unknown" {
				return "", "", errors.New("no such letter")
			}
			return "About " + kind + data["subject"], "Grüße an " + data["to"] + ":\n" + data["link"] + "\n.\n" + strings.Repeat("long ", 400) + "\n", nil
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	return o
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) pass(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

func (f *fixture) post(l mail.Letter) error {
	return f.db.Write(context.Background(), func(tx *db.Tx) error { return f.outbox.Post(context.Background(), tx, l) })
}

func (f *fixture) run() {
	f.Helper()
	if err := f.outbox.RunOnce(f.Context()); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) look() (s api.MailStatus) {
	f.Helper()
	err := f.db.Read(f.Context(), func(tx *db.Tx) (err error) {
		s, err = mail.Look(f.Context(), tx, mail.Server{URL: f.server.URL})
		return err
	})
	if err != nil {
		f.Fatal(err)
	}
	return s
}

func TestALetterArrives(t *testing.T) {
	for name, o := range map[string]mailtest.Options{"TLS": {}, "STARTTLS": {STARTTLS: true}, "this machine": {Clear: true}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, o)
			if err := f.post(mail.Letter{To: "alice@example.com", Kind: "a test", Data: map[string]string{"link": token, "subject": ": Größe"}}); err != nil {
				t.Fatal(err)
			}
			f.run()
			l := f.server.Wait(t, "alice@example.com", 1)
			if l.From != "no-reply@example.com" || l.Header.Get("From") != `"Roadstead" <no-reply@example.com>` || l.Header.Get("To") != "<alice@example.com>" {
				t.Errorf("addresses: got %q, %v", l.From, l.Header)
			}
			if !strings.HasPrefix(l.Header.Get("Subject"), "=?") || l.Header.Get("Auto-Submitted") != "auto-generated" ||
				l.Header.Get("Message-Id") == "" || l.Header.Get("Mime-Version") != "1.0" || !strings.HasPrefix(l.Header.Get("Content-Type"), "text/plain; charset=UTF-8") {
				t.Errorf("header: got %v", l.Header)
			}
			if at, err := l.Header.Date(); err != nil || !at.Equal(f.now) {
				t.Errorf("date: got %v, %v", at, err)
			}
			if !strings.HasPrefix(l.Body, "Grüße an alice@example.com:\n"+token+"\n.\nlong long") {
				t.Errorf("body: got %q", l.Body)
			}
			for line := range strings.SplitSeq(l.Raw, "\r\n") {
				if len(line) > 998 || strings.ContainsAny(line, "\r\n") || strings.ContainsFunc(line, func(r rune) bool { return r > 0x7e }) {
					t.Errorf("not a line that may be sent: %q", line)
				}
			}
			f.run()
			if got := len(f.server.Letters()); got != 1 {
				t.Errorf("after a second run: %d letters", got)
			}
			if s := f.look(); s.Waiting != 0 || s.Failed != 0 || s.Why != "" || !s.On {
				t.Errorf("status: got %+v", s)
			}
		})
	}
}

// A letter holds links that let people in. Neither the database nor the log may.
func TestADumpHoldsNoUsableLink(t *testing.T) {
	f := newFixture(t, mailtest.Options{})
	refused := func(string) error { return &smtp.SMTPError{Code: 451, Message: "later"} }
	f.server.Refuse(refused)
	if err := f.post(mail.Letter{To: "alice@example.com", Kind: "a test", Data: map[string]string{"link": token}}); err != nil {
		t.Fatal(err)
	}
	f.run()
	check := func(when string) {
		t.Helper()
		dump := f.dump()
		if strings.Contains(dump, token) || !strings.Contains(dump, "alice@example.com") {
			t.Errorf("%s: the table holds %s", when, dump)
		}
		if strings.Contains(dbtest.Dump(t, f.db), token) {
			t.Errorf("%s: the database holds the link", when)
		}
	}
	check("waiting")
	f.pass(time.Hour)
	f.server.Refuse(nil)
	f.run()
	f.server.Wait(t, "alice@example.com", 1)
	check("sent")
	if dump := f.dump(); strings.Contains(dump, "sealed=valid") {
		t.Errorf("what a sent letter said is still there: %s", dump)
	}
	f.pass(time.Hour)
	f.run()
	if dump := f.dump(); dump != "" {
		t.Errorf("two hours later there is %s", dump)
	}
	if strings.Contains(f.log.String(), token) {
		t.Errorf("the log holds it: %s", f.log.String())
	}
}

func (f *fixture) dump() string {
	f.Helper()
	var out strings.Builder
	err := f.db.Read(f.Context(), func(tx *db.Tx) error {
		rows, err := tx.QueryContext(f.Context(), `SELECT recipient, kind, coalesce(sealed, ''), state, coalesce(why, '') FROM letter`)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var recipient, kind, sealed, state, why string
			if err := rows.Scan(&recipient, &kind, &sealed, &state, &why); err != nil {
				return err
			}
			if sealed != "" {
				sealed = "sealed=valid " + sealed
			}
			fmt.Fprintln(&out, recipient, kind, sealed, state, why)
		}
		return rows.Err()
	})
	if err != nil {
		f.Fatal(err)
	}
	return out.String()
}

// A sealed letter belongs to its row: moved to another one, say of another recipient, it is not read.
func TestASealedLetterIsItsRows(t *testing.T) {
	f := newFixture(t, mailtest.Options{})
	for _, to := range []string{"alice@example.com", "mallory@example.com"} {
		if err := f.post(mail.Letter{To: to, Kind: "a test", Data: map[string]string{"link": token + to}}); err != nil {
			t.Fatal(err)
		}
	}
	err := f.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.ExecContext(t.Context(), `UPDATE letter SET sealed = (SELECT l.sealed FROM letter l WHERE l.recipient = 'alice@example.com')`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f.run()
	f.server.Wait(t, "alice@example.com", 1)
	if got := len(f.server.Letters()); got != 1 {
		t.Errorf("got %d letters", got)
	}
	if s := f.look(); s.Failed != 1 {
		t.Errorf("status: got %+v", s)
	}
}

func TestLettersAreTriedAgainAndGivenUp(t *testing.T) {
	f := newFixture(t, mailtest.Options{})
	f.server.Refuse(func(to string) error {
		if to == "gone@example.com" {
			return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
		}
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "later"}
	})
	for _, to := range []string{"gone@example.com", "alice@example.com"} {
		if err := f.post(mail.Letter{To: to, Kind: "a test"}); err != nil {
			t.Fatal(err)
		}
	}
	f.run()
	if s := f.look(); s.Waiting != 1 || s.Failed != 1 || s.Why == "" {
		t.Errorf("after one attempt: got %+v", s)
	}
	for range 60 {
		f.pass(30 * time.Minute)
		f.run()
	}
	if s := f.look(); s.Waiting != 0 || s.Failed != 2 || !strings.Contains(s.Why, "later") {
		t.Errorf("after more than a day: got %+v", s)
	}
	if !strings.Contains(f.log.String(), "a letter could not be sent\"") {
		t.Errorf("the log does not say so: %s", f.log.String())
	}
	if dump := f.dump(); strings.Contains(dump, "sealed=valid") {
		t.Errorf("a failed letter is kept: %s", dump)
	}
	f.pass(8 * 24 * time.Hour)
	f.run()
	if s := f.look(); s.Failed != 0 || s.Why != "" {
		t.Errorf("a week later: got %+v", s)
	}
}

// The server is away; the letter goes out when it is back, and what has no meaning any more does not.
func TestAMailServerThatIsAway(t *testing.T) {
	f := newFixture(t, mailtest.Options{})
	good := f.outbox
	f.outbox = f.open(mail.Server{URL: "smtps://roadstead@127.0.0.1:1", Password: "x", From: "no-reply@example.com"})
	for _, l := range []mail.Letter{
		{To: "alice@example.com", Kind: "a test"},
		{To: "bob@example.com", Kind: "a test", Until: f.now.Add(10 * time.Minute)},
	} {
		if err := f.post(l); err != nil {
			t.Fatal(err)
		}
	}
	f.run()
	if s := f.look(); s.Waiting != 2 || s.Why == "" {
		t.Errorf("got %+v", s)
	}
	f.outbox = good
	f.pass(time.Hour)
	f.run()
	f.server.Wait(t, "alice@example.com", 1)
	if s := f.look(); s.Waiting != 0 || s.Failed != 1 || len(f.server.Letters()) != 1 {
		t.Errorf("later: got %+v and %d letters", s, len(f.server.Letters()))
	}
}

// Two processes look at the same time; a letter goes out once.
func TestALetterIsSentOnce(t *testing.T) {
	f := newFixture(t, mailtest.Options{})
	const letters = 30
	for i := range letters {
		if err := f.post(mail.Letter{To: fmt.Sprintf("u%d@example.com", i), Kind: "a test"}); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := f.outbox.RunOnce(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f.run()
	seen := map[string]int{}
	for _, l := range f.server.Letters() {
		seen[l.To]++
	}
	for i := range letters {
		if to := fmt.Sprintf("u%d@example.com", i); seen[to] != 1 {
			t.Errorf("%s got %d letters", to, seen[to])
		}
	}
}

// A process that dies after it has claimed a letter leaves it as it was claimed: another sends it when the claim is over, and once.
func TestALetterOfAProcessThatDied(t *testing.T) {
	f := newFixture(t, mailtest.Options{})
	if err := f.post(mail.Letter{To: "alice@example.com", Kind: "a test"}); err != nil {
		t.Fatal(err)
	}
	// It is killed while the mail server takes its time: what the row is then is all that there is.
	hold, taken := make(chan struct{}), make(chan struct{})
	f.server.Refuse(func(string) error {
		close(taken)
		<-hold
		return &smtp.SMTPError{Code: 451, Message: "later"}
	})
	done := make(chan error, 1)
	go func() { done <- f.outbox.RunOnce(t.Context()) }()
	<-taken
	f.run() // another process finds nothing to do
	var next string
	var attempts int
	ctx := t.Context()
	err := f.db.Read(ctx, func(tx *db.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT next_at, attempts FROM letter`).Scan(&next, &attempts)
	})
	if err != nil {
		t.Fatal(err)
	}
	close(hold)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.server.Refuse(nil)
	err = f.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE letter SET next_at = ?, attempts = ?, why = NULL`, next, attempts)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f.pass(9 * time.Minute)
	f.run()
	if n := len(f.server.Letters()); n != 0 {
		t.Errorf("%d letters went out while the claim held", n)
	}
	for range 3 {
		f.pass(time.Minute)
		f.run()
	}
	if n := len(f.server.Letters()); n != 1 {
		t.Errorf("%d letters went out, want 1", n)
	}
}

// What an attacker puts into an address, a name or a subject makes no header of its own.
func TestHeaderInjectionIsRefused(t *testing.T) {
	f := newFixture(t, mailtest.Options{})
	for _, to := range []string{
		"", "alice", "a@example.com\r\nBcc: all@example.com", "a@example.com\nSubject: x", "a@example.com, b@example.com", "Alice <a@example.com>",
		"a@example.com\x00", "\"a b\"@example.com", "a@example.com>\r\nRCPT TO:<b@example.com", "a b@example.com", strings.Repeat("a", 250) + "@example.com",
	} {
		if err := f.post(mail.Letter{To: to, Kind: "a test"}); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("to %q: got %v, want invalid", to, err)
		}
	}
	for _, text := range []string{"x\r\nBcc: all@example.com", "x\nX-Evil: 1", "x\r\r\n\r\nbody", "a\x00b", "a\u2028b", "a\u0085b", strings.Repeat("x", 3000)} {
		if err := f.post(mail.Letter{To: "alice@example.com", Kind: "a test", Data: map[string]string{"subject": text}}); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("subject %q: got %v, want invalid", text, err)
		}
	}
	if err := f.post(mail.Letter{To: "alice@example.com", Kind: "unknown"}); err == nil {
		t.Error("an unknown kind: got no error")
	}
	f.run()
	if got := f.server.Letters(); len(got) != 0 {
		t.Errorf("sent all the same: %v", got)
	}
}

// Nobody gets a mailbox full, and a flood of one kind does not keep another kind from being sent.
func TestLettersAreBounded(t *testing.T) {
	f := newFixture(t, mailtest.Options{})
	for range mail.PerRecipient {
		if err := f.post(mail.Letter{To: "alice@example.com", Kind: "password reset"}); err != nil {
			t.Fatal(err)
		}
	}
	f.run()
	if err := f.post(mail.Letter{To: "alice@example.com", Kind: "password reset"}); !errors.Is(err, mail.ErrTooMany) {
		t.Errorf("one more: got %v", err)
	}
	for _, l := range []mail.Letter{{To: "alice@example.com", Kind: "a warning"}, {To: "bob@example.com", Kind: "password reset"}} {
		if err := f.post(l); err != nil {
			t.Errorf("%+v: got %v", l, err)
		}
	}
	for i := range mail.PerSender {
		if err := f.post(mail.Letter{To: fmt.Sprintf("u%d@example.com", i), Kind: "an offer", By: "user 7"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.post(mail.Letter{To: "dave@example.com", Kind: "an offer", By: "user 7"}); !errors.Is(err, mail.ErrTooMany) {
		t.Errorf("one more than one person may have sent: got %v", err)
	}
	if err := f.post(mail.Letter{To: "dave@example.com", Kind: "an offer", By: "user 8"}); err != nil {
		t.Errorf("another person's: got %v", err)
	}
	err := f.db.Write(t.Context(), func(tx *db.Tx) error {
		for i := range mail.PerHour {
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO letter (created_at, recipient, sender, kind, state, next_at, until) VALUES (?, ?, '', 'invitation', 'sent', '', '')`,
				tx.NowText(), fmt.Sprintf("u%d@example.com", i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.post(mail.Letter{To: "carol@example.com", Kind: "invitation"}); !errors.Is(err, mail.ErrTooMany) {
		t.Errorf("one more than may be sent in all: got %v", err)
	}
	f.pass(time.Hour + time.Second)
	for _, l := range []mail.Letter{{To: "alice@example.com", Kind: "password reset"}, {To: "carol@example.com", Kind: "invitation"}} {
		if err := f.post(l); err != nil {
			t.Errorf("an hour later, %+v: got %v", l, err)
		}
	}
}

// A server that does not prove itself, or does not know TLS, gets neither password nor letter.
func TestNothingGoesOutInClear(t *testing.T) {
	f := newFixture(t, mailtest.Options{})
	inClear := mailtest.Start(t, mailtest.Options{Clear: true})
	for name, s := range map[string]mail.Server{
		"unknown certificate":  {URL: f.server.URL, Password: mailtest.Password, From: "a@example.com"},
		"no STARTTLS":          {URL: "smtp://" + inClear.Addr, From: "a@example.com"},
		"no STARTTLS, a login": {URL: "smtp://roadstead@" + inClear.Addr, Password: "x", From: "a@example.com"},
		"wrong password":       {URL: f.server.URL, Password: "wrong", From: "a@example.com", RootCA: f.server.RootCA},
	} {
		f.outbox = f.open(s)
		if err := f.post(mail.Letter{To: "alice@example.com", Kind: name}); err != nil {
			t.Fatal(err)
		}
		f.run()
		if s := f.look(); s.Why == "" || strings.Contains(s.Why, "wrong\"") {
			t.Errorf("%s: got %+v", name, s)
		}
	}
	if len(f.server.Letters())+len(inClear.Letters()) != 0 {
		t.Error("a letter went out")
	}
}

func TestSettings(t *testing.T) {
	for name, tt := range map[string]struct {
		s    mail.Server
		want string // in the error; empty: none
	}{
		"off":                     {mail.Server{}, ""},
		"off, from":               {mail.Server{From: "a@example.com"}, "without a server"},
		"TLS":                     {mail.Server{URL: "smtps://u@mail.example.com", Password: "p", From: "a@example.com"}, ""},
		"STARTTLS":                {mail.Server{URL: "smtp://mail.example.com:25", From: "A B <a@example.com>"}, ""},
		"this machine":            {mail.Server{URL: "smtp://127.0.0.1:25", From: "a@example.com", Insecure: true}, ""},
		"this machine, v6":        {mail.Server{URL: "smtp://[::1]:25", From: "a@example.com", Insecure: true}, ""},
		"in clear":                {mail.Server{URL: "smtp://mail.example.com", From: "a@example.com", Insecure: true}, "on this machine"},
		"in clear, looks local":   {mail.Server{URL: "smtp://localhost.example.com", From: "a@example.com", Insecure: true}, "on this machine"},
		"in clear with password":  {mail.Server{URL: "smtp://u@localhost", Password: "p", From: "a@example.com", Insecure: true}, "without TLS"},
		"no from":                 {mail.Server{URL: "smtps://mail.example.com"}, "mail from"},
		"from with a second line": {mail.Server{URL: "smtps://mail.example.com", From: "A\r\nBcc: b@example.com <a@example.com>"}, "mail from"},
		"password in the URL":     {mail.Server{URL: "smtps://u:hunter2@mail.example.com", From: "a@example.com"}, "a file of its own"},
		"no password":             {mail.Server{URL: "smtps://u@mail.example.com", From: "a@example.com"}, "is missing"},
		"no user":                 {mail.Server{URL: "smtps://mail.example.com", Password: "p", From: "a@example.com"}, "no user"},
		"another scheme":          {mail.Server{URL: "https://mail.example.com", From: "a@example.com"}, "there are smtps://"},
		"no host":                 {mail.Server{URL: "mail.example.com:25", From: "a@example.com"}, "smtp"},
		"a path":                  {mail.Server{URL: "smtps://mail.example.com/x", From: "a@example.com"}, "is not smtps://"},
		"a port":                  {mail.Server{URL: "smtps://mail.example.com:99999", From: "a@example.com"}, "is not a port"},
		"no certificate":          {mail.Server{URL: "smtps://mail.example.com", From: "a@example.com", RootCA: "x"}, "no certificate"},
	} {
		err := tt.s.Validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the password", name)
		}
	}
}
