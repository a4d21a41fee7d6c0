package actiondoor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/access"
	"github.com/roadstead-io/roadstead/internal/action"
	"github.com/roadstead-io/roadstead/internal/apiserver/route"
	"github.com/roadstead-io/roadstead/internal/audit"
	"github.com/roadstead-io/roadstead/internal/audit/watch"
	"github.com/roadstead-io/roadstead/internal/db"
	"github.com/roadstead-io/roadstead/internal/device"
	"github.com/roadstead-io/roadstead/internal/fleet"
	"github.com/roadstead-io/roadstead/internal/pattern"
	"github.com/roadstead-io/roadstead/internal/web"
)

const (
	actionTime    = 50 * time.Second // for all devices of one request together
	actionAtOnce  = 8                // devices called at the same time
	maxActionBody = 1 << 20          // bytes of one device's answer
)

const textNoAnswer = `{"error":"Bad API response from supervisor"}`

// plainAnswer is all that a device may say as text to whoever called it.
var plainAnswer = pattern.New(`^[A-Za-z0-9\s:'.?!,/-]*$`)

// Supervisor is the routes by which balena's clients act on devices whose control channels are up.
type Supervisor struct {
	DB      *db.DB
	Devices *device.Devices
	Caller  action.Caller // nil: this server has no control channel
}

// Routes lists them.
func (s *Supervisor) Routes() []route.Route {
	return []route.Route{
		{Method: "POST", Path: "/supervisor/{path...}", Handle: s.superviseDevices, Who: route.PeopleAndDevice, Verb: access.Actions},
		{Method: "POST", Path: "/application/{id}/restart", Handle: s.restartFleet, Who: route.People, Verb: access.Actions},
	}
}

// order is a request to the supervisors of some devices.
type order struct {
	device.Selector
	method string
	path   string
	data   []byte
}

// readsOnly are the paths of a supervisor's API that tell something and change nothing. There is one to GET that deletes volumes
// (/v2/cleanup-volumes), and a device may read a path in more ways than one: what is not in this list, letter for letter, changes something.
var readsOnly = pattern.New(`^/(ping|v1/(healthy|device|device/host-config|apps/[0-9]+)|v2/(applications/(state|[0-9]+/state)|state/status|containerId|version|device/(name|tags|vpn)|local/(device-info|target-state|logs)))$`)

// changes says whether an order needs the right to have devices do something.
func (o order) changes() bool {
	return o.method != http.MethodGet && o.method != http.MethodHead || !readsOnly.MatchString(o.path)
}

// superviseDevices is POST /supervisor/<path>: it hands a request on to the supervisors of the devices that the body names.
func (s *Supervisor) superviseDevices(w http.ResponseWriter, r *http.Request) error {
	a, err := readOrder(r)
	if err != nil {
		return err
	}
	return s.act(w, r, a)
}

// restartFleet is POST /application/:id/restart: all services of all devices of a fleet that can be reached.
func (s *Supervisor) restartFleet(w http.ResponseWriter, r *http.Request) error {
	id, err := route.PathID(r, "Application id must be a number")
	if err != nil {
		return err
	}
	data, err := json.Marshal(map[string]int64{"appId": id})
	if err != nil {
		return err
	}
	return s.act(w, r, order{Selector: device.Selector{Fleet: id}, method: http.MethodPost, path: "/v1/restart", data: data})
}

// readOrder reads a body like {"deviceId":1,"appId":2,"data":{…},"method":"GET"}. Ids may come as text.
func readOrder(r *http.Request) (a order, err error) {
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

func (s *Supervisor) act(w http.ResponseWriter, r *http.Request, a order) error {
	var devices []device.Reachable
	changes := a.changes()
	by := access.From(r.Context())
	run := s.DB.Read
	if changes || by.Staff {
		run = s.DB.Write
	}
	err := run(r.Context(), func(tx *db.Tx) (err error) {
		devices, err = s.Devices.Reach(r.Context(), tx, by, a.Selector, changes)
		if err == nil && (changes || by.Staff) {
			err = recordOrder(r.Context(), tx, by, devices, a)
		}
		return err
	})
	if err != nil {
		return err
	}
	if s.Caller == nil {
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
func (s *Supervisor) callAll(ctx context.Context, devices []device.Reachable, a order) []deviceAnswer {
	answers := make([]deviceAnswer, len(devices))
	slots := make(chan struct{}, actionAtOnce)
	var wait sync.WaitGroup
	for i, dev := range devices {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			answers[i] = call(ctx, s.Caller, dev, a)
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

func call(ctx context.Context, to action.Caller, dev device.Reachable, a order) deviceAnswer {
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

// namedDevices is how many of the devices of one action have an entry of their own; of more there is one for all.
const namedDevices = 20

// recordOrder writes down that somebody has something done on devices, before they are called: what cannot be recorded is not done.
func recordOrder(ctx context.Context, tx *db.Tx, by access.Caller, devices []device.Reachable, a order) error {
	if by.Kind == access.Device {
		return nil // acts on itself
	}
	ids := make([]int64, len(devices))
	for i, d := range devices {
		ids[i] = d.Fleet
	}
	owners, err := fleet.Organizations(ctx, tx, ids)
	if err != nil {
		return err
	}
	detail := map[string]any{"method": a.method, "path": a.path}
	var entries []audit.By
	if len(devices) <= namedDevices {
		for _, d := range devices {
			e := audit.Entry{Act: "device.act", Kind: "device", ID: d.ID, Name: string(d.UUID), Fleet: d.Fleet, Organization: owners[d.Fleet], Detail: detail}
			entries = append(entries, audit.By{Caller: by, Entry: e})
		}
	} else {
		many := map[int64]int{}
		for _, d := range devices {
			many[d.Fleet]++
		}
		for f, n := range many {
			e := audit.Entry{Act: "device.act", Kind: "application", ID: f, Fleet: f, Organization: owners[f],
				Detail: map[string]any{"method": a.method, "path": a.path, "devices": n}}
			entries = append(entries, audit.By{Caller: by, Entry: e})
		}
	}
	for i := range entries {
		if err := watch.Support(ctx, tx, by, &entries[i].Entry); err != nil {
			return err
		}
	}
	return audit.RecordAll(ctx, tx, entries)
}
