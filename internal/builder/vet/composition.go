package vet

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/roadstead-io/roadstead/api"
)

// Composition makes of what a client says that a release consists of the compose file of a project whose images were built elsewhere,
// to be read with all that is refused in one.
func Composition(said json.RawMessage) ([]byte, error) {
	bad := api.Errorf(api.Invalid, "the composition of the release cannot be read")
	var composition map[string]any
	d := json.NewDecoder(bytes.NewReader(said))
	d.UseNumber()
	if d.Decode(&composition) != nil {
		return nil, bad
	}
	services, _ := composition["services"].(map[string]any)
	for name, s := range services {
		service, _ := s.(map[string]any)
		if service == nil {
			return nil, bad
		}
		delete(service, "build") // done, on the client's side
		service["image"] = "deployed/" + strings.ToLower(name)
	}
	text, err := json.Marshal(literal(composition))
	if err != nil {
		return nil, bad
	}
	return text, nil
}

// literal keeps a $ from being taken for the beginning of a variable: the client has put its variables in already.
func literal(v any) any {
	switch v := v.(type) {
	case string:
		return strings.ReplaceAll(v, "$", "$$")
	case []any:
		for i := range v {
			v[i] = literal(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = literal(v[k])
		}
	}
	return v
}
