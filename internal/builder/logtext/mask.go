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
	whole   map[uint32][]string   // secrets and their lines by their first bytes, the longest first
	windows map[[window]byte]bool // every piece of a secret, to know a part of it in encoded text by
}

const (
	// Least is the length of the shortest text that is taken for a secret: a shorter one stands in half of all lines by chance.
	Least = 4
	// Hidden is what stands in place of a secret.
	Hidden = "[secret]"

	window = 8
)

// New makes a cleaner for secrets. Of one with several lines every line is a secret too, for a log has lines.
func New(secrets []string) *Cleaner {
	c := &Cleaner{whole: map[uint32][]string{}, windows: map[[window]byte]bool{}}
	for _, s := range secrets {
		c.add(s)
	}
	if len(c.whole) == 0 {
		return nil
	}
	for _, list := range c.whole {
		slices.SortFunc(list, func(a, b string) int { return len(b) - len(a) })
	}
	return c
}

func (c *Cleaner) add(secret string) {
	secret = strings.TrimSpace(secret)
	c.addWhole(secret)
	if strings.ContainsRune(secret, '\n') {
		for line := range strings.Lines(secret) {
			c.addWhole(strings.TrimSpace(line))
		}
	}
	for i := 0; i+window <= len(secret); i++ {
		if w := [window]byte([]byte(secret[i : i+window])); varied(w) {
			c.windows[w] = true
		}
	}
}

func (c *Cleaner) addWhole(s string) {
	if len(s) < Least {
		return
	}
	k := key(s)
	if !slices.Contains(c.whole[k], s) {
		c.whole[k] = append(c.whole[k], s)
	}
}

func key(s string) uint32 { return binary.LittleEndian.Uint32([]byte(s[:Least])) }

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
	for i := 0; i+Least <= len(v.text); i++ {
		rest := string(v.text[i:min(len(v.text), i+Least)])
		for _, s := range c.whole[key(rest)] {
			if i+len(s) <= len(v.text) && string(v.text[i:i+len(s)]) == s {
				mark(i, len(s))
				break
			}
		}
		if pieces && i+window <= len(v.text) && c.windows[[window]byte(v.text[i:i+window])] {
			mark(i, window)
		}
	}
	return found
}
