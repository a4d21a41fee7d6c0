package devices

import (
	"net/http"
	"strconv"
	"time"

	"github.com/roadstead-io/roadstead/api"
)

const maxMinutes = 30 * 24 * 60

// minutes reads a number of minutes from a form; none is 0.
func (v *Visit) minutes() (int64, error) {
	text := v.form("minutes")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > maxMinutes {
		return 0, api.Errorf(api.Invalid, "minutes: %.20q is no number from 1 to %d.", text, maxMinutes)
	}
	return n, nil
}

// switchChannel switches remote access: on, off, on for a time, or as the fleet.
func switchChannel(v *Visit) error {
	uuid, err := v.uuid()
	if err != nil {
		return err
	}
	change := api.ChannelSwitch{Mode: v.form("mode")}
	if change.Mode == "for" {
		n, err := v.minutes()
		if err == nil && n == 0 {
			err = api.Errorf(api.Invalid, "minutes: say for how many.")
		}
		if err != nil {
			return v.again(err)
		}
		change = api.ChannelSwitch{Mode: api.ChannelOn, Seconds: n * 60}
	}
	var now api.ChannelStatus
	if err := v.Call(http.MethodPut, "/channel/v1/device/"+string(uuid), change, &now); err != nil {
		return v.again(err)
	}
	return v.to("summary?done=channel")
}

// switchURL switches the public address of the device.
func switchURL(v *Visit) error {
	uuid, err := v.uuid()
	if err != nil {
		return err
	}
	on := v.form("on") != ""
	change := api.PublicURLChange{Enabled: &on}
	if on {
		login := v.form("login") != ""
		change.Login = &login
		if text := v.form("port"); text != "" {
			port, err := strconv.Atoi(text)
			if err != nil {
				return v.again(api.Errorf(api.Invalid, "port: %.20q is none.", text))
			}
			change.Port = &port
		}
		n, err := v.minutes()
		if err != nil {
			return v.again(err)
		}
		if n > 0 {
			until := time.Now().Add(time.Duration(n) * time.Minute).UTC()
			change.Until = &until
		}
	}
	var now api.PublicURL
	if err := v.Call(http.MethodPut, "/device-url/v1/"+string(uuid), change, &now); err != nil {
		return v.again(err)
	}
	return v.to("summary?done=url")
}

// endSession ends an SSH session of the device.
func endSession(v *Visit) error {
	id, err := v.id()
	if err != nil {
		return err
	}
	if err := v.Call(http.MethodPost, "/ssh/v1/session/"+id+"/end", nil, nil); err != nil {
		return v.again(err)
	}
	return v.to("summary?done=ended")
}
