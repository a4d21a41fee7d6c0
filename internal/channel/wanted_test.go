package channel_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/roadstead-io/roadstead/api"
	"github.com/roadstead-io/roadstead/internal/channel/when"
	"github.com/roadstead-io/roadstead/internal/db"
)

// A device that polls but has no channel lacks something only where a channel is wanted now: its overall status says what the channel's own
// status says, whatever is said by the variables of the fleet and the device.
func TestTheOverallStatusKnowsWhatIsWanted(t *testing.T) {
	w := newWorld(t)
	d := w.device(w.hers)
	later := db.FormatTime(w.Now().Add(time.Hour))
	w.Exec(`UPDATE device SET is_active = 1, last_seen = ?, online_since = ?, heartbeat_due = ?, heartbeat_until = ? WHERE id = ?`, later, later, later, later, d.ID)
	const always = "daily 00:00-24:00"
	day := w.Now().UTC().Weekday()
	never := (day + 3) % 7
	said := []map[string]string{
		{},
		{when.SupervisorControl: "true"},
		{when.SupervisorControl: "false"},
		{when.SupervisorControlLegacy: "false"},
		{when.SupervisorControl: "0"},
		{when.Control: "true", when.SupervisorControl: "false"},
		{when.Control: "false", when.SupervisorControl: "true"},
		{when.SupervisorControl: "false", when.Until: w.Now().Add(time.Hour).UTC().Format(time.RFC3339)},
		{when.Schedule: always},
		{when.Schedule: never.String()[:3] + " 11:00-12:00"},
		{when.SupervisorControl: "false", when.Schedule: always},
		{when.SupervisorControl: "", when.Control: "", when.Until: "", when.Schedule: ""},
	}
	put := func(resource, column string, id int64, values map[string]string) {
		w.Write(func(tx *db.Tx) error {
			_, err := tx.ExecContext(t.Context(), `DELETE FROM `+resource+` WHERE `+column+` = ?`, id)
			for name, value := range values {
				if err == nil {
					_, err = tx.ExecContext(t.Context(), `INSERT INTO `+resource+` (`+column+`, name, value) VALUES (?, ?, ?)`, id, name, value)
				}
			}
			return err
		})
	}
	overall := func() string {
		var text json.RawMessage
		w.Must(w.DB.Read(t.Context(), func(tx *db.Tx) (err error) {
			text, err = w.Engine.Query(t.Context(), tx, w.alice, fmt.Sprintf("device(%d)?$select=overall_status", d.ID))
			return err
		}))
		var rows []struct {
			Overall string `json:"overall_status"`
		}
		if err := json.Unmarshal(text, &rows); err != nil || len(rows) != 1 {
			t.Fatalf("%s: %v", text, err)
		}
		return rows[0].Overall
	}
	seen := map[string]int{}
	for _, class := range []string{"fleet", "block"} {
		w.Exec(`UPDATE application SET is_of__class = ? WHERE id = ?`, class, w.hers)
		for _, fleet := range said {
			put("application_config_variable", "application", w.hers, fleet)
			for _, own := range said {
				put("device_config_variable", "device", d.ID, own)
				status := w.status(w.alice, d)
				state := api.ChannelStateOff
				if status.Wanted {
					state = api.ChannelStateWaiting
				}
				w.Exec(`UPDATE device SET channel_state = ? WHERE id = ?`, state, d.ID)
				want := map[bool]string{true: "reduced-functionality", false: "operational"}[status.Wanted]
				if got := overall(); got != want {
					t.Errorf("%s that says %v, device %v: %s; the channel is wanted: %v, %s", class, fleet, own, got, status.Wanted, status.Why)
				}
				seen[want]++
			}
		}
	}
	if seen["operational"] < 50 || seen["reduced-functionality"] < 50 {
		t.Errorf("the test saw too little: %v", seen)
	}
	// A supervisor says nothing of schedules: it lacks nothing.
	w.Exec(`UPDATE device SET channel_state = NULL WHERE id = ?`, d.ID)
	put("application_config_variable", "application", w.hers, map[string]string{when.Schedule: always})
	put("device_config_variable", "device", d.ID, nil)
	if got := overall(); got != "operational" {
		t.Errorf("a device that says nothing of its channel, with a schedule: %s", got)
	}
}
