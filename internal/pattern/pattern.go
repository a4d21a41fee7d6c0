// Package pattern holds regular expressions that a package declares and that are compiled when they are first used. One program is many
// processes here, each with every package of all roles in it: compiled at the start, each process would hold the patterns of all the others.
package pattern

import (
	"regexp"
	"sync"
)

// Pattern is a regular expression, for any number of goroutines. Its first use panics if it is none, which a test in internal/repotest
// finds out of every one that is declared.
type Pattern struct {
	text string
	once sync.Once
	re   *regexp.Regexp // set by once
}

// New declares a pattern in the syntax of package regexp. The text is a literal: nothing that is learnt later belongs here.
func New(text string) *Pattern { return &Pattern{text: text} }

// Regexp gives the compiled pattern.
func (p *Pattern) Regexp() *regexp.Regexp {
	p.once.Do(func() { p.re = regexp.MustCompile(p.text) })
	return p.re
}

// String gives the text of the pattern.
func (p *Pattern) String() string { return p.text }

// Match says whether there is a match in b.
func (p *Pattern) Match(b []byte) bool { return p.Regexp().Match(b) }

// MatchString says whether there is a match in s.
func (p *Pattern) MatchString(s string) bool { return p.Regexp().MatchString(s) }

// FindStringSubmatch gives the first match in s with its groups, or nil.
func (p *Pattern) FindStringSubmatch(s string) []string { return p.Regexp().FindStringSubmatch(s) }

// FindStringIndex gives where the first match in s is, or nil.
func (p *Pattern) FindStringIndex(s string) []int { return p.Regexp().FindStringIndex(s) }

// FindAllString gives the first n matches in s; all with n below 0.
func (p *Pattern) FindAllString(s string, n int) []string { return p.Regexp().FindAllString(s, n) }

// FindAllStringSubmatch gives the first n matches in s with their groups; all with n below 0.
func (p *Pattern) FindAllStringSubmatch(s string, n int) [][]string {
	return p.Regexp().FindAllStringSubmatch(s, n)
}

// ReplaceAllString gives s with the matches replaced; $1 in the replacement is a group.
func (p *Pattern) ReplaceAllString(s, by string) string { return p.Regexp().ReplaceAllString(s, by) }

// ReplaceAllStringFunc gives s with each match replaced by what the function makes of it.
func (p *Pattern) ReplaceAllStringFunc(s string, by func(string) string) string {
	return p.Regexp().ReplaceAllStringFunc(s, by)
}
