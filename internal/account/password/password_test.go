package password_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/password"
)

func TestCommonPasswordsAreRefused(t *testing.T) {
	for _, p := range []string{
		"password1234", "Password2024!", "P@ssw0rd2024", "qwertyuiop123", "1qaz2wsx3edc", "Summer-2025-Winter", "letmeinletmein", "iloveyou12345",
		"administrator1", "123456789abc", "monkeydragonfootball", "abcdefghijkl", "correcthorsebatterystaple", "welcome-london1", "zxcvbnmasdfghjkl",
		"Roadstead2026", "changeme!!!!", "raspberrypi!!",
	} {
		if err := password.Check(p); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%q: got %v, want it to be refused", p, err)
		}
	}
	for _, p := range []string{
		"ships in the harbour", "tR7vB2kq9XmW", "quite a strange sentence", "vier Worte ohne Sinn", "ein Gaul frisst 7 Salate", "kjzqpmvwtrbx",
		"d41d8cd98f00b204", "пароль никто не знает",
	} {
		if err := password.Check(p); err != nil {
			t.Errorf("%q: got %v", p, err)
		}
	}
}

// What is derived from the words is far more than a list would hold: each with a year, with digits, with a sign, with another.
func TestTheWordsStandForManyPasswords(t *testing.T) {
	text, err := os.ReadFile("words.txt")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(text))
	n := 0
	try := func(p string) {
		if len(p) < password.MinLength {
			return
		}
		n++
		if !password.Common(p) {
			t.Fatalf("%q is not common", p)
		}
	}
	for i, w := range words {
		for year := 1960; year < 2030; year++ {
			try(fmt.Sprintf("%s%d", w, year))
			try(fmt.Sprintf("%s%d!", w, year))
		}
		try(w + "12345678")
		try(w + "-" + words[(i*7+3)%len(words)] + "1")
	}
	if n < 10_000 {
		t.Errorf("passwords of at least %d characters: got %d", password.MinLength, n)
	}
}

func TestTheBoundsOfAPassword(t *testing.T) {
	for p, want := range map[string]string{
		"k3Xz9qLm2Wv":               "at least 12",
		strings.Repeat("xy", 20):    "same few characters",
		strings.Repeat("a1b2", 300): "more than 1024 bytes",
		"grace-hopper-x":            "own name",
	} {
		if err := password.Check(p, "grace-hopper"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %q", p, err, want)
		}
	}
}

func TestTheCostFitsTheMachine(t *testing.T) {
	per := func(ns uint64) func(password.Cost) time.Duration {
		return func(c password.Cost) time.Duration { return time.Duration(uint64(c.Memory) * uint64(c.Passes) * ns) }
	}
	for what, tt := range map[string]struct {
		took func(password.Cost) time.Duration
		want func(password.Cost) bool
	}{
		"too slow for the floor": {per(10_000), func(c password.Cost) bool { return c == password.Floor }},
		"just the floor":         {per(1000), func(c password.Cost) bool { return c == password.Floor }},
		"fast": {per(200), func(c password.Cost) bool {
			return c.Memory > password.Floor.Memory && c.Memory <= 64<<10 && c.Passes > 2
		}},
	} {
		got := password.Calibrate(password.Most, tt.took)
		if !tt.want(got) {
			t.Errorf("%s: got %+v", what, got)
		}
		if got != password.Floor && tt.took(got) > password.Most {
			t.Errorf("%s: %+v takes %s", what, got, tt.took(got))
		}
	}
}

func TestHashes(t *testing.T) {
	cheap := password.Cost{Memory: 64, Passes: 1}
	hash := cheap.Hash("right")
	if !password.Same(hash, "right") || password.Same(hash, "wrong") || password.Same(cheap.Decoy(), "right") {
		t.Error("a hash does not tell right from wrong")
	}
	if !password.Floor.Weaker(hash) || cheap.Weaker(hash) || cheap.Weaker(password.Floor.Decoy()) || cheap.Weaker("") {
		t.Error("which hash is weaker: got it wrong")
	}
	for _, bad := range []string{"", "x", "$argon2id$v=19$m=64,t=0,p=1$AAAA$AAAA", "$argon2id$v=19$m=64,t=1,p=0$AAAA$AAAA", "$argon2i$v=19$m=64,t=1,p=1$AAAA$AAAA"} {
		if password.Same(bad, "") {
			t.Errorf("%q is no hash", bad)
		}
	}
}
