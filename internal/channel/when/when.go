// Package when says whether the control channel of a device is wanted at a moment, by the configuration variables of its fleet and its own.
// The server and the agent read them with it alike. It uses the standard library only.
package when

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Names of the variables. The supervisor's has the two prefixes that all of its kind have; what a real one does not know it leaves alone.
const (
	Control  = "ROADSTEAD_VPN_CONTROL"  // "true" or "false"; before the supervisor's
	Until    = "ROADSTEAD_VPN_UNTIL"    // RFC 3339: on until then, whatever else is said
	Schedule = "ROADSTEAD_VPN_SCHEDULE" // on at these times only; see [ParseTimes]

	// Default is given by the server alone: "false" where the channel is off unless somebody says otherwise.
	Default = "ROADSTEAD_VPN_DEFAULT"

	SupervisorControl       = "BALENA_SUPERVISOR_VPN_CONTROL"
	SupervisorControlLegacy = "RESIN_SUPERVISOR_VPN_CONTROL"
)

// controls are the names of one and the same variable, the strongest first.
var controls = []string{Control, SupervisorControl, SupervisorControlLegacy}

// Names lists every variable of the channel that people write.
func Names() []string { return append(slices.Clone(controls), Until, Schedule) }

// Ours reports whether a configuration variable is one of the channel's that no supervisor knows.
func Ours(name string) bool { return name == Control || name == Until || name == Schedule }

// Switch is what the variables say.
type Switch struct {
	Control  string    // "true", "false", or "" when nothing is said
	Off      bool      // what it is then
	Until    time.Time // zero: no end is set
	Schedule string    // as it was written
	Times    Times     // and what it means; none: at all times
}

// Read reads the configuration of a target state, or any other set of variables. A value that says nothing is an error: then the channel
// stays shut, for somebody may have meant to shut it.
func Read(config map[string]string) (s Switch, err error) {
	s.Off = config[Default] == "false"
	for _, name := range controls {
		if value := config[name]; value != "" {
			on, err := truth(name, value)
			if err != nil {
				return Switch{Control: "false"}, err
			}
			s.Control = fmt.Sprint(on)
			break
		}
	}
	if value := config[Until]; value != "" {
		if s.Until, err = parseUntil(value); err != nil {
			return Switch{Control: "false"}, err
		}
	}
	s.Schedule = config[Schedule]
	if s.Times, err = ParseTimes(s.Schedule); err != nil {
		return Switch{Control: "false"}, err
	}
	return s, nil
}

// Check refuses a value that a variable of the channel cannot have. Other variables are none of its business. An empty value is none: with it
// a device has no end or schedule where its fleet has one.
func Check(name, value string) error {
	var err error
	switch {
	case value == "":
	case slices.Contains(controls, name):
		_, err = truth(name, value)
	case name == Until:
		_, err = parseUntil(value)
	case name == Schedule:
		_, err = ParseTimes(value)
	}
	return err
}

// truth reads on and off as supervisors do.
func truth(name, value string) (bool, error) {
	switch value {
	case "true", "1", "on":
		return true, nil
	case "false", "0", "off":
		return false, nil
	}
	return false, fmt.Errorf(`%s: %.40q is neither "true" nor "false"`, name, value)
}

func parseUntil(value string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return t, fmt.Errorf("%s: %.40q is no time: write it as 2027-01-31T18:00:00Z", Until, value)
	}
	return t, nil
}

// On says whether the channel is wanted, and why in a few words.
func (s Switch) On(now time.Time) (on bool, why string) {
	switch {
	case now.Before(s.Until):
		return true, "on until " + s.Until.UTC().Format(time.RFC3339)
	case s.Control == "false":
		return false, "switched off"
	case len(s.Times) > 0 && s.Times.At(now):
		return true, "on by its schedule"
	case len(s.Times) > 0:
		return false, "off by its schedule"
	case s.Control == "true":
		return true, "switched on"
	default:
		return !s.Off, map[bool]string{true: "off", false: "on"}[s.Off] + " by default"
	}
}

// Next is when On may change by itself; zero: never.
func (s Switch) Next(now time.Time) time.Time {
	switch {
	case now.Before(s.Until):
		return s.Until
	case s.Control == "false" || len(s.Times) == 0:
		return time.Time{}
	default:
		return s.Times.Next(now)
	}
}

// ForDevice completes the configuration that a device gets. A supervisor knows but one variable: while an end is set that has not come it is
// told "true", and what was said before goes under our own name; where the channel is off by default it is told "false". The map that was
// given stays as it is.
func ForDevice(config map[string]string) map[string]string {
	off := config[Default] == "false"
	said := ""
	for _, name := range controls {
		if said == "" {
			said = config[name]
		}
	}
	if config[Until] == "" && (said != "" || !off || config[Schedule] != "") {
		return config
	}
	out := maps.Clone(config)
	if config[Until] == "" {
		out[SupervisorControl] = "false"
		return out
	}
	delete(out, SupervisorControlLegacy)
	out[SupervisorControl] = "true"
	if said == "" && off && config[Schedule] == "" {
		said = "false"
	}
	if out[Control] = said; said == "" {
		// Nothing was said: after the end it is as it is by default, which "true" is as well.
		delete(out, Control)
	}
	return out
}
