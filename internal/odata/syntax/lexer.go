package syntax

import (
	"strings"
	"unicode/utf8"
)

// kind of a token.
type kind int

const (
	tEOF kind = iota
	tIdent
	tOption // $filter, $count …
	tAlias  // @uuid
	tNumber
	tString
	tPunct // one of ( ) , ; / = : * -
)

// token is one word of a decoded part of a URL.
type token struct {
	kind kind
	text string // of a string: its value, quotes undone
	pos  int
	ws   bool // white space stands before it
}

// lex splits a decoded text into tokens. The last one is tEOF.
func lex(part, s string) ([]token, error) {
	fail := func(pos int, hint string) ([]token, error) { return nil, &syntaxError{part, pos, hint} }
	if !utf8.ValidString(s) {
		return fail(0, "not valid UTF-8")
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		return fail(i, "a zero byte")
	}
	toks := make([]token, 0, len(s)/4+2)
	ws := false
	for i := 0; i < len(s); {
		c := s[i]
		start := i
		t := token{pos: start, ws: ws}
		ws = false
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			ws = true
			i++
			continue
		case isLetter(c):
			i = skip(s, i, isWord)
			t.kind, t.text = tIdent, s[start:i]
		case c == '$' || c == '@':
			i = skip(s, i+1, isWord)
			if i == start+1 {
				return fail(start, "a name must follow "+string(c))
			}
			t.kind, t.text = tOption, s[start:i]
			if c == '@' {
				t.kind = tAlias
			}
		case isDigit(c):
			i = number(s, i)
			t.kind, t.text = tNumber, s[start:i]
		case c == '\'':
			text, end, ok := quoted(s, i)
			if !ok {
				return fail(start, "a text without its closing quote")
			}
			i = end
			t.kind, t.text = tString, text
		case strings.IndexByte("(),;/=:*-", c) >= 0:
			i++
			t.kind, t.text = tPunct, s[start:i]
		default:
			r, _ := utf8.DecodeRuneInString(s[i:])
			return fail(start, "unexpected "+strings.ToValidUTF8(string(r), "?"))
		}
		toks = append(toks, t)
	}
	return append(toks, token{kind: tEOF, pos: len(s), ws: ws}), nil
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isWord(c byte) bool   { return isLetter(c) || isDigit(c) }

func skip(s string, i int, in func(byte) bool) int {
	for i < len(s) && in(s[i]) {
		i++
	}
	return i
}

// number finds the end of 12, 1.5, 1e9, or of a bare date such as 2020-01-31 or 2020-01-31T12:00:00.000Z.
func number(s string, i int) int {
	start := i
	i = skip(s, i, isDigit)
	if i-start == 4 && i+6 <= len(s) && s[i] == '-' && isDigit(s[i+1]) && isDigit(s[i+2]) && s[i+3] == '-' && isDigit(s[i+4]) {
		return skip(s, i, func(c byte) bool { return isDigit(c) || strings.IndexByte("-:.TZ+", c) >= 0 })
	}
	if i+1 < len(s) && s[i] == '.' && isDigit(s[i+1]) {
		i = skip(s, i+1, isDigit)
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		j := i + 1
		if j < len(s) && (s[j] == '-' || s[j] == '+') {
			j++
		}
		if k := skip(s, j, isDigit); k > j {
			i = k
		}
	}
	return i
}

// quoted reads 'it”s' at i and gives the value and the place after it.
func quoted(s string, i int) (string, int, bool) {
	var b strings.Builder
	for i++; ; {
		n := strings.IndexByte(s[i:], '\'')
		if n < 0 {
			return "", 0, false
		}
		b.WriteString(s[i : i+n])
		i += n + 1
		if i >= len(s) || s[i] != '\'' {
			return b.String(), i, true
		}
		b.WriteByte('\'')
		i++
	}
}
