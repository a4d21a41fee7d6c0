package repotest_test

import (
	"bufio"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that docs/claims.md gives as proof exists: a Go test function, or a script of the repository.
func TestClaimsNameTestsThatExist(t *testing.T) {
	text := read(t, "docs/claims.md")
	_, files := load(t)
	have := map[string]bool{}
	for _, f := range files {
		if !f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				have[f.dir+"."+fn.Name.Name] = true
			}
		}
	}
	proof := regexp.MustCompile("`((?:internal|cmd|api|client|bench)[a-z/-]*)\\.((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]+)`")
	found := 0
	for _, m := range proof.FindAllStringSubmatch(text, -1) {
		found++
		if !have[m[1]+"."+m[2]] {
			t.Errorf("docs/claims.md: there is no test %s in %s", m[2], m[1])
		}
	}
	script := regexp.MustCompile("`((?:scripts|cmd|test|internal)/[A-Za-z0-9_./-]+\\.(?:sh|txtar))`")
	for _, m := range script.FindAllStringSubmatch(text, -1) {
		found++
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("docs/claims.md: there is no %s", m[1])
		}
	}
	if found == 0 {
		t.Error("docs/claims.md names no test")
	}
}

// Every module that we import ourselves has its line in docs/deps.
func TestDependenciesAreListed(t *testing.T) {
	var listed strings.Builder
	entries, err := filepath.Glob(filepath.Join(root, "docs/deps/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(e)
		if err != nil {
			t.Fatal(err)
		}
		listed.Write(data)
	}
	for _, m := range directModules(t) {
		if !strings.Contains(listed.String(), m) {
			t.Errorf("docs/deps: no line for %s", m)
		}
	}
}

func directModules(t *testing.T) []string {
	t.Helper()
	var modules []string
	inside := false
	sc := bufio.NewScanner(strings.NewReader(read(t, "go.mod")))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		switch {
		case line == "require (":
			inside = true
		case line == ")":
			inside = false
		case inside && !strings.Contains(line, "// indirect"):
			modules = append(modules, strings.Fields(line)[0])
		}
	}
	if len(modules) == 0 {
		t.Fatal("go.mod: found no direct module")
	}
	return modules
}

// Links between the project's own documents lead somewhere.
func TestDocumentLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:\s]+)(?:#[^)]*)?\)`)
	for _, doc := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, doc), -1) {
			target := filepath.Join(root, filepath.Dir(doc), m[1])
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which does not exist", doc, m[1])
			}
		}
	}
}

func documents(t *testing.T) []string {
	t.Helper()
	var docs []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "internal/*/*.md", "base/*/*.md", "examples/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			if err != nil {
				t.Fatal(err)
			}
			docs = append(docs, rel)
		}
	}
	return docs
}

// The documents we were given stay outside: nothing but tests and CI may refer to them.
func TestNoReferenceOutside(t *testing.T) {
	outside := ".." + "/shared"
	_, files := load(t)
	for _, f := range files {
		if !f.test && strings.Contains(read(t, f.path), outside) {
			t.Errorf("%s refers to %s", f.path, outside)
		}
	}
	for _, doc := range documents(t) {
		if strings.Contains(read(t, doc), outside) {
			t.Errorf("%s refers to %s", doc, outside)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
