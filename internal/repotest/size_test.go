package repotest_test

import (
	"go/ast"
	"testing"
)

// The hard limits of the house style. Past one, the structure changes, not the limit.
const (
	maxFileLines        = 800
	maxFunctionLines    = 120
	maxPackageLines     = 4000
	maxInterfaceMethods = 6
)

// excused names the files that are past a limit, and why.
var excused = map[string]string{
	"internal/db/statements.go": "database/sql looks for each of these methods in a driver's connection",
}

func TestSizes(t *testing.T) {
	fset, files := load(t)
	packages := map[string]int{}
	for _, f := range files {
		if f.lines > maxFileLines {
			t.Errorf("%s has %d lines, more than %d", f.path, f.lines, maxFileLines)
		}
		if !f.test {
			packages[f.dir] += f.lines
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				lines := fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1
				if lines > maxFunctionLines {
					t.Errorf("%s: %s has %d lines, more than %d", f.path, n.Name.Name, lines, maxFunctionLines)
				}
			case *ast.InterfaceType:
				if n.Methods != nil && n.Methods.NumFields() > maxInterfaceMethods && excused[f.path] == "" {
					t.Errorf("%s: an interface has %d methods, more than %d", f.path, n.Methods.NumFields(), maxInterfaceMethods)
				}
			}
			return true
		})
	}
	for dir, lines := range packages {
		if lines > maxPackageLines {
			t.Errorf("package %s has %d lines, more than %d", dir, lines, maxPackageLines)
		}
	}
}

// A test that sleeps is slow when it passes and wrong when the machine is busy.
func TestNoSleepingTests(t *testing.T) {
	fset, files := load(t)
	for _, f := range files {
		if !f.test {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Sleep" {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
				t.Errorf("%s: time.Sleep in a test: wait for a condition with a deadline instead", fset.Position(call.Pos()))
			}
			return true
		})
	}
}
