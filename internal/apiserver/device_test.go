package apiserver_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/pki"
)

func hexUUID(n int) api.DeviceUUID { return api.DeviceUUID(fmt.Sprintf("%032x", n)) }

func (s *server) provisioning(token string, fleet int64, maxUses int) (key string) {
	s.Helper()
	s.do(token, "POST", fmt.Sprintf("/api-key/application/%d/provisioning", fleet), api.NewKey{MaxUses: maxUses}).want(http.StatusOK).into(&key)
	return key
}

func TestRegisterAsSupervisorAndScriptDo(t *testing.T) {
	s := newServer(t)
	fleet := s.fleet(s.admin.APIKey, "harbour")
	key := s.provisioning(s.admin.APIKey, fleet, 0)
	body := fmt.Sprintf(`{"application":%d,"uuid":%q,"device_type":"generic-amd64","api_key":"0123456789abcdef0123456789abcdef","user":null,"more":1}`, fleet, hexUUID(1))
	var made api.Registered
	s.do(key, "POST", "/device/register", body).want(http.StatusCreated).into(&made)
	form := fmt.Sprintf("application=%d&uuid=%s&device_type=generic-amd64&api_key=fedcba9876543210fedcba9876543210", fleet, hexUUID(2))
	s.do("", "POST", "/device/register?apikey="+key, form, "Content-Type: application/x-www-form-urlencoded").want(http.StatusCreated)
	s.do(key, "POST", "/device/register", body).want(http.StatusCreated) // the first answer got lost
	taken := s.do(key, "POST", "/device/register", strings.Replace(body, "0123456789abcdef0123456789abcdef", strings.Repeat("z", 32), 1)).want(http.StatusConflict)
	if taken.body != `"uuid" must be unique.` || !strings.HasPrefix(taken.header.Get("Content-Type"), "text/plain") {
		t.Errorf("a taken uuid: %s %q", taken.header.Get("Content-Type"), taken.body)
	}
	// A supervisor that is told 409 looks for itself with its own key, and is content when it finds itself.
	rows := s.do(made.APIKey, "GET", fmt.Sprintf("/v7/device?$select=id&$filter=uuid%%20eq%%20%%27%s%%27", hexUUID(1)), nil).rows()
	if len(rows) != 1 || rows[0]["id"] != float64(made.ID) {
		t.Errorf("the key exchange finds %v", rows)
	}
	// A user's key in config.json lets a device get a new key of its own.
	exchange := fmt.Sprintf("/api-key/device/%d/device-key", made.ID)
	s.do(s.admin.APIKey, "POST", exchange, map[string]string{"apiKey": strings.Repeat("n", 32)}).want(http.StatusOK)
	s.do(strings.Repeat("n", 32), "GET", "/device/v3/"+string(hexUUID(1))+"/state", nil).want(http.StatusOK)
	s.do(key, "POST", exchange, map[string]string{"apiKey": strings.Repeat("m", 32)}).want(http.StatusUnauthorized)
	for _, bad := range []string{`{}`, `[]`, `{"application":"x","uuid":"1","device_type":"generic-amd64"}`, `{"application":1.5}`, `{"application":1,"uuid":7}`, `x`} {
		s.do(key, "POST", "/device/register", bad).want(http.StatusBadRequest)
	}
	s.do("", "POST", "/device/register", body).want(http.StatusUnauthorized)
	s.do(made.APIKey, "POST", "/device/register", body).want(http.StatusForbidden)
	for _, path := range []string{"/v7/device", "/v7/application", "/actor/v1/whoami", "/device/v2/" + string(hexUUID(1)) + "/logs",
		"/device/v3/" + string(hexUUID(1)) + "/state", "/auth/v1/token"} {
		s.do(key, "GET", path, nil).want(http.StatusUnauthorized)
	}
}

func TestStateOverTheWire(t *testing.T) {
	s := newServer(t)
	fleet := s.fleet(s.admin.APIKey, "harbour")
	dev, sister := s.device(s.admin.APIKey, fleet, hexUUID(1)), s.device(s.admin.APIKey, fleet, hexUUID(2))
	path := "/device/v3/" + string(dev.UUID) + "/state"
	first := s.do(dev.APIKey, "GET", path, nil).want(http.StatusOK)
	tag := first.header.Get("ETag")
	if !strings.HasPrefix(tag, `W/"`) {
		t.Errorf("ETag: %q", tag)
	}
	if again := s.do(dev.APIKey, "GET", path, nil, "If-None-Match: "+tag).want(http.StatusNotModified); again.body != "" || again.header.Get("ETag") != tag {
		t.Errorf("304 with %q, ETag %q", again.body, again.header.Get("ETag"))
	}
	if again := s.do(dev.APIKey, "GET", path, nil).want(http.StatusOK); again.body != first.body {
		t.Errorf("two answers differ:\n%s\n%s", first.body, again.body)
	}
	s.do(sister.APIKey, "GET", path, nil).want(http.StatusUnauthorized)
	s.do("", "GET", path, nil).want(http.StatusUnauthorized)
	s.do(s.user("bob"), "GET", path, nil).want(http.StatusNotFound)
	s.do(s.admin.APIKey, "GET", path, nil).want(http.StatusOK)

	report := map[string]any{string(dev.UUID): map[string]any{"status": "Idle", "os_version": "Debian 12"}}
	s.do(dev.APIKey, "PATCH", "/device/v3/state", report).want(http.StatusOK)
	s.do(sister.APIKey, "PATCH", "/device/v3/state", report).want(http.StatusUnauthorized)
	s.do(s.admin.APIKey, "PATCH", "/device/v3/state", report).want(http.StatusForbidden)
	s.do(dev.APIKey, "PATCH", "/device/v3/state", "{}").want(http.StatusBadRequest)
	row := s.do(s.admin.APIKey, "GET", fmt.Sprintf("/v7/device(%d)?$select=status,public_address,is_online", dev.ID), nil).rows()[0]
	if row["status"] != "Idle" || row["public_address"] != "192.0.2.1" || row["is_online"] != true {
		t.Errorf("after the report: %v", row)
	}

	// What supervisors write and nobody keeps.
	variable := map[string]any{"device": dev.ID, "name": "RESIN_HOST_FIREWALL_MODE", "value": ""}
	s.do(dev.APIKey, "POST", "/v7/device_config_variable", variable).want(http.StatusCreated)
	s.do(sister.APIKey, "POST", "/v7/device_config_variable", variable).want(http.StatusUnauthorized)
	s.do("", "POST", "/v7/device_config_variable", variable).want(http.StatusUnauthorized)
	s.do(dev.APIKey, "PATCH", "/device/v3/tags", map[string]any{string(dev.UUID): map[string]string{"a": "b"}}).want(http.StatusOK)
	s.do(sister.APIKey, "PATCH", "/device/v3/tags", map[string]any{string(dev.UUID): map[string]string{"a": "b"}}).want(http.StatusUnauthorized)
	for _, list := range []string{"device_config_variable", "device_tag"} {
		if rows := s.do(s.admin.APIKey, "GET", "/v7/"+list, nil).rows(); len(rows) != 0 {
			t.Errorf("a device wrote %s: %v", list, rows)
		}
	}
	// As the agent asks for a device's own tags.
	s.do(s.admin.APIKey, "POST", "/v7/device_tag", map[string]any{"device": dev.ID, "tag_key": "place", "value": "roof"}).want(http.StatusCreated)
	own := "/v7/device_tag?$select=id,tag_key,value&$orderby=tag_key&$filter=" + url.PathEscape("device/uuid eq '"+string(dev.UUID)+"'")
	if rows := s.do(dev.APIKey, "GET", own, nil).rows(); len(rows) != 1 || rows[0]["tag_key"] != "place" || rows[0]["value"] != "roof" || rows[0]["id"] == nil {
		t.Errorf("the device reads its tags: %v", rows)
	}
	if rows := s.do(sister.APIKey, "GET", own, nil).rows(); len(rows) != 0 {
		t.Errorf("another device reads them: %v", rows)
	}
	s.do(s.admin.APIKey, "POST", "/v7/device_config_variable", variable).want(http.StatusCreated)
	s.do(dev.APIKey, "PATCH", "/v6/device(uuid='"+string(dev.UUID)+"')", "provisioning_progress=50&provisioning_state=Flashing&status=configuring",
		"Content-Type: application/x-www-form-urlencoded").want(http.StatusOK)
}

// stream is a POST whose body is still being written.
type stream struct {
	body   *io.PipeWriter
	answer chan *http.Response
}

func (s *server) edge() *pki.Peer {
	s.Helper()
	id, err := pki.LoadIdentity(filepath.Join(s.dir, api.RoleEdge))
	s.must(err)
	peer := id.Client(api.RoleAPI, s.addr)
	s.Cleanup(peer.HTTP.CloseIdleConnections)
	return peer
}

func (s *server) open(token, path string, headers ...string) *stream {
	s.Helper()
	r, w := io.Pipe()
	peer := s.edge()
	req, err := http.NewRequestWithContext(s.Context(), "POST", peer.URL+path, r)
	s.must(err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/x-ndjson")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	st := &stream{body: w, answer: make(chan *http.Response, 1)}
	go func() {
		if resp, err := peer.HTTP.Do(req); err == nil {
			_ = resp.Body.Close()
			st.answer <- resp
		}
	}()
	return st
}

func (st *stream) wait(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case resp := <-st.answer:
		return resp.StatusCode
	case <-time.After(within):
		t.Fatalf("no answer within %s", within)
		return 0
	}
}

func TestLogStream(t *testing.T) {
	s := newServer(t)
	fleet := s.fleet(s.admin.APIKey, "harbour")
	dev, sister := s.device(s.admin.APIKey, fleet, hexUUID(1)), s.device(s.admin.APIKey, fleet, hexUUID(2))
	path, logs := "/device/v2/"+string(dev.UUID)+"/log-stream", "/device/v2/"+string(dev.UUID)+"/logs"

	peer := s.edge()
	req, err := http.NewRequestWithContext(t.Context(), "GET", peer.URL+logs+"?stream=1&count=100", nil)
	s.must(err)
	req.Header.Set("Authorization", "Bearer "+s.admin.APIKey)
	follow, err := peer.HTTP.Do(req)
	s.must(err)
	defer func() { _ = follow.Body.Close() }()
	if follow.StatusCode != 200 || follow.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("follow: %d %s", follow.StatusCode, follow.Header.Get("Content-Type"))
	}
	live := bufio.NewScanner(follow.Body)
	line := func() (l api.LogLine) {
		t.Helper()
		if !live.Scan() {
			t.Fatalf("the stream ended: %v", live.Err())
		}
		s.must(json.Unmarshal(live.Bytes(), &l))
		return l
	}

	// Compressed, flushed line by line, and torn off in the middle, as devices do.
	st := s.open(dev.APIKey, path, "Content-Encoding: gzip")
	zip := gzip.NewWriter(st.body)
	for n := range 3 {
		fmt.Fprintf(zip, `{"message":"line %d","timestamp":1700000000000,"serviceId":3}`+"\n", n)
		s.must(zip.Flush())
		if l := line(); l.Message != fmt.Sprintf("line %d", n) || *l.ServiceID != 3 || l.CreatedAt == 0 {
			t.Errorf("live: %+v", l)
		}
	}
	select {
	case resp := <-st.answer:
		t.Fatalf("answered %d while the device still sends", resp.StatusCode)
	default:
	}
	_ = st.body.Close() // no end of the gzip stream
	if got := st.wait(t, 10*time.Second); got != http.StatusCreated {
		t.Errorf("at the end: %d", got)
	}
	st = s.open(dev.APIKey, path, "Content-Encoding: gzip") // opened, and never a byte
	_ = st.body.Close()
	if got := st.wait(t, 10*time.Second); got != http.StatusCreated {
		t.Errorf("an empty stream: %d", got)
	}
	s.do(dev.APIKey, "POST", path, `{"message":"plain"}`+"\n", "Content-Type: application/x-ndjson").want(http.StatusCreated)
	if l := line(); l.Message != "plain" {
		t.Errorf("live: %+v", l)
	}
	s.do(dev.APIKey, "POST", logs, `[{"message":"one","timestamp":1,"isSystem":true},{"message":"two","timestamp":2}]`).want(http.StatusCreated)
	var all []api.LogLine
	s.do(s.admin.APIKey, "GET", logs, nil).want(http.StatusOK).into(&all)
	if len(all) != 6 || all[5].Message != "two" {
		t.Errorf("the log: %+v", all)
	}
	s.do(s.admin.APIKey, "GET", logs+"?count=2&start=0", nil).want(http.StatusOK).into(&all)
	if len(all) != 2 {
		t.Errorf("count=2: %d lines", len(all))
	}

	eleven, err := json.Marshal(make([]api.LogLine, 11))
	s.must(err)
	s.do(dev.APIKey, "POST", logs, string(eleven)).want(http.StatusBadRequest)
	s.do(dev.APIKey, "POST", path, "x").want(http.StatusUnsupportedMediaType)
	s.do(dev.APIKey, "POST", path, "x", "Content-Type: application/x-ndjson", "Content-Encoding: br").want(http.StatusUnsupportedMediaType)
	s.do(dev.APIKey, "POST", path, "not gzip at all", "Content-Type: application/x-ndjson", "Content-Encoding: gzip").want(http.StatusCreated)
	s.do(s.admin.APIKey, "POST", path, "", "Content-Type: application/x-ndjson").want(http.StatusForbidden)
	s.do(sister.APIKey, "POST", path, `{"message":"x"}`, "Content-Type: application/x-ndjson").want(http.StatusNotFound)
	s.do(sister.APIKey, "GET", logs, nil).want(http.StatusNotFound)
	s.do(s.user("bob"), "GET", logs, nil).want(http.StatusNotFound)
	s.do(s.user("carol"), "GET", logs+"?stream=1", nil).want(http.StatusNotFound)
	for _, bad := range []string{"count=x", "count=-1", "start=yesterday", "%zz"} {
		s.do(s.admin.APIKey, "GET", logs+"?"+bad, nil).want(http.StatusBadRequest)
	}
}

// Whoever follows a log in which nothing happens gets an empty line now and then: clients give up a body that stays silent.
func TestAQuietLogStreamLives(t *testing.T) {
	s := newServer(t)
	s.stop()
	s.logs.KeepAlive = time.Second
	s.start()
	dev := s.device(s.admin.APIKey, s.fleet(s.admin.APIKey, "harbour"), hexUUID(1))
	peer := s.edge()
	req, err := http.NewRequestWithContext(t.Context(), "GET", peer.URL+"/device/v2/"+string(dev.UUID)+"/logs?stream=1", nil)
	s.must(err)
	req.Header.Set("Authorization", "Bearer "+s.admin.APIKey)
	follow, err := peer.HTTP.Do(req)
	s.must(err)
	defer func() { _ = follow.Body.Close() }()
	live := bufio.NewScanner(follow.Body)
	for range 2 {
		if !live.Scan() || live.Text() != "" {
			t.Fatalf("got %q, %v; want an empty line", live.Text(), live.Err())
		}
	}
	s.do(dev.APIKey, "POST", "/device/v2/"+string(dev.UUID)+"/logs", `[{"message":"at last","timestamp":1}]`).want(http.StatusCreated)
	for live.Scan() && live.Text() == "" { // another may be on its way
	}
	if !strings.Contains(live.Text(), `"message":"at last"`) {
		t.Errorf("got %q, %v", live.Text(), live.Err())
	}
}

// With the device, everything that its key opened is over: at once for new requests, within two seconds for open ones.
func TestDeletedDeviceIsRefusedEverywhere(t *testing.T) {
	s := newServer(t)
	fleet := s.fleet(s.admin.APIKey, "harbour")
	dev := s.device(s.admin.APIKey, fleet, hexUUID(1))
	stream := "/device/v2/" + string(dev.UUID) + "/log-stream"
	open := s.open(dev.APIKey, stream)
	fmt.Fprintln(open.body, `{"message":"still here"}`)
	s.do(s.admin.APIKey, "DELETE", fmt.Sprintf("/v7/device(%d)", dev.ID), nil).want(http.StatusOK)
	begin := time.Now()
	if got := open.wait(t, 2*time.Second); got != http.StatusUnauthorized {
		t.Errorf("the open log stream ends with %d", got)
	}
	t.Logf("the open log stream ended after %s", time.Since(begin).Round(time.Millisecond))
	basic := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("d_"+string(dev.UUID)+":"+dev.APIKey))
	for _, a := range []*answer{
		s.do(dev.APIKey, "GET", "/device/v3/"+string(dev.UUID)+"/state", nil),
		s.do(dev.APIKey, "GET", "/device/v3/"+string(dev.UUID)+"/state", nil, `If-None-Match: W/"x"`),
		s.do(dev.APIKey, "PATCH", "/device/v3/state", map[string]any{string(dev.UUID): map[string]any{"status": "x"}}),
		s.do(dev.APIKey, "POST", stream, "", "Content-Type: application/x-ndjson"),
		s.do(dev.APIKey, "POST", "/device/v2/"+string(dev.UUID)+"/logs", "[]"),
		s.do(dev.APIKey, "GET", "/device/v2/"+string(dev.UUID)+"/logs", nil),
		s.do(dev.APIKey, "GET", "/v7/device", nil), s.do(dev.APIKey, "GET", "/v7/application", nil),
		s.do(dev.APIKey, "GET", "/actor/v1/whoami", nil),
		s.do(dev.APIKey, "GET", "/auth/v1/token?scope=repository:v2/00000000000000000000000000000000:pull", nil),
		s.do("", "GET", "/auth/v1/token", nil, basic),
		s.do(dev.APIKey, "POST", "/device/register", api.Register{Application: fleet, UUID: dev.UUID, DeviceType: "generic-amd64", APIKey: dev.APIKey}),
	} {
		a.want(http.StatusUnauthorized)
	}
}

func TestLogKeepsNoSecretsAndSurvivesARestart(t *testing.T) {
	s := newServer(t)
	dev := s.device(s.admin.APIKey, s.fleet(s.admin.APIKey, "harbour"), hexUUID(1))
	var body bytes.Buffer
	for n := range 100 {
		fmt.Fprintf(&body, `{"message":"line %d"}`+"\n", n)
	}
	s.do(dev.APIKey, "POST", "/device/v2/"+string(dev.UUID)+"/log-stream?apikey="+dev.APIKey, body.String(), "Content-Type: application/x-ndjson").want(http.StatusCreated)
	s.stop()
	if strings.Contains(s.log.String(), dev.APIKey) {
		t.Error("the key stands in the server's log")
	}
	s.start()
	var lines []api.LogLine
	s.do(s.admin.APIKey, "GET", "/device/v2/"+string(dev.UUID)+"/logs?count=all", nil).want(http.StatusOK).into(&lines)
	if len(lines) != 100 || lines[99].Message != "line 99" {
		t.Errorf("after a restart: %d lines", len(lines))
	}
}
