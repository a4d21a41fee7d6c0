package letter_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/account/letter"
)

// Every kind of letter that the server's code has sent is one that there is, and there is none that nothing sends.
func TestEveryLetterHasWords(t *testing.T) {
	sent := map[string]bool{"test": true, "invitation": true} // by the mail room itself, and filled in bit by bit
	is := func(path string, lit *ast.BasicLit) {
		kind, err := strconv.Unquote(lit.Value)
		if err != nil || !letter.Known(kind) {
			t.Errorf("%s: there is no letter %s; there are %q", path, lit.Value, letter.Kinds())
		}
		sent[kind] = true
	}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if kind := warning(n); kind != nil {
				is(path, kind)
			}
			lit, ok := n.(*ast.CompositeLit)
			if !ok || !isNotice(lit.Type) {
				return true
			}
			for _, e := range lit.Elts {
				kv, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				name, _ := kv.Key.(*ast.Ident)
				value, text := kv.Value.(*ast.BasicLit)
				if name == nil || name.Name != "Kind" || !text {
					continue
				}
				is(path, value)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range letter.Kinds() {
		if !sent[kind] {
			t.Errorf("nothing sends the letter %q", kind)
		}
	}
}

// warning gives the kind in a call of warn(ctx, tx, whom, kind, …).
func warning(n ast.Node) *ast.BasicLit {
	call, ok := n.(*ast.CallExpr)
	if !ok || len(call.Args) < 5 {
		return nil
	}
	f, ok := call.Fun.(*ast.SelectorExpr)
	ctx, first := call.Args[0].(*ast.Ident)
	if !ok || !first || ctx.Name != "ctx" || !strings.EqualFold(f.Sel.Name, "warn") {
		return nil
	}
	kind, _ := call.Args[3].(*ast.BasicLit)
	return kind
}

func isNotice(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "Notice"
	case *ast.SelectorExpr:
		return e.Sel.Name == "Notice"
	}
	return false
}

func TestLetters(t *testing.T) {
	letters, err := letter.New(api.Site{Domain: "roadstead.test", Port: 8443})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range letter.Kinds() {
		for name, data := range map[string]map[string]string{
			"nothing": nil,
			"all": {
				"username": "alice", "inviter": "bob", "what": "acme", "role": "member", "token": "rsi_x", "where": "org", "until": "noon", "address": "192.0.2.1",
				"at": "now", "client": "curl", "identity": "grace at google", "factor": "TOTP", "key": "ci", "by": "bob", "organization": "acme", "id": "7",
			},
		} {
			subject, body, err := letters.Render(kind, data)
			if err != nil || subject == "" || strings.Contains(subject+body, "<no value>") || strings.Contains(subject+body, "<nil>") {
				t.Errorf("%s with %s: got %q, %q, %v", kind, name, subject, body, err)
			}
			if !strings.Contains(body, "roadstead.test") {
				t.Errorf("%s with %s does not say who sends it: %q", kind, name, body)
			}
		}
	}
	if _, _, err := letters.Render("a letter nobody wrote", nil); err == nil {
		t.Error("an unknown kind: got no error")
	}
	_, body, err := letters.Render("invitation", map[string]string{"inviter": strings.Repeat("buy ", 100), "where": "org", "token": strings.Repeat("x", 200)})
	if err != nil || strings.Contains(body, strings.Repeat("buy ", 30)) || !strings.Contains(body, "https://dashboard.roadstead.test:8443/invite/org#"+strings.Repeat("x", 200)+"\n") {
		t.Errorf("a long name: got %q, %v", body, err)
	}
	if _, _, err := letters.Render("invitation", map[string]string{"inviter": "x\r\nBcc: all@example.com\r\n"}); err == nil {
		t.Error("a name that breaks the subject: got no error")
	}
}
