package terminal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// ErrNobody says that a question could not be put: there is no terminal.
var ErrNobody = errors.New("there is no terminal to ask on")

// ErrDeclined says that a person answered no. They know.
var ErrDeclined = errors.New("not confirmed")

// Ask puts a question to the person at the terminal.
func (t *Terminal) Ask(question string) (string, error) {
	if !IsTerminal(t.In) {
		return "", fmt.Errorf("%s? %w", question, ErrNobody)
	}
	fmt.Fprintf(t.Err, "%s: ", question)
	line, err := bufio.NewReader(t.In).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// AskSecret does not show the answer.
func (t *Terminal) AskSecret(question string) (string, error) {
	f, ok := t.In.(*os.File)
	if !ok || !IsTerminal(t.In) {
		return "", fmt.Errorf("%s? %w", question, ErrNobody)
	}
	fmt.Fprintf(t.Err, "%s: ", question)
	secret, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(t.Err)
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return string(secret), nil
}

// Confirm asks before something is destroyed. Without a terminal nobody can be asked, and whoever wrote the script meant it.
func (t *Terminal) Confirm(sure bool, question string) error {
	if sure || !IsTerminal(t.In) {
		return nil
	}
	answer, err := t.Ask(question + " [y/N]")
	if err != nil {
		return err
	}
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return ErrDeclined
	}
	return nil
}

// FirstLine reads a secret from the standard input.
func FirstLine(in io.Reader) (string, error) {
	return NextLine(bufio.NewReader(io.LimitReader(in, 4096)))
}

// NextLine reads one of several secrets from the standard input.
func NextLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the standard input: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
