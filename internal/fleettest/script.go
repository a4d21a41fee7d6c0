package fleettest

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// Field is a command of scripts: field NAME PATH [FILE] reads a value out of the JSON that the last command printed, or that a file
// holds, with a path such as 0.uuid or services.1.name.
func Field(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args) > 3 || neg {
		ts.Fatalf("usage: field NAME PATH [FILE]")
	}
	file := "stdout"
	if len(args) == 3 {
		file = args[2]
	}
	var value any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(file)), &value))
	for _, step := range strings.Split(args[1], ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(v) {
				ts.Fatalf("field %s: there is no %q in a list of %d", args[1], step, len(v))
			}
			value = v[i]
		default:
			ts.Fatalf("field %s: %v has no %q", args[1], v, step)
		}
	}
	text, ok := value.(string)
	if !ok {
		data, err := json.Marshal(value)
		ts.Check(err)
		text = string(data)
	}
	ts.Setenv(args[0], text)
}
