package compose

import (
	"maps"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/roadstead-io/roadstead/api"
)

const (
	// maxUnfolded bounds what variables and aliases make of a small file.
	maxUnfolded = 8 << 20
	// maxQuoted is how many lines a quoted value of an environment file may have.
	maxQuoted = 256
)

// parseEnv reads an environment file one variable after the other, because values may name values before them: a few lines that
// each name the one above twice are more than anybody has memory for.
func parseEnv(text string, env types.Mapping) (map[string]string, error) {
	vars, longest, size := map[string]string{}, 0, 0
	for _, v := range env {
		longest = max(longest, len(v))
	}
	lookup := func(name string) (string, bool) {
		if v, ok := env[name]; ok {
			return v, true
		}
		v, ok := vars[name]
		return v, ok
	}
	var statement strings.Builder
	lines := 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\uFEFF")) {
		statement.WriteString(line)
		lines++
		one := statement.String()
		if unfolded(one, longest) > maxUnfolded-size {
			return nil, api.Errorf(api.TooLarge, "its variables unfold to more than %d bytes", maxUnfolded)
		}
		got, err := dotenv.ParseWithLookup(strings.NewReader(one), lookup)
		if err != nil {
			if lines >= maxQuoted || !strings.ContainsAny(one, `"'`) {
				return nil, api.Errorf(api.Invalid, "%v", err)
			}
			continue // a quoted value goes on in the next line
		}
		for _, v := range got {
			longest, size = max(longest, len(v)), size+len(v)
		}
		maps.Copy(vars, got)
		statement.Reset()
		lines = 0
	}
	if statement.Len() > 0 {
		_, err := dotenv.ParseWithLookup(strings.NewReader(statement.String()), lookup)
		return nil, api.Errorf(api.Invalid, "%v", err)
	}
	return vars, nil
}

// unfolded is the most bytes that a text can become when its variables are replaced.
func unfolded(text string, longest int) int {
	return len(text) + strings.Count(text, "$")*longest
}

// weigh adds up what the texts of a file can become, aliases followed. It stops when that is too much.
func weigh(node any, longest int, left *int, visits *int) bool {
	if *visits--; *visits < 0 || *left < 0 {
		return false
	}
	switch v := node.(type) {
	case string:
		*left -= unfolded(v, longest)
	case []any:
		for _, item := range v {
			if !weigh(item, longest, left, visits) {
				return false
			}
		}
	case map[string]any:
		for key, item := range v {
			*left -= len(key)
			if !weigh(item, longest, left, visits) {
				return false
			}
		}
	}
	return *left >= 0
}
