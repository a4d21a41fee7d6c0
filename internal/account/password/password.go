// Package password says which passwords are good enough, and keeps what the database has of them: argon2id hashes whose cost fits
// the machine.
package password

import (
	_ "embed" // the lists of common passwords and words
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/roadstead-io/roadstead/api"
)

// The bounds of a password's length.
const (
	MinLength = 12   // characters
	MaxLength = 1024 // bytes
)

//go:embed common.txt
var commonText string

// wordsText holds what people make passwords of. [Common] derives from it what no list could hold: every one of them with digits,
// years, keyboard walks and signs around it, written with digits for letters, twice, or with two others.
//
//go:embed words.txt
var wordsText string

var lists = sync.OnceValues(func() (passwords map[string]bool, words map[rune][]string) {
	passwords, words = map[string]bool{}, map[rune][]string{}
	for line := range strings.Lines(commonText) {
		passwords[strings.TrimSpace(line)] = true
	}
	for _, w := range strings.Fields(wordsText) {
		words[rune(w[0])] = append(words[rune(w[0])], w)
	}
	return passwords, words
})

// Check says whether a new password is good enough: long, not a common one, not made of the user's own name.
func Check(password string, names ...string) error {
	n := utf8.RuneCountInString(password)
	lower := strings.ToLower(password)
	distinct := map[rune]bool{}
	for _, r := range lower {
		distinct[r] = true
	}
	switch {
	case n < MinLength:
		return api.Errorf(api.Invalid, "the password needs at least %d characters", MinLength)
	case len(password) > MaxLength:
		return api.Errorf(api.Invalid, "the password has more than %d bytes", MaxLength)
	case len(distinct) < 5:
		return api.Errorf(api.Invalid, "the password repeats the same few characters")
	case Common(lower):
		return api.Errorf(api.Invalid, "the password is one of the most common ones, or made of a few of the words that people use most")
	}
	for _, name := range names {
		if name = strings.ToLower(name); len(name) >= 4 && strings.Contains(lower, name) && n-utf8.RuneCountInString(name) < 8 {
			return api.Errorf(api.Invalid, "the password is mostly the user's own name")
		}
	}
	return nil
}

// What a part of a password weighs, and what a password must weigh more than. Three words of the list are too few, and so is one with
// four digits that mean nothing.
const (
	weightWord = 2
	weightRun  = 2 // 1234, aaaa, qwer
	weightYear = 1
	weightSign = 1 // a digit or a sign
	tooLight   = 3 * weightWord
	maxPieces  = 64 // characters; a longer password is not made of so few parts
)

// Common reports whether a password, in lower case, is in the list or can be cut into a few parts that guessers try first.
func Common(lower string) bool {
	passwords, words := lists()
	if passwords[lower] {
		return true
	}
	text := []rune(lower)
	if len(text) > maxPieces {
		return false
	}
	const never = 1 << 20
	least := make([]int, len(text)+1) // the least weight of the text up to here
	for i := range least {
		least[i] = never
	}
	least[0] = 0
	reach := func(i, weight int) { least[i] = min(least[i], weight) }
	for i, r := range text {
		if least[i] > tooLight {
			continue
		}
		switch {
		case strings.ContainsRune(" -_.,", r):
			reach(i+1, least[i])
		case !unicode.IsLetter(r):
			reach(i+1, least[i]+weightSign)
		}
		for n := run(text[i:]); n >= 3; n-- {
			reach(i+n, least[i]+weightRun)
		}
		for n := walk(text[i:]); n >= 4; n-- {
			reach(i+n, least[i]+weightRun)
		}
		if isYear(text[i:]) {
			reach(i+4, least[i]+weightYear)
		}
		for _, first := range meanings(r) {
			for _, w := range words[first] {
				if spells(text[i:], w) {
					reach(i+len(w), least[i]+weightWord)
				}
			}
		}
	}
	return least[len(text)] <= tooLight
}

// leet is what people write for letters.
var leet = map[rune]string{'0': "o", '1': "il", '3': "e", '4': "a", '5': "s", '7': "t", '8': "b", '9': "g", '@': "a", '$': "s", '!': "i", '+': "t"}

func meanings(r rune) []rune { return append([]rune(leet[r]), r) }

// spells reports whether a text starts with a word, written with or without digits for letters.
func spells(text []rune, word string) bool {
	if len(text) < len(word) {
		return false
	}
	for i, want := range word {
		if text[i] != want && !strings.ContainsRune(leet[text[i]], want) {
			return false
		}
	}
	return true
}

// run is how many characters a text starts with that are the same, or each the next or the one before.
func run(text []rune) int {
	if len(text) < 2 {
		return len(text)
	}
	step := text[1] - text[0]
	if step < -1 || step > 1 {
		return 1
	}
	n := 2
	for n < len(text) && (text[n]-text[n-1] == step || step == 1 && text[n] == '0' && text[n-1] == '9') {
		n++
	}
	return n
}

// keyboards are lines of keys, as a finger goes along them.
var keyboards = func() (lines []string) {
	for _, line := range []string{
		"1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm", "azertyuiop", "qsdfghjklm", "wxcvbn",
		"1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p", "1q2w3e4r5t6y7u8i9o0p", "q1w2e3r4t5y6u7i8o9p0", "qazwsxedcrfvtgbyhnujm", "!@#$%^&*()", "!\"§$%&/()=",
	} {
		back := []rune(line)
		for i, j := 0, len(back)-1; i < j; i, j = i+1, j-1 {
			back[i], back[j] = back[j], back[i]
		}
		lines = append(lines, line, string(back))
	}
	return lines
}()

// walk is how many characters a text starts with that lie side by side on a keyboard.
func walk(text []rune) int {
	best := 0
	for _, line := range keyboards {
		n := 1
		for n <= len(text) && strings.Contains(line, string(text[:n])) {
			n++
		}
		best = max(best, n-1)
	}
	return best
}

func isYear(text []rune) bool {
	if len(text) < 4 {
		return false
	}
	for _, r := range text[:4] {
		if r < '0' || r > '9' {
			return false
		}
	}
	century := string(text[:2])
	return century == "19" || century == "20"
}
