package agent_test

import (
	"compress/gzip"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/agent/trust/trusttest"
	"github.com/roadstead-io/roadstead/internal/roletest"
)

// world is a server as a device sees it: registration, target states, reports, logs and a registry, over real TLS with a root
// certificate of its own. It keeps the rules that a device depends on.
type world struct {
	t    *testing.T
	URL  string // https://127.0.0.1:port
	Port string
	Root []byte // PEM

	mu       sync.Mutex // covers what follows
	provKeys map[string]bool
	devices  map[api.DeviceUUID]*known
	answer   func(r *http.Request) int // a status other than 0 is answered instead; -1 does the work and drops the connection
	tag      string                    // of every target state; empty: each has one of its own
	states   int                       // state requests
	full     int                       // those that were answered with 200
	logs     []api.LogLine
	fleets   map[string]*trusttest.Fleet  // whose metadata are served, by uuid
	checked  []api.TrustReport            // what devices said of their checks
	queued   []api.QueuedAction           // what waits for the only device
	results  map[int64]api.ActionResult   // what became of it
	instead  func(rw http.ResponseWriter) // answers in place of the metadata; nil: they are served
	tags     map[string]string            // of the only device

	lie func(rw http.ResponseWriter, r *http.Request, honest http.Handler) // answers in place of the registry; nil: it is honest
}

type known struct {
	id     int64
	key    string
	target string // the JSON of the device's part
	report map[string]json.RawMessage
	raw    []string // report bodies
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, provKeys: map[string]bool{}, devices: map[api.DeviceUUID]*known{}}
	cert, root := roletest.Certificate(t, "127.0.0.1", "api.device.test", "registry2.device.test")
	w.Root = root
	mux := http.NewServeMux()
	mux.HandleFunc("POST /device/register", w.register)
	mux.HandleFunc("GET /v7/device", w.find)
	mux.HandleFunc("GET /ping", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "OK") })
	mux.HandleFunc("GET /v7/device_tag", w.listTags)
	mux.HandleFunc("PATCH /device/v3/tags", w.setTags)
	mux.HandleFunc("GET /device/v3/{uuid}/state", w.state)
	mux.HandleFunc("PATCH /device/v3/state", w.report)
	mux.HandleFunc("POST /device/v2/{uuid}/log-stream", w.logStream)
	mux.HandleFunc("GET /auth/v1/token", w.token)
	mux.HandleFunc("POST /trust/v1/device/{uuid}/bundle", w.bundle)
	mux.HandleFunc("POST /device/v3/actions", w.exchange)
	mux.HandleFunc("POST /trust/v1/device/{uuid}/report", w.trustReport)
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	mux.Handle("/v2/", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer pull" && r.Method != http.MethodPost && r.Method != http.MethodPut && r.Method != http.MethodPatch {
			rw.Header().Set("WWW-Authenticate", `Bearer realm="https://api.device.test:`+w.Port+`/auth/v1/token",service="registry2.device.test:`+w.Port+`"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.mu.Lock()
		lie := w.lie
		w.mu.Unlock()
		if lie != nil && r.Method == http.MethodGet {
			lie(rw, r, images)
			return
		}
		images.ServeHTTP(rw, r)
	}))
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		answer := w.answer
		w.mu.Unlock()
		status := 0
		if answer != nil {
			status = answer(r)
		}
		switch {
		case status > 0:
			rw.WriteHeader(status)
		case status < 0:
			mux.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		default:
			mux.ServeHTTP(rw, r)
		}
	}))
	srv.Listener.Close()
	srv.Listener = ln
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	_, w.Port, _ = net.SplitHostPort(ln.Addr().String())
	w.URL = "https://127.0.0.1:" + w.Port
	return w
}

// config writes a config.json with a fresh provisioning key and answers its path and the key.
func (w *world) config(dir, endpoint string, more map[string]any) (path, key string) {
	w.t.Helper()
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	key = fmt.Sprintf("rsp_%x", b)
	w.mu.Lock()
	w.provKeys[key] = true
	w.mu.Unlock()
	conf := map[string]any{
		"apiEndpoint": endpoint, "apiKey": key, "applicationId": 7, "deviceType": "generic-amd64",
		"appUpdatePollInterval": 1000, "balenaRootCA": base64.StdEncoding.EncodeToString(w.Root), "someoneElse": map[string]any{"keep": 1},
	}
	for k, v := range more {
		conf[k] = v
		if v == nil {
			delete(conf, k)
		}
	}
	text, err := json.Marshal(conf)
	if err != nil {
		w.t.Fatal(err)
	}
	path = filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path, key
}

func bearer(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

func (w *world) register(rw http.ResponseWriter, r *http.Request) {
	var req api.Register
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil || !req.UUID.Valid() || req.APIKey == "" {
		http.Error(rw, fmt.Sprint("bad registration: ", err), http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.devices[req.UUID] != nil {
		http.Error(rw, `"uuid" must be unique.`, http.StatusConflict)
		return
	}
	if !w.provKeys[bearer(r)] {
		http.Error(rw, "", http.StatusUnauthorized)
		return
	}
	k := &known{id: int64(len(w.devices) + 100), key: req.APIKey, report: map[string]json.RawMessage{}, target: `{"name":"a-name","config":{},"apps":{}}`}
	w.devices[req.UUID] = k
	rw.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(rw).Encode(api.Registered{ID: k.id, UUID: req.UUID, APIKey: req.APIKey})
}

func (w *world) find(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for uuid, k := range w.devices {
		if k.key == bearer(r) {
			if strings.Contains(r.URL.Query().Get("$filter"), string(uuid)) {
				fmt.Fprintf(rw, `{"d":[{"id":%d}]}`, k.id)
			} else {
				fmt.Fprint(rw, `{"d":[]}`)
			}
			return
		}
	}
	rw.WriteHeader(http.StatusUnauthorized)
}

// allowed finds the device that a request is about, if its key fits; the caller holds the lock.
func (w *world) allowed(rw http.ResponseWriter, r *http.Request, uuid api.DeviceUUID) *known {
	k := w.devices[uuid]
	if k == nil || k.key != bearer(r) {
		rw.WriteHeader(http.StatusUnauthorized)
		return nil
	}
	return k
}

func (w *world) state(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	uuid := api.DeviceUUID(r.PathValue("uuid"))
	k := w.allowed(rw, r, uuid)
	if k == nil {
		return
	}
	w.states++
	etag := fmt.Sprintf(`W/"%x"`, len(k.target)*1000003+int(crc(k.target)))
	if w.tag != "" {
		etag = w.tag
	}
	rw.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		rw.WriteHeader(http.StatusNotModified)
		return
	}
	w.full++
	fmt.Fprintf(rw, `{%q:%s}`, uuid, k.target)
}

func crc(s string) (sum uint32) {
	for _, c := range []byte(s) {
		sum = sum*31 + uint32(c)
	}
	return sum
}

func (w *world) report(rw http.ResponseWriter, r *http.Request) {
	var all map[api.DeviceUUID]map[string]json.RawMessage
	body := json.NewDecoder(r.Body)
	if err := body.Decode(&all); err != nil || len(all) != 1 {
		http.Error(rw, "bad report", http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for uuid, fields := range all {
		k := w.allowed(rw, r, uuid)
		if k == nil {
			return
		}
		text, _ := json.Marshal(fields)
		k.raw = append(k.raw, string(text))
		for name, val := range fields {
			k.report[name] = val
		}
	}
}

func (w *world) listTags(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for uuid := range w.devices {
		if !strings.Contains(r.URL.Query().Get("$filter"), string(uuid)) || w.allowed(rw, r, uuid) == nil {
			return
		}
	}
	rows := []api.Tag{}
	for i, key := range slices.Sorted(maps.Keys(w.tags)) {
		rows = append(rows, api.Tag{ID: int64(i + 1), Key: key, Value: w.tags[key]})
	}
	_ = json.NewEncoder(rw).Encode(map[string]any{"d": rows})
}

func (w *world) setTags(rw http.ResponseWriter, r *http.Request) {
	var all map[api.DeviceUUID]map[string]string
	if err := json.NewDecoder(r.Body).Decode(&all); err != nil {
		rw.WriteHeader(http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for uuid, tags := range all {
		if w.allowed(rw, r, uuid) == nil {
			return
		}
		now := maps.Clone(w.tags)
		if now == nil {
			now = map[string]string{}
		}
		for key, val := range tags {
			if strings.HasPrefix(key, "io.balena.") {
				http.Error(rw, "Tag keys beginning with io.balena. are reserved.", http.StatusBadRequest)
				return
			}
			now[key] = val
		}
		w.tags = now
	}
}

func (w *world) logStream(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	ok := w.allowed(rw, r, api.DeviceUUID(r.PathValue("uuid"))) != nil
	w.mu.Unlock()
	if !ok {
		return
	}
	if r.Header.Get("Content-Type") != "application/x-ndjson" {
		rw.WriteHeader(http.StatusUnsupportedMediaType)
		return
	}
	zip, err := gzip.NewReader(r.Body)
	if err != nil {
		rw.WriteHeader(http.StatusBadRequest)
		return
	}
	lines := json.NewDecoder(zip)
	for {
		var line api.LogLine
		if err := lines.Decode(&line); err != nil {
			break
		}
		w.mu.Lock()
		w.logs = append(w.logs, line)
		w.mu.Unlock()
	}
	rw.WriteHeader(http.StatusCreated)
}

func (w *world) token(rw http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.devices[api.DeviceUUID(strings.TrimPrefix(user, "d_"))]
	if k == nil || k.key != password {
		rw.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprint(rw, `{"token":"pull"}`)
}

// setTarget gives the only device a target state.
func (w *world) setTarget(target api.DeviceTarget) {
	w.t.Helper()
	text, err := json.Marshal(target)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.devices {
		k.target = string(text)
	}
}

func (w *world) setAnswer(f func(r *http.Request) int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

// reported reads the report of the only device so far.
func (w *world) reported() api.DeviceReport {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var out api.DeviceReport
	for _, k := range w.devices {
		text, err := json.Marshal(k.report)
		if err == nil {
			err = json.Unmarshal(text, &out)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return out
}

// count is how many devices there are.
func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.devices)
}

func (w *world) knows(uuid api.DeviceUUID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.devices[uuid] != nil
}

// saidOnce says whether a report has ever had that text.
func (w *world) saidOnce(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.devices {
		for _, raw := range k.raw {
			if strings.Contains(raw, text) {
				return true
			}
		}
	}
	return false
}

// logged says whether a line with that text has arrived.
func (w *world) logged(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.logs {
		if strings.Contains(l.Message, text) {
			return true
		}
	}
	return false
}

// serviceStatus is what the device says about one service of a release.
func (w *world) serviceStatus(app, commit, service string) string {
	if a := w.reported().Apps[app]; a != nil {
		if r := a.Releases[commit]; r != nil && r.Services[service] != nil {
			return r.Services[service].Status
		}
	}
	return ""
}
