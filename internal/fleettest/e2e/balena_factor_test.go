package e2e_test

import (
	"bytes"
	"context"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/roadstead-io/roadstead/internal/account/factor"
)

// factored is a user with one-time codes.
type factored struct {
	token    string // of a session that proved them
	seed     string // as apps take it
	next     string // a code that is good now
	recovery []string
}

// enrolUser makes one.
func enrolUser(ctx context.Context, name, password string) (u factored, err error) {
	if err := addUser(person{Email: name + "@example.com", Username: name, Password: password}); err != nil {
		return u, err
	}
	ask := func(method, path, token string, body any) (string, error) {
		got, err := p.ask(ctx, method, "api", path, token, body)
		if err == nil && got.status != http.StatusOK {
			err = fmt.Errorf("%s: %d %s", path, got.status, got.body)
		}
		return got.body, err
	}
	token, err := ask(http.MethodPost, "/login_", "", map[string]string{"username": name, "password": password})
	if err != nil {
		return u, err
	}
	text, err := ask(http.MethodGet, "/auth/totp/setup", token, nil)
	if err != nil {
		return u, err
	}
	if err := json.Unmarshal([]byte(text), &u.seed); err != nil {
		return u, err
	}
	seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(u.seed)
	if err != nil {
		return u, err
	}
	step := factor.Step(time.Now())
	text, err = ask(http.MethodPost, "/auth/totp/enable", token, map[string]string{"code": factor.Code(seed, step)})
	if err != nil {
		return u, err
	}
	var out struct {
		RecoveryCodes []string
		Token         string
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return u, err
	}
	u.token, u.next, u.recovery = out.Token, factor.Code(seed, step+1), out.RecoveryCodes
	return u, nil
}

// enrolled makes a user with one-time codes: enrolled NAME PASSWORD sets CODE, which is good now, and RECOVERY.
func (s *cliStory) enrolled(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: enrolled NAME PASSWORD")
	}
	u, err := enrolUser(s.ctx, args[0], args[1])
	ts.Check(err)
	ts.Setenv("CODE", u.next)
	ts.Setenv("RECOVERY", u.recovery[0])
}

// typist keeps what a program says and answers its first question. The standard input stays open: the program takes its end for a
// change of mind.
type typist struct {
	said     bytes.Buffer
	line     string
	to       io.Writer
	answered bool
}

func (t *typist) Write(b []byte) (int, error) {
	t.said.Write(b)
	if !t.answered && bytes.Contains(t.said.Bytes(), []byte("challenge")) {
		t.answered = true
		if _, err := io.WriteString(t.to, t.line+"\n"); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// typed runs the CLI with a line on its standard input: [!] typed LINE ARGS…
func (s *cliStory) typed(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: [!] typed LINE ARGS…")
	}
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.cli, args[1:]...)
	stdin, err := cmd.StdinPipe()
	ts.Check(err)
	answer := &typist{line: args[0], to: stdin}
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.Getenv("WORK"), answer, answer
	cmd.Env = append(os.Environ(), p.environment()[len(os.Environ()):]...)
	for _, name := range []string{"HOME", "BALENARC_DATA_DIRECTORY"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	err = cmd.Run()
	out := answer.said.Bytes()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Check(err)
	}
	ts.Logf("%s", out)
	ts.Check(os.WriteFile(ts.MkAbs("typed"), out, 0o600))
	if (err != nil) != neg {
		ts.Fatalf("balena %s: %v", strings.Join(args[1:], " "), err)
	}
}
