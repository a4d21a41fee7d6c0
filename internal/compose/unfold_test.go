package compose_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

// The attack: small files that become more than anybody has memory for, by variables that name variables, by aliases of texts with
// variables in them, and by the same file read over and over.
func TestNothingUnfoldsWithoutBounds(t *testing.T) {
	doubling := "A=" + strings.Repeat("x", 100) + "\n"
	for range 60 {
		doubling += "A=$A$A\n"
	}
	chain := "A0=" + strings.Repeat("x", 100) + "\n"
	for i := range 60 {
		chain += fmt.Sprintf("A%d=${A%d}${A%d}\n", i+1, i, i)
	}
	large := "A=" + strings.Repeat("x", 900<<10) + "\n"
	web := "services: {web: {image: x}}\n"
	many := "services:\n"
	for i := range 90 {
		many += fmt.Sprintf("  s%d: {image: x, env_file: [large.env, ./large.env, a/../large.env]}\n", i)
	}
	for name, c := range map[string]struct {
		file string
		more map[string]string
	}{
		"a variable doubled":      {web, map[string]string{".env": doubling}},
		"variables of variables":  {web, map[string]string{".env": chain}},
		"one line of many":        {web, map[string]string{".env": "A=" + strings.Repeat("x", 400<<10) + "\nB=" + strings.Repeat("$A", 100<<10)}},
		"many of a large one":     {"services: {web: {image: x, labels: {a: \"" + strings.Repeat("${A}", 10_000) + "\"}}}\n", map[string]string{".env": large}},
		"aliases of a variable":   {"x-a: &a \"${A}\"\nservices: {web: {image: x, command: [" + strings.Repeat("*a,", 10_000) + "]}}\n", map[string]string{".env": large}},
		"aliases of a long text":  {"x-a: &a \"" + strings.Repeat("y", 500<<10) + "\"\nservices: {web: {image: x, command: [" + strings.Repeat("*a,", 10_000) + "]}}\n", nil},
		"a file read many times":  {many, map[string]string{"large.env": large}},
		"a file that doubles":     {"services: {web: {image: x, env_file: [d.env]}}\n", map[string]string{"d.env": doubling}},
		"a quote without an end":  {web, map[string]string{".env": "A=\"" + strings.Repeat("x\n", 100_000)}},
		"a service extends a lot": {extending(), nil},
	} {
		began := time.Now()
		_, err := load(t, c.file, c.more)
		if code := api.AsError(err).Code; err == nil || code != api.TooLarge && code != api.Invalid {
			t.Errorf("%s: %v", name, err)
		} else if len(err.Error()) > 20<<10 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s took %s", name, took)
		}
	}
}

// extending is a ring of services that each extend the next.
func extending() string {
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range 50 {
		fmt.Fprintf(&b, "  s%d: {image: x, extends: {service: s%d}}\n", i, (i+1)%50)
	}
	return b.String()
}

func TestAnEnvironmentFileMeansWhatItSays(t *testing.T) {
	p, err := load(t, "services: {web: {image: 'x:${TAG}', env_file: [a.env]}}\n", map[string]string{
		".env":  "\uFEFFVERSION=1\nTAG=v$VERSION # comment\n",
		"a.env": "# comment\nexport A=1\nB='$A'\nC=\"${A} and\nmore\"\nD=${A}${A:-x}\nE=$TAG\n\nF=\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"image":"x:v1"`, `"A":"1"`, `"B":"$A"`, `"C":"1 and\nmore"`, `"D":"11"`, `"E":"v1"`, `"F":""`} {
		if !strings.Contains(string(p.Composition), want) {
			t.Errorf("the composition lacks %s: %s", want, p.Composition)
		}
	}
}

func TestFieldsHaveAnEnd(t *testing.T) {
	for name, text := range map[string]string{
		"service": "services: {" + strings.Repeat("a", 200) + ": {image: x}}\n",
		"many": "services: {" + strings.Join(func() (s []string) {
			for i := range 200 {
				s = append(s, fmt.Sprintf("s%d: {image: x}", i))
			}
			return s
		}(), ", ") + "}\n",
	} {
		if _, err := load(t, text, nil); api.AsError(err).Code != api.Invalid || len(err.Error()) > 20<<10 {
			t.Errorf("%s: %d bytes: %.500v", name, len(fmt.Sprint(err)), err)
		}
	}
}
