package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/web"
)

// Caller of devices: what carries a request over the control channel to the HTTP server of one device's supervisor.
type deviceCaller interface {
	// CallDevice sends a request; path begins with a slash. The caller closes the answer's body.
	CallDevice(ctx context.Context, dev device.Reachable, method, path string, body []byte) (*http.Response, error)
}

const (
	actionTime    = 50 * time.Second // for all devices of one request together
	actionAtOnce  = 8                // devices called at the same time
	maxActionBody = 1 << 20          // bytes of one device's answer
)

const textNoAnswer = `{"error":"Bad API response from supervisor"}`

// plainAnswer is all that a device may say as text to whoever called it.
var plainAnswer = regexp.MustCompile(`^[A-Za-z0-9\s:'.?!,/-]*$`)

// action is a request to the supervisors of some devices.
type action struct {
	device.Selector
	method string
	path   string
	data   []byte
}

// superviseDevices is POST /supervisor/<path>: it hands a request on to the supervisors of the devices that the body names.
func (s *Server) superviseDevices(w http.ResponseWriter, r *http.Request) error {
	a, err := readAction(r)
	if err != nil {
		return err
	}
	return s.act(w, r, a)
}

// restartFleet is POST /application/:id/restart: all services of all devices of a fleet that can be reached.
func (s *Server) restartFleet(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "Application id must be a number")
	if err != nil {
		return err
	}
	data, err := json.Marshal(map[string]int64{"appId": id})
	if err != nil {
		return err
	}
	return s.act(w, r, action{Selector: device.Selector{Fleet: id}, method: http.MethodPost, path: "/v1/restart", data: data})
}

// readAction reads a body like {"deviceId":1,"appId":2,"data":{…},"method":"GET"}. Ids may come as text.
func readAction(r *http.Request) (a action, err error) {
	var body struct {
		UUID   *string         `json:"uuid"`
		Device json.RawMessage `json:"deviceId"`
		Fleet  json.RawMessage `json:"appId"`
		Data   json.RawMessage `json:"data"`
		Method *string         `json:"method"`
	}
	if err := web.Decode(r, &body); err != nil {
		return a, err
	}
	if body.UUID != nil {
		if a.UUID = api.DeviceUUID(*body.UUID); !a.UUID.Valid() {
			return a, api.Errorf(api.Invalid, "\"uuid\" is not the uuid of a device")
		}
	}
	if a.Device, err = readID(body.Device, "deviceId"); err != nil {
		return a, err
	}
	if a.Fleet, err = readID(body.Fleet, "appId"); err != nil {
		return a, err
	}
	if a.Selector == (device.Selector{}) {
		return a, api.Errorf(api.Invalid, "give at least one of \"uuid\", \"deviceId\" and \"appId\"")
	}
	a.method = http.MethodPost
	if body.Method != nil {
		a.method = strings.ToUpper(*body.Method)
	}
	switch a.method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		return a, api.Errorf(api.Invalid, "\"method\" is GET, HEAD, POST, PUT, PATCH or DELETE")
	}
	if text := strings.TrimSpace(string(body.Data)); text != "" && text != "null" {
		if text[0] != '{' {
			return a, api.Errorf(api.Invalid, "\"data\" is not an object")
		}
		a.data = body.Data
	}
	a.path = "/" + r.PathValue("path")
	return a, nil
}

// readID reads an id that may be missing, a number, or a number in a text.
func readID(raw json.RawMessage, name string) (int64, error) {
	text := strings.Trim(string(raw), `"`)
	if text == "" && len(raw) == 0 || text == "null" {
		return 0, nil
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id <= 0 {
		return 0, api.Errorf(api.Invalid, "%q is not an id", name)
	}
	return id, nil
}

func (s *Server) act(w http.ResponseWriter, r *http.Request, a action) error {
	var devices []device.Reachable
	changes := a.method != http.MethodGet && a.method != http.MethodHead
	by := access.From(r.Context())
	run := s.db.Read
	if changes || by.Staff {
		run = s.db.Write
	}
	err := run(r.Context(), func(tx *db.Tx) (err error) {
		devices, err = s.devices.Reach(r.Context(), tx, by, a.Selector, changes)
		if err == nil && (changes || by.Staff) {
			err = recordAction(r.Context(), tx, by, devices, a)
		}
		return err
	})
	if err != nil {
		return err
	}
	if s.caller == nil {
		return api.Errorf(api.NotFound, "No online device(s) found")
	}
	ctx, cancel := context.WithTimeout(r.Context(), actionTime)
	defer cancel()
	answers := s.callAll(ctx, devices, a)
	if len(devices) == 1 {
		return answers[0].write(w)
	}
	list := make([]map[string]any, len(answers))
	for i, one := range answers {
		list[i] = map[string]any{"statusCode": one.status, "body": one.shown()}
	}
	return web.WriteJSON(w, http.StatusMultiStatus, list)
}

// callAll calls every device, a few at a time.
func (s *Server) callAll(ctx context.Context, devices []device.Reachable, a action) []deviceAnswer {
	answers := make([]deviceAnswer, len(devices))
	slots := make(chan struct{}, actionAtOnce)
	var wait sync.WaitGroup
	for i, dev := range devices {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			answers[i] = call(ctx, s.caller, dev, a)
		})
	}
	wait.Wait()
	return answers
}

// deviceAnswer is what a device said. Only JSON and harmless text pass.
type deviceAnswer struct {
	status int
	kind   string // media type; "" when there is no body
	body   []byte
}

func badAnswer() deviceAnswer {
	return deviceAnswer{status: http.StatusInternalServerError, kind: "application/json", body: []byte(textNoAnswer)}
}

func call(ctx context.Context, to deviceCaller, dev device.Reachable, a action) deviceAnswer {
	res, err := to.CallDevice(ctx, dev, a.method, a.path, a.data)
	if err != nil {
		text := "the device could not be reached"
		if errors.Is(err, context.DeadlineExceeded) {
			text = "the device did not answer in time"
		}
		return deviceAnswer{status: http.StatusBadGateway, kind: "text/plain", body: []byte(text)}
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxActionBody+1))
	if err != nil || len(body) > maxActionBody || res.StatusCode < 200 || res.StatusCode > 599 {
		return badAnswer()
	}
	given := res.Header.Get("Content-Type")
	if given == "" {
		return deviceAnswer{status: res.StatusCode}
	}
	kind, _, err := mime.ParseMediaType(given)
	switch {
	case err != nil:
		return badAnswer()
	case kind == "application/json" && json.Valid(body):
	case strings.HasPrefix(kind, "text/") && plainAnswer.Match(body):
		kind = "text/plain" // whatever it was called: nothing in it is markup
	default:
		return badAnswer()
	}
	return deviceAnswer{status: res.StatusCode, kind: kind, body: body}
}

// shown is the body as part of a JSON answer.
func (d deviceAnswer) shown() any {
	if d.kind == "application/json" {
		return json.RawMessage(d.body)
	}
	return string(d.body)
}

func (d deviceAnswer) write(w http.ResponseWriter) error {
	if d.kind != "" {
		w.Header().Set("Content-Type", d.kind+"; charset=utf-8")
	}
	w.WriteHeader(d.status)
	_, _ = w.Write(d.body) // a client that did not wait is its own business
	return nil
}
