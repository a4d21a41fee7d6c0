package syntax

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits bound what one request may ask, so that nobody takes the service down for the others. A zero field allows nothing; WithDefaults fills
// it in.
type Limits struct {
	// URL is the bytes of path and query: 16 KiB.
	URL int `json:"url,omitempty"`
	// Body is the bytes of a body, files apart: 512 KiB, as balena's server has it.
	Body int `json:"body,omitempty"`
	// Depth is the levels of parentheses, functions and expands: 32.
	Depth int `json:"depth,omitempty"`
	// Nodes is the parts of all expressions together: 2,000.
	Nodes int `json:"nodes,omitempty"`
	// Expands is the links expanded at all levels together, and the parameter aliases: 40.
	Expands int `json:"expands,omitempty"`
	// Lambdas is how deep any and all are nested, and the steps of a path: 8.
	Lambdas int `json:"lambdas,omitempty"`
	// List is the values of one in: 500.
	List int `json:"list,omitempty"`
	// Top is the largest $top, and the rows that one PATCH or DELETE may change: 100,000.
	Top int `json:"top,omitempty"`
	// Rows is the rows of one answer, those of expanded links included: 100,000.
	Rows int `json:"rows,omitempty"`
	// Answer is the bytes of one answer: 64 MiB.
	Answer int `json:"answer,omitempty"`
	// Text is the bytes of a text that has no bound of its own: 64 KiB.
	Text int `json:"text,omitempty"`
	// Time is how long one request may keep the database busy: 10 s.
	Time time.Duration `json:"time,omitempty"`
}

// numbers are the limits that count something, with their defaults.
func (l *Limits) numbers() map[string]struct {
	field     *int
	otherwise int
} {
	return map[string]struct {
		field     *int
		otherwise int
	}{
		"url": {&l.URL, 16 << 10}, "body": {&l.Body, 512 << 10}, "depth": {&l.Depth, 32}, "nodes": {&l.Nodes, 2000}, "expands": {&l.Expands, 40},
		"lambdas": {&l.Lambdas, 8}, "list": {&l.List, 500}, "top": {&l.Top, 100_000}, "rows": {&l.Rows, 100_000},
		"answer": {&l.Answer, 64 << 20}, "text": {&l.Text, 64 << 10},
	}
}

// Set sets a limit by its name; time is in seconds.
func (l *Limits) Set(name string, n int) error {
	if name == "time" {
		l.Time = time.Duration(n) * time.Second
		return l.Validate()
	}
	f, ok := l.numbers()[name]
	if !ok {
		return fmt.Errorf("odata.%s: there is no such limit; there are %v and time", name, slices.Sorted(maps.Keys(l.numbers())))
	}
	*f.field = n
	return l.Validate()
}

// Parse sets limits given as name=n,name=n.
func (l *Limits) Parse(list string) error {
	for item := range strings.SplitSeq(list, ",") {
		name, number, _ := strings.Cut(strings.TrimSpace(item), "=")
		n, err := strconv.Atoi(strings.TrimSpace(number))
		if err != nil {
			return fmt.Errorf("%q is not name=number", item)
		}
		if err := l.Set(strings.TrimSpace(name), n); err != nil {
			return err
		}
	}
	return nil
}

// Validate names the limit that is wrong. Some have a bound of their own, beyond which the server would not survive what they let
// through.
func (l *Limits) Validate() error {
	var all []error
	for name, f := range l.numbers() {
		if *f.field < 0 {
			all = append(all, fmt.Errorf("odata.%s: %d is negative", name, *f.field))
		}
	}
	for name, f := range map[string]struct{ n, most int }{
		"url": {l.URL, 1 << 20}, "body": {l.Body, 64 << 20}, "depth": {l.Depth, 200}, "nodes": {l.Nodes, 20_000}, "list": {l.List, 10_000}, "lambdas": {l.Lambdas, 32},
		"answer": {l.Answer, 1 << 30},
	} {
		if f.n > f.most {
			all = append(all, fmt.Errorf("odata.%s: %d is more than %d", name, f.n, f.most))
		}
	}
	if l.Time < 0 || l.Time > 10*time.Minute {
		all = append(all, fmt.Errorf("odata.time: %s is not 0 to 10m", l.Time))
	}
	return errors.Join(all...)
}

// WithDefaults gives every limit that is not set its default.
func (l Limits) WithDefaults() Limits {
	for _, f := range l.numbers() {
		if *f.field == 0 {
			*f.field = f.otherwise
		}
	}
	if l.Time == 0 {
		l.Time = 10 * time.Second
	}
	return l
}
