package when_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/internal/channel/when"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWhenTheChannelIsWanted(t *testing.T) {
	const office = "Mon-Fri 08:00-18:00 UTC"
	for name, tt := range map[string]struct {
		config map[string]string
		now    string // 2026-11-23 is a Monday
		on     bool
		next   string
	}{
		"nothing is said":               {nil, "2026-11-23T12:00:00Z", true, ""},
		"on":                            {map[string]string{when.SupervisorControl: "true"}, "2026-11-23T12:00:00Z", true, ""},
		"off by default":                {map[string]string{when.Default: "false"}, "2026-11-23T12:00:00Z", false, ""},
		"on where it is off by default": {map[string]string{when.Default: "false", when.SupervisorControl: "true"}, "2026-11-23T12:00:00Z", true, ""},
		"a schedule there":              {map[string]string{when.Default: "false", when.Schedule: office}, "2026-11-23T12:00:00Z", true, "2026-11-23T18:00:00Z"},
		"off":                           {map[string]string{when.SupervisorControl: "false"}, "2026-11-23T12:00:00Z", false, ""},
		"off by the old name":           {map[string]string{when.SupervisorControlLegacy: "0"}, "2026-11-23T12:00:00Z", false, ""},
		"our name is the strongest":     {map[string]string{when.SupervisorControl: "true", when.Control: "false"}, "2026-11-23T12:00:00Z", false, ""},
		"an empty value says nothing":   {map[string]string{when.Control: "", when.SupervisorControl: "false"}, "2026-11-23T12:00:00Z", false, ""},
		"off, but for half an hour":     {map[string]string{when.Control: "false", when.Until: "2026-11-23T12:30:00Z"}, "2026-11-23T12:29:59Z", true, "2026-11-23T12:30:00Z"},
		"and then off":                  {map[string]string{when.Control: "false", when.Until: "2026-11-23T12:30:00Z"}, "2026-11-23T12:30:00Z", false, ""},
		"in the schedule":               {map[string]string{when.Schedule: office}, "2026-11-27T17:59:59Z", true, "2026-11-27T18:00:00Z"},
		"after it":                      {map[string]string{when.Schedule: office}, "2026-11-27T18:00:00Z", false, "2026-11-30T08:00:00Z"},
		"on means on by the schedule":   {map[string]string{when.Schedule: office, when.Control: "true"}, "2026-11-28T12:00:00Z", false, "2026-11-30T08:00:00Z"},
		"off beats the schedule":        {map[string]string{when.Schedule: office, when.Control: "false"}, "2026-11-23T12:00:00Z", false, ""},
		"an end beats the schedule":     {map[string]string{when.Schedule: office, when.Until: "2026-11-28T13:00:00Z"}, "2026-11-28T12:00:00Z", true, "2026-11-28T13:00:00Z"},
		"over midnight":                 {map[string]string{when.Schedule: "Sun 22:00-02:00"}, "2026-11-23T01:59:00Z", true, "2026-11-23T02:00:00Z"},
		"its day is where it began":     {map[string]string{when.Schedule: "Sun 22:00-02:00"}, "2026-11-22T01:00:00Z", false, "2026-11-22T22:00:00Z"},
		"east of UTC":                   {map[string]string{when.Schedule: "Mon 00:00-01:00 +02:00"}, "2026-11-22T22:30:00Z", true, "2026-11-22T23:00:00Z"},
		"west of UTC":                   {map[string]string{when.Schedule: "Sun 20:00-24:00 -05:00"}, "2026-11-23T04:00:00Z", true, "2026-11-23T05:00:00Z"},
		"a range over the week's end":   {map[string]string{when.Schedule: "sat-mon 10:00-11:00"}, "2026-11-23T10:30:00Z", true, "2026-11-23T11:00:00Z"},
		"several entries":               {map[string]string{when.Schedule: office + "; Sat,Sun 10:00-12:00"}, "2026-11-28T11:00:00Z", true, "2026-11-28T12:00:00Z"},
		"every day":                     {map[string]string{when.Schedule: "daily 00:00-24:00"}, "2026-11-28T23:59:59Z", true, "2026-11-29T00:00:00Z"},
		"before the time of all clocks": {map[string]string{when.Schedule: office}, "1969-12-29T09:00:00Z", true, "1969-12-29T18:00:00Z"},
	} {
		s, err := when.Read(tt.config)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		now := at(t, tt.now)
		if on, why := s.On(now); on != tt.on || why == "" {
			t.Errorf("%s: On: got %v, %q; want %v", name, on, why, tt.on)
		}
		next := s.Next(now)
		if want := tt.next; want == "" && !next.IsZero() || want != "" && !next.Equal(at(t, want)) {
			t.Errorf("%s: Next: got %v, want %q", name, next, want)
		}
	}
}

func TestValuesThatSayNothingShutTheChannel(t *testing.T) {
	for name, values := range map[string][]string{
		when.SupervisorControl: {"yes", "TRUE ", "2"},
		when.Control:           {"maybe"},
		when.Until:             {"tomorrow", "2026-11-23", "2026-11-23 12:00:00", "30m"},
		when.Schedule: {
			"always", "Mon", "Mon 8-18", "Mon 08:00", "Mon 08:00-25:00", "Mon 08:60-09:00", "Mon 08:00-08:00", "Mon 24:00-02:00", "Foo 08:00-18:00",
			"Mon- 08:00-18:00", "Mon 08:00-18:00 Europe/Paris", "Mon 08:00-18:00 +99:00", "Mon 08:00-18:00 UTC x", strings.Repeat("daily 00:00-01:00;", 21),
			strings.Repeat(" ", 501),
		},
	} {
		for _, value := range values {
			err := when.Check(name, value)
			if err == nil || !strings.Contains(err.Error(), "VPN") {
				t.Errorf("Check(%s, %q): got %v; want an error that names the variable", name, value, err)
			}
			s, err := when.Read(map[string]string{name: value})
			if on, _ := s.On(time.Now()); on || err == nil {
				t.Errorf("Read(%s=%q): on %v, %v; want it shut", name, value, on, err)
			}
		}
	}
	for name, value := range map[string]string{when.Until: "", "BALENA_HOST_CONFIG_x": "anything", when.Schedule: "daily 00:00-24:00;"} {
		if err := when.Check(name, value); err != nil {
			t.Errorf("Check(%s, %q): %v", name, value, err)
		}
	}
}

// A supervisor knows but on and off; our agent must find out by itself when an end has come.
func TestWhatADeviceIsTold(t *testing.T) {
	for name, tt := range map[string]struct {
		config map[string]string
		off    bool
		want   map[string]string
	}{
		"nothing":              {map[string]string{"A": "1"}, false, map[string]string{"A": "1"}},
		"off by default":       {map[string]string{"A": "1"}, true, map[string]string{"A": "1", when.SupervisorControl: "false"}},
		"unless switched on":   {map[string]string{when.SupervisorControlLegacy: "true"}, true, map[string]string{when.SupervisorControlLegacy: "true"}},
		"or with a schedule":   {map[string]string{when.Schedule: "daily 00:00-01:00"}, true, map[string]string{when.Schedule: "daily 00:00-01:00"}},
		"an end":               {map[string]string{when.Until: "x"}, false, map[string]string{when.Until: "x", when.SupervisorControl: "true"}},
		"an end, else off":     {map[string]string{when.Until: "x", when.SupervisorControlLegacy: "false"}, false, map[string]string{when.Until: "x", when.SupervisorControl: "true", when.Control: "false"}},
		"an end, off as block": {map[string]string{when.Until: "x"}, true, map[string]string{when.Until: "x", when.SupervisorControl: "true", when.Control: "false"}},
	} {
		if tt.off {
			tt.config, tt.want = maps.Clone(tt.config), maps.Clone(tt.want)
			tt.config[when.Default], tt.want[when.Default] = "false", "false"
		}
		before := maps.Clone(tt.config)
		if got := when.ForDevice(tt.config); !maps.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
		if !maps.Equal(before, tt.config) {
			t.Errorf("%s: what was given has changed", name)
		}
	}
}

func FuzzParseTimes(f *testing.F) {
	f.Add("Mon-Fri 08:00-18:00 UTC; Sat,Sun 10:00-12:00 +01:00")
	f.Fuzz(func(t *testing.T, text string) {
		ts, err := when.ParseTimes(text)
		if err != nil {
			return
		}
		now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
		if next := ts.Next(now); len(ts) > 0 && (!next.After(now) || next.Sub(now) > 7*24*time.Hour) {
			t.Errorf("Next(%q): %v", text, next)
		}
	})
}
