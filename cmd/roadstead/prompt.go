package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// ask puts a question to the person at the terminal.
func (a *app) ask(question string) (string, error) {
	if !isTerminal(a.in) {
		return "", usagef("%s? There is no terminal to ask on", question)
	}
	fmt.Fprintf(a.err, "%s: ", question)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// askSecret does not show the answer.
func (a *app) askSecret(question string) (string, error) {
	f, ok := a.in.(*os.File)
	if !ok || !isTerminal(a.in) {
		return "", usagef("%s? There is no terminal to ask on", question)
	}
	fmt.Fprintf(a.err, "%s: ", question)
	secret, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(a.err)
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return string(secret), nil
}

// confirm asks before something is destroyed. Without a terminal nobody can be asked, and whoever wrote the script meant it.
func (a *app) confirm(sure bool, question string) error {
	if sure || !isTerminal(a.in) {
		return nil
	}
	answer, err := a.ask(question + " [y/N]")
	if err != nil {
		return err
	}
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return silentError{fmt.Errorf("not confirmed")}
	}
	return nil
}

// firstLine reads a secret from the standard input.
func firstLine(in io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the standard input: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// expiry reads a time from what people write: 90d, 12h, 2027-01-31, a full RFC 3339 time, or "never".
func expiry(text string, now time.Time) (*time.Time, error) {
	if text == "" || text == "never" {
		return nil, nil
	}
	at, err := instant(text, now, 1)
	if err != nil {
		return nil, err
	}
	if !at.After(now) {
		return nil, usagef("%q lies in the past", text)
	}
	return &at, nil
}

// instant reads a time or a distance from now; sign says in which direction distances go.
func instant(text string, now time.Time, sign time.Duration) (time.Time, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days+" ", "%d ", &n); err == nil && n >= 0 && fmt.Sprint(n) == days {
			return now.Add(sign * time.Duration(n) * 24 * time.Hour).UTC().Truncate(time.Millisecond), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(sign * d).UTC().Truncate(time.Millisecond), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if at, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return at.UTC(), nil
		}
	}
	return time.Time{}, usagef("%q is not a time; write 90d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z", text)
}
