package logtext

import (
	"encoding/binary"
	"slices"
	"strings"
)

// Cleaner takes secrets out of texts, in the forms in which tools repeat them: as they are, with colours in between, encoded for
// a URL, escaped as in JSON, and anywhere within base64 or hexadecimal text. A build that wants to give its secrets away can
// always find another form: this is against accidents. A Cleaner does not change and may be used by many at once; nil knows no
// secrets.
type Cleaner struct {
	begin    map[uint32]bool       // how secrets and their lines begin
	patterns []string              // their first bytes, sorted
	parent   []int                 // of a pattern, the longest other one that it begins with; -1 is none
	windows  map[[window]byte]bool // every piece of a secret, to know a part of it in encoded text by
}

const (
	// Least is the length of the shortest text that is taken for a secret: a shorter one stands in half of all lines by chance.
	Least = 4
	// Hidden is what stands in place of a secret.
	Hidden = "[secret]"

	window = 8
	// maxPattern is how much of a secret's line is looked for; what follows is known by its pieces. It keeps the work for a byte of a log
	// small, whatever a build has for a secret and prints.
	maxPattern = 64
)

// New makes a cleaner for secrets. Of one with several lines every line is a secret too, for a log has lines.
func New(secrets []string) *Cleaner {
	c := &Cleaner{begin: map[uint32]bool{}, windows: map[[window]byte]bool{}}
	for _, s := range secrets {
		c.add(s)
	}
	if len(c.patterns) == 0 {
		return nil
	}
	slices.Sort(c.patterns)
	c.patterns = slices.Compact(c.patterns)
	c.parent = make([]int, len(c.patterns))
	for i, p := range c.patterns {
		// Whatever p begins with stands before it, and everything between the two begins with it as well.
		up := i - 1
		for up >= 0 && !strings.HasPrefix(p, c.patterns[up]) {
			up = c.parent[up]
		}
		c.parent[i] = up
	}
	return c
}

func (c *Cleaner) add(secret string) {
	secret = strings.TrimSpace(secret)
	c.addPattern(secret)
	if strings.ContainsRune(secret, '\n') {
		for line := range strings.Lines(secret) {
			c.addPattern(strings.TrimSpace(line))
		}
	}
	for i := 0; i+window <= len(secret); i++ {
		if w := [window]byte([]byte(secret[i : i+window])); varied(w) {
			c.windows[w] = true
		}
	}
}

func (c *Cleaner) addPattern(s string) {
	if len(s) < Least {
		return
	}
	c.begin[key(s)] = true
	c.patterns = append(c.patterns, s[:min(len(s), maxPattern)])
}

func key[T string | []byte](s T) uint32 { return binary.LittleEndian.Uint32([]byte(s[:Least])) }

// at is the length of the longest pattern that a text begins with, or 0.
func (c *Cleaner) at(text []byte) int {
	if !c.begin[key(text)] {
		return 0
	}
	t := string(text[:min(len(text), maxPattern)])
	i, found := slices.BinarySearch(c.patterns, t)
	if !found {
		i--
	}
	for i >= 0 && !strings.HasPrefix(t, c.patterns[i]) {
		i = c.parent[i]
	}
	if i < 0 {
		return 0
	}
	return len(c.patterns[i])
}

// varied reports whether a piece of a secret says anything: a row of dashes or blanks does not.
func varied(w [window]byte) bool {
	seen, n := [256]bool{}, 0
	for _, b := range w {
		if !seen[b] {
			seen[b] = true
			n++
		}
	}
	return n >= 4
}

// Clean gives a text that is harmless and holds no secret.
func (c *Cleaner) Clean(s string) string {
	s = Harmless(s)
	if c == nil || len(s) < Least {
		return s
	}
	hide := make([]bool, len(s)+1)
	found := false
	plain := withoutColours(s)
	for _, v := range []*view{plain, plain.unescaped(), plain.fromURL(false), plain.fromURL(true)} {
		if v == nil {
			continue
		}
		found = c.find(v, hide, false) || found
		for _, d := range v.decoded() {
			found = c.find(d, hide, true) || found
		}
	}
	if !found {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if !hide[i] {
			b.WriteByte(s[i])
		} else if i == 0 || !hide[i-1] {
			b.WriteString(Hidden)
		}
	}
	return b.String()
}

// find marks what of the text a view shows to be secret.
func (c *Cleaner) find(v *view, hide []bool, pieces bool) (found bool) {
	mark := func(i, n int) {
		found = true
		for j := v.from[i]; j < v.to[i+n-1]; j++ {
			hide[j] = true
		}
	}
	upTo := 0 // of a long secret, as far as it is known by its pieces
	for i := 0; i+Least <= len(v.text); i++ {
		n := c.at(v.text[i:])
		if n > 0 {
			mark(i, n)
		}
		if n == maxPattern {
			upTo = max(upTo, i+n)
		}
		if i+window <= len(v.text) && (pieces || i < upTo) && c.windows[[window]byte(v.text[i:i+window])] {
			mark(i, window)
			if !pieces {
				upTo = max(upTo, i+window)
			}
		}
	}
	return found
}
