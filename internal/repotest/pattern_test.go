package repotest_test

import (
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestPatternsAreDeclaredLazily: no package compiles a regular expression for every process that has it in its program, and each that is
// declared to be compiled later is one.
func TestPatternsAreDeclaredLazily(t *testing.T) {
	fset, files := load(t)
	declared := 0
	for _, f := range files {
		if f.test || f.dir == "internal/pattern" {
			continue
		}
		for _, d := range f.ast.Decls {
			if gen, ok := d.(*ast.GenDecl); ok {
				ast.Inspect(gen, func(n ast.Node) bool {
					_, inside := n.(*ast.FuncLit)
					if s, ok := n.(*ast.SelectorExpr); ok && names(s, "regexp") && strings.HasPrefix(s.Sel.Name, "MustCompile") {
						t.Errorf("%s: a pattern of a package is compiled when it is first used: pattern.New", fset.Position(s.Pos()))
					}
					return !inside
				})
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				return true
			}
			if s, ok := call.Fun.(*ast.SelectorExpr); !ok || !names(s, "pattern") || s.Sel.Name != "New" {
				return true
			}
			declared++
			text, ok := literal(call.Args[0])
			if !ok {
				t.Errorf("%s: the text of a pattern is a literal", fset.Position(call.Pos()))
			} else if _, err := regexp.Compile(text); err != nil {
				t.Errorf("%s: %v", fset.Position(call.Pos()), err)
			}
			return true
		})
	}
	if declared < 50 {
		t.Errorf("only %d patterns were found: does this test still look for the right thing?", declared)
	}
}

// names says whether a selector is of that package.
func names(s *ast.SelectorExpr, pkg string) bool {
	id, ok := s.X.(*ast.Ident)
	return ok && id.Name == pkg
}

// literal is the text of a string literal, or of several that are joined by +.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, e.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		left, ok := literal(e.X)
		right, also := literal(e.Y)
		return left + right, ok && also && e.Op == token.ADD
	}
	return "", false
}
