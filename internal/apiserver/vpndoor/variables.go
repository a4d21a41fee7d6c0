package vpndoor

import "github.com/roadstead-io/roadstead/internal/channel/when"

// Variables describes, in JSON schema, the configuration variables of the control channel that our agent reads and no supervisor knows.
func Variables() map[string]any {
	text := func(description string) map[string]any {
		return map[string]any{"type": "string", "description": description}
	}
	control := text("Whether the device keeps its control channel open; before the supervisor's")
	control["enum"] = []string{"true", "false", ""}
	return map[string]any{
		when.Control:  control,
		when.Until:    text("Until when the control channel is open, whatever else is said: 2027-01-31T18:00:00Z"),
		when.Schedule: text("When the control channel may be open: Mon-Fri 08:00-18:00 UTC; Sat,Sun 10:00-12:00 +01:00; daily 22:00-02:00"),
	}
}
