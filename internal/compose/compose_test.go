package compose_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/compose"
)

// project lays files out in a directory; a name that ends with "@" is a link to its content.
func project(t testing.TB, files map[string]string) *os.Root {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		link, isLink := strings.CutSuffix(name, "@")
		file := filepath.Join(dir, link)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if isLink {
			err = os.Symlink(content, file)
		} else {
			err = os.WriteFile(file, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

func load(t testing.TB, text string, more map[string]string) (*compose.Project, error) {
	t.Helper()
	files := map[string]string{"docker-compose.yml": text, "web/Dockerfile": "FROM scratch\n"}
	for k, v := range more {
		files[k] = v
	}
	return compose.Load(t.Context(), project(t, files), "docker-compose.yml")
}

func TestACompositionHasOneForm(t *testing.T) {
	p, err := load(t, `
version: "2.4"
x-common: &common
  restart: unless-stopped
services:
  web:
    <<: *common
    build:
      context: ./web
      dockerfile: ../web/Dockerfile
      target: run
      args: {SECRET: s3cret, EMPTY: }
      labels: ["a=b"]
    image: ignored:here
    command: httpd -f "-h /data"
    ports: ["80:80", "127.0.0.1:53:5353/udp", {target: 90, published: "91"}, "9000"]
    environment: ["GREETING=${HELLO:-hi} ${WHO}", UNSET, B=from-block]
    env_file: [vars.env, {path: none.env, required: false}]
    volumes: ["data:/data", "data:/ro:ro", "/sys:/sys", {type: tmpfs, target: /scratch, tmpfs: {size: 1m}}]
    tmpfs: /run
    devices: ["/dev/i2c-1", "/dev/ttyS0:/dev/tty:r"]
    depends_on: [db]
    networks: {front: {aliases: [www]}, default: }
    mem_limit: 64m
    cpus: "0.5"
    healthcheck: {test: wget localhost, interval: 5s}
    ulimits: {nofile: 10, nproc: {soft: 1, hard: 2}}
    sysctls: [net.core.somaxconn=1]
    labels: ["io.balena.features.dbus=1"]
    extra_hosts: ["host:10.0.0.1"]
    stop_grace_period: 1m30s
    entrypoint: []
    container_name: nope
  db:
    image: base/busybox
    depends_on: {late: {condition: service_healthy}}
    security_opt: ["no-new-privileges:true"]
  late:
    image: base/busybox
volumes:
  data:
networks:
  front: {internal: true, name: nope}
`, map[string]string{".env": "WHO=world\n", "vars.env": "A=from-file\nB=from-file\n"})
	if err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(p.Composition, &got); err != nil {
		t.Fatal(err)
	}
	var want any
	if err := json.Unmarshal([]byte(`{
	"networks": {"front": {"internal": true}, "default": {}},
	"volumes": {"data": {}},
	"services": {
		"db": {"image": "base/busybox", "depends_on": {"late": {"condition": "service_healthy"}}, "security_opt": ["no-new-privileges:true"]},
		"late": {"image": "base/busybox"},
		"web": {
			"build": {"context": "web", "dockerfile": "../web/Dockerfile", "target": "run"},
			"restart": "unless-stopped",
			"command": ["httpd", "-f", "-h /data"], "entrypoint": [],
			"ports": ["80:80", "127.0.0.1:53:5353/udp", "91:90", "9000"],
			"environment": {"GREETING": "hi world", "A": "from-file", "B": "from-block"},
			"volumes": ["data:/data", "data:/ro:ro"], "tmpfs": ["/run", "/scratch:size=1048576"],
			"devices": ["/dev/i2c-1:/dev/i2c-1", "/dev/ttyS0:/dev/tty:r"],
			"depends_on": ["db"],
			"networks": {"front": {"aliases": ["www"]}, "default": {}},
			"mem_limit": 67108864, "cpus": 0.5,
			"healthcheck": {"test": ["CMD-SHELL", "wget localhost"], "interval": "5s"},
			"ulimits": {"nofile": 10, "nproc": {"soft": 1, "hard": 2}},
			"sysctls": {"net.core.somaxconn": "1"},
			"labels": {"io.balena.features.dbus": "1", "io.balena.features.sysfs": "1"},
			"extra_hosts": ["host:10.0.0.1"],
			"stop_grace_period": "1m30s"
		}
	}}`), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("composition (-want +got):\n%s", diff)
	}
	services := []compose.Service{
		{Name: "db", Image: "base/busybox"},
		{Name: "late", Image: "base/busybox"},
		{Name: "web", Build: &compose.Build{Context: "web", Dockerfile: "../web/Dockerfile", Target: "run",
			Args: map[string]string{"SECRET": "s3cret"}, Labels: map[string]string{"a": "b"}, ExtraHosts: []string{}}},
	}
	if diff := cmp.Diff(services, p.Services); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	warnings := strings.Join(p.Warnings, "\n")
	for _, want := range []string{"web.container_name is ignored", "networks.front.name is ignored", "environment.UNSET has no value",
		"args.EMPTY has no value", "/sys becomes the label io.balena.features.sysfs"} {
		if !strings.Contains(warnings, want) {
			t.Errorf("no warning says %q:\n%s", want, warnings)
		}
	}
}

func TestPlatformsOfServices(t *testing.T) {
	p, err := load(t, "services:\n  a: {image: x, platform: linux/arm64}\n"+
		"  b: {build: {context: ., platforms: [linux/amd64, linux/arm/v7]}}\n  c: {image: x}\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"linux/arm64", "linux/amd64 linux/arm/v7", ""} {
		if got := strings.Join(p.Services[i].Platforms, " "); got != want {
			t.Errorf("service %s: %q, want %q", p.Services[i].Name, got, want)
		}
	}
	if strings.Contains(string(p.Composition), "platform") {
		t.Errorf("devices are sent %s", p.Composition)
	}
}

func TestWhatIsRefusedIsNamed(t *testing.T) {
	svc := func(fields string) string {
		return "services:\n  web:\n    image: base/busybox\n" + fields
	}
	for title, c := range map[string]struct {
		text string
		want []string
	}{
		"nothing":               {"", []string{"docker-compose.yml"}},
		"no services":           {"volumes: {a: {}}\n", []string{"services: there is none"}},
		"not YAML":              {"services: [", []string{"docker-compose.yml"}},
		"not a mapping":         {"- a\n", []string{"docker-compose.yml"}},
		"unknown field":         {svc("    frobnicate: 1\n"), []string{`services.web: unknown field "frobnicate"`}},
		"several at once":       {svc("    deploy: {}\n    secrets: [a]\n    links: [b]\n"), []string{"web.secrets", "no place for secrets", "web.links"}},
		"top level secrets":     {svc("") + "secrets: {a: {file: /etc/shadow}}\n", []string{"secrets is not supported"}},
		"include":               {svc("") + "include: [/etc/passwd]\n", []string{"include is not supported"}},
		"extends another file":  {svc("    extends: {file: ../../etc/passwd, service: x}\n"), []string{"extends", "another file"}},
		"bind mount":            {svc("    volumes: ['/etc:/etc']\n"), []string{`volumes[0]`, `"/etc" of the device cannot be mounted`}},
		"relative bind mount":   {svc("    volumes: ['./a:/etc']\n"), []string{"cannot be mounted"}},
		"anonymous volume":      {svc("    volumes: ['/data']\n"), []string{"name the volume of /data"}},
		"undeclared volume":     {svc("    volumes: ['vol:/data']\n"), []string{"undefined volume vol"}},
		"volume that mounts":    {svc("    volumes: ['vol:/data']\n") + "volumes: {vol: {driver_opts: {type: none, o: bind, device: /}}}\n", []string{"volumes.vol.driver_opts"}},
		"volume driver":         {svc("") + "volumes: {a: {driver: nfs}}\n", []string{`driver "nfs"`}},
		"external volume":       {svc("") + "volumes: {a: {external: true}}\n", []string{"volumes.a.external"}},
		"undeclared network":    {svc("    networks: [a]\n"), []string{"undefined network a"}},
		"another's network":     {svc("    network_mode: 'service:web'\n"), []string{"network_mode", "another container"}},
		"another's processes":   {svc("    pid: 'container:abc'\n"), []string{"pid", "another container"}},
		"security option":       {svc("    security_opt: ['apparmor:unconfined']\n"), []string{"security_opt", "no-new-privileges"}},
		"environment outside":   {svc("    env_file: /etc/passwd\n"), []string{`env_file "/etc/passwd"`, "inside the source"}},
		"environment above":     {svc("    env_file: ../x\n"), []string{`"../x"`, "inside the source"}},
		"environment by link":   {svc("    env_file: out.env\n"), []string{"env_file: out.env cannot be read"}},
		"environment missing":   {svc("    env_file: none.env\n"), []string{"none.env: there is no such file"}},
		"context outside":       {"services: {web: {build: ../..}}\n", []string{`context "../.."`, "inside the source"}},
		"context absolute":      {"services: {web: {build: /etc}}\n", []string{`context "/etc"`}},
		"context by link":       {"services: {web: {build: out}}\n", []string{`no directory "out"`}},
		"context on the net":    {"services: {web: {build: 'https://example.com/x.git'}}\n", []string{"inside the source"}},
		"context missing":       {"services: {web: {build: ./none}}\n", []string{`no directory "none"`}},
		"dockerfile outside":    {"services: {web: {build: {context: web, dockerfile: ../../x}}}\n", []string{`dockerfile "../../x"`}},
		"another system":        {svc("    platform: windows/amd64\n"), []string{"services.web.platform", `"windows/amd64" is no platform like linux/arm64`}},
		"platforms apart":       {"services: {web: {platform: linux/386, build: {context: web, platforms: [linux/amd64]}}}\n", []string{`build.platforms MUST include service.platform "linux/386"`}},
		"build secrets":         {"services: {web: {build: {context: web, ssh: [default]}}}\n", []string{"build.ssh"}},
		"privileged build":      {"services: {web: {build: {context: web, privileged: true}}}\n", []string{"build.privileged"}},
		"neither image":         {"services: {web: {command: x}}\n", []string{"neither an image nor a build context"}},
		"dependency in a ring":  {"services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}\n", []string{"cycle"}},
		"dependency on nothing": {svc("    depends_on: [nobody]\n"), []string{"nobody"}},
		"condition":             {"services: {a: {image: x, depends_on: {b: {condition: service_completed_successfully}}}, b: {image: x}}\n", []string{"service_completed_successfully"}},
		"name":                  {"services: {'a b': {image: x}}\n", []string{"a b"}},
		"a bomb":                {bomb(), []string{"docker-compose.yml"}},
		"two documents":         {svc("") + "---\nservices: {}\n", []string{"more than one YAML document"}},
		"port ranges":           {svc("    ports: ['1-60000:1-60000']\n"), []string{"more than 4096 ports"}},
		"port ranges by name":   {svc("    ports: ['${FROM}-${TO}:${FROM}-${TO}']\n"), []string{"more than 4096 ports"}},
		"too large":             {"# " + strings.Repeat("x", 1<<20), []string{"larger than"}},
	} {
		t.Run(title, func(t *testing.T) {
			_, err := load(t, c.text, map[string]string{".env": "FROM=1\nTO=60000\n", "out.env@": "/etc/hostname", "out@": "/etc"})
			if err == nil {
				t.Fatal("Load: no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Load: %v, want it to speak of %q", err, want)
				}
			}
			if !errors.Is(err, api.ErrInvalid) && !errors.Is(err, api.ErrTooLarge) {
				t.Errorf("Load: %v has code %q", err, api.AsError(err).Code)
			}
		})
	}
}

// bomb is a file whose aliases unfold to more than anybody has memory for.
func bomb() string {
	var b strings.Builder
	b.WriteString("x-0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 9 {
		n, m := string(rune('0'+i)), string(rune('1'+i))
		b.WriteString("x-" + m + ": &a" + m + " [" + strings.Repeat("*a"+n+", ", 9) + "*a" + n + "]\n")
	}
	b.WriteString("services: {web: {image: x}}\n")
	return b.String()
}

func TestExtendsWithinTheFile(t *testing.T) {
	p, err := load(t, "services:\n  base: {image: 'base/busybox', labels: {a: b}}\n  web: {extends: {service: base}, labels: {c: d}}\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(p.Composition), `"labels":{"a":"b","c":"d"}`) {
		t.Errorf("composition %s", p.Composition)
	}
}

func TestASingleDockerfileIsTheServiceMain(t *testing.T) {
	p := compose.Single("sub/Dockerfile")
	var c struct {
		Services map[string]struct {
			Build       map[string]string
			Privileged  bool
			NetworkMode string `json:"network_mode"`
			Volumes     []string
			Labels      map[string]string
		}
		Volumes map[string]any
	}
	if err := json.Unmarshal(p.Composition, &c); err != nil {
		t.Fatal(err)
	}
	m := c.Services["main"]
	if len(c.Services) != 1 || !m.Privileged || m.NetworkMode != "host" || len(m.Volumes) != 1 || m.Volumes[0] != "resin-data:/data" ||
		m.Labels["io.resin.features.supervisor-api"] != "1" || m.Build["dockerfile"] != "sub/Dockerfile" {
		t.Errorf("composition %s", p.Composition)
	}
	if _, ok := c.Volumes["resin-data"]; !ok {
		t.Errorf("the volume is not declared: %s", p.Composition)
	}
}

func TestFindPrefersTheOldName(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"docker-compose.yml": {"docker-compose.yml": "", "compose.yaml": ""},
		"compose.yaml":       {"compose.yaml": "", "compose.yml": ""},
		"":                   {"Dockerfile": "", "compose.yaml/x": ""},
	} {
		if got := compose.Find(project(t, files)); got != want {
			t.Errorf("Find(%v): %q, want %q", files, got, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("services: {web: {image: x, volumes: ['/sys:/sys']}}")
	f.Add("version: '3'\nservices: {web: {build: ., ports: ['1-2:3-4'], networks: {default: }}}")
	f.Fuzz(func(t *testing.T, text string) {
		root := project(t, map[string]string{"docker-compose.yml": text})
		p, err := compose.Load(context.Background(), root, "docker-compose.yml")
		if err == nil && (!json.Valid(p.Composition) || len(p.Services) == 0) {
			t.Errorf("Load: %s, %v", p.Composition, p.Services)
		}
	})
}
