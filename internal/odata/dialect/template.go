package dialect

import "strings"

// WordEnd is where the letters, digits and underscores end that start at i.
func WordEnd(s string, i int) int {
	for i < len(s) && (s[i] == '_' || s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z') {
		i++
	}
	return i
}

// Part is a piece of a computed column's SQL: text, the table's alias, something about the caller, or the start or end of a list.
type Part struct {
	Text         string
	Alias        bool
	Param        string
	Opens, Shuts bool
}

// marks stand in the SQL of a computed column for what is not text.
var marks = map[string]Part{"{t}": {Alias: true}, "{in}": {Opens: true}, "{end}": {Shuts: true}}

// Split finds {t}, {in}, {end} and @name in the SQL of a computed column, outside of its text literals.
func Split(s string) []Part {
	var parts []Part
	start := 0
	flush := func(end int) {
		if end > start {
			parts = append(parts, Part{Text: s[start:end]})
		}
	}
	for i := 0; i < len(s); {
		switch s[i] {
		case '\'':
			if n := strings.IndexByte(s[i+1:], '\''); n >= 0 {
				i += n + 2
			} else {
				i = len(s)
			}
		case '{':
			mark, _, _ := strings.Cut(s[i:], "}")
			part, known := marks[mark+"}"]
			if !known {
				i++
				continue
			}
			flush(i)
			parts = append(parts, part)
			i += len(mark) + 1
			start = i
		case '@':
			end := WordEnd(s, i+1)
			flush(i)
			parts = append(parts, Part{Param: s[i+1 : end]})
			i, start = end, end
		default:
			i++
		}
	}
	flush(len(s))
	return parts
}
