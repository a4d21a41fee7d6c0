package db

import (
	"strconv"
	"strings"
)

// numbered writes SQLite's placeholders, ? and ?1, as PostgreSQL's, $1. As in SQLite, a ? without a number takes the one after
// the highest so far. Strings, quoted names and comments are left alone.
func numbered(query string) string {
	if !strings.Contains(query, "?") {
		return query
	}
	var out strings.Builder
	out.Grow(len(query) + 16)
	highest := 0
	for i := 0; i < len(query); {
		end := i + 1
		switch c := query[i]; {
		case c == '\'' || c == '"':
			end = after(query, i+1, query[i:i+1]) // a doubled quote begins the next string at once
		case strings.HasPrefix(query[i:], "--"):
			end = after(query, i, "\n")
		case strings.HasPrefix(query[i:], "/*"):
			end = after(query, i+2, "*/")
		case c == '?':
			for end < len(query) && query[end] >= '0' && query[end] <= '9' {
				end++
			}
			n, err := strconv.Atoi(query[i+1 : end])
			if err != nil {
				n = highest + 1
			}
			highest = max(highest, n)
			out.WriteString("$")
			out.WriteString(strconv.Itoa(n))
			i = end
			continue
		}
		out.WriteString(query[i:end])
		i = end
	}
	return out.String()
}

// after is the place after the next occurrence of a text, or the end.
func after(s string, from int, what string) int {
	if i := strings.Index(s[from:], what); i >= 0 {
		return from + i + len(what)
	}
	return len(s)
}
