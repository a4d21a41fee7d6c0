package pattern_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/roadstead-io/roadstead/internal/pattern"
)

// TestPatternsAreCompiledWhenTheyAreUsed: a wrong one is not noticed before, many may use a right one at once and all get the same, and its
// methods are those of package regexp.
func TestPatternsAreCompiledWhenTheyAreUsed(t *testing.T) {
	wrong := pattern.New(`(`)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a pattern that is none was used")
			}
		}()
		wrong.MatchString("x")
	}()

	p := pattern.New(`([a-z])=(\d)`)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if !p.MatchString("a=1") || p.MatchString("a=b") {
				t.Error("it does not match what it says")
			}
		})
	}
	all.Wait()
	if once, again := p.Regexp(), p.Regexp(); once != again || p.String() != once.String() {
		t.Error("it was compiled twice, or from something else")
	}
	const text = "a=1, b=2"
	if !p.Match([]byte(text)) {
		t.Error("Match")
	}
	if got := p.FindStringSubmatch(text); !slices.Equal(got, []string{"a=1", "a", "1"}) {
		t.Errorf("FindStringSubmatch: %q", got)
	}
	if got := p.FindStringIndex(text); !slices.Equal(got, []int{0, 3}) {
		t.Errorf("FindStringIndex: %v", got)
	}
	if got := p.FindAllString(text, -1); !slices.Equal(got, []string{"a=1", "b=2"}) {
		t.Errorf("FindAllString: %q", got)
	}
	if got := p.FindAllStringSubmatch(text, 1); len(got) != 1 || !slices.Equal(got[0], []string{"a=1", "a", "1"}) {
		t.Errorf("FindAllStringSubmatch: %q", got)
	}
	if got := p.ReplaceAllString(text, "$2=$1"); got != "1=a, 2=b" {
		t.Errorf("ReplaceAllString: %q", got)
	}
	if got := p.ReplaceAllStringFunc(text, strings.ToUpper); got != "A=1, B=2" {
		t.Errorf("ReplaceAllStringFunc: %q", got)
	}
}
