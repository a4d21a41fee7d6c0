package main_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOperatingSystemsAndOwnBoards(t *testing.T) {
	dir, file := openDir(t), filepath.Join(t.TempDir(), "systems.json")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil { //nolint:gosec // the api role reads it
			t.Fatal(err)
		}
	}
	// A folder of contracts in the data directory is read at every start, the first one too.
	own := filepath.Join(dir, "contracts")
	if err := os.MkdirAll(own, 0o755); err != nil { //nolint:gosec // the api role reads it
		t.Fatal(err)
	}
	write(filepath.Join(own, "acme-pump.json"), `{"slug":"acme-pump","type":"hw.device-type","name":"Acme Pump","data":{"arch":"armv7hf"}}`)
	s := up(t, dir, "127.0.0.1:0")

	write(file, `[{"kind":"os","device_type":"raspberrypi4-64","version":"6.0.24+rev1"},{"kind":"supervisor","arch":"aarch64","version":"17.0.1"}]`)
	for _, want := range []string{"new", "there already"} {
		out, text, code := run(t, nil, "admin", "os", "import", file, "--data", s.dir)
		if code != 0 || !strings.Contains(out, "balena_os/raspberrypi4-64\t6.0.24+rev1\t"+want) ||
			!strings.Contains(out, "balena_os/aarch64-supervisor\t17.0.1\t"+want) {
			t.Errorf("import: exit %d: %q %q", code, out, text)
		}
	}
	for name, tc := range map[string]struct {
		text, want string
		code       int
	}{
		"an unknown key": {`[{"kind":"os","device_typ":"x","version":"1.0.0"}]`, "device_typ", 2},
		"no list":        {`{}`, "not a list", 2},
		"two lists":      {`[] []`, "more than one", 2},
		"a bad version":  {`[{"kind":"os","device_type":"raspberrypi4-64","version":"six"}]`, `releases[0]: version: "six"`, 1},
	} {
		write(file, tc.text)
		if _, text, code := run(t, nil, "admin", "os", "import", file, "--data", s.dir); code != tc.code || !strings.Contains(text, tc.want) {
			t.Errorf("%s: exit %d: %q", name, code, text)
		}
	}

	for slug, want := range map[string]int{"acme-pump": http.StatusOK, "toaster": http.StatusNotFound} {
		res, err := s.client().Get("https://api." + domain + "/device-types/v1/" + slug)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("the board %s: %s", slug, res.Status)
		}
	}
}
