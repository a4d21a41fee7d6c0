package proxy_test

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/roadstead-io/roadstead/internal/agent/proxy"
)

// change applies what a client wrote to what there is.
func change(t *testing.T, before proxy.Setting, text string) (proxy.Setting, error) {
	t.Helper()
	c, remove, err := proxy.ParseChange([]byte(text))
	if remove {
		t.Fatalf("%s removes the proxy", text)
	}
	if err != nil {
		return proxy.Setting{}, err
	}
	after := before.With(c)
	return after, after.Check()
}

func TestWhatCanBeSet(t *testing.T) {
	whole := `{"type":"http-connect","ip":"192.0.2.1","port":3128,"login":"u","password":"p","noProxy":["198.51.100.0/24",".example.com"]}`
	for text, field := range map[string]string{
		whole: "",
		`{"type":"socks5","ip":"proxy.example.com","port":"1080"}`:          "",
		`{"type":"socks5","ip":"2001:db8::1","port":1080,"dns":false}`:      "",
		`{"type":"socks4","ip":"192.0.2.1","port":1}`:                       "network.proxy.type",
		`{"type":"http-relay","ip":"192.0.2.1","port":1}`:                   "network.proxy.type",
		`{"ip":"192.0.2.1","port":1}`:                                       "network.proxy.type",
		`{"type":"socks5","ip":"a b","port":1}`:                             "network.proxy.ip",
		`{"type":"socks5","port":1}`:                                        "network.proxy.ip",
		`{"type":"socks5","ip":"192.0.2.1"}`:                                "network.proxy.port",
		`{"type":"socks5","ip":"192.0.2.1","port":65536}`:                   "network.proxy.port",
		`{"type":"socks5","ip":"192.0.2.1","port":"x"}`:                     "network.proxy.port",
		`{"type":7,"ip":"192.0.2.1","port":1}`:                              "network.proxy.type",
		`{"type":"socks5","ip":"192.0.2.1","port":1,"login":"a\nb"}`:        "network.proxy.login",
		`{"type":"socks5","ip":"192.0.2.1","port":1,"password":"x"}`:        "network.proxy.login",
		`{"type":"socks5","ip":"192.0.2.1","port":1,"noProxy":"x"}`:         "network.proxy.noProxy",
		`{"type":"socks5","ip":"192.0.2.1","port":1,"noProxy":["a b"]}`:     "network.proxy.noProxy",
		`{"type":"socks5","ip":"192.0.2.1","port":1,"dns":"192.0.2.53:53"}`: "network.proxy.dns",
		`{"type":"socks5","ip":"192.0.2.1","port":1,"other":1}`:             "network.proxy.other",
		`[]`: "network.proxy",
	} {
		_, err := change(t, proxy.Setting{}, text)
		if field == "" && err != nil || field != "" && (err == nil || !strings.Contains(err.Error(), field)) {
			t.Errorf("%s: got %v, want an error about %q", text, err, field)
		}
	}
	for _, text := range []string{`{}`, `null`} {
		if _, remove, err := proxy.ParseChange([]byte(text)); err != nil || !remove {
			t.Errorf("%s does not remove the proxy: %v", text, err)
		}
	}
}

// A change leaves alone what it does not name, but takes the password to no other proxy.
func TestAPasswordStaysWithItsProxy(t *testing.T) {
	before := proxy.Setting{Type: "socks5", IP: "192.0.2.1", Port: 1080, Login: "u", Password: "p"}
	for text, password := range map[string]string{
		`{"noProxy":["198.51.100.7"]}`:          "p",
		`{"login":"u"}`:                         "p",
		`{"password":"q"}`:                      "q",
		`{"login":"other"}`:                     "",
		`{"ip":"203.0.113.9"}`:                  "",
		`{"port":1081}`:                         "",
		`{"type":"http-connect"}`:               "",
		`{"port":1081,"login":"u"}`:             "",
		`{"port":1,"login":"u","password":"r"}`: "r",
	} {
		after, err := change(t, before, text)
		if err != nil || after.Password != password || after.IP == "" || after.Port == 0 {
			t.Errorf("after %s: %+v, %v; want the password %q", text, after, err, password)
		}
	}
}

func TestWhatGoesThroughIt(t *testing.T) {
	s := proxy.Setting{Type: "http-connect", IP: "192.0.2.1", Port: 3128, Login: "u", Password: "p", NoProxy: []string{"198.51.100.0/24", "203.0.113.5", ".inside.example", "api.example.org"}}
	for host, direct := range map[string]bool{
		"api.roadstead.test": false, "198.51.100.20": true, "198.51.101.20": false, "203.0.113.5": true, "203.0.113.50": false,
		"a.inside.example": true, "INSIDE.example": true, "notinside.example": false, "api.example.org": true, "api.example.orga": false,
		"127.0.0.1": true, "localhost": true,
	} {
		got, err := s.For(&http.Request{URL: &url.URL{Scheme: "https", Host: host + ":443"}})
		if err != nil || (got == nil) != direct {
			t.Errorf("%s goes by %v, %v", host, got, err)
		}
		if got != nil && got.String() != "http://u:p@192.0.2.1:3128" {
			t.Errorf("the proxy is %s", got)
		}
	}
}

func TestItIsRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.json")
	s, err := proxy.Open(path)
	if err != nil || s.Get() != nil {
		t.Fatalf("at first: %v, %v", s.Get(), err)
	}
	want := proxy.Setting{Type: "socks5", IP: "192.0.2.1", Port: 1080, NoProxy: []string{"198.51.100.7"}}
	if err := s.Set(&want); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info.Mode(), err)
	}
	again, err := proxy.Open(path)
	if err != nil || !reflect.DeepEqual(again.Get(), &want) {
		t.Errorf("after a restart: %+v, %v", again.Get(), err)
	}
	if err := again.Set(nil); err != nil {
		t.Fatal(err)
	}
	if gone, err := proxy.Open(path); err != nil || gone.Get() != nil {
		t.Errorf("after it was removed: %+v, %v", gone.Get(), err)
	}
	if err := os.WriteFile(path, []byte(`{"type":"socks5"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if bad, err := proxy.Open(path); err == nil || bad.Get() != nil {
		t.Errorf("a file without an address: %+v, %v", bad.Get(), err)
	}
}
