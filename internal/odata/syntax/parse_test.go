package syntax_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/odata/syntax"
)

type (
	p = syntax.Path
	l = syntax.Literal
)

func property(names ...string) p { return p{Names: names} }

func value(v any) l { return l{Value: v} }

func TestRules(t *testing.T) {
	eq := func(a, b syntax.Expr) syntax.Compare { return syntax.Compare{Op: "eq", Left: a, Right: b} }
	a1, b2, c3 := eq(property("a"), value(int64(1))), eq(property("b"), value(int64(2))), eq(property("c"), value(int64(3)))
	for text, want := range map[string]syntax.Expr{
		"a eq 1 or (b eq 2 and c eq 3)": syntax.Logical{Op: "or", Terms: []syntax.Expr{a1, syntax.Logical{Op: "and", Terms: []syntax.Expr{b2, c3}}}},
		"(a eq 1 or b eq 2) and c eq 3": syntax.Logical{Op: "and", Terms: []syntax.Expr{
			syntax.Logical{Op: "or", Terms: []syntax.Expr{a1, b2}}, c3}},
		"not a eq 1 and b eq 2": syntax.Logical{Op: "and", Terms: []syntax.Expr{syntax.Not{Of: a1}, b2}},
		"a eq 1 add 2 mul 3": eq(property("a"), syntax.Arithmetic{Op: "add", Left: value(int64(1)),
			Right: syntax.Arithmetic{Op: "mul", Left: value(int64(2)), Right: value(int64(3))}}),
		"a eq -1.5e1":               eq(property("a"), value(-15.0)),
		"a eq 'it''s ''' ":          eq(property("a"), value("it's '")),
		"a eq ''":                   eq(property("a"), value("")),
		"a eq null":                 eq(property("a"), value(nil)),
		"a eq datetime'2020-01-31'": eq(property("a"), value(time.Date(2020, 1, 31, 0, 0, 0, 0, time.UTC))),
		"a eq 2020-01-31":           eq(property("a"), value(time.Date(2020, 1, 31, 0, 0, 0, 0, time.UTC))),
		"date eq @now":              eq(property("date"), syntax.Param{Name: "now"}),
		"a/b/any(v:v/c eq 3)":       syntax.Lambda{Nav: []string{"a", "b"}, Name: "v", Body: eq(property("v", "c"), value(int64(3)))},
		"a/any()":                   syntax.Lambda{Nav: []string{"a"}},
		"any eq 1":                  eq(property("any"), value(int64(1))),
		"a/$count($filter=b eq 2)":  syntax.CountOf{Nav: []string{"a"}, Filter: b2},
		"a in (1,'x',null)":         syntax.InList{Item: property("a"), List: []syntax.Expr{value(int64(1)), value("x"), value(nil)}},
		"contains(tolower(a),'true')": syntax.Call{Name: "contains", Args: []syntax.Expr{
			syntax.Call{Name: "tolower", Args: []syntax.Expr{property("a")}}, value("true")}},
	} {
		got, err := syntax.ParseRule(limits, text)
		if err != nil {
			t.Errorf("ParseRule(%s): %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseRule(%s) (-want +got):\n%s", text, diff)
		}
	}
}

// TestMixedConditions: `and` and `or` bind alike in requests, and a rule says what it means.
func TestMixedConditions(t *testing.T) {
	want := "((a eq 1 or b eq 2) and c eq 3) or d eq 4"
	mixed := "a eq 1 or b eq 2 and c eq 3 or d eq 4"
	parse := func(filter string) syntax.Expr {
		t.Helper()
		req, err := syntax.ParseRequest(limits, "", "x", "$filter="+url.QueryEscape(filter))
		if err != nil {
			t.Fatal(err)
		}
		return req.Query.Filter
	}
	if diff := cmp.Diff(parse(want), parse(mixed)); diff != "" {
		t.Errorf("%s (-%s +got):\n%s", mixed, want, diff)
	}
	if _, err := syntax.ParseRule(limits, mixed); err == nil || !strings.Contains(err.Error(), "parentheses") {
		t.Errorf("ParseRule(%s): got %v, want a refusal", mixed, err)
	}
}

func TestRequest(t *testing.T) {
	got, err := syntax.ParseRequest(limits, "/v7/", "organization(handle='a''b%2Fc%20d')/$count",
		"apikey=x;y&$expand=r($select=id;$filter=n%20eq%20'a;b)c';$top=1),s/$count&$orderby=a+asc,b&%24skip=2&@u='v%26w'&returnResource=0")
	if err != nil {
		t.Fatal(err)
	}
	want := &syntax.Request{
		Resource: "organization", Action: "$count", Key: []syntax.KeyPart{{Name: "handle", Value: value("a'b/c d")}},
		Aliases: map[string]syntax.Expr{"u": value("v&w")},
		Given:   map[string]bool{"$expand": true, "$orderby": true, "$skip": true},
		Query: syntax.Query{
			Top: -1, Skip: 2, OrderBy: []syntax.Order{{By: property("a"), Asc: true}, {By: property("b")}},
			Expand: []syntax.Expand{
				{Name: "r", Query: syntax.Query{Select: []string{"id"}, Top: 1, Filter: syntax.Compare{Op: "eq", Left: property("n"), Right: value("a;b)c")}}},
				{Name: "s", Count: true, Query: syntax.Query{Top: -1}},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParseRequest (-want +got):\n%s", diff)
	}
}

// TestNothingWithoutLimits: a zero limit allows nothing, so a forgotten one shows at once.
func TestNothingWithoutLimits(t *testing.T) {
	if _, err := syntax.ParseRequest(syntax.Limits{}, "", "a", ""); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("got %v, want a refusal", err)
	}
}
