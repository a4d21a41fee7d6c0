package repotest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/roadstead-io/roadstead"

// root is the top of the checkout, two folders above this one.
const root = "../.."

// goFile is one parsed file of ours.
type goFile struct {
	path  string // from the top of the checkout, with slashes
	dir   string
	lines int
	ast   *ast.File
	test  bool
}

// load parses every Go file of the module; nested modules (tools/…) have rules of their own.
func load(t *testing.T) (*token.FileSet, []goFile) {
	t.Helper()
	fset := token.NewFileSet()
	var files []goFile
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			if path != root && (strings.HasPrefix(name, ".") && name != "." && name != ".." || name == "node_modules" || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != root {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, path, src, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		files = append(files, goFile{path: rel, dir: dirOf(rel), lines: strings.Count(string(src), "\n"), ast: f, test: strings.HasSuffix(rel, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("found no Go file")
	}
	return fset, files
}

func dirOf(rel string) string {
	if i := strings.LastIndexByte(rel, '/'); i >= 0 {
		return rel[:i]
	}
	return "."
}

// layers from the bottom up. A package may import its own layer only where the list "within" says so, and any lower one.
var layers = map[string]int{
	"api": 0, "internal/pattern": 0, "client": 1, "base": 1,
	"internal/provenance": 1, "internal/sbom": 1, "internal/ownerkey": 2, "internal/tuf": 1, "internal/tlog": 2,
	"internal/ledger": 1, "internal/seal": 1, "internal/access": 1, "internal/durable": 1, "internal/limit": 1, "internal/db": 2, "internal/egress": 2, "internal/compose": 2, "internal/odata": 3, "internal/job": 3, "internal/mail": 3, "internal/bus": 2, "internal/web": 2, "internal/admission": 2,
	"internal/pki": 3, "internal/sandbox": 2, "internal/shelf": 2, "internal/handover": 2, "internal/heap": 1, "internal/blob": 4, "internal/supervise": 4,
	"internal/audit": 9, "internal/audit/watch": 14, "internal/account/keyuse": 9, "internal/account": 10, "internal/signin": 11, "internal/fleet": 11, "internal/release": 12, "internal/gitsource": 13, "internal/device": 13, "internal/action": 15, "internal/trust": 16,
	"internal/channel": 14, "internal/channel/when": 1,
	"internal/reach": 14, "internal/devicessh": 13, "internal/sshentry": 1, "internal/sshhost": 2,
	"internal/vpn":  20,
	"internal/edge": 20, "internal/busserver": 20, "internal/dashboard": 20, "internal/apiserver": 20, "internal/signer": 20, "internal/registry": 20, "internal/builder": 20, "internal/gitserver": 20,
	"internal/engine": 20, "internal/agent": 21,
	"internal/fleettest": 40, "internal/domaintest": 40, "internal/roletest": 40, "internal/sshtest": 40, "internal/repotest": 40, "bench": 41, "cmd": 30,
}

// deviceSide packages and the command line stay small and know nothing of the server.
var deviceSide = []string{"internal/agent", "internal/engine", "cmd/roadstead-agent", "cmd/roadstead", "client"}

var serverOnly = []string{
	"internal/db", "internal/odata", "internal/blob", "internal/bus", "internal/access", "internal/audit", "internal/audit/watch", "internal/account", "internal/account/keyuse", "internal/fleet", "internal/release", "internal/gitsource",
	"internal/device", "internal/channel", "internal/devicessh", "internal/action", "internal/trust", "internal/edge", "internal/apiserver", "internal/signer", "internal/registry", "internal/builder", "internal/supervise",
	"internal/busserver", "internal/admission", "internal/job", "internal/mail", "internal/egress", "internal/signin", "internal/dashboard",
	"internal/reach", "internal/vpn",
}

// layerOf gives a package's layer by its longest known prefix.
func layerOf(pkg string) (int, string, bool) {
	for p := pkg; p != "."; p = dirOf(p) {
		if l, ok := layers[p]; ok {
			return l, p, true
		}
	}
	return 0, "", false
}

func TestImportArrowsPointDown(t *testing.T) {
	_, files := load(t)
	for _, f := range files {
		if f.test {
			continue // a test may start whatever it needs
		}
		from, fromName, ok := layerOf(f.dir)
		if !ok {
			t.Errorf("%s: the folder %s has no place in the house; give it a layer here and in docs/design.md", f.path, f.dir)
			continue
		}
		for _, imp := range f.ast.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			if !strings.HasPrefix(path, module+"/") {
				if f.dir == "api" && strings.Contains(strings.SplitN(path, "/", 2)[0], ".") {
					t.Errorf("%s imports %s: api uses the standard library only", f.path, path)
				}
				continue
			}
			to := strings.TrimPrefix(path, module+"/")
			l, toName, ok := layerOf(to)
			if !ok {
				t.Errorf("%s imports %s, which has no layer", f.path, to)
				continue
			}
			if fromName != toName && l >= from {
				t.Errorf("%s imports %s: arrows point downwards only", f.path, to)
			}
			if slices.ContainsFunc(deviceSide, func(d string) bool { return f.dir == d || strings.HasPrefix(f.dir, d+"/") }) && slices.Contains(serverOnly, toName) {
				t.Errorf("%s imports %s: the device and the command line reach the server only through the API", f.path, to)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	_, files := load(t)
	said := map[string]bool{}
	for _, f := range files {
		if f.test {
			continue
		}
		if f.ast.Doc != nil && len(strings.TrimSpace(f.ast.Doc.Text())) > 20 {
			said[f.dir] = true
		} else if _, ok := said[f.dir]; !ok {
			said[f.dir] = false
		}
	}
	for dir, ok := range said {
		if !ok {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}

func TestNoGrabBags(t *testing.T) {
	_, files := load(t)
	bad := []string{"pkg", "common", "utils", "util", "helpers", "models", "types", "services", "interfaces", "mocks"}
	for _, f := range files {
		if slices.Contains(bad, f.ast.Name.Name) {
			t.Errorf("%s: a package is a noun that an operator would know, not %q", f.path, f.ast.Name.Name)
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == "init" && fn.Recv == nil && !f.test {
				t.Errorf("%s: no init functions: wiring is visible", f.path)
			}
		}
	}
}
