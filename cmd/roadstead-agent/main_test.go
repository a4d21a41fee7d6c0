package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "config.json")
	if err := os.WriteFile(bad, []byte(`{"apiEndpoint":"https://api.example.com","applicationId":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	lost := t.TempDir()
	if err := os.WriteFile(filepath.Join(lost, "identity.json"), []byte(`{"device_api_key":"roadstead-sealed:1:AAAA"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"--version"}, 0, "roadstead-agent dev", ""},
		{[]string{"--help"}, 0, "", "examples:"},
		{[]string{"--nonsense"}, 2, "", "nonsense"},
		{[]string{"extra"}, 2, "", `unexpected argument "extra"`},
		{[]string{"--log-level", "loud"}, 2, "", "--log-level"},
		{[]string{"--config", filepath.Join(dir, "none"), "--state", dir}, 2, "", "no such file"},
		{[]string{"--config", bad, "--state", dir}, 2, "", "applicationId must be a whole number"},
		{[]string{"trust", "--help"}, 0, "exit codes:", ""},
		{[]string{"trust"}, 2, "", "status, checkpoint or import is wanted"},
		{[]string{"trust", "import"}, 2, "", "import needs a file"},
		{[]string{"trust", "status", "extra"}, 2, "", "is wanted"},
		{[]string{"trust", "--nonsense"}, 2, "", "nonsense"},
		{[]string{"trust", "status", "--state", dir}, 1, "", "identity.json"},
		{[]string{"trust", "import", bad, "--state", dir}, 1, "", "is not the state directory of an agent"},
		{[]string{"trust", "checkpoint", filepath.Join(dir, "none"), "--state", dir}, 1, "", "no such file"},
		{[]string{"key", "--help"}, 0, "exit codes:", ""},
		{[]string{"key", "--nonsense"}, 2, "", "nonsense"},
		{[]string{"key", "extra"}, 2, "", `unexpected argument "extra"`},
		{[]string{"key", "--state", dir}, 0, "in files that only root reads, not encrypted", ""},
		{[]string{"key", "--state", lost}, 1, "", "identity.json is sealed"},
		{[]string{"--engine", "nonsense", "--config", bad}, 2, "", "nonsense"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(tt.args, &stdout, &stderr)
		if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("%q: code %d, %q, %q; want %d, %q, %q", tt.args, code, stdout.String(), stderr.String(), tt.code, tt.stdout, tt.stderr)
		}
	}
}
