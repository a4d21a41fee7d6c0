package devices

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/client"
)

const actionsPath = "/device-actions/v1"

// asks is what is asked before a device does something that people notice, or cannot take back. What has no question is done at once.
var asks = map[api.ActionVerb]string{
	api.ActReboot: "Restart %s?", api.ActShutdown: "Switch %s off? Somebody has to go there to switch it on.", api.ActRestart: "Restart all services of %s?",
	api.ActRestartService: "Restart the service %[2]s of %[1]s?", api.ActStopService: "Stop the service %[2]s of %[1]s?",
	api.ActPurge: "Delete all that the services of %s stored? It cannot be brought back.",
}

// offered are the verbs of the page.
var offered = map[api.ActionVerb]bool{
	api.ActPing: true, api.ActIdentify: true, api.ActReboot: true, api.ActShutdown: true, api.ActRestart: true, api.ActRestartService: true,
	api.ActStartService: true, api.ActStopService: true, api.ActPurge: true, api.ActUpdate: true,
}

// askData is what a question is made from.
type askData struct {
	Device   client.Device
	Verb     api.ActionVerb
	Service  string
	Question string
	Forces   bool
	Reached  bool // it is told at once
	Expires  []choice
}

type choice struct {
	Seconds int64
	Text    string
}

// lives are for how long an action may wait for a device.
var lives = []choice{{3600, "an hour"}, {24 * 3600, "a day"}, {7 * 24 * 3600, "a week"}, {600, "ten minutes"}}

// act has the device do something, after a question where there is one.
func act(v *Visit) error {
	d, err := v.device("id,uuid,device_name", "")
	if err != nil {
		return err
	}
	want := api.NewAction{Devices: []api.DeviceUUID{api.DeviceUUID(d.UUID)}, Verb: api.ActionVerb(v.form("verb")), Service: v.form("service"), Force: v.form("force") != ""}
	if !offered[want.Verb] {
		return api.Errorf(api.Invalid, "verb: %.50q is none of this page.", want.Verb)
	}
	if text := v.form("expires"); text != "" {
		if want.Expires, err = strconv.ParseInt(text, 10, 64); err != nil {
			return api.Errorf(api.Invalid, "expires: %.50q is no number of seconds.", text)
		}
	}
	if question := asks[want.Verb]; question != "" && v.form("sure") == "" {
		return v.ask(d.Device, want, question)
	}
	var made api.ActionsMade
	if err := v.Call(http.MethodPost, actionsPath, want, &made); err != nil {
		return v.again(err)
	}
	if len(made.Actions) != 1 {
		return fmt.Errorf("actions: %d of one device", len(made.Actions))
	}
	return v.to("actions/" + strconv.FormatInt(made.Actions[0].ID, 10))
}

// ask shows the question.
func (v *Visit) ask(d client.Device, want api.NewAction, question string) error {
	var channel api.ChannelStatus
	if err := v.Call(http.MethodGet, "/channel/v1/device/"+d.UUID, nil, &channel); err != nil {
		return err
	}
	args := []any{d.Name}
	if want.Verb.OfService() {
		args = append(args, want.Service)
	}
	return v.Show(http.StatusOK, "ask", Page{Title: d.Name, Data: askData{
		Device: d, Verb: want.Verb, Service: want.Service, Question: fmt.Sprintf(question, args...), Forces: want.Verb.Forces(), Reached: channel.Connected, Expires: lives,
	}})
}

// actionData is what the page of one action is made from.
type actionData struct {
	Device    client.Device
	Action    actionRow
	Connected bool
}

// lookAgain is after how long a browser that looks at an action that goes on loads the page anew; longer when nothing is to come soon.
const (
	lookAgain  = 2 * time.Second
	lookLater  = 15 * time.Second
	soonEnough = 10 * time.Minute
)

// action shows one action and, while it goes on, what becomes of it.
func action(v *Visit) error {
	id, err := v.id()
	if err != nil {
		return err
	}
	d, err := v.device("id,uuid,device_name", "device_action($select="+actionFields+";$expand=is_made_by__user($select=id,username);$filter=id eq "+id+")")
	if err != nil {
		return err
	}
	if len(d.Actions) != 1 {
		return api.Errorf(api.NotFound, "The device has no such action.")
	}
	var channel api.ChannelStatus
	if err := v.Call(http.MethodGet, "/channel/v1/device/"+d.UUID, nil, &channel); err != nil {
		return err
	}
	a := d.Actions[0]
	if a.State.Open() {
		every := lookLater
		if began, err := time.Parse(time.RFC3339, a.CreatedAt); err == nil && time.Since(began) < soonEnough {
			every = lookAgain
		}
		v.W.Header().Set("Refresh", strconv.Itoa(int(every/time.Second)))
	}
	return v.Show(http.StatusOK, "action", Page{Title: d.Name, Data: actionData{Device: d.Device, Action: a, Connected: channel.Connected}})
}

// takeBack cancels an action that the device has not got yet.
func takeBack(v *Visit) error {
	id, err := v.id()
	if err != nil {
		return err
	}
	d, err := v.device("id,uuid", "device_action($select=id;$filter=id eq "+id+")")
	if err != nil {
		return err
	}
	if len(d.Actions) != 1 {
		return api.Errorf(api.NotFound, "The device has no such action.")
	}
	if err := v.Call(http.MethodPost, actionsPath+"/"+id+"/cancel", nil, nil); err != nil {
		return v.again(err)
	}
	return v.to("summary?done=cancelled")
}
