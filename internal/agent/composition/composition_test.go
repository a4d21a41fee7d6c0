package composition_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/composition"
)

var (
	dev = composition.Device{
		UUID: "0123456789abcdef0123456789abcdef", Name: "old-name", Type: "generic-amd64", Arch: "amd64", OSVersion: "Debian 12",
		APIKey: "device-key", APIURL: "https://api.example.com", EngineSocket: "/run/docker.sock", SharedDir: "/run/roadstead/services",
		Exists: func(path string) bool { return path != "/run/dbus" },
	}
	app = composition.App{ID: 7, UUID: "11111111111111111111111111111111", Name: "fleet", ReleaseID: 3, Commit: "c0ffee"}
)

func service(compose string, labels, env map[string]string) (*composition.Service, error) {
	return composition.ForService(dev, app, "web", &api.ServiceTarget{
		ID: 5, ImageID: 9, Image: "r.example.com/v2/x@sha256:1", Labels: labels, Environment: env, Composition: json.RawMessage(compose),
	})
}

// Each row gives a field in some form and what must be in the engine's words for it.
func TestFields(t *testing.T) {
	for _, tt := range []struct{ compose, want string }{
		{`{"command":"echo 'a b' \"c\\\"d\" e\\ f"}`, `"Cmd":["echo","a b","c\"d","e f"]`},
		{`{"command":["a","b c"]}`, `"Cmd":["a","b c"]`},
		{`{"entrypoint":["/init"]}`, `"Entrypoint":["/init"]`},
		{`{"entrypoint":[]}`, `"Entrypoint":[""]`},
		{`{"environment":{"A":"1","B":2,"C":true,"D":null}}`, `"A=1","B=2"`},
		{`{"environment":["A=1=2","B"]}`, `"A=1=2"`},
		{`{"ports":["80:8080"]}`, `"PortBindings":{"8080/tcp":[{"HostIp":"","HostPort":"80"}]}`},
		{`{"ports":["127.0.0.1:80:8080/udp"]}`, `"PortBindings":{"8080/udp":[{"HostIp":"127.0.0.1","HostPort":"80"}]}`},
		{`{"ports":["[::1]:80:8080"]}`, `"HostIp":"::1"`},
		{`{"ports":[8080]}`, `"PortBindings":{"8080/tcp":[{"HostIp":"","HostPort":""}]}`},
		{`{"ports":["8000-8001:9000-9001"]}`, `"9001/tcp":[{"HostIp":"","HostPort":"8001"}]`},
		{`{"ports":[{"target":80,"published":"8080","protocol":"tcp","mode":"ingress"}]}`, `"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}`},
		{`{"volumes":["data:/data"]}`, `"Binds":["7_data:/data",`},
		{`{"volumes":["data:/data:ro"]}`, `"Binds":["7_data:/data:ro",`},
		{`{"volumes":[{"type":"volume","source":"data","target":"/data","read_only":true}]}`, `"Binds":["7_data:/data:ro",`},
		{`{"volumes":[{"type":"tmpfs","target":"/t","tmpfs":{"size":"1m"}}]}`, `"Tmpfs":{"/t":"size=1048576"}`},
		{`{"tmpfs":["/a","/b:size=1m"]}`, `"Tmpfs":{"/a":"","/b":"size=1m"}`},
		{`{"tmpfs":"/a"}`, `"Tmpfs":{"/a":""}`},
		{`{"privileged":true}`, `"Privileged":true`},
		{`{"network_mode":"host"}`, `"NetworkMode":"host"`},
		{`{"restart":"no"}`, `"RestartPolicy":{"Name":"no","MaximumRetryCount":0}`},
		{`{"restart":"on-failure:3"}`, `"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3}`},
		{`{}`, `"RestartPolicy":{"Name":"always","MaximumRetryCount":0}`},
		{`{}`, `"Tty":true`},
		{`{"tty":false}`, `"Tty":false`},
		{`{"cap_add":["NET_ADMIN"],"cap_drop":["ALL"]}`, `"CapAdd":["NET_ADMIN"],"CapDrop":["ALL"]`},
		{`{"devices":["/dev/ttyS0:/dev/tty1:r"]}`, `"Devices":[{"PathOnHost":"/dev/ttyS0","PathInContainer":"/dev/tty1","CgroupPermissions":"r"}]`},
		{`{"devices":[{"source":"/dev/a","target":"/dev/b","permissions":"rw"}]}`, `"PathInContainer":"/dev/b"`},
		{`{"mem_limit":"64m"}`, `"Memory":67108864`},
		{`{"mem_limit":67108864}`, `"Memory":67108864`},
		{`{"cpus":"0.5"}`, `"NanoCpus":500000000`},
		{`{"shm_size":"1g"}`, `"ShmSize":1073741824`},
		{`{"stop_grace_period":"1m30s"}`, `"StopTimeout":90`},
		{`{"stop_grace_period":"500ms"}`, `"StopTimeout":1`},
		{`{}`, `"StopTimeout":10`},
		{`{"stop_signal":"SIGINT"}`, `"StopSignal":"SIGINT"`},
		{`{"user":1000,"working_dir":"/w","hostname":"h"}`, `"User":"1000"`},
		{`{"ulimits":{"nofile":{"soft":1,"hard":2},"nproc":3}}`, `"Ulimits":[{"Name":"nofile","Hard":2,"Soft":1},{"Name":"nproc","Hard":3,"Soft":3}]`},
		{`{"sysctls":["net.a=1"]}`, `"Sysctls":{"net.a":"1"}`},
		{`{"extra_hosts":["a:1.2.3.4"]}`, `"ExtraHosts":["a:1.2.3.4"]`},
		{`{"extra_hosts":{"a":"1.2.3.4"}}`, `"ExtraHosts":["a:1.2.3.4"]`},
		{`{"healthcheck":{"test":"true","interval":"1s","retries":2}}`, `"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":1000000000,"Retries":2}`},
		{`{"healthcheck":{"test":["CMD","x"],"start_period":"1m"}}`, `"Test":["CMD","x"]`},
		{`{"healthcheck":{"disable":true}}`, `"Test":["NONE"]`},
		{`{"init":true,"read_only":true}`, `"Init":true`},
		{`{"networks":{"n":{"aliases":["x"],"ipv4_address":"10.1.2.3"}}}`, `"11111111111111111111111111111111_n":{"IPAMConfig":{"IPv4Address":"10.1.2.3"}`},
		{`{"networks":["a","b"]}`, `"11111111111111111111111111111111_b"`},
		{`{}`, `"11111111111111111111111111111111_default"`},
		{`{"dns":"1.1.1.1"}`, `"Dns":["1.1.1.1"]`},
		{`{"security_opt":["no-new-privileges:true"]}`, `"SecurityOpt":["no-new-privileges=true"]`},
		{`null`, `"BALENA_SERVICE_NAME=web"`},
	} {
		svc, err := service(tt.compose, nil, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.compose, err)
			continue
		}
		text, err := json.Marshal(svc.Spec)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), tt.want) {
			t.Errorf("%s: no %s in\n%s", tt.compose, tt.want, text)
		}
		if len(svc.LeftOut) > 0 {
			t.Errorf("%s: left out %v", tt.compose, svc.LeftOut)
		}
	}
}

func TestLeftOutByName(t *testing.T) {
	for _, tt := range []struct {
		compose string
		labels  map[string]string
		want    []string
	}{
		{`{"volumes":["/etc:/etc","data:/d"]}`, nil, []string{"web.volumes[0]"}},
		{`{"volumes":["./x:/etc","~/x:/y","/only"]}`, nil, []string{"web.volumes[0]", "web.volumes[1]", "web.volumes[2]"}},
		{`{"volumes":[{"type":"bind","source":"/","target":"/host"}]}`, nil, []string{"web.volumes[0]"}},
		{`{"container_name":"x","deploy":{},"secrets":[],"blkio_config":{}}`, nil, []string{"web.blkio_config", "web.container_name", "web.deploy", "web.secrets"}},
		{`{"network_mode":"service:other"}`, nil, []string{"web.network_mode"}},
		{`{"pid":"container:x","ipc":"service:y"}`, nil, []string{"web.ipc", "web.pid"}},
		{`{"mac_address":"02:00:00:00:00:01"}`, nil, []string{"web.mac_address"}},
		{`{"depends_on":{"db":{"condition":"service_completed_successfully"}}}`, nil, []string{"web.depends_on.db"}},
		{`{"network_mode":"host","networks":["a"]}`, nil, []string{"web.networks"}},
		{`{"security_opt":["seccomp=/profile.json"]}`, nil, []string{"web.security_opt[0]"}},
		{`{"healthcheck":{"test":"x","start_interval":"1s"}}`, nil, []string{"web.healthcheck.start_interval"}},
		{`{"x-note":1,"image":"a","build":".","expose":["80"],"volumes":null}`, nil, nil},
		{`{}`, map[string]string{"io.balena.features.supervisor-api": "1"}, []string{"web.labels.io.balena.features.supervisor-api"}}, // where there is no API
		{`{}`, map[string]string{"io.balena.features.supervisor-api": "0"}, nil},
		{`{}`, map[string]string{"io.resin.features.dbus": "1"}, []string{"web.labels.io.balena.features.dbus"}},
		{`{}`, map[string]string{"io.balena.features.kernel-modules": "1"}, nil},
		{`{"labels":{"io.balena.features.gpu":"true"}}`, nil, []string{"web.labels.io.balena.features.gpu"}},
	} {
		svc, err := service(tt.compose, tt.labels, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.compose, err)
			continue
		}
		var got []string
		for _, l := range svc.LeftOut {
			got = append(got, l.Field)
			if l.Reason == "" {
				t.Errorf("%s: no reason for %s", tt.compose, l.Field)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s %v (-want +got):\n%s", tt.compose, tt.labels, diff)
		}
		for _, bind := range svc.Spec.Host.Binds {
			source, _, _ := strings.Cut(bind, ":")
			if strings.HasPrefix(source, "/") && !strings.HasPrefix(source, dev.SharedDir) && source != "/lib/modules" {
				t.Errorf("%s mounts %s", tt.compose, source)
			}
		}
	}
}

func TestWrongShapesNameTheirPath(t *testing.T) {
	for compose, want := range map[string]string{
		`[]`:                              "services.web: must be an object",
		`{"ports":"80"}`:                  "services.web.ports: must be a list",
		`{"ports":["x"]}`:                 `services.web.ports: [0]: "x" is not a port`,
		`{"ports":["80:81-82"]}`:          "have different lengths",
		`{"ports":["80/icmp"]}`:           `"icmp" is not a protocol`,
		`{"ports":["99999:80"]}`:          `"99999" is not a port`,
		`{"privileged":"perhaps"}`:        "services.web.privileged: must be true or false",
		`{"mem_limit":"lots"}`:            `services.web.mem_limit: "lots" is not a size`,
		`{"stop_grace_period":"soon"}`:    `"soon" is not a duration`,
		`{"environment":"A=1"}`:           "services.web.environment: must be an object or a list",
		`{"command":"echo 'a"}`:           "has a quote that does not end",
		`{"restart":"sometimes"}`:         `"sometimes" is not a policy`,
		`{"volumes":["a:b"]}`:             `the path "b" must begin with /`,
		`{"volumes":["a:/b:c:d"]}`:        "is not a volume",
		`{"dns":["nowhere"]}`:             `"nowhere" is not an address`,
		`{"networks":["../x"]}`:           `"../x" is not a name`,
		`{"ulimits":{"nofile":"x"}}`:      "nofile must be a whole number",
		`{"devices":["tty"]}`:             "[0] is not a device",
		`{"environment":{"A=B":"1"}}`:     `"A=B" is not a variable`,
		`{"healthcheck":{"retries":"x"}}`: "services.web.healthcheck: retries: must be a whole number",
	} {
		_, err := service(compose, nil, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", compose, err, want)
		}
	}
	if _, err := composition.ForService(dev, app, "../web", &api.ServiceTarget{}); err == nil {
		t.Error("a path is taken for a name")
	}
}

func TestEnvironment(t *testing.T) {
	svc, err := service(`{"environment":{"A":"compose","B":"compose","BALENA_APP_NAME":"own"},"labels":{"io.resin.features.balena-api":"1"}}`,
		map[string]string{"l": "v"}, map[string]string{"A": "server"})
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, e := range svc.Spec.Config.Env {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
	}
	for k, v := range map[string]string{
		"A": "server", "B": "compose", "BALENA_APP_NAME": "own", "RESIN_APP_NAME": "fleet", "BALENA_DEVICE_UUID": string(dev.UUID),
		"BALENA_SERVICE_NAME": "web", "BALENA_APP_ID": "7", "BALENA_DEVICE_ARCH": "amd64", "BALENA": "1", "RESIN": "1", "USER": "root",
		"BALENA_API_KEY": "device-key", "RESIN_API_URL": "https://api.example.com", "BALENA_DEVICE_NAME_AT_INIT": "old-name",
		"BALENA_APP_LOCK_PATH": "/tmp/balena/updates.lock", "RESIN_SERVICE_KILL_ME_PATH": "/tmp/balena/handover-complete",
	} {
		if env[k] != v {
			t.Errorf("%s is %q, want %q", k, env[k], v)
		}
	}
	if svc.Spec.Name != "web_9_3_c0ffee" || composition.ReleaseOf(svc.Spec.Name) != "c0ffee" {
		t.Errorf("the name is %s", svc.Spec.Name)
	}
	labels := svc.Spec.Config.Labels
	for k, v := range map[string]string{
		"io.balena.supervised": "true", "io.balena.app-id": "7", "io.balena.app-uuid": app.UUID, "io.balena.service-id": "5",
		"io.balena.service-name": "web", "l": "v", "io.balena.features.balena-api": "1",
	} {
		if labels[k] != v {
			t.Errorf("label %s is %q, want %q", k, labels[k], v)
		}
	}
}

func TestHashFollowsContentOnly(t *testing.T) {
	hash := func(compose string, a composition.App) string {
		svc, err := composition.ForService(dev, a, "web", &api.ServiceTarget{ID: 5, ImageID: 9, Image: "i", Composition: json.RawMessage(compose)})
		if err != nil {
			t.Fatal(err)
		}
		return svc.Spec.Config.Labels[composition.LabelConfig]
	}
	next := app
	next.Commit, next.ReleaseID = "other", 4
	if hash(`{"environment":["A=1","B=2"]}`, app) != hash(`{"environment":{"B":2,"A":1}}`, next) {
		t.Error("the same content of another release hashes differently")
	}
	if hash(`{}`, app) == hash(`{"privileged":true}`, app) {
		t.Error("different content hashes the same")
	}
}

func TestNetworksAndVolumes(t *testing.T) {
	n, left, err := composition.ForNetwork(app, "n", json.RawMessage(
		`{"driver":"overlay","internal":true,"ipam":{"config":[{"subnet":"10.1.0.0/24","gateway":"10.1.0.1"}]},"attachable":true}`))
	if err != nil || n.Name != app.UUID+"_n" || !n.Options.Internal || n.Options.IPAM.Config[0].Subnet.String() != "10.1.0.0/24" || len(left) != 2 {
		t.Errorf("network %+v, left out %v, %v", n, left, err)
	}
	if _, _, err := composition.ForNetwork(app, "n", json.RawMessage(`{"ipam":{"config":[{"subnet":"x"}]}}`)); err == nil {
		t.Error("a subnet x")
	}
	v, left, err := composition.ForVolume(app, "data", json.RawMessage(`{"driver":"local","driver_opts":{"type":"none","o":"bind","device":"/"}}`))
	if err != nil || v.Name != "7_data" || len(left) != 1 || left[0].Field != "volumes.data.driver_opts" {
		t.Errorf("volume %+v, left out %v, %v", v, left, err)
	}
}

func FuzzForService(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `{"ports":["80:80",{"target":1}],"volumes":["a:/b",{"type":"tmpfs","target":"/x","tmpfs":{"size":1}}]}`,
		`{"networks":{"a":{"ipv4_address":"1.2.3.4"}},"healthcheck":{"test":[1]},"ulimits":{"a":{"soft":1}},"command":"a 'b' \\c"}`,
		`{"depends_on":{"a":{"condition":1}},"environment":["A",1],"cpus":"1e400","mem_limit":"99999999999999t"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, compose string) {
		svc, err := service(compose, nil, nil)
		if err != nil {
			return
		}
		if _, err := json.Marshal(svc.Spec); err != nil {
			t.Errorf("cannot be sent: %v", err)
		}
		for _, bind := range svc.Spec.Host.Binds {
			if source, _, _ := strings.Cut(bind, ":"); strings.HasPrefix(source, "/") && !strings.HasPrefix(source, dev.SharedDir) {
				t.Errorf("mounts %s", bind)
			}
		}
		again, err := service(compose, nil, nil)
		if err != nil || again.Spec.Config.Labels[composition.LabelConfig] != svc.Spec.Config.Labels[composition.LabelConfig] {
			t.Errorf("not the same twice: %v", err)
		}
	})
}
