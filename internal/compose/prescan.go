package compose

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/interpolation"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"

	"github.com/roadstead-io/roadstead/api"
)

// maxPorts bounds the ports of a whole file, ranges unfolded.
const maxPorts = 4096

// prescan refuses what would cost the parser out of all proportion: it unfolds a range of ports into a port each, and a short
// file can name very many.
func prescan(file string, text []byte, env types.Mapping) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc map[string]any
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return api.Errorf(api.Invalid, "%s is empty", file)
		}
		return api.Errorf(api.Invalid, "%s: %v", file, err)
	}
	var more any
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return api.Errorf(api.Invalid, "%s holds more than one YAML document", file)
	}
	longest, left, visits := 0, maxUnfolded, maxVisits
	for _, v := range env {
		longest = max(longest, len(v))
	}
	if !weigh(doc, longest, &left, &visits) {
		return api.Errorf(api.TooLarge, "%s: its variables and references unfold to more than %d bytes or %d parts", file, maxUnfolded, maxVisits)
	}
	services, _ := doc["services"].(map[string]any)
	if len(services) > maxServices {
		return api.Errorf(api.Invalid, "%s: services: there are %d, and %d are allowed", file, len(services), maxServices)
	}
	ports := 0
	for _, s := range services {
		service, _ := s.(map[string]any)
		list, _ := service["ports"].([]any)
		// ${NAME} may stand for a range.
		filled, err := interpolation.Interpolate(map[string]any{"ports": list}, interpolation.Options{LookupValue: env.Resolve})
		if err != nil {
			return api.Errorf(api.Invalid, "%s: %v", file, err)
		}
		list, _ = filled["ports"].([]any)
		for _, p := range list {
			ports += portsOf(p)
			if ports > maxPorts {
				return api.Errorf(api.Invalid, "%s: more than %d ports are published", file, maxPorts)
			}
		}
	}
	return nil
}

// portsOf counts what one entry unfolds to, at least 1.
func portsOf(entry any) int {
	most := 1
	count := func(text string) {
		for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == '/' }) {
			from, to, ok := strings.Cut(part, "-")
			if !ok {
				continue
			}
			a, err1 := strconv.Atoi(strings.TrimSpace(from))
			b, err2 := strconv.Atoi(strings.TrimSpace(to))
			if err1 == nil && err2 == nil {
				most = max(most, b-a+1)
			}
		}
	}
	switch p := entry.(type) {
	case string:
		count(p)
	case map[string]any:
		for _, field := range []string{"published", "target"} {
			if text, ok := p[field].(string); ok {
				count(text)
			}
		}
	}
	return most
}
