// Package devices is the dashboard's pages about devices: which there are, how one of them is, what it is to do, how it is reached, and a
// terminal in it. Whatever they show and do comes of documented calls to the API, as the person who visits.
package devices

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
)

// Pages are the templates of this package, for the frame that the dashboard puts around them.
//
//go:embed pages/*.html
var Pages embed.FS

// Visit is one request of somebody who is signed in.
type Visit struct {
	W http.ResponseWriter
	R *http.Request
	// Call asks the api role something as whoever visits.
	Call func(method, path string, body, into any) error
	// Show writes a page of [Pages].
	Show func(status int, page string, p Page) error
	// Tunnel opens a connection to a port of a device as whoever visits.
	Tunnel func(ctx context.Context, uuid api.DeviceUUID, port int) (net.Conn, error)
	// User is who visits.
	User int64
}

// Page is what is shown.
type Page struct {
	Title, Error, Notice string
	Data                 any
}

// Handler is one page, or what one form does. Its error is shown by the dashboard.
type Handler func(*Visit) error

// Config is what the pages need to know of the role.
type Config struct {
	Origin    string // of the dashboard's own pages: https://dashboard.DOMAIN, with the port
	Tunnel    bool   // there are tunnels to devices
	Terminals Limits
}

// Limits bounds terminals; 0 is the house's number.
type Limits struct {
	// Most is how many may be open.
	Most int `json:"most,omitempty"`
	// PerUser is how many of one person.
	PerUser int `json:"per_user,omitempty"`
	// IdleSeconds is after how long one ends in which nothing is typed or shown.
	IdleSeconds int `json:"idle_seconds,omitempty"`
	// PingSeconds is how often browser and device are asked whether they are there.
	PingSeconds int `json:"ping_seconds,omitempty"`
}

const (
	usualMost    = 200
	usualPerUser = 10
	usualIdle    = 30 * 60 // as of every SSH session of a device
	usualPing    = 15
)

// Validate names the limit that is wrong.
func (l Limits) Validate() error {
	for name, n := range map[string]int{"most": l.Most, "per_user": l.PerUser, "idle_seconds": l.IdleSeconds, "ping_seconds": l.PingSeconds} {
		if n < 0 {
			return fmt.Errorf("terminals.%s: is less than 0", name)
		}
	}
	return nil
}

// Part is the pages.
type Part struct {
	cfg       Config
	terminals *terminals
}

// New makes them.
func New(cfg Config) *Part {
	l := &cfg.Terminals
	l.Most, l.PerUser, l.IdleSeconds = cmp.Or(l.Most, usualMost), cmp.Or(l.PerUser, usualPerUser), cmp.Or(l.IdleSeconds, usualIdle)
	l.PingSeconds = cmp.Or(l.PingSeconds, usualPing)
	return &Part{cfg: cfg, terminals: newTerminals(l.Most, l.PerUser)}
}

// Close ends the terminals that are open, and waits until they are.
func (p *Part) Close() { p.terminals.end() }

// Routes lists them. Those that change something are reached by forms of the dashboard alone, which sees to that.
func (p *Part) Routes() map[string]Handler {
	return map[string]Handler{
		"GET /devices":                list,
		"GET /devices/{uuid}":         func(v *Visit) error { return v.to("summary") },
		"GET /devices/{uuid}/summary": summary,

		"GET /devices/{uuid}/terminal":        p.terminal,
		"GET /devices/{uuid}/terminal/socket": p.socket,

		"POST /devices/{uuid}/actions":             act,
		"GET /devices/{uuid}/actions/{id}":         action,
		"POST /devices/{uuid}/actions/{id}/cancel": takeBack,

		"POST /devices/{uuid}/channel":           switchChannel,
		"POST /devices/{uuid}/url":               switchURL,
		"POST /devices/{uuid}/sessions/{id}/end": endSession,
	}
}

// Funcs are what the templates use besides those of the frame.
func Funcs() template.FuncMap {
	return template.FuncMap{
		"ago":    func(at string) string { return ago(at, time.Now()) },
		"at":     at,
		"short":  func(uuid string) string { return uuid[:min(len(uuid), 7)] },
		"amount": amount,
		"words":  strings.Fields,
	}
}

// uuid is that of the device that the page is about, so that nothing else is put into a path or a filter.
func (v *Visit) uuid() (api.DeviceUUID, error) {
	uuid := api.DeviceUUID(v.R.PathValue("uuid"))
	if !uuid.Valid() {
		return "", api.Errorf(api.NotFound, "There is no such device.")
	}
	return uuid, nil
}

// id is the number in the path.
func (v *Visit) id() (string, error) {
	id := v.R.PathValue("id")
	if id == "" || len(id) > 18 || strings.Trim(id, "0123456789") != "" {
		return "", api.Errorf(api.NotFound, "There is no such thing.")
	}
	return id, nil
}

// to sends the browser to a page of the device.
func (v *Visit) to(page string) error {
	uuid, err := v.uuid()
	if err != nil {
		return err
	}
	http.Redirect(v.W, v.R, "/devices/"+string(uuid)+"/"+page, http.StatusSeeOther)
	return nil
}

func (v *Visit) form(name string) string { return strings.TrimSpace(v.R.PostForm.Get(name)) }

// Rows reads rows of the resource model.
func Rows[T any](v *Visit, resource string, q client.Query) ([]T, error) {
	var answer struct {
		D []T `json:"d"`
	}
	err := v.Call(http.MethodGet, "/v7/"+resource+q.Encode(), nil, &answer)
	return answer.D, err
}

// pageSize is how many devices a page lists.
const (
	pageSize  = 50
	maxSkip   = 1_000_000
	maxSearch = 100
)

const releaseFields = "($select=id,commit,raw_version)"

// row is a device in the list.
type row struct {
	client.Device
	Connected bool `json:"is_connected_to_vpn"`
}

// listData is what the list is made from.
type listData struct {
	Search                  string
	Devices                 []row
	First, Last, Total      int
	Before, After           string // addresses of the pages around this one
	HasBefore, HasAfter, No bool   // No: there is no device at all
}

func list(v *Visit) error {
	q := v.R.URL.Query()
	d := listData{Search: strings.TrimSpace(q.Get("q"))}
	if len(d.Search) > maxSearch {
		return api.Errorf(api.Invalid, "q: is longer than %d bytes.", maxSearch)
	}
	skip := 0
	if text := q.Get("skip"); text != "" {
		if _, err := fmt.Sscanf(text, "%d", &skip); err != nil || skip < 0 || skip > maxSkip || fmt.Sprint(skip) != text {
			return api.Errorf(api.Invalid, "skip: is no number from 0 to %d.", maxSkip)
		}
	}
	filter := ""
	if d.Search != "" {
		needle := strings.ToLower(d.Search)
		filter = client.Where("contains(tolower(device_name),?) or startswith(uuid,?) or contains(belongs_to__application/slug,?)", needle, needle, needle)
	}
	var count struct {
		D int `json:"d"`
	}
	if err := v.Call(http.MethodGet, "/v7/device/$count"+client.Query{Filter: filter}.Encode(), nil, &count); err != nil {
		return err
	}
	var err error
	d.Devices, err = Rows[row](v, "device", client.Query{
		Select: "id,uuid,device_name,is_online,overall_status,overall_progress,last_connectivity_event,is_connected_to_vpn",
		Expand: "belongs_to__application($select=id,uuid,slug),is_running__release" + releaseFields + ",device_trust($select=id,state,held_by)",
		Filter: filter, OrderBy: "device_name asc,id asc", Top: pageSize, Skip: skip,
	})
	if err != nil {
		return err
	}
	d.Total, d.First, d.Last = count.D, skip+1, skip+len(d.Devices)
	d.No = d.Total == 0 && d.Search == ""
	where := func(skip int) string {
		return "/devices?" + url.Values{"q": {d.Search}, "skip": {fmt.Sprint(max(0, skip))}}.Encode()
	}
	d.HasBefore, d.Before = skip > 0, where(skip-pageSize)
	d.HasAfter, d.After = d.Last < d.Total && len(d.Devices) > 0, where(skip+pageSize)
	return v.Show(http.StatusOK, "devices", Page{Title: "Devices", Data: d})
}

// ago says how long it is since a moment, "never" of none.
func ago(text string, now time.Time) string {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return "never"
	}
	d := now.Sub(t)
	count := func(n int, what string) string {
		if n == 1 {
			return "1 " + what + " ago"
		}
		return fmt.Sprintf("%d %ss ago", n, what)
	}
	switch {
	case d < 2*time.Second:
		return "just now"
	case d < time.Minute:
		return count(int(d/time.Second), "second")
	case d < time.Hour:
		return count(int(d/time.Minute), "minute")
	case d < 48*time.Hour:
		return count(int(d/time.Hour), "hour")
	}
	return count(int(d/(24*time.Hour)), "day")
}

// at is a moment for people.
func at(text string) string {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05") + " UTC"
}

// amount is a number of bytes for people.
func amount(bytes int64) string {
	switch {
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	case bytes >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%d B", bytes)
}
